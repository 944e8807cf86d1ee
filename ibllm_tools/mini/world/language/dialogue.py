"""Questions about a scene, their right answers, and the reading of a model's answers.

Every answer names the thing first ("It is a bell. It rings."): the language model then finds the sound or the use in
what it knows about the word it has just written, also for kinds whose sound it was never asked for with an attachment.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.mini.world.catalog import COLOURS, KIND_NAMES, KINDS
from ibllm_tools.mini.world.language.phrasings import PHRASINGS, Flavour, Split, Task
from ibllm_tools.mini.world.language.words import (
    KIND_BY_NAME,
    Size,
    ThingWords,
    chance,
    joined,
    noun_phrase,
    pick,
)

KNOWLEDGE_HELD_OUT_KINDS: tuple[str, ...] = (
    "bird",
    "clock",
    "piano",
    "helicopter",
    "kettle",
    "whistle",
    "cat",
    "ship",
    "camera",
    "tap",
)
"""Kinds whose sound and use are asked in text only, never with an attachment, during training."""

REFUSAL = "I do not know this thing."
CANNOT_TELL = "I cannot tell the colour."
NO_ATTACHMENT = "There is no attachment."
NUMBERS = ("no", "one", "two", "three", "four")

_OPENINGS = ("Hello. ", "Please: ", "Look. ", "Listen. ", "I have a question. ", "One question: ", "Now tell me: ")
_CLOSINGS = (" Please.", " Thank you.")

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[a-z]+")
_THING = re.compile(
    rf"an? (?:(?P<size>small|big) )?(?:(?P<colour>{'|'.join(COLOURS)}) )?(?P<kind>{'|'.join(KIND_NAMES)})"
)
_SOUNDS = {kind.sound for kind in KINDS}
_USES = {kind.use for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Parsed:
    """What an answer says.

    Attributes:
        things: the things it names, in its order; a bare "It is red." gives a thing without a kind.
        sound, use: the catalogue's phrase, when the answer says one.
        count: how many things it says there are.
        affirmed: ``True`` for "Yes, ...", ``False`` for "No, ...".
        refused: it says that it does not know the thing.
        cannot_tell: it says that it cannot tell the colour.
        no_attachment: it says that nothing is attached.
        unread: sentences outside the grammar of the answers; an answer that has one is never correct.
    """

    things: tuple[ThingWords, ...] = ()
    sound: str | None = None
    use: str | None = None
    count: int | None = None
    affirmed: bool | None = None
    refused: bool = False
    cannot_tell: bool = False
    no_attachment: bool = False
    unread: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The named kinds, in the answer's order."""
        return tuple(thing.kind for thing in self.things if thing.kind is not None)

    @property
    def colour(self) -> str | None:
        """The named colour, when there is exactly one."""
        colours = [thing.colour for thing in self.things if thing.colour is not None]
        return colours[0] if len(colours) == 1 else None


def example(
    task: Task,
    things: Sequence[ThingWords],
    rng: np.random.Generator,
    split: Split = "train",
    *,
    flavour: Flavour | None = None,
) -> tuple[str, str]:
    """A question about a scene, and its right answer.

    Colour, sound and use of a scene of several things are asked by name ("What colour is the bell?"). In the train
    split the question is now and then put loosely: with a greeting, without its question mark, in lower case.

    Args:
        task: what is asked.
        things: the scene, from left to right; empty for no attachment.
        rng: the only source of chance.
        split: whose phrasings to use.
        flavour: the kind of media, for phrasings that fit it; ``None`` takes those of every kind.

    Raises:
        InvalidRequestError: several things, and none of a known kind to ask about.
    """
    phrasings = PHRASINGS[task][split]
    known = [thing.kind for thing in things if thing.kind is not None]
    by_name = len(things) > 1 and task in (Task.COLOUR, Task.GREY_COLOUR, Task.SOUND, Task.USE)
    if by_name and not known:
        raise InvalidRequestError(f"{task} of {len(things)} unknown things: one of them must be of a known kind")
    if not by_name and known and split == "train" and "named" in phrasings:
        by_name = chance(0.12, rng)
    flavours: list[Flavour] = ["named"] if by_name else _fitting(flavour)
    options = [phrasing for fitting in flavours for phrasing in phrasings.get(fitting, ())]
    question = pick(options, rng)
    if "{kind}" in question:
        asked = pick(known, rng) if known and (by_name or chance(0.5, rng)) else pick(KIND_NAMES, rng)
        question = question.format(kind=asked)
    answer = answer_to(task, things, question)
    return (loosened(question, rng) if split == "train" else question), answer


def answer_to(task: Task, things: Sequence[ThingWords], question: str = "") -> str:
    """The right answer.

    Args:
        task: what is asked.
        things: the scene, from left to right; empty for no attachment.
        question: decides which thing is meant where the question names its kind, and what yes and no mean.

    Raises:
        InvalidRequestError: several things and no way to tell which is meant, or a yes-no question that names no kind.
    """
    asked = asked_kind(question)
    if not things and asked is not None and task in (Task.SOUND, Task.USE):
        things = (ThingWords(asked),)
    if not things:
        return NO_ATTACHMENT
    if task is Task.GREY_COLOUR:
        return CANNOT_TELL
    if task is Task.COUNT:
        return "There is one thing." if len(things) == 1 else f"There are {NUMBERS[len(things)]} things."
    if task is Task.COLOUR:
        colour = _meant(task, things, asked).colour
        return CANNOT_TELL if colour is None else f"It is {colour}."
    if all(thing.kind is None for thing in things):
        return REFUSAL
    if task in (Task.SOUND, Task.USE):
        return _knowledge(task, _meant(task, things, asked))
    if task is Task.YES_NO:
        if asked is None:
            raise InvalidRequestError(f"a yes-no question that names no kind: {question!r}; name one of {KIND_NAMES}")
        yes = any(thing.kind == asked for thing in things)
        return f"{'Yes' if yes else 'No'}, it is {_named(things, coloured=False)}."
    return f"It is {_named(things, coloured=task is Task.DESCRIBE)}."


def parse_answer(text: str) -> Parsed:
    """Read an answer sentence by sentence; the grammar is the one that `answer_to` writes."""
    parsed = Parsed()
    for sentence in _SENTENCE.split(text.strip()):
        statement, affirmed = _without_yes_no(sentence)
        if things := _things(statement):
            parsed = replace(parsed, things=parsed.things + things, **affirmed)
        elif fact := _fact(sentence):
            parsed = replace(parsed, **fact)
        else:
            parsed = replace(parsed, unread=(*parsed.unread, sentence))
    return parsed


def is_correct(task: Task, things: Sequence[ThingWords], text: str, question: str = "") -> bool:
    """Whether an answer names exactly the right thing(s), and says exactly what was asked about them.

    The order of several things does not matter. A sentence outside the grammar of the answers, a refusal or a thing too
    many makes an answer wrong.

    Args:
        task: what was asked.
        things: the scene.
        text: the model's answer.
        question: as for `answer_to`.
    """
    return _facets(task, parse_answer(text)) == _facets(task, parse_answer(answer_to(task, things, question)))


def may_be_trained_with_attachment(task: Task, things: Sequence[ThingWords]) -> bool:
    """Whether training may ask this with an attachment: not the sound or the use of a held-out kind."""
    return task not in (Task.SOUND, Task.USE) or not any(thing.kind in KNOWLEDGE_HELD_OUT_KINDS for thing in things)


def asked_kind(question: str) -> str | None:
    """The first kind that a question names."""
    return next((word for word in _WORD.findall(question.lower()) if word in KIND_BY_NAME), None)


def loosened(question: str, rng: np.random.Generator) -> str:
    """The question as people type it: one time in four with a greeting, in lower case or without its final mark."""
    manner = rng.random()
    if manner < 0.10:
        return pick(_OPENINGS, rng) + question
    if manner < 0.13:
        return question + pick(_CLOSINGS, rng)
    if manner < 0.18:
        return question.lower()
    if manner < 0.23:
        return question[:-1]
    return question.lower()[:-1] if manner < 0.25 else question


def _fitting(flavour: Flavour | None) -> list[Flavour]:
    every: list[Flavour] = ["any", "image", "audio", "video", "point", "depth"]
    return every if flavour is None else ["any", flavour]


def _meant(task: Task, things: Sequence[ThingWords], asked: str | None) -> ThingWords:
    candidates = [thing for thing in things if thing.kind == asked] if asked else list(things)
    if len(candidates) != 1:
        names = [thing.kind for thing in things]
        raise InvalidRequestError(f"{task} of {asked or 'one thing'} among {names}: exactly one thing must be meant")
    return candidates[0]


def _knowledge(task: Task, thing: ThingWords) -> str:
    if thing.kind is None:
        return REFUSAL
    kind = KIND_BY_NAME[thing.kind]
    more = f"It {kind.sound}." if task is Task.SOUND else f"It is used for {kind.use}."
    return f"It is {kind.with_article}. {more}"


def _named(things: Sequence[ThingWords], *, coloured: bool) -> str:
    known = [thing for thing in things if thing.kind is not None]
    return joined([noun_phrase(ThingWords(thing.kind, thing.colour if coloured else None)) for thing in known])


def _without_yes_no(sentence: str) -> tuple[str, dict[str, Any]]:
    """The statement after "Yes, " or "No, ", and which of them it was."""
    found = re.fullmatch(r"(Yes|No), it (.+)", sentence)
    return (f"It {found[2]}", {"affirmed": found[1] == "Yes"}) if found else (sentence, {})


def _things(statement: str) -> tuple[ThingWords, ...]:
    """The things of "It is a red bell and a drum." or "It is red."; empty when it is neither."""
    found = re.fullmatch(r"It is (.+)\.", statement)
    if found is None:
        return ()
    if found[1] in COLOURS:
        return (ThingWords(None, found[1]),)
    matches = [_THING.fullmatch(phrase) for phrase in re.split(r", | and ", found[1])]
    sizes: dict[str | None, Size | None] = {"small": "small", "big": "big"}
    things = tuple(ThingWords(m["kind"], m["colour"], sizes.get(m["size"])) for m in matches if m)
    return things if len(things) == len(matches) else ()


def _fact(sentence: str) -> dict[str, Any] | None:
    """The one field of `Parsed` that a sentence other than "It is a ..." fills."""
    if sentence == REFUSAL:
        return {"refused": True}
    if sentence == CANNOT_TELL:
        return {"cannot_tell": True}
    if sentence == NO_ATTACHMENT:
        return {"no_attachment": True}
    if (found := re.fullmatch(r"There (?:is|are) (\w+) things?\.", sentence)) and found[1] in NUMBERS:
        return {"count": NUMBERS.index(found[1])}
    if (found := re.fullmatch(r"It is used for (.+)\.", sentence)) and found[1] in _USES:
        return {"use": found[1]}
    if (found := re.fullmatch(r"It (.+)\.", sentence)) and found[1] in _SOUNDS:
        return {"sound": found[1]}
    return None


def _facets(task: Task, parsed: Parsed) -> tuple[object, ...]:
    always = (parsed.refused, parsed.cannot_tell, parsed.no_attachment, parsed.unread)
    kinds = sorted(parsed.kinds)
    asked: dict[Task, object] = {
        Task.COLOUR: parsed.colour,
        Task.SOUND: (kinds, parsed.sound),
        Task.USE: (kinds, parsed.use),
        Task.COUNT: parsed.count,
        Task.YES_NO: (kinds, parsed.affirmed),
        Task.DESCRIBE: sorted((thing.kind or "", thing.colour or "") for thing in parsed.things),
    }
    return (*always, asked.get(task, kinds))
