"""The text that the language model is pretrained on: what the world is like, and how to answer from what was said.

The second skill is the more important one. A context states what is there ("There is a red bell."), a question asks for
a part of it. Later no context is written: the injected embedding takes its place, and the same heads read it.
"""

from collections.abc import Sequence

import numpy as np

from ibllm_tools.mini.world.catalog import COLOURS, KIND_NAMES, KINDS, Kind
from ibllm_tools.mini.world.language.dialogue import REFUSAL, answer_to, example, loosened
from ibllm_tools.mini.world.language.phrasings import PHRASINGS, Task
from ibllm_tools.mini.world.language.words import (
    Size,
    ThingWords,
    captions,
    chance,
    joined,
    noun_phrase,
    pick,
    with_article,
)

TextItem = str | tuple[str, str]
"""A plain statement, or a question (with its context, if any) and its answer."""

_COLOUR_NAMES = tuple(COLOURS)

_CONTEXTS = (
    "There is {}.",
    "Here is {}.",
    "This is {}.",
    "It is {}.",
    "I see {}.",
    "You see {}.",
    "We have {}.",
    "Look at {}.",
    "The picture shows {}.",
    "The photo shows {}.",
    "The image shows {}.",
    "The video shows {}.",
    "The 3D model shows {}.",
    "In the picture there is {}.",
    "In the clip there is {}.",
    "My friend has {}.",
    "Somebody gave me {}.",
    "Picture: {}.",
    "Thing: {}.",
    "Attachment: {}.",
)
_BARE = ("[{}]", "({})", "{}.", "{}:")
_GREY_CONTEXTS = (
    "The black and white picture shows {}.",
    "There is {} in black and white.",
    "Here is a black and white photo of {}.",
    "The picture is black and white. It shows {}.",
    "The grey picture shows {}.",
    "Greyscale image: {}.",
    "Picture without colour: {}.",
)
_SOUND_CONTEXTS = ("You hear {}.", "I hear {}.", "The recording has the sound of {}.", "Sound: {}.", "Audio: {}.")
_UNKNOWN_CONTEXTS = (
    "There is something strange.",
    "The picture shows something unknown.",
    "You see a thing that nobody knows.",
    "Here is a thing without a name.",
    "Attachment: something unknown.",
)
_ASIDES = (
    "The sun is up.",
    "We are at home.",
    "The day is long.",
    "My friend is here.",
    "The room is quiet.",
    "People are waiting.",
    "Nobody is in a hurry.",
)
_STATEMENTS = (
    "A {kind} {sound}.",
    "Every {kind} {sound}.",
    "It is a {kind}. It {sound}.",
    "It is a {kind}. It is used for {use}.",
    "It is a {kind}. It {sound}. It is used for {use}.",
    "A {kind} is used for {use}.",
    "A {kind} is good for {use}.",
    "A {kind} is a thing for {use}.",
    "A {kind} is a thing that {sound}.",
    "People use a {kind} for {use}.",
    "You can use a {kind} for {use}.",
    "A {kind} {sound}, and it is used for {use}.",
    "The {kind} {sound}. It is used for {use}.",
    "For {use}, people use a {kind}.",
    "If it {sound}, it is a {kind}.",
    "If it is used for {use}, it is a {kind}.",
    "I have a {colour} {kind}. It {sound}.",
    "The {colour} {kind} {sound}.",
    "My friend has a {colour} {kind} for {use}.",
    "The {kind} is {colour}. It {sound}.",
    "Listen to the {kind}: it {sound}.",
)
_WHICH_SOUNDS = (
    "What {sound}?",
    "Which thing {sound}?",
    "Name a thing that {sound}.",
    "It {sound}. What is it?",
    "I hear something that {sound}. What is it?",
)
_WHICH_USE = (
    "What is used for {use}?",
    "Which thing is used for {use}?",
    "Which thing is good for {use}?",
    "Name a thing for {use}.",
    "It is used for {use}. What is it?",
)
# fmt: off
_OUTSIDERS = (
    "table", "spoon", "zebra", "lamp", "chair", "shoe", "river", "mountain", "pencil", "window", "bottle", "lion",
    "spider", "apple", "bread", "carpet", "ladder", "mirror", "pillow", "ring", "snake", "tiger", "umbrella",
    "violin", "wheel", "zipper", "basket", "candle", "feather", "glove", "hat", "island", "jacket", "knife",
    "lemon", "needle", "onion", "panda", "queen", "shirt", "tent", "vase", "wallet", "yacht",
)
# fmt: on
_CHAT: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "Hello!", "Hi", "Hi!", "Hey!", "Good morning.", "Hello there!"), "Hello! Show me something."),
    (("Thank you.", "Thanks!", "Thank you very much.", "Thanks a lot."), "You are welcome."),
    (("Who are you?", "What are you?", "What is your name?"), "I am a small model."),
    (
        ("What can you do?", "What do you do?", "How can you help me?", "Help"),
        "I can name things that I see or hear.",
    ),
    (("How are you?", "How are you today?"), "I am fine."),
    (("Bye", "Goodbye!", "Good bye.", "See you!"), "Goodbye!"),
)

_CONTEXT_TASKS = (Task.COLOUR,) * 6 + (Task.IDENTIFY,) * 4 + (Task.SOUND, Task.USE) * 3 + (Task.YES_NO,) * 2
_CONTEXT_TASKS_SEVERAL = (Task.COLOUR,) * 6 + (Task.PAIR,) * 4 + (Task.IDENTIFY, Task.SOUND, Task.USE, Task.YES_NO)
_TASKS = (Task.IDENTIFY, Task.COLOUR, Task.PAIR, Task.DESCRIBE, Task.SOUND, Task.USE, Task.YES_NO, Task.COUNT)


def text_corpus(rng: np.random.Generator, n: int) -> list[TextItem]:
    """``n`` independent texts for pretraining: statements, and questions with their answers.

    About 56 % are questions about a context, 29 % what the world is like (statements and questions, all kinds), 6 %
    captions, 9 % what is said when nothing is attached: small talk, "There is no attachment.", questions about unknown
    things. Only phrasings of the train split occur.
    """
    writers = (in_context, _statement, knowledge, _which, _caption, _without_attachment, _outsider, _small_talk)
    shares = (0.56, 0.13, 0.12, 0.04, 0.06, 0.05, 0.02, 0.02)
    return [writers[int(writer)](rng) for writer in rng.choice(len(writers), size=n, p=shares)]


def in_context(rng: np.random.Generator) -> tuple[str, str]:
    """A context that states what is there, a question about it, and the answer that copies from the context."""
    kind_of_scene = rng.random()
    if kind_of_scene < 0.08:
        return _about_grey(rng)
    if kind_of_scene < 0.15:
        return _about_unknown(rng)
    if kind_of_scene < 0.20:
        return _about_sound(rng)
    things = scene(rng, int(rng.choice((1, 2, 3), p=(0.62, 0.28, 0.10))))
    task = pick(_CONTEXT_TASKS if len(things) == 1 else _CONTEXT_TASKS_SEVERAL, rng)
    if chance(0.18, rng):
        task = pick((Task.DESCRIBE, Task.COUNT), rng)
    question, answer = example(task, things, rng)
    return _stated(_context(things, rng), question, rng), answer


def scene(rng: np.random.Generator, count: int) -> tuple[ThingWords, ...]:
    """``count`` things of different kinds, each with a colour, half of them with a size."""
    kinds = rng.permutation(len(KIND_NAMES))[:count]
    sizes: tuple[Size | None, ...] = ("small", "big", None, None)
    return tuple(ThingWords(KIND_NAMES[int(kind)], pick(_COLOUR_NAMES, rng), pick(sizes, rng)) for kind in kinds)


def _context(things: Sequence[ThingWords], rng: np.random.Generator) -> str:
    if len(things) == 1 and chance(0.2, rng):
        thing = things[0]
        apart = pick(("There is a {kind}. It is {colour}.", "The {kind} is {colour}.", "My {kind} is {colour}."), rng)
        return apart.format(kind=thing.kind, colour=thing.colour)
    words = joined([noun_phrase(thing) for thing in things])
    return pick(_BARE if chance(0.25, rng) else _CONTEXTS, rng).format(words)


def _stated(context: str, question: str, rng: np.random.Generator) -> str:
    """Context and question in one text; now and then the question comes first, or a sentence beside the point."""
    if chance(0.12, rng):
        aside = pick(_ASIDES, rng)
        context = f"{aside} {context}" if chance(0.5, rng) else f"{context} {aside}"
    return f"{question} {context}" if chance(0.15, rng) else f"{context} {question}"


def _about_grey(rng: np.random.Generator) -> tuple[str, str]:
    things = tuple(thing._replace(colour=None) for thing in scene(rng, 1))
    task = pick((Task.GREY_COLOUR, Task.GREY_COLOUR, Task.IDENTIFY, Task.SOUND, Task.USE, Task.DESCRIBE), rng)
    question, answer = example(task, things, rng)
    return _stated(pick(_GREY_CONTEXTS, rng).format(noun_phrase(things[0])), question, rng), answer


def _about_unknown(rng: np.random.Generator) -> tuple[str, str]:
    (seen,) = scene(rng, 1)
    thing = ThingWords(None, seen.colour if chance(0.7, rng) else None, seen.size)
    adjective = pick(("strange", "unknown", "odd"), rng)
    context = pick(_CONTEXTS, rng).format(noun_phrase(thing, unknown=adjective))
    if thing.colour is None and chance(0.5, rng):
        context = pick(_UNKNOWN_CONTEXTS, rng)
    task = pick((Task.UNKNOWN, Task.UNKNOWN, Task.SOUND, Task.USE, Task.COLOUR, Task.DESCRIBE, Task.YES_NO), rng)
    question, answer = example(task, (thing,), rng)
    return _stated(context, question, rng), answer


def _about_sound(rng: np.random.Generator) -> tuple[str, str]:
    things = tuple(thing._replace(colour=None) for thing in scene(rng, 1))
    task = pick((Task.IDENTIFY, Task.COLOUR, Task.SOUND, Task.USE, Task.DESCRIBE), rng)
    question, answer = example(task, things, rng)
    return _stated(pick(_SOUND_CONTEXTS, rng).format(noun_phrase(things[0])), question, rng), answer


def _statement(rng: np.random.Generator) -> TextItem:
    kind, colour = pick(KINDS, rng), pick(_COLOUR_NAMES, rng)
    return _filled(pick(_STATEMENTS, rng), kind).replace("a {colour}", with_article(colour)).replace("{colour}", colour)


def knowledge(rng: np.random.Generator) -> tuple[str, str]:
    """A question that names a kind and asks for its sound or its use, of every kind of the world."""
    task = pick((Task.SOUND, Task.USE), rng)
    question = pick(PHRASINGS[task]["train"]["named"], rng).replace("{kind}", pick(KIND_NAMES, rng))
    return loosened(question, rng), answer_to(task, (), question)


def _which(rng: np.random.Generator) -> TextItem:
    kind, task = pick(KINDS, rng), pick((Task.SOUND, Task.USE), rng)
    question = _filled(pick(_WHICH_SOUNDS if task is Task.SOUND else _WHICH_USE, rng), kind)
    return question, answer_to(Task.IDENTIFY, (ThingWords(kind.name),))


def _caption(rng: np.random.Generator) -> TextItem:
    return captions(scene(rng, 2 if chance(0.3, rng) else 1), rng, grey=chance(0.1, rng))


def _without_attachment(rng: np.random.Generator) -> TextItem:
    return example(pick(_TASKS, rng), (), rng)


def _outsider(rng: np.random.Generator) -> TextItem:
    task = pick((Task.SOUND, Task.USE), rng)
    question = pick(PHRASINGS[task]["train"]["named"], rng).replace("a {kind}", with_article(pick(_OUTSIDERS, rng)))
    return loosened(question.replace("{kind}", pick(_OUTSIDERS, rng)), rng), REFUSAL


def _small_talk(rng: np.random.Generator) -> TextItem:
    openings, reply = pick(_CHAT, rng)
    return pick(openings, rng), reply


def _filled(text: str, kind: Kind) -> str:
    return text.replace("{kind}", kind.name).replace("{sound}", kind.sound).replace("{use}", kind.use)
