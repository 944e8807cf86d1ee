"""The published recipes, and their learning rate over time."""

import math
from dataclasses import dataclass
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

BASE_BATCH = 256
"""The effective batch that a base learning rate is given for."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of one stage.

    Attributes:
        base_learning_rate: for an effective batch of 256; the real one is in proportion to the batch.
        epochs: passes over the data, or over 1 / ``split_epoch`` of it.
        warmup_epochs: how many of them the learning rate rises, linearly from 0.
        weight_decay: of everything that is not one-dimensional.
        max_words: tokens of an item; longer ones are cut.
        batch_size: items per device.
        accumulation: batches per update.
        min_learning_rate: where the cosine ends.
        split_epoch: an epoch sees every ``split_epoch``-th item of a permutation.
    """

    base_learning_rate: float
    epochs: float
    warmup_epochs: float
    weight_decay: float
    max_words: int
    batch_size: int = 4
    accumulation: int = 1
    min_learning_rate: float = 0.0
    split_epoch: int = 1

    def learning_rate(self, effective_batch: int) -> float:
        """The peak learning rate for so many items per update."""
        return self.base_learning_rate * effective_batch / BASE_BATCH


RECIPES = {
    "pretrain": Recipe(
        base_learning_rate=1e-4, epochs=150, warmup_epochs=5, weight_decay=0.05, max_words=96, split_epoch=50
    ),
    "finetune": Recipe(base_learning_rate=1e-3, epochs=4, warmup_epochs=1, weight_decay=0.02, max_words=512),
}
"""The research code's scripts; they ran on 8 devices, an effective batch of 32."""


def warmup_cosine(epoch: float, lr: float, min_lr: float, warmup_epochs: float, epochs: float) -> float:
    """The learning rate at a fractional epoch: linear from 0 to ``lr``, then half a cosine down to ``min_lr``.

    Without an epoch after the warm-up it ends at ``lr``.
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    if epochs == warmup_epochs:
        return lr
    progress = (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_cosine_schedule(optimizer: Optimizer, recipe: Recipe, steps: int) -> LambdaLR:
    """The same for an optimiser: one step of the schedule per update, ``steps`` updates in ``recipe.epochs`` epochs."""
    peak: float = optimizer.param_groups[0]["lr"]
    return LambdaLR(optimizer, partial(_share_of_peak, peak, recipe, steps))


def _share_of_peak(peak: float, recipe: Recipe, steps: int, step: int) -> float:
    epoch = recipe.epochs * min(step, steps) / steps
    return warmup_cosine(epoch, peak, recipe.min_learning_rate, recipe.warmup_epochs, recipe.epochs) / peak
