"""One medium as HTML: a picture, a player, a 3D view or a quotation."""

from ibllm_tools.errors import MissingExtraError
from ibllm_tools.media.sniff import Modality
from ibllm_tools.media.text import decode_text
from ibllm_tools.media.thumbnails import thumbnail
from ibllm_tools.notebook.markup import WIDTH, note, picture, quote
from ibllm_tools.notebook.medium import Medium
from ibllm_tools.notebook.player import player
from ibllm_tools.notebook.shape_view import shape_view

QUOTED_CHARS = 1000
TIMED: tuple[Modality, ...] = ("audio", "video")


def view(medium: Medium) -> str:
    """What is seen, heard or read of a medium.

    Raises:
        AttachmentError: it cannot be read or decoded.
        MissingExtraError: the package that decodes it is not installed, and the browser cannot do without it.
    """
    if medium.modality == "text":
        return quotation(decode_text(medium.source, limits=medium.limits)[medium.char_start : medium.char_end])
    if medium.modality == "point":
        return shape_view(medium)
    if medium.modality not in TIMED:
        return _picture(medium, _thumbnail(medium))
    try:
        still, missing = _thumbnail(medium), ""
    except MissingExtraError as error:  # a browser may play what cannot be decoded here
        still, missing = None, note(error)
    if medium.modality == "video":
        return player(medium, still) + missing
    return _picture(medium, still, f"{WIDTH};height:96px") + player(medium) + missing


def quotation(words: str) -> str:
    """A text, or its beginning where it is long."""
    rest = len(words) - QUOTED_CHARS
    return quote(words) if rest <= 0 else quote(words[:QUOTED_CHARS] + "…") + note(f"{rest:,} more characters")


def _thumbnail(medium: Medium) -> bytes | None:
    start, end = (medium.start or 0.0, medium.end) if medium.modality in TIMED else (0.0, None)
    return thumbnail(medium.source, medium.modality, start=start, end=end, name=medium.name, limits=medium.limits)


def _picture(medium: Medium, webp: bytes | None, style: str = "max-width:100%") -> str:
    return "" if webp is None else picture(webp, medium.name, style)
