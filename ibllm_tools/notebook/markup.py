"""HTML of a notebook's output. Whatever comes from outside passes `text`; colours are left to the notebook's theme."""

import base64
import html

from ibllm_tools.errors import one_line

FAINT = "opacity:.7;font-size:90%"
WIDTH = "width:100%;max-width:400px"
EDGE = "border:1px solid rgba(128,128,128,.35);border-radius:6px"


def text(foreign: object) -> str:
    """Any text as HTML text or as the value of a quoted attribute."""
    return html.escape(str(foreign), quote=True)


def name(foreign: object) -> str:
    """A name in one line, whose writing direction stays within it."""
    return f"<bdi>{text(one_line(foreign))}</bdi>"


def note(foreign: object) -> str:
    """A line that says why something is not shown, or how."""
    return f'<div style="{FAINT}">{text(one_line(foreign, 400))}</div>'


def words(foreign: str, style: str = "") -> str:
    """A text of several lines, as it is written."""
    return f'<div dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere;{style}">{text(foreign)}</div>'


def quote(foreign: str, style: str = "") -> str:
    """A text that is quoted."""
    return words(foreign, f"border-left:3px solid rgba(128,128,128,.5);padding-left:8px;margin:4px 0;{style}")


def picture(webp: bytes, alt: object, style: str = "max-width:100%") -> str:
    """A thumbnail."""
    return f'<img alt="{text(alt)}" style="display:block;{style}" src="{data_uri(webp, "image/webp")}">'


def data_uri(content: bytes, mime: str) -> str:
    """Bytes within the page. The type must be one that cannot hold a script: it is the caller's, never a file's."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
