"""ImageBind at its published size: inputs per second, memory, and where the time between a file and its vector goes.

The weights are random: neither speed nor memory depends on them. One process per type of weights holds the model, so
that its peak of memory is its own; they take turns, because the clock of a shared machine drifts. Needs 12 GiB.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from random_checkpoints import random_imagebind
from report import publish, table
from transformers.utils import logging

from ibllm_tools.assistant.model_folder import mini_folder
from ibllm_tools.imagebind import ImageBindProcessor
from ibllm_tools.imagebind.clip_sampling import clip_spans
from ibllm_tools.imagebind.decoding import image_array
from ibllm_tools.imagebind.fingerprint import PROCESSOR_FOLDER
from ibllm_tools.media.audio import encode_wav, read_audio
from ibllm_tools.media.limits import DEFAULT_LIMITS
from ibllm_tools.media.video import probe_video, read_clips

MEDIA = Path(__file__).parents[1] / "examples" / "media"
FULL, HALF = "float32", "bfloat16"
BATCHES = (1, 8)
INPUTS = {
    "image": (3, 224, 224),
    "audio": (3, 1, 128, 204),
    "text": (77,),
    "point": (8192, 3),
    "video": (5, 3, 2, 224, 224),
}
TOO_LONG = ("video", 8)
NAMES = {
    "image": "images",
    "audio": "sounds, 3 clips each",
    "text": "texts",
    "point": "clouds of 8,192 points",
    "video": "videos, 5 clips each",
}
END_OF_TEXT = 49407
ATTENTIONS = ("sdpa", "eager")
LEAST_RUNS, ENOUGH_SECONDS = 3, 6.0
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
RNG = np.random.default_rng(0)
Speeds = dict[tuple[str, int], dict[tuple[str, str], float]]
"""Seconds of a batch, by modality and batch size, and by type and attention."""


def build(dtype: str) -> None:
    """Runs once in each process."""
    global model
    logging.set_verbosity_error()
    model = random_imagebind(dtype)


@torch.no_grad()
def encode(modality: str, batch: int, attention: str) -> tuple[float, list[float]]:
    """Seconds for a batch, and the first of its vectors."""
    values = inputs(modality, batch)
    model.set_attn_implementation(attention)
    began = time.perf_counter()
    embeddings = model.encode(modality, values)
    took = time.perf_counter() - began
    return took, torch.nn.functional.normalize(embeddings[0].float(), dim=-1).tolist()


def peak_memory() -> int:
    """Bytes that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES


def inputs(modality: str, batch: int) -> torch.Tensor:
    """As the processor makes them, but random."""
    generator = torch.Generator().manual_seed(0)
    if modality == "text":
        ids = torch.randint(1, END_OF_TEXT - 1, (batch, *INPUTS["text"]), generator=generator)
        ids[:, -1] = END_OF_TEXT
        return ids
    return torch.randn(batch, *INPUTS[modality], generator=generator)


class Model:
    """The model in a process of its own."""

    def __init__(self, dtype: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=build, initargs=(dtype,))

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run it there."""
        return self.pool.submit(function, *arguments).result()


def measure() -> str:
    """All tables."""
    models = {dtype: Model(dtype) for dtype in (FULL, HALF)}
    speeds = {
        (modality, batch): by_turns(models, modality, batch)
        for modality in INPUTS
        for batch in BATCHES
        if (modality, batch) != TOO_LONG
    }
    likeness = {modality: cosine(models, modality) for modality in INPUTS}
    peaks = {dtype: each(peak_memory) / 2**30 for dtype, each in models.items()}
    for each in models.values():
        each.pool.shutdown()
    return "\n\n".join(
        (
            throughput(speeds, likeness),
            f"Inputs per second, of the fastest of at least {LEAST_RUNS} runs, {torch.get_num_threads()} threads. Peak "
            f"memory of the process: {peaks[FULL]:.1f} GiB with {FULL}, {peaks[HALF]:.1f} GiB with {HALF}. Cosine: of "
            "both types' vectors of one input.",
            attentions(speeds),
            "Where the time from a file to its vector goes, one file at a time:",
            shares(speeds),
        )
    )


def by_turns(models: dict[str, Model], modality: str, batch: int) -> dict[tuple[str, str], float]:
    """The fastest run of each type, and of each attention for single inputs; slower ones were disturbed."""
    kinds = [(dtype, attention) for dtype in models for attention in (ATTENTIONS if batch == 1 else ATTENTIONS[:1])]
    times: dict[tuple[str, str], list[float]] = {kind: [] for kind in kinds}
    while len(times[kinds[0]]) <= LEAST_RUNS or sum(map(sum, times.values())) < ENOUGH_SECONDS:  # the first warms up
        for dtype, attention in kinds:
            times[dtype, attention].append(models[dtype](encode, modality, batch, attention)[0])
    return {kind: min(taken) for kind, taken in times.items()}


def cosine(models: dict[str, Model], modality: str) -> float:
    """Between the vectors that both types make of one input."""
    full, half = (np.array(models[dtype](encode, modality, 1, ATTENTIONS[0])[1]) for dtype in (FULL, HALF))
    assert np.isfinite([full, half]).all(), f"{modality} is not finite"
    return float(full @ half)


def throughput(speeds: Speeds, likeness: dict[str, float]) -> str:
    """Inputs per second, and the gains."""
    rows = []
    for modality, name in NAMES.items():
        per_second = {
            (dtype, batch): batch / speeds[modality, batch][dtype, ATTENTIONS[0]]
            for dtype in (FULL, HALF)
            for batch in BATCHES
            if (modality, batch) in speeds
        }
        rate = {key: f"{value:.2f}" for key, value in per_second.items()}
        gains = [
            gain(per_second, (HALF, 1), (FULL, 1)),
            gain(per_second, (HALF, 8), (FULL, 8)),
            gain(per_second, (HALF, 8), (HALF, 1)),
        ]
        rates = [rate.get((dtype, batch), "") for dtype in (FULL, HALF) for batch in BATCHES]
        rows.append([name, *rates, *gains, f"{likeness[modality]:.5f}"])
    head = [f"{dtype}, batch {batch}" for dtype in (FULL, HALF) for batch in BATCHES]
    gained = [f"{HALF} / {FULL}, batch 1", "batch 8", f"batch 8 / 1, {HALF}"]
    return table(["", *head, *gained, "cosine"], rows)


def gain(per_second: dict[tuple[str, int], float], new: tuple[str, int], old: tuple[str, int]) -> str:
    """How many times as many, where both were measured."""
    return f"{per_second[new] / per_second[old]:.2f}" if new in per_second and old in per_second else ""


def attentions(speeds: Speeds) -> str:
    """What torch's fused attention gains over one step by step."""
    rows = []
    for modality, name in NAMES.items():
        taken = speeds[modality, 1]
        rows.append([name, *(f"{taken[dtype, 'eager'] / taken[dtype, 'sdpa']:.2f}" for dtype in (FULL, HALF))])
    return table(["SDPA / eager attention, batch 1", FULL, HALF], rows)


def shares(speeds: Speeds) -> str:
    """Decoding, preprocessing and the model."""
    processor = ImageBindProcessor(ImageBindProcessor.from_pretrained(mini_folder() / PROCESSOR_FOLDER).tokenizer)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for modality, name, path in files(Path(folder)):
            decoded = DECODERS[modality](path)
            whole = seconds(lambda m=modality, p=path: processor.process(m, [p]))
            after = seconds(lambda m=modality, d=decoded: processor.process(m, [d]))
            before = max(whole - after, 0.0)
            row = [name, f"{1000 * before:.0f} ms", f"{1000 * after:.0f} ms"]
            for dtype in (FULL, HALF):
                encoding = speeds[modality, 1][dtype, ATTENTIONS[0]]
                row += [f"{1000 * encoding:.0f} ms", f"{encoding / (whole + encoding):.0%}"]
            rows.append(row)
    return table(
        ["file", "decoding", "preprocessing", f"model, {FULL}", "its share", f"model, {HALF}", "its share"], rows
    )


def seconds(action: Callable[[], object]) -> float:
    """The fastest of five runs, after one that warms up."""
    action()
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return min(taken)


def decoded_video(path: Path) -> Any:
    """The frames that the processor would pick."""
    spans = clip_spans(probe_video(path).seconds, 5, 2.0)
    return read_clips(path, spans, frames_per_clip=2)


DECODERS: dict[str, Callable[[Path], Any]] = {
    "image": lambda path: image_array(path, DEFAULT_LIMITS),
    "audio": read_audio,
    "video": decoded_video,
}


def files(folder: Path) -> list[tuple[str, str, Path]]:
    """Small files, and such as cameras and phones make."""
    photo, sound, film = folder / "photo.jpg", folder / "sound.wav", folder / "film.mp4"
    Image.fromarray(scene(3000, 4000)).save(photo, quality=90)
    sound.write_bytes(encode_wav(RNG.normal(0, 0.1, (2, 30 * 44_100)).astype(np.float32), 44_100))
    write_film(film)
    return [
        ("image", "`bell.png`, 256 x 256", MEDIA / "bell.png"),
        ("image", "photo, JPEG, 12 megapixels", photo),
        ("audio", "`bell.wav`, 3 s", MEDIA / "bell.wav"),
        ("audio", "sound, 30 s, stereo, 44.1 kHz", sound),
        ("video", "`helicopter.mp4`", MEDIA / "helicopter.mp4"),
        ("video", "film, 10 s, 1280 x 720, H.264", film),
    ]


def scene(height: int, width: int) -> np.ndarray:
    """Shapes and grain, as hard to compress as a photo."""
    shapes = Image.fromarray(RNG.integers(0, 256, (height // 50, width // 50, 3), dtype=np.uint8))
    pixels = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    return (pixels + RNG.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)


def write_film(path: Path) -> None:
    """A camera that pans over a scene, 30 frames a second."""
    wide = scene(720, 2480)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for index in range(300):
            picture = np.ascontiguousarray(wide[:, 4 * index : 4 * index + 1280])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    publish("imagebind", measure)
