"""Where one is in a JSON text of which only the beginning is known."""

import json
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

LONGEST_STRING = 2_000
LONGEST_NUMBER = 20
MOST_ITEMS = 64

_QUOTE, _BACKSLASH, _COMMA, _COLON = b'"\\,:'
_OPENERS, _CLOSERS = b"{[", b"}]"


class Level(NamedTuple):
    """An object or array that is not closed yet.

    Attributes:
        is_object: or else an array.
        key: of the value being written, as JSON; empty before the colon and in arrays.
        items: values before the one being written.
        keys: those of the object so far, the one being written included.
    """

    is_object: bool
    key: bytes = b""
    items: int = 0
    keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class JsonPosition:
    """The place after some bytes of a JSON text without white space between its tokens.

    Attributes:
        levels: the open objects and arrays, outermost first.
        scalar: the string, number or literal being written or last written, as far as it goes.
        quoted: whether it is within a string.
        escaped: whether a backslash comes just before it.
        repeated: whether an object has the same key twice.
    """

    levels: tuple[Level, ...] = ()
    scalar: bytes = b""
    quoted: bool = False
    escaped: bool = False
    repeated: bool = False

    def after(self, text: bytes) -> Self:
        """The place after more bytes."""
        place = self
        for byte in text:
            place = place._in_string(byte) if place.quoted else place._between(byte)
        return place

    @property
    def rambles(self) -> bool:
        """Whether a string, number or array has become longer than anyone would want, or an exponent begins."""
        if self.levels and self.levels[-1].items >= MOST_ITEMS:
            return True
        if self.quoted:
            return len(self.scalar) > LONGEST_STRING
        is_number = self.scalar[:1].isdigit() or self.scalar[:1] == b"-"
        return is_number and (len(self.scalar) > LONGEST_NUMBER or b"e" in self.scalar.lower())

    @property
    def in_key(self) -> bool:
        """Whether a string that is being written is a key."""
        return self.quoted and bool(self.levels) and self.levels[-1].is_object and not self.levels[-1].key

    def _in_string(self, byte: int) -> Self:
        scalar = self.scalar + bytes([byte])
        if byte != _QUOTE or self.escaped:
            return replace(self, scalar=scalar, escaped=byte == _BACKSLASH and not self.escaped)
        closed = replace(self, scalar=scalar, quoted=False)
        if not self.in_key:
            return closed
        level, key = self.levels[-1], str(json.loads(scalar))
        return replace(
            closed,
            levels=(*self.levels[:-1], level._replace(keys=level.keys | {key})),
            repeated=self.repeated or key in level.keys,
        )

    def _between(self, byte: int) -> Self:
        if byte in _OPENERS:
            return replace(self, levels=(*self.levels, Level(byte == _OPENERS[0])), scalar=b"")
        if byte in _CLOSERS:
            return replace(self, levels=self.levels[:-1], scalar=b"")
        if byte == _COLON:
            return replace(self, levels=(*self.levels[:-1], self.levels[-1]._replace(key=self.scalar)), scalar=b"")
        if byte == _COMMA:
            level = self.levels[-1]
            return replace(self, levels=(*self.levels[:-1], level._replace(key=b"", items=level.items + 1)), scalar=b"")
        return replace(self, scalar=self.scalar + bytes([byte]), quoted=byte == _QUOTE)
