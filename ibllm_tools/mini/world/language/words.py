"""Words for the things of a scene, noun phrases made of them, and captions."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from ibllm_tools.mini.world.catalog import KINDS, Kind

Size = Literal["small", "big"]
T = TypeVar("T")

KIND_BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
"""The catalogue's kinds by their noun."""

_DOUBLED = ("strum", "chug", "whir", "drip")
_UNKNOWN_ADJECTIVES = ("strange", "unknown", "odd")

_ONE = ("{}",) * 4 + (
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a view of {}",
    "this is {}",
    "there is {}",
    "here is {}",
    "we see {}",
    "the picture shows {}",
)
_SEVERAL = (*_ONE, "a scene with {}", "both {}")
_PAIR = (
    "{a} next to {b}",
    "{a} beside {b}",
    "{a} left of {b}",
    "{b} right of {a}",
    "{a} on the left and {b} on the right",
    "{a} with {b}",
)
_GREY = (
    "a black and white photo of {}",
    "a black and white picture of {}",
    "a grey picture of {}",
    "a greyscale image of {}",
    "{} in black and white",
    "{} without colour",
)
_UNKNOWN = (
    "something unknown",
    "something strange",
    "a thing that nobody knows",
    "an unknown thing",
    "a thing without a name",
    "a thing that we do not know",
)
_HEARD = ("{} that {sound}", "the sound of {}", "something that {sound}", "a thing that {sound}", "a thing for {use}")


class ThingWords(NamedTuple):
    """What is said about one thing.

    Attributes:
        kind: its noun from the catalogue; ``None`` for a thing from outside the world.
        colour: its colour word; ``None`` when it is not known or not said.
        size: ``"small"``, ``"big"``, or ``None`` when it is not said.
    """

    kind: str | None
    colour: str | None = None
    size: Size | None = None


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of ``options``, uniformly."""
    return options[int(rng.integers(len(options)))]


def chance(probability: float, rng: np.random.Generator) -> bool:
    """``True`` with the given probability."""
    return bool(rng.random() < probability)


def with_article(words: str) -> str:
    """``"a red bell"``, ``"an orange bell"``."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def noun_phrase(thing: ThingWords, *, unknown: str = "strange") -> str:
    """``"a small red bell"``; a thing from outside the world is ``"a small strange red thing"``."""
    words = (thing.size, None if thing.kind else unknown, thing.colour, thing.kind or "thing")
    return with_article(" ".join(word for word in words if word))


def joined(phrases: Sequence[str]) -> str:
    """``"x"``, ``"x and y"``, ``"x, y and z"``."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def participle(sound: str) -> str | None:
    """``"rings"`` gives ``"ringing"``; ``None`` for a sound of several words, which cannot stand before a noun."""
    if " " in sound:
        return None
    stem = sound[:-2] if sound.endswith(("zzes", "sses")) else sound[:-1]
    if stem in _DOUBLED:
        return f"{stem}{stem[-1]}ing"
    return f"{stem.removesuffix('e')}ing"


def captions(things: Sequence[ThingWords], rng: np.random.Generator, *, grey: bool = False) -> str:
    """One caption of a scene, in one of many phrasings, without a full stop.

    Not everything is said each time: the size is left out half of the time and the colour in one of seven captions, so
    that a text encoder trained on captions also places ``"a bell"``. A caption of one thing sometimes names what the
    thing sounds like or is for instead of how it looks, so that ``"something that rings"`` finds bells.

    Args:
        things: from left to right; at least one.
        rng: the only source of chance.
        grey: the picture has no colours; none is said.
    """
    things = [_partly(thing, rng, grey) for thing in things]
    phrases = [noun_phrase(thing, unknown=pick(_UNKNOWN_ADJECTIVES, rng)) for thing in things]
    if grey:
        return pick(_GREY, rng).format(joined(phrases))
    if len(things) == 1:
        return _one(things[0], phrases[0], rng)
    if len(things) == 2 and chance(0.5, rng):
        return pick(_PAIR, rng).format(a=phrases[0], b=phrases[1])
    return pick(_SEVERAL if len(things) == 2 else _ONE, rng).format(joined(phrases))


def _partly(thing: ThingWords, rng: np.random.Generator, grey: bool) -> ThingWords:
    colour = None if grey or chance(1 / 7, rng) else thing.colour
    return ThingWords(thing.kind, colour, None if chance(0.5, rng) else thing.size)


def _one(thing: ThingWords, phrase: str, rng: np.random.Generator) -> str:
    if thing.kind is None:
        return pick(_UNKNOWN, rng) if chance(0.4, rng) else pick(_ONE, rng).format(phrase)
    if not chance(0.12, rng):
        return pick(_ONE, rng).format(phrase)
    kind = KIND_BY_NAME[thing.kind]
    ringing = participle(kind.sound)
    if ringing and chance(0.3, rng):
        return with_article(" ".join(word for word in (ringing, thing.colour, thing.kind) if word))
    return pick(_HEARD, rng).format(phrase, sound=kind.sound, use=kind.use)
