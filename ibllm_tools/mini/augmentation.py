"""What the towers see while they train: rows of the data set, varied at random and brought to the towers' inputs."""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibllm_tools.imagebind.sensor_features import disparity, map_values
from ibllm_tools.mini.architecture import IMAGE_SIZE
from ibllm_tools.mini.dataset import WorldData

REACH = 4
"""Pixels by which pictures are moved at most."""

LUMINANCE = (0.299, 0.587, 0.114)
Bound = Literal["audio", "depth", "point"]
"""Modalities that are bound to images by a contrastive stage of their own."""


def moved(pictures: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Each picture moved by up to ``REACH`` pixels, its border repeated: (B, S, S, ...) -> same."""
    size = pictures.shape[1]
    margins = [(0, 0), (REACH, REACH), (REACH, REACH), (0, 0)][: pictures.ndim]
    padded = np.pad(pictures, margins, mode="edge")
    tops, lefts = rng.integers(0, 2 * REACH + 1, (2, len(pictures)))
    return np.stack([padded[i, t : t + size, s : s + size] for i, (t, s) in enumerate(zip(tops, lefts, strict=True))])


def to_grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luminance in three equal channels: (B, S, S, 3) uint8 -> the same shape."""
    grey = np.round(rgb @ np.array(LUMINANCE))
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)


def augmented(rgb: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Shift by up to 4 pixels, vary brightness and contrast a little, add noise: (B, S, S, 3) uint8 -> same."""
    batch, shifted = len(rgb), moved(rgb, rng)
    contrast = rng.uniform(0.85, 1.15, (batch, 1, 1, 1)).astype(np.float32)
    brightness = rng.uniform(-12, 12, (batch, 1, 1, 1)).astype(np.float32)
    noise = rng.standard_normal(shifted.shape, dtype=np.float32) * rng.uniform(0, 5, (batch, 1, 1, 1)).astype(
        np.float32
    )
    return np.clip((shifted - 128.0) * contrast + 128.0 + brightness + noise, 0, 255).astype(np.uint8)


def bound_values(data: WorldData, modality: Bound, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
    """Augmented tower inputs of some scenes: (B, 1, mels, frames), (B, 1, S, S) or (B, P, 3)."""
    if modality == "audio":
        return augmented_mels(data.mels[rows].astype(np.float32), rng)
    if modality == "depth":
        return augmented_depth(data.depth[rows].astype(np.float32), rng)
    return augmented_points(data.points[rows].astype(np.float32), rng)


def augmented_mels(mels: NDArray[np.float32], rng: np.random.Generator) -> Tensor:
    """Roll in time, vary the level, mask a band and a stretch: (B, mels, frames) -> (B, 1, mels, frames)."""
    out = mels + rng.normal(0, 0.05, (len(mels), 1, 1)).astype(np.float32)
    for clip in out:
        clip[:] = np.roll(clip, rng.integers(clip.shape[1]), axis=1)
        band, stretch = rng.integers(0, clip.shape[0] - 8), rng.integers(0, clip.shape[1] - 24)
        if rng.random() < 0.5:
            clip[band : band + rng.integers(1, 9)] = clip.mean()
        if rng.random() < 0.5:
            clip[:, stretch : stretch + rng.integers(1, 25)] = clip.mean()
    return torch.from_numpy(out)[:, None]


def depth_values(depth: NDArray[np.float32], size: int = IMAGE_SIZE) -> Tensor:
    """The depth tower's input as the processor makes it: (B, H, W) -> (B, 1, size, size)."""
    return torch.stack([map_values(disparity(metres), size, 0.5, 0.5) for metres in depth])


def augmented_depth(depth: NDArray[np.float32], rng: np.random.Generator) -> Tensor:
    """Mirror, shift by up to 4 pixels: (B, S, S) -> (B, 1, S, S)."""
    shifted = moved(depth, rng)
    mirrored = rng.random(len(depth)) < 0.5
    shifted[mirrored] = shifted[mirrored, :, ::-1]
    return depth_values(shifted)


def augmented_points(points: NDArray[np.float32], rng: np.random.Generator) -> Tensor:
    """Turn about the vertical axis, mirror, squeeze, jitter: (B, P, 3) -> (B, P, 3), centred in the unit sphere."""
    batch = len(points)
    angle = rng.uniform(-np.pi / 6, np.pi / 6, batch)
    turn = np.zeros((batch, 3, 3), np.float32)
    turn[:, 0, 0] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 0, 2], turn[:, 2, 0], turn[:, 1, 1] = np.sin(angle), -np.sin(angle), 1
    out = points @ turn
    out *= rng.uniform(0.9, 1.1, (batch, 1, 3)).astype(np.float32)
    out[rng.random(batch) < 0.5, :, 0] *= -1
    out += rng.normal(0, 0.008, out.shape).astype(np.float32)
    out -= out.mean(axis=1, keepdims=True)
    return torch.from_numpy(out / np.linalg.norm(out, axis=2).max(axis=1)[:, None, None])
