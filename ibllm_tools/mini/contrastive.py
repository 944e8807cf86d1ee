"""The contrastive stages: images with texts, then sounds, depth maps and point clouds against the frozen image tower.

ImageBind (arXiv 2305.05665) binds every modality to images; so does this recipe. Scenes that show the same things count
as positives of each other, since a small world repeats itself within a batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ibllm_tools.imagebind.image_features import normalised_pixels
from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel
from ibllm_tools.imagebind.tokenization_imagebind import text_ids
from ibllm_tools.mini.architecture import TEXT_LENGTH
from ibllm_tools.mini.augmentation import Bound, augmented, bound_values, to_grey
from ibllm_tools.mini.dataset import WorldData
from ibllm_tools.mini.world.catalog import COLOURS
from ibllm_tools.mini.world.language import captions


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast a stage trains.

    Attributes:
        steps: optimiser steps.
        batch_size: scenes per step.
        learning_rate: at the peak; warmed up over ``warmup`` steps, then a cosine down to zero.
        weight_decay: of matrices; vectors do not decay.
        warmup: steps.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup: int = 100

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def contrastive_loss(left: Tensor, right: Tensor, scale: Tensor | float, positives: Tensor) -> Tensor:
    """Symmetric InfoNCE with several positives.

    Args:
        left: (B, E) unit vectors.
        right: (B, E) unit vectors.
        scale: inverse temperature.
        positives: (B, B) bool, symmetric, true on the diagonal; the target is even over the positives of a row.
    """
    logits = scale * left @ right.T  # (B, B)
    target = positives.float() / positives.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def optimise(
    modules: list[nn.Module],
    schedule: Schedule,
    loss_of: Callable[[int], Tensor],
    *,
    description: str,
    checkpoint: Path,
    every: int = 200,
) -> None:
    """Train modules on a loss, saving a checkpoint every so often and resuming from it where there is one.

    Args:
        modules: whose parameters are trained, and whose states are saved.
        schedule: length and learning rate.
        loss_of: the loss of a step; draws its own batch, from the number of the step alone.
        description: for the progress bar.
        checkpoint: file of the unfinished stage; the caller deletes it when the finished one is written.
        every: steps between checkpoints.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=parameters[0].device)
        for module, saved in zip(modules, state["modules"], strict=True):
            module.load_state_dict(saved)
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    average = None
    with tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, desc=description) as steps:
        for step in steps:
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(step)
            loss = loss_of(step)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
            steps.set_postfix(loss=f"{average:.4f}", refresh=False)
            if (step + 1) % every == 0:
                state = {
                    "modules": [module.state_dict() for module in modules],
                    "optimiser": optimiser.state_dict(),
                    "step": step + 1,
                }
                torch.save(state, checkpoint.with_suffix(".partial"))
                checkpoint.with_suffix(".partial").rename(checkpoint)


class SceneBatches:
    """Draws batches of scenes: mostly single things, some pairs, some unknown things.

    Every other batch takes its single things from two colours only, so that shape must be learned and not colour alone.
    """

    def __init__(self, data: WorldData, batch_size: int, *, pairs: float = 0.25, unknown: float = 0.10) -> None:
        self.data, self.batch_size = data, batch_size
        self.pairs, self.unknown = int(batch_size * pairs), int(batch_size * unknown)
        self.by_colour = {
            colour: data.single[[data.things[i][0].colour == colour for i in data.single]] for colour in COLOURS
        }

    def draw(self, step: int) -> tuple[NDArray[np.int64], np.random.Generator]:
        """The scenes of a step, and a generator for what else is random in it."""
        rng = np.random.default_rng([step, self.batch_size, 5])
        singles = self.data.single
        if step % 2:
            colours = rng.choice(list(COLOURS), 2, replace=False)
            singles = np.concatenate([self.by_colour[colour] for colour in colours])
        rows = [rng.choice(singles, self.batch_size - self.pairs - self.unknown, replace=False)]
        if self.pairs:
            rows.append(rng.choice(self.data.pair, self.pairs, replace=False))
        if self.unknown:
            rows.append(rng.choice(self.data.unknown, self.unknown, replace=False))
        return np.concatenate(rows), rng


def same_things(data: WorldData, rows: NDArray[np.int64], grey: NDArray[np.bool_], *, colour: bool = True) -> Tensor:
    """Which scenes of a batch show the same: (B, B) bool.

    Args:
        data: the split.
        rows: (B,) scenes.
        grey: (B,) whose colours are not visible.
        colour: whether things of different colours differ.
    """
    keys: dict[object, int] = {}
    ids = []
    for row, is_grey in zip(rows, grey, strict=True):
        things = frozenset((t.kind, t.colour if colour and not is_grey else None) for t in data.things[row])
        ids.append(keys.setdefault((things, bool(is_grey) and colour), len(keys)))
    labels = torch.tensor(ids)
    return labels[:, None] == labels[None, :]


def train_image_text(
    model: ImageBindModel,
    data: WorldData,
    tokenizer: PreTrainedTokenizerBase,
    schedule: Schedule,
    checkpoint: Path,
    *,
    grey_share: float = 0.15,
) -> None:
    """Stage one: the image and the text tower, from scratch.

    Args:
        model: its vision and text towers are trained in place.
        data: training split.
        tokenizer: of the text tower.
        schedule: length and learning rate.
        checkpoint: where an unfinished stage is kept.
        grey_share: share of the pictures that are shown without colours.
    """
    batches = SceneBatches(data, schedule.batch_size)
    vision, text = model.tower("image").train(), model.tower("text").train()

    def loss_of(step: int) -> Tensor:
        rows, rng = batches.draw(step)
        grey = rng.random(len(rows)) < grey_share
        rgb = data.rgb[rows]
        rgb = augmented(rgb, rng)
        rgb[grey] = to_grey(rgb[grey])
        flipped = (rng.random(len(rows)) < 0.5) & np.array([len(data.things[row]) == 1 for row in rows])
        rgb[flipped] = rgb[flipped, :, ::-1]
        texts = [captions(data.things[row], rng, grey=bool(g)) for row, g in zip(rows, grey, strict=True)]
        ids = torch.tensor([text_ids(tokenizer, caption, TEXT_LENGTH) for caption in texts])
        images = F.normalize(vision(normalised_pixels(rgb).to(model.device)), dim=-1)
        words = F.normalize(text(ids.to(model.device)), dim=-1)
        scale = text.logit_scale.exp().clamp(max=100)
        return contrastive_loss(images, words, scale, same_things(data, rows, grey).to(model.device))

    optimise([vision, text], schedule, loss_of, description="image-text", checkpoint=checkpoint)


@torch.no_grad()
def embed_images(model: ImageBindModel, rgb: NDArray[np.uint8], *, grey: bool = False, batch_size: int = 256) -> Tensor:
    """Unit image embeddings of a split: (N, S, S, 3) -> (N, E)."""
    vision = model.tower("image").eval()
    starts = range(0, len(rgb), batch_size)
    chunks = (np.asarray(rgb[start : start + batch_size]) for start in tqdm(starts, desc="embedding images"))
    return torch.cat(
        [
            F.normalize(vision(normalised_pixels(to_grey(chunk) if grey else chunk).to(model.device)), dim=-1).cpu()
            for chunk in chunks
        ]
    )


def train_bound_modality(
    model: ImageBindModel,
    modality: Bound,
    data: WorldData,
    image_embeddings: Tensor,
    schedule: Schedule,
    checkpoint: Path,
    *,
    temperature: float = 0.07,
    pull: float = 1.0,
) -> None:
    """Stage two: one more tower against the frozen image tower.

    The targets are embeddings of greyscale pictures of the same instances: neither a sound nor a shape has a colour.

    Args:
        model: the modality's tower is trained in place.
        modality: which.
        data: training split.
        image_embeddings: (N, E) unit vectors of its greyscale pictures.
        schedule: length and learning rate.
        checkpoint: where an unfinished stage is kept.
        temperature: of the contrastive loss.
        pull: weight of the cosine distance to the own picture, which closes the gap between the modalities.
    """
    batches = SceneBatches(data, schedule.batch_size, pairs=0.0)
    tower = model.tower(modality).train()

    def loss_of(step: int) -> Tensor:
        rows, rng = batches.draw(step)
        embeddings = F.normalize(tower(bound_values(data, modality, rows, rng).to(model.device)), dim=-1)
        images = image_embeddings[rows].to(model.device)
        positives = same_things(data, rows, np.zeros(len(rows), dtype=bool), colour=False).to(model.device)
        loss = contrastive_loss(embeddings, images, 1 / temperature, positives)
        return loss + pull * (1 - (embeddings * images).sum(dim=-1)).mean()

    optimise([tower], schedule, loss_of, description=modality, checkpoint=checkpoint)
