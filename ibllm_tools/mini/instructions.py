"""What the language model is asked while it is tuned: questions about pictures, questions without an attachment.

Only images and text occur here. Sounds, depth maps and point clouds are understood because their embeddings lie where
the embeddings of images lie.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ibllm_tools.mini.dataset import WorldData
from ibllm_tools.mini.world.language import (
    Task,
    ThingWords,
    example,
    may_be_trained_with_attachment,
    text_corpus,
)
from ibllm_tools.mini.world.language.corpus import in_context, knowledge
from ibllm_tools.training.dataset import Example

BLUR = 0.45
"""Length of the random vector that is added to an image embedding, so that nearby embeddings read alike."""

OPEN_REQUEST = "Tell me something."
"""What the statements of the corpus answer."""

Shares = Mapping[Task, int]
"""How often each task is asked, in proportion."""

_ONE_THING: Shares = {
    Task.IDENTIFY: 8, Task.COLOUR: 5, Task.DESCRIBE: 3, Task.SOUND: 3, Task.USE: 3, Task.YES_NO: 2, Task.COUNT: 1
}  # fmt: skip
_GREY: Shares = {
    Task.IDENTIFY: 7, Task.GREY_COLOUR: 5, Task.DESCRIBE: 2, Task.SOUND: 2, Task.USE: 2, Task.YES_NO: 1, Task.COUNT: 1
}  # fmt: skip
_PAIR: Shares = {
    Task.PAIR: 6, Task.IDENTIFY: 2, Task.DESCRIBE: 2, Task.COLOUR: 2, Task.COUNT: 1, Task.YES_NO: 1
}  # fmt: skip
_UNKNOWN: Shares = {
    Task.UNKNOWN: 6, Task.IDENTIFY: 3, Task.SOUND: 2, Task.USE: 2, Task.DESCRIBE: 1, Task.COLOUR: 1
}  # fmt: skip


PICTURE_SHARES = (0.33, 0.17, 0.12, 0.10, 0.28)
"""Shares of the pictures: one thing, one thing in grey, two things, an unknown thing, two pictures in one embedding."""


class Drawn:
    """Examples drawn when they are asked for; an index always gives the same one.

    Args:
        draw: draws an example.
        count: how many there are.
        seed: of all of them.
    """

    def __init__(self, draw: Callable[[np.random.Generator], Example], count: int, seed: int) -> None:
        self.draw, self.count, self.seed = draw, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        return self.draw(np.random.default_rng([self.seed, index]))


class Instructor:
    """Draws examples about the pictures of a split.

    Args:
        data: the split.
        colour: (N, E) unit embeddings of its pictures.
        grey: (N, E) unit embeddings of the same pictures without colours.
    """

    def __init__(self, data: WorldData, colour: Tensor, grey: Tensor) -> None:
        self.data, self.colour, self.grey = data, colour, grey

    def caption(self, rng: np.random.Generator) -> Example:
        """An example of the first stage, which aligns images with the language model: naming and describing."""
        return self.about_picture(rng, naming_only=True)

    def instruction(self, rng: np.random.Generator) -> Example:
        """An example of the second stage: every task about a picture, text alone, text beside an imagined vector."""
        sort = rng.choice(3, p=(0.68, 0.14, 0.18))
        if sort == 0:
            return self.about_picture(rng)
        return from_text(rng) if sort == 1 else self.beside_imagined(rng)

    def beside_imagined(self, rng: np.random.Generator) -> Example:
        """A question that holds all it needs, while a vector of no picture is injected.

        What the language model knows must not depend on what is injected: otherwise the words that follow "It is used
        for" come out garbled for kinds which were never asked about with an attachment.
        """
        question, answer = knowledge(rng) if rng.random() < 0.75 else in_context(rng)
        return Example(instruction=question, answer=answer, embedding=self.imagined(rng))

    def imagined(self, rng: np.random.Generator) -> Tensor:
        """A random unit vector (E,) that is spread like the embeddings of pictures, and belongs to none."""
        rows = rng.integers(0, len(self.colour), 12)
        shares = torch.from_numpy(rng.standard_normal(len(rows)).astype(np.float32))
        centre = self.colour[rows].mean(dim=0)
        return F.normalize(centre + shares @ (self.colour[rows] - centre) / len(rows) ** 0.5, dim=-1)

    def about_picture(self, rng: np.random.Generator, *, naming_only: bool = False) -> Example:
        """A question about one picture, or about two pictures in one embedding."""
        sort = rng.choice(5, p=PICTURE_SHARES)
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
        tasks: Shares,
        naming_only: bool,
        *,
        grey: bool = False,
    ) -> Example:
        # An embedding hardly tells left from right, so that two things are named in the order of the alphabet.
        things = tuple(sorted(self.data.things[row], key=lambda thing: str(thing.kind)))
        if grey:
            things = tuple(thing._replace(colour=None) for thing in things)
        allowed = [
            (task, share)
            for task, share in tasks.items()
            if may_be_trained_with_attachment(task, things) and not (naming_only and task in (Task.SOUND, Task.USE))
        ]
        shares = np.array([share for _, share in allowed], dtype=float)
        task = allowed[int(rng.choice(len(allowed), p=shares / shares.sum()))][0]
        embedding = (self.grey if grey else self.colour)[row]
        return about(task, things, rng, blurred(embedding, rng))

    def _mixed(self, rng: np.random.Generator) -> Example:
        first, second = (int(row) for row in rng.choice(self.data.single, 2))
        while self.data.things[first][0].kind == self.data.things[second][0].kind:
            second = int(rng.choice(self.data.single))
        weight = float(rng.uniform(0.4, 0.6))
        left, right = ((self.grey if rng.random() < 0.5 else self.colour)[row] for row in (first, second))
        mixed = weight * blurred(left, rng) + (1 - weight) * blurred(right, rng)
        if rng.random() < 0.5:
            mixed = F.normalize(mixed, dim=-1)  # as it leaves the visual cache
        kinds = sorted(str(self.data.things[row][0].kind) for row in (first, second))
        things = tuple(ThingWords(kind) for kind in kinds)
        return about(Task.PAIR if rng.random() < 0.7 else Task.IDENTIFY, things, rng, mixed)


def blurred(embedding: Tensor, rng: np.random.Generator) -> Tensor:
    """A unit embedding (E,) moved by a random vector of length up to ``BLUR``, unit again."""
    noise = torch.from_numpy(rng.standard_normal(embedding.shape[0]).astype(np.float32))
    return F.normalize(embedding + float(rng.uniform(0, BLUR)) * F.normalize(noise, dim=-1), dim=-1)


def about(task: Task, things: tuple[ThingWords, ...], rng: np.random.Generator, embedding: Tensor) -> Example:
    """A question of the training split about some things."""
    question, answer = example(task, things, rng)
    return Example(instruction=question, answer=answer, embedding=embedding)


def from_text(rng: np.random.Generator) -> Example:
    """A text of the corpus, without an attachment; a plain statement answers an open request."""
    (item,) = text_corpus(rng, 1)
    question, answer = (OPEN_REQUEST, item) if isinstance(item, str) else item
    return Example(instruction=question, answer=answer)
