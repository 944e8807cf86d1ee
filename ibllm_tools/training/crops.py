"""The augmentation of training images."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

AREA = (0.9, 1.0)
RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def random_resized_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A random part of the image, 0.9 to 1 of its area and 3:4 to 4:3 in shape, scaled (bicubic) to a square.

    Draws from torch's global generator, so that a resumed run goes on with the same crops. An image that no such part
    fits into gives the largest one from its centre.

    Args:
        image: RGB uint8 (H, W, 3).
        size: side of the square.

    Returns:
        (size, size, 3).
    """
    height, width = image.shape[:2]
    top, left, crop_height, crop_width = _random_box(height, width) or _central_box(height, width)
    cropped = Image.fromarray(image[top : top + crop_height, left : left + crop_width])
    return np.asarray(cropped.resize((size, size), Image.Resampling.BICUBIC))


def _random_box(height: int, width: int) -> tuple[int, int, int, int] | None:
    for _ in range(_ATTEMPTS):
        area = height * width * _uniform(*AREA)
        ratio = math.exp(_uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = (int(torch.randint(0, room + 1, ())) for room in (height - crop_height, width - crop_width))
            return top, left, crop_height, crop_width
    return None


def _central_box(height: int, width: int) -> tuple[int, int, int, int]:
    crop_width, crop_height = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))
