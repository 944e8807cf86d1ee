"""Clips of a video: short side scaled, cropped once (or three times, as the research code), normalised."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ibllm_tools.errors import UnsupportedMediaError
from ibllm_tools.imagebind.image_features import CLIP_MEAN, CLIP_STD, normalised

MAX_ASPECT_RATIO = 64
"""Of a frame: the scaled frame is held in memory as a whole."""


def scaled_frames(frames: NDArray[np.uint8], size: int) -> Tensor:
    """Scale the short side (bilinear, not antialiased): uint8 (T, H, W, 3) -> float32 (3, T, h, w) within [0, 1].

    Raises:
        UnsupportedMediaError: the frames are much longer than wide.
    """
    height, width = frames.shape[1:3]
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise UnsupportedMediaError(
            f"video of {width} x {height} pixels; expected sides within a factor of {MAX_ASPECT_RATIO}; crop it first"
        )
    long_side = math.floor(max(height, width) / min(height, width) * size)
    scaled = (size, long_side) if width >= height else (long_side, size)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255  # (3, T, H, W)
    return F.interpolate(pixels, size=scaled, mode="bilinear", align_corners=False)


def crop_offsets(height: int, width: int, size: int, *, official: bool = False) -> list[tuple[int, int]]:
    """Top and left of the crops: the centre; with ``official`` also both ends of the long side, around it."""
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if not official:
        return [(top, left)]
    if width >= height:
        return [(top, 0), (top, left), (top, width - size)]
    return [(0, left), (top, left), (height - size, left)]


def clip_values(
    frames: NDArray[np.uint8],
    size: int = 224,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    *,
    official: bool = False,
) -> Tensor:
    """The vision tower's input for one clip.

    Args:
        frames: RGB uint8 (T, H, W, 3).
        size: side of the crops.
        mean: per channel.
        std: per channel.
        official: three crops along the long side, as the research code takes, and not only the centre.

    Returns:
        (crops, 3, T, size, size) float32.
    """
    channels_last = scaled_frames(frames, size).movedim(0, -1)  # (T, h, w, 3)
    pixels = normalised(channels_last, mean, std).movedim(-1, 0)  # (3, T, h, w)
    offsets = crop_offsets(pixels.shape[-2], pixels.shape[-1], size, official=official)
    return torch.stack([pixels[..., top : top + size, left : left + size] for top, left in offsets])
