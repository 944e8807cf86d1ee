"""Depth maps and thermal images: one value per pixel."""

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import CorruptMediaError, LimitExceededError, UnsupportedMediaError
from ibllm_tools.media.image import open_bounded
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.npy import read_npy
from ibllm_tools.media.sniff import NPY, require
from ibllm_tools.media.source import Source, decoding, source_label

SINGLE_CHANNEL_MODES = ("1", "L", "I;16", "I;16L", "I;16B", "I;16N", "I", "F")


def decode_depth(source: Source, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.float32]:
    """The map as float32 (H, W), in the units in which it is stored; thermal images are read in the same way.

    Reads single-channel PNG and TIFF (8, 16 and 32 bits) and .npy arrays of shape (H, W).

    Raises:
        UnsupportedMediaError: in colour, of another shape, or another kind of file.
        CorruptMediaError: truncated, or with NaN or infinite values.
        LimitExceededError: more pixels than ``limits.max_pixels``.
    """
    kind = require(source, _holds_a_map, expected="a single-channel image or a .npy array of shape (H, W)")
    if kind.mime == NPY:
        return _from_array(source, limits)
    with decoding(source, "depth map"), open_bounded(source, limits) as image:
        if image.mode not in SINGLE_CHANNEL_MODES:
            raise UnsupportedMediaError(
                f"{source_label(source)}: image of mode {image.mode}, expected one channel; store the map as 16-bit "
                "greyscale PNG, or pass modality='image'"
            )
        values = np.array(image, dtype=np.float32)  # (H, W)
    if not np.isfinite(values).all():
        raise CorruptMediaError(
            f"{source_label(source)}: NaN or infinite values, expected finite depths; mask them with 0"
        )
    return values


def _holds_a_map(kind: tuple[str, str]) -> bool:
    return kind[1] == NPY or kind[1].startswith("image/")


def _from_array(source: Source, limits: Limits) -> NDArray[np.float32]:
    array = read_npy(source, limits)
    if array.ndim != 2:
        raise UnsupportedMediaError(f"{source_label(source)}: shape {array.shape}, expected (H, W); pass a single map")
    if array.size > limits.max_pixels:
        raise LimitExceededError(
            f"{source_label(source)}: {array.size:,} values, the limit is {limits.max_pixels:,}; scale it down or "
            "raise Limits.max_pixels"
        )
    return array.astype(np.float32)
