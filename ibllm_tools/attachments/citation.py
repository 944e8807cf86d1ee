"""How a part of an attachment is cited, wherever that is done."""

from typing import Protocol

from ibllm_tools.errors import one_line

LONGEST_NAME = 255
"""Characters of a file's name; that of a text may be longer, and is shortened."""


class Citable(Protocol):
    """What has a name and may be a part of it."""

    @property
    def name(self) -> str:
        """File name or title."""

    @property
    def start(self) -> float | None:
        """Where it begins, in seconds."""

    @property
    def end(self) -> float | None:
        """Where it ends, in seconds."""

    @property
    def char_start(self) -> int | None:
        """Its first character."""

    @property
    def char_end(self) -> int | None:
        """The character after its last one."""


def citation(part: Citable) -> str:
    """``bell.wav@0.0-2.0s``, ``notes.txt@0-500``, or the name of what is whole; one line, whatever the name is."""
    name = one_line(part.name, LONGEST_NAME)
    if part.start is not None and part.end is not None:
        return f"{name}@{part.start:.1f}-{part.end:.1f}s"
    if part.char_start is not None:
        return f"{name}@{part.char_start}-{part.char_end}"
    return name
