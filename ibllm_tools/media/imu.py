"""Inertial measurements: three axes of acceleration and three of rotation over time."""

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import LimitExceededError, UnsupportedMediaError
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.npy import read_npy
from ibllm_tools.media.sniff import NPY, require
from ibllm_tools.media.source import Source, source_label

CHANNELS = 6


def decode_imu(source: Source, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.float32]:
    """The measurement as float32 (6, n), from a .npy file of shape (6, n) or (n, 6).

    A square (6, 6) array is taken as (6, n).

    Raises:
        UnsupportedMediaError: not a .npy file, or of another shape.
        CorruptMediaError: truncated, or with NaN or infinite values.
        LimitExceededError: more time steps than ``limits.max_imu_samples``.
    """
    require(source, lambda kind: kind.mime == NPY, expected="an inertial measurement as .npy")
    array = read_npy(source, limits)
    if array.ndim != 2 or CHANNELS not in array.shape:
        raise UnsupportedMediaError(
            f"{source_label(source)}: shape {array.shape}, expected (6, n) or (n, 6); reshape it"
        )
    channels_first = array if array.shape[0] == CHANNELS else array.T  # (6, n)
    if channels_first.shape[1] > limits.max_imu_samples:
        raise LimitExceededError(
            f"{source_label(source)}: {channels_first.shape[1]:,} time steps, the limit is {limits.max_imu_samples:,}; "
            "cut it or raise Limits.max_imu_samples"
        )
    return np.ascontiguousarray(channels_first, dtype=np.float32)
