"""The world on disk: scenes drawn at random, rendered once, read by every stage of the recipe.

A split is a folder of memory-mapped arrays. Row ``i`` of each belongs to scene ``i``: its image, its depth map, its
words; and, for scenes of one thing, a sound of the same kind and size and a point cloud of the same instance.
"""

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from ibllm_tools.imagebind.audio_features import normalised_log_mel
from ibllm_tools.mini.architecture import IMAGE_SIZE, MEL_BINS, MEL_FRAMES, NUM_POINTS
from ibllm_tools.mini.world.catalog import COLOURS, KIND_NAMES
from ibllm_tools.mini.world.language import ThingWords
from ibllm_tools.mini.world.language.words import Size
from ibllm_tools.mini.world.scenes import (
    Instance,
    Scene,
    Split,
    point_cloud,
    render_scene,
    sample_scene,
)
from ibllm_tools.mini.world.sounds import record, synthesise_unknown

SMALL_BELOW, BIG_ABOVE = 0.74, 0.86
"""Sizes below and above which a thing is called small or big; in between, nothing is said."""


@dataclass(frozen=True, slots=True)
class Composition:
    """How many scenes of each sort a split has."""

    single: int
    pair: int
    unknown: int
    grey: int = 0


COMPOSITIONS: dict[Split, Composition] = {
    "train": Composition(single=24_000, pair=11_000, unknown=5_000),
    "validation": Composition(single=990, pair=300, unknown=300, grey=200),
    "test": Composition(single=1_980, pair=500, unknown=500, grey=400),
}
_SEEDS: dict[Split, int] = {"train": 11, "validation": 12, "test": 13}


def words_of(instance: Instance) -> ThingWords:
    """What the language says about an instance."""
    size: Size | None = "small" if instance.size < SMALL_BELOW else "big" if instance.size > BIG_ABOVE else None
    return ThingWords(instance.kind, instance.colour, size)


def draw_scenes(split: Split, composition: Composition) -> Iterator[Scene]:
    """The scenes of a split: single things (kinds and colours in turn), pairs, unknown things, greyscale pictures."""
    rng = np.random.default_rng([_SEEDS[split], 0])
    colours = list(COLOURS)

    def balanced(count: int, *, greyscale: bool) -> Iterator[Scene]:
        for index in range(count):
            kind = KIND_NAMES[index % len(KIND_NAMES)]
            colour = colours[index // len(KIND_NAMES) % len(colours)]
            yield sample_scene(rng, split, kinds=[kind], colours=[colour], greyscale=greyscale)

    yield from balanced(composition.single, greyscale=False)
    for _ in range(composition.pair):
        yield sample_scene(rng, split, things=2)
    for _ in range(composition.unknown):
        yield sample_scene(rng, split, unknown=True)
    yield from balanced(composition.grey, greyscale=True)


def _observe(job: tuple[int, Scene]) -> dict[str, NDArray[Any]]:
    """Everything that is sensed of one scene; the seed of the scene decides its noise."""
    index, scene = job
    rendering = render_scene(scene, size=IMAGE_SIZE)
    row: dict[str, NDArray[Any]] = {"rgb": rendering.rgb, "depth": rendering.depth.astype(np.float16)}
    if len(scene.instances) == 1:
        (instance,) = scene.instances
        rng = np.random.default_rng([scene.seed % 2**32, index])
        sound = synthesise_unknown(rng) if instance.kind is None else record(instance.kind, rng, size=instance.size)
        sound = sound - sound.mean()
        row["mels"] = normalised_log_mel(sound[None], MEL_BINS, MEL_FRAMES)[0].numpy().astype(np.float16)
        row["points"] = point_cloud(instance, points=NUM_POINTS, seed=index).astype(np.float16)
    return row


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def build_split(folder: Path, split: Split, *, composition: Composition | None = None, workers: int = 1) -> None:
    """Render a split into ``folder/split``; does nothing where it is complete.

    Args:
        folder: of the data set.
        split: which.
        composition: how many scenes; the recipe's by default.
        workers: processes.
    """
    target = folder / split
    if (target / "words.json").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    scenes = list(draw_scenes(split, composition or COMPOSITIONS[split]))
    count = len(scenes)
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "rgb": ((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
        "depth": ((count, IMAGE_SIZE, IMAGE_SIZE), np.float16),
        "mels": ((count, MEL_BINS, MEL_FRAMES), np.float16),
        "points": ((count, NUM_POINTS, 3), np.float16),
    }
    arrays = {name: open_memmap(target / f"{name}.npy", "w+", dtype, shape) for name, (shape, dtype) in shapes.items()}
    # Unlike multiprocessing.Pool, an executor reports workers that cannot start, where a pool restarts them for ever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as executor:
        rows = executor.map(_observe, enumerate(scenes), chunksize=32)
        for index, row in enumerate(tqdm(rows, total=count, desc=f"rendering {split}", unit="scene")):
            for name, values in row.items():
                arrays[name][index] = values
    for array in arrays.values():
        array.flush()
    description = [
        {"things": [words_of(i)._asdict() for i in scene.instances], "grey": scene.greyscale, "scene": asdict(scene)}
        for scene in scenes
    ]
    partial = target / "words.json.partial"  # its rename marks the split as complete
    partial.write_text(json.dumps(description))
    partial.rename(target / "words.json")


class WorldData:
    """A rendered split.

    Attributes:
        things: per scene, the words of its things from left to right.
        grey: (N,) whether the picture is greyscale.
        rgb: (N, S, S, 3) uint8.
        depth: (N, S, S) float16, metres.
        mels: (N, mels, frames) float16, normalised; zeros for scenes of two things.
        points: (N, P, 3) float16; zeros for scenes of two things.
    """

    def __init__(self, folder: Path, split: Split) -> None:
        described = json.loads((folder / split / "words.json").read_text())
        self.things = [tuple(ThingWords(**thing) for thing in scene["things"]) for scene in described]
        self._scenes = [scene["scene"] for scene in described]
        self.grey = np.array([scene["grey"] for scene in described])
        self.rgb, self.depth, self.mels, self.points = (
            np.load(folder / split / f"{name}.npy", mmap_mode="r") for name in ("rgb", "depth", "mels", "points")
        )

    def __len__(self) -> int:
        return len(self.things)

    def scene(self, row: int) -> Scene:
        """The scene of a row, to render it again."""
        described = self._scenes[row]
        return Scene(tuple(Instance(**i) for i in described["instances"]), described["greyscale"], described["seed"])

    @cached_property
    def single(self) -> NDArray[np.int64]:
        """Scenes of one known thing, in colour."""
        known = [len(things) == 1 and things[0].kind is not None for things in self.things]
        return np.flatnonzero(np.array(known) & ~self.grey)

    @cached_property
    def pair(self) -> NDArray[np.int64]:
        """Scenes of two things."""
        return np.flatnonzero([len(things) == 2 for things in self.things])

    @cached_property
    def unknown(self) -> NDArray[np.int64]:
        """Scenes of one unknown thing."""
        return np.flatnonzero([len(things) == 1 and things[0].kind is None for things in self.things])

    @cached_property
    def greyscale(self) -> NDArray[np.int64]:
        """Greyscale pictures."""
        return np.flatnonzero(self.grey)
