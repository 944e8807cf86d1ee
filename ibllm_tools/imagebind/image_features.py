"""Pixels: short side scaled, centre cropped, normalised."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

FAR_END = 16
"""Short sides of an image that are kept of the long one; an ordinary image is not touched."""


def centre_resized(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale the short side to ``size`` (bicubic, antialiased) and cut out the centre: (H, W, 3) -> (size, size, 3)."""
    image = _without_far_ends(image)
    height, width = image.shape[:2]
    short = min(height, width)
    scaled_height, scaled_width = (size * side // short for side in (height, width))
    scaled = Image.fromarray(image).resize((scaled_width, scaled_height), Image.Resampling.BICUBIC)
    top, left = round((scaled_height - size) / 2), round((scaled_width - size) / 2)
    return np.asarray(scaled.crop((left, top, left + size, top + size)))


def _without_far_ends(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut what the centre crop drops anyway off a very long image, before scaling multiplies it."""
    height, width = image.shape[:2]
    longest = FAR_END * min(height, width)
    top, left = max(height - longest, 0) // 2, max(width - longest, 0) // 2
    return np.ascontiguousarray(image[top : top + longest, left : left + longest])


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Values within [0, 1], (..., C) -> (value - mean) / std per channel."""
    return (pixels - torch.tensor(mean)) / torch.tensor(std)


def normalised_pixels(
    rgb: NDArray[np.uint8], mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> Tensor:
    """Images of their final size: RGB uint8 (..., H, W, 3) -> float32 (..., 3, H, W), normalised per channel."""
    pixels = torch.from_numpy(np.array(rgb)).float() / 255  # (..., H, W, 3)
    return normalised(pixels, mean, std).movedim(-1, -3)


def pixel_values(
    image: NDArray[np.uint8], size: int = 224, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> Tensor:
    """The vision tower's input: RGB uint8 (H, W, 3) -> float32 (3, size, size)."""
    return normalised_pixels(centre_resized(image, size), mean, std)
