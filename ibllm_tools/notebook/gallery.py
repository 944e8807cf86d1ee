"""Several things side by side, as the last value of a cell."""

from collections.abc import Iterable
from typing import Any

from ibllm_tools.errors import InvalidRequestError, one_line
from ibllm_tools.media.limits import MEBIBYTE
from ibllm_tools.notebook.cards import side_by_side
from ibllm_tools.notebook.markup import note

MOST_CHARS = 48 * MEBIBYTE
"""Of one cell's output."""


class Gallery:
    """Things that show themselves. Made by :func:`show`."""

    def __init__(self, things: Iterable[Any]) -> None:
        self.things = tuple(things)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.things)) or "nothing to show"

    def _repr_html_(self) -> str:
        return laid_out(self.things) if self.things else note("nothing to show")


def show(*things: Any) -> Gallery:
    """Hits, entries, evidence, answers and attachments side by side; lists of them are taken apart.

    Example:
        >>> show(library.search("a ringing bell", k=4))

    Raises:
        InvalidRequestError: a thing that does not show itself, such as a path.
    """
    return Gallery(_flat(things))


def laid_out(things: Iterable[Any]) -> str:
    """The cards of things in rows; those that a cell has no room for are counted."""
    cards, size, left = [], 0, 0
    for thing in things:
        html = "" if left else str(thing._repr_html_())
        if left or size + len(html) > MOST_CHARS:
            left += 1
        else:
            cards.append(html)
            size += len(html)
    more = note(f"{left} more, for which this cell has no room: show fewer at once") if left else ""
    return side_by_side("".join(cards)) + more


def _flat(things: Iterable[Any]) -> Iterable[Any]:
    for thing in things:
        if hasattr(thing, "_repr_html_"):
            yield thing
        elif isinstance(thing, list | tuple):
            yield from _flat(thing)
        else:
            raise InvalidRequestError(
                f"{one_line(repr(thing))} of type {type(thing).__name__}, expected hits, entries, evidence, answers or "
                "attachments; make an Attachment of a path"
            )
