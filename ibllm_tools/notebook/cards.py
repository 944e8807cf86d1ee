"""A card about one thing: its name, what is said of it, and the thing itself to see or hear."""

from collections.abc import Callable, Sequence

from ibllm_tools.errors import IbllmError
from ibllm_tools.notebook.markup import EDGE, FAINT, name, note, text, words
from ibllm_tools.notebook.medium import Medium
from ibllm_tools.notebook.view import quotation, view

SIZES = ("bytes", "KiB", "MiB", "GiB", "TiB")


def card(
    title: str,
    facts: Sequence[str],
    *,
    caption: str | None = None,
    quoted: str | None = None,
    medium: Callable[[], Medium],
) -> str:
    """A card. What cannot be shown is a line in it that says why; it raises nothing of ours.

    Args:
        title: its name or citation.
        facts: a few words each.
        caption: what is said of it.
        quoted: a text, shown in place of the medium, which is not opened then.
        medium: opens what is shown.
    """
    head = f'<div><b>{name(title)}</b> <span style="{FAINT}">{" · ".join(map(text, facts))}</span></div>'
    below = words(caption, "margin-top:4px") if caption else ""
    shown = quotation(quoted) if quoted is not None else opened(medium)
    return frame(head + shown + below)


def opened(medium: Callable[[], Medium]) -> str:
    """The view of what is opened, or the line that says why there is none."""
    try:
        return view(medium())
    except IbllmError as error:
        return note(error)


def frame(content: str) -> str:
    """A box around content that is HTML."""
    return f'<div style="{EDGE};padding:8px 10px;margin:4px 0;max-width:424px;flex:1 1 280px">{content}</div>'


def block(content: str) -> str:
    """One element around content that is HTML, so that it stays together beside others."""
    return f'<div style="flex:1 1 280px">{content}</div>'


def side_by_side(cards: str) -> str:
    """Cards in rows, as many as there is room for."""
    return f'<div style="display:flex;flex-wrap:wrap;gap:0 8px;align-items:flex-start">{cards}</div>'


def size_in_words(size: int) -> str:
    """``"94 KiB"``."""
    power = 0
    while size >= 1024 and power < len(SIZES) - 1:
        size, power = round(size / 1024), power + 1
    return f"{size} {SIZES[power]}"
