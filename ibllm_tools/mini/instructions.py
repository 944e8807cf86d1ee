"""What the language model is asked while it is tuned: questions about pictures, questions without an attachment.

Only images and text occur here. Sounds, depth maps and point clouds are understood because their embeddings lie where the
embeddings of images lie.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ibllm_tools.mini.dataset import WorldData
from ibllm_tools.mini.world.language import (
    PROMPT,
    Task,
    ThingWords,
    example,
    may_be_trained_with_attachment,
    text_corpus,
)

BLUR = 0.35
"""Length of the random vector that is added to an image embedding, so that nearby embeddings read alike."""

_ONE_THING = ((Task.IDENTIFY, 8), (Task.COLOUR, 5), (Task.DESCRIBE, 3), (Task.SOUND, 3), (Task.USE, 3), (Task.YES_NO, 2), (Task.COUNT, 1))  # fmt: skip
_GREY = ((Task.IDENTIFY, 7), (Task.GREY_COLOUR, 5), (Task.DESCRIBE, 2), (Task.SOUND, 2), (Task.USE, 2), (Task.YES_NO, 1), (Task.COUNT, 1))  # fmt: skip
_PAIR = ((Task.PAIR, 6), (Task.IDENTIFY, 2), (Task.DESCRIBE, 2), (Task.COLOUR, 2), (Task.COUNT, 1), (Task.YES_NO, 1))
_UNKNOWN = ((Task.UNKNOWN, 6), (Task.IDENTIFY, 3), (Task.SOUND, 2), (Task.USE, 2), (Task.DESCRIBE, 1), (Task.COLOUR, 1))
_MIX = ((Task.PAIR, 5), (Task.IDENTIFY, 2))


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer.

    Attributes:
        prompt: what the language model reads.
        answer: what it is to write.
        embedding: (E,) of the attachment; ``None`` without one.
    """

    prompt: str
    answer: str
    embedding: Tensor | None


class Instructor:
    """Draws turns about the pictures of a split.

    Args:
        data: the split.
        colour: (N, E) unit embeddings of its pictures.
        grey: (N, E) unit embeddings of the same pictures without colours.
    """

    def __init__(self, data: WorldData, colour: Tensor, grey: Tensor) -> None:
        self.data, self.colour, self.grey = data, colour, grey

    def caption(self, rng: np.random.Generator) -> Turn:
        """A turn of the first stage, which aligns images with the language model: naming and describing."""
        return self.about_picture(rng, naming_only=True)

    def instruction(self, rng: np.random.Generator, *, text_share: float = 0.3) -> Turn:
        """A turn of the second stage: every task about a picture, and text alone."""
        if rng.random() < text_share:
            return text_turn(rng)
        return self.about_picture(rng)

    def about_picture(self, rng: np.random.Generator, *, naming_only: bool = False) -> Turn:
        """A question about one picture, or about two pictures in one embedding."""
        sort = rng.choice(5, p=(0.45, 0.20, 0.15, 0.10, 0.10))
        if sort == 0:
            return self._ask(rng, int(rng.choice(self.data.single)), _ONE_THING, naming_only)
        if sort == 1:
            return self._ask(rng, int(rng.choice(self.data.single)), _GREY, naming_only, grey=True)
        if sort == 2:
            return self._ask(rng, int(rng.choice(self.data.pair)), _PAIR, naming_only)
        if sort == 3:
            grey = bool(rng.random() < 0.4)
            return self._ask(rng, int(rng.choice(self.data.unknown)), _UNKNOWN, naming_only, grey=grey)
        return self._mixed(rng)

    def _ask(
        self,
        rng: np.random.Generator,
        row: int,
        tasks: tuple[tuple[Task, int], ...],
        naming_only: bool,
        *,
        grey: bool = False,
    ) -> Turn:
        things = self.data.things[row]
        if grey:
            things = tuple(thing._replace(colour=None) for thing in things)
        allowed = [
            (task, share)
            for task, share in tasks
            if may_be_trained_with_attachment(task, things) and not (naming_only and task in (Task.SOUND, Task.USE))
        ]
        shares = np.array([share for _, share in allowed], dtype=float)
        task = allowed[int(rng.choice(len(allowed), p=shares / shares.sum()))][0]
        embedding = (self.grey if grey else self.colour)[row]
        return turn(task, things, rng, blurred(embedding, rng))

    def _mixed(self, rng: np.random.Generator) -> Turn:
        first, second = (int(row) for row in rng.choice(self.data.single, 2))
        while self.data.things[first][0].kind == self.data.things[second][0].kind:
            second = int(rng.choice(self.data.single))
        weight = float(rng.uniform(0.4, 0.6))
        embeddings = self.grey if rng.random() < 0.5 else self.colour
        mixed = weight * blurred(embeddings[first], rng) + (1 - weight) * blurred(embeddings[second], rng)
        if rng.random() < 0.5:
            mixed = F.normalize(mixed, dim=-1)  # as it leaves the visual cache
        things = tuple(ThingWords(self.data.things[row][0].kind) for row in sorted((first, second), key=self._name))
        return turn(Task.PAIR if rng.random() < 0.7 else Task.IDENTIFY, things, rng, mixed)

    def _name(self, row: int) -> str:
        return str(self.data.things[row][0].kind)


def blurred(embedding: Tensor, rng: np.random.Generator) -> Tensor:
    """A unit embedding (E,) moved by a random vector of length up to ``BLUR``, unit again."""
    noise = torch.from_numpy(rng.standard_normal(embedding.shape[0]).astype(np.float32))
    return F.normalize(embedding + float(rng.uniform(0, BLUR)) * F.normalize(noise, dim=-1), dim=-1)


def turn(task: Task, things: tuple[ThingWords, ...], rng: np.random.Generator, embedding: Tensor) -> Turn:
    """A question of the training split about some things."""
    question, answer = example(task, things, rng)
    return Turn(PROMPT.format(question=question), answer, embedding)


def text_turn(rng: np.random.Generator) -> Turn:
    """A text without an attachment; a plain statement is an answer without a question."""
    (item,) = text_corpus(rng, 1)
    if isinstance(item, str):
        return Turn("", item, None)
    return Turn(PROMPT.format(question=item[0]), item[1], None)


