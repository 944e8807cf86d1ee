"""What is to be shown of a file or of bytes."""

from typing import NamedTuple

from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import Modality
from ibllm_tools.media.source import Source


class Medium(NamedTuple):
    """A checked source, and the part of it that matters."""

    source: Source
    modality: Modality
    mime: str
    """By content."""
    name: str
    size: int
    """In bytes."""
    start: float | None = None
    end: float | None = None
    """Of sounds and videos, in seconds; the whole where they are not given."""
    char_start: int | None = None
    char_end: int | None = None
    """Of texts, in characters; the whole where they are not given."""
    limits: Limits = DEFAULT_LIMITS
    """Checked before it is decoded."""
