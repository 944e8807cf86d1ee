"""Folders of mixed media, written from the embedded model's procedural world, and of very many small files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ibllm_tools.mini.dataset import words_of
from ibllm_tools.mini.world.language import captions
from ibllm_tools.mini.world.scenes import export_mesh, render_scene, render_video, sample_scene, write_mp4, write_png
from ibllm_tools.mini.world.sounds import record, write_wav

SIZE, FILM_SIZE, FPS, FILM_SECONDS = 256, 128, 8, 6
SOUND_SECONDS, SENTENCES = 12.0, 12
SUFFIXES = {"images": ".png", "sounds": ".wav", "videos": ".mp4", "meshes": ".glb", "texts": ".txt"}


def write_media(folder: Path, counts: Mapping[str, int], *, seed: int = 9) -> int:
    """Write so many files of each kind into folders of their own, others for each seed; how many there are."""
    for kind, count in counts.items():
        (folder / kind).mkdir(parents=True)
        for index in range(count):
            _write(kind, folder / kind / f"{index:05}{SUFFIXES[kind]}", np.random.default_rng([seed, index]))
    return sum(counts.values())


def write_small_images(folder: Path, count: int) -> None:
    """Write so many different images of 16 x 16 pixels, 500 to a folder."""
    for index in range(count):
        place = folder / f"{index // 500:04}" / f"{index:06}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)).save(place)


def _write(kind: str, path: Path, rng: np.random.Generator) -> None:
    scene = sample_scene(rng, "test")
    (thing,) = scene.instances
    if kind == "images":
        write_png(render_scene(scene, size=SIZE).rgb, path)
    elif kind == "sounds":
        write_wav(path, record(str(thing.kind), rng, size=thing.size, seconds=SOUND_SECONDS))
    elif kind == "videos":
        write_mp4(render_video(scene, frames=FPS * FILM_SECONDS, fps=FPS, size=FILM_SIZE), path, fps=FPS)
    elif kind == "meshes":
        export_mesh(thing, path)
    else:
        path.write_text("\n".join(captions([words_of(thing)], rng) for _ in range(SENTENCES)), encoding="utf-8")
