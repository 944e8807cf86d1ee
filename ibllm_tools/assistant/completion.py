"""The shortest way from a beginning of a JSON answer to its end, in tokens.

An answer that must fit into a number of tokens is possible as long as such a way is known that fits. It is searched for
with Dijkstra's algorithm over the tokens that the grammar allows. Two thoughts keep that small: whatever can be closed
is closed, and of two ways to the same place in the text, from which the same tokens may follow, the later is dropped.
"""

import heapq
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.assistant.json_position import JsonPosition

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MOST_STEPS = 20_000
MOST_MARKS = 6
FEW_KINDS = 40
"""So many first bytes may follow within names, numbers and choices; within free text there are more."""
IN_FREE_TEXT = b" -./:@_0aA"
"""First bytes that stand for all the others there."""
SHORT = 4
"""Bytes of a number or key that tells places apart by itself; longer ones do so by their length."""


class Landmarks(NamedTuple):
    """What of a schema tells places in a text apart from which the same tokens may follow.

    Attributes:
        names: of properties; which of them a value belongs to is not seen in what may follow.
        marks: bytes that patterns speak of: whether ``a@b`` or ``a@b.`` was written is not seen there either.
    """

    names: frozenset[str] = frozenset()
    marks: bytes = b""


class Vocabulary:
    """The tokens of a language model as bytes.

    Args:
        tokenizer: of llguidance, as wide as the model's logits.
        ends: the tokens that end an answer.
    """

    def __init__(self, tokenizer: "LLTokenizer", ends: Sequence[int]) -> None:
        self.tokenizer, self.ends = tokenizer, list(ends)
        self.texts = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
        self._first = np.array([text[0] if text else 0 for text in self.texts], dtype=np.uint8)  # (V,)
        self._length = np.array([len(text) for text in self.texts])  # (V,)
        self.quoting = self._first == ord('"')

    def allowed(self, matcher: "LLMatcher") -> NDArray[np.bool_]:
        """Which tokens may follow, (V,)."""
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little")[: len(self.texts)].astype(bool)

    def text(self, tokens: Sequence[int]) -> bytes:
        """What they say together."""
        return b"".join(self.texts[token] for token in tokens)

    def representatives(self, allowed: NDArray[np.bool_], quoted: bool, marks: bytes) -> list[int]:
        """Few of the allowed tokens (V,), among them those that lead to the end soonest; marks are told apart."""
        tokens = np.flatnonzero(allowed)
        tokens = tokens[self._length[tokens] > 0]
        for closers in (b'"',) if quoted else (b"}]", b","):
            closing = tokens[_among(closers)[self._first[tokens]]]
            if len(closing):
                tokens = closing
                break
        tokens = tokens[np.argsort(self._length[tokens], kind="stable")]
        kinds, shortest = np.unique(self._first[tokens], return_index=True)
        longest = len(tokens) - 1 - np.unique(self._first[tokens][::-1], return_index=True)[1]
        if len(kinds) > FEW_KINDS:
            shortest, longest = shortest[_among(IN_FREE_TEXT + marks)[kinds]], np.array([len(tokens) - 1])
        return [int(tokens[place]) for place in dict.fromkeys([*shortest.tolist(), *longest.tolist()])]


def shortest_completion(
    matcher: "LLMatcher",
    position: JsonPosition,
    vocabulary: Vocabulary,
    limit: int,
    landmarks: Landmarks,
    steps: int = MOST_STEPS,
) -> list[int] | None:
    """The fewest tokens that complete a JSON text, or None where the search finds no more than ``limit`` that do.

    Args:
        matcher: has read the text so far; it stays as it is.
        position: the place after that text.
        vocabulary: of the matcher's tokenizer.
        limit: tokens at most.
        landmarks: of the schema.
        steps: tokens that are looked at, at most.
    """
    order, looked_at, seen = count(), 0, set()
    queue: list[tuple[int, int, tuple[int, ...], LLMatcher, JsonPosition]] = []
    heapq.heappush(queue, (0, next(order), (), matcher, position))
    while queue:
        cost, _, way, here, place = heapq.heappop(queue)
        if here.is_accepting():
            return list(way)
        if looked_at > steps:
            continue
        for tokens in _steps(here, place, vocabulary, landmarks.marks):
            looked_at += 1
            there, then = here.deep_copy(), place.after(vocabulary.text(tokens))
            if cost + len(tokens) > limit or then.repeated or not there.consume_tokens(list(tokens)):
                continue
            kind = (*_kind(then, landmarks), there.compute_bitmask(), there.compute_ff_bytes())
            if kind not in seen:
                seen.add(kind)
                heapq.heappush(queue, (cost + len(tokens), next(order), (*way, *tokens), there, then))
    return None


def _steps(
    matcher: "LLMatcher", position: JsonPosition, vocabulary: Vocabulary, marks: bytes
) -> Iterator[Sequence[int]]:
    if forced := matcher.compute_ff_tokens():
        yield forced
        return
    allowed = vocabulary.allowed(matcher)
    if position.quoted and (allowed & vocabulary.quoting).any() and position.after(b'"').repeated:
        allowed &= ~vocabulary.quoting  # a key that is there already: it must become another
    yield from ([token] for token in vocabulary.representatives(allowed, position.quoted, marks))


def _kind(position: JsonPosition, landmarks: Landmarks) -> tuple[object, ...]:
    """What tells a place from others, as far as the text shows it."""
    scalar = position.scalar
    levels = tuple((level.is_object, level.items, _named(level.key, landmarks.names)) for level in position.levels)
    marked = bytes(byte for byte in scalar if byte in landmarks.marks)[:MOST_MARKS]
    by_itself = len(scalar) <= SHORT and (position.in_key or not position.quoted)
    return levels, position.quoted, scalar if by_itself else len(scalar), marked


def _named(key: bytes, names: frozenset[str]) -> bytes | None:
    """A key that the schema names; of all others it says the same."""
    return key if key and json.loads(key) in names else None


@lru_cache
def _among(chosen: bytes) -> NDArray[np.bool_]:
    """Whether each of the 256 bytes is one of those."""
    table = np.zeros(256, dtype=np.bool_)
    table[list(chosen)] = True
    return table
