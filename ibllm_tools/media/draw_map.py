"""Depth maps and thermal images in colour."""

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.media.sniff import Modality

NEAR_TO_FAR = ((255, 244, 214), (250, 179, 102), (222, 91, 93), (136, 52, 120), (52, 34, 96), (17, 17, 43))
COLD_TO_HOT = ((8, 6, 30), (62, 13, 108), (158, 30, 113), (228, 82, 56), (252, 172, 40), (255, 250, 205))
MISSING = (226, 232, 240)
MOST_PIXELS_A_SIDE = 512


def draw_map(values: NDArray[np.float32], modality: Modality) -> NDArray[np.uint8]:
    """A map (H, W) as RGB (H', W', 3): near and hot are light, far and cold are dark, depth 0 (missing) is grey.

    The colours span the central 98 % of the values, so that a few outliers do not wash out the rest.
    """
    step = -(-max(values.shape) // MOST_PIXELS_A_SIDE)
    seen = values[::step, ::step]  # picked and not averaged: a mean with missing depth is no depth
    known = seen != 0 if modality == "depth" else np.ones(seen.shape, dtype=bool)
    if not known.any():
        return np.broadcast_to(np.array(MISSING, np.uint8), (*seen.shape, 3)).copy()
    low, high = np.percentile(seen[known], (1, 99))
    place = np.clip((seen.astype(np.float64) - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)  # (H, W)
    colours = colour_scale(place, NEAR_TO_FAR if modality == "depth" else COLD_TO_HOT)
    colours[~known] = MISSING
    return colours.astype(np.uint8)


def colour_scale(place: NDArray[np.float64], stops: tuple[tuple[int, int, int], ...]) -> NDArray[np.float64]:
    """Places (...) from 0 to 1 on a scale of evenly spaced colours, as RGB (..., 3) from 0 to 255."""
    knots = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(place, knots, channel) for channel in zip(*stops, strict=True)], axis=-1)
