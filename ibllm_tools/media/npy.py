"""NumPy's .npy files, checked before anything is allocated: clouds, depth maps and inertial measurements."""

import math
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from ibllm_tools.errors import CorruptMediaError, UnsupportedMediaError
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.source import Source, decoding, open_source, source_label, source_size

MAGIC = b"\x93NUMPY"


class NpyHeader(NamedTuple):
    """What a .npy file announces."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def read_npy_header(file: BinaryIO) -> NpyHeader:
    """The announced shape and type; leaves the file at the first byte of data. Raises ValueError when malformed."""
    version = npy_format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = npy_format.read_array_header_1_0(file)
    else:
        shape, _, dtype = npy_format.read_array_header_2_0(file)
    return NpyHeader(shape, dtype)


def read_npy(source: Source, limits: Limits) -> np.ndarray[Any, np.dtype[Any]]:
    """The array as it is stored.

    Raises:
        UnsupportedMediaError: it holds Python objects or anything but real numbers.
        CorruptMediaError: malformed, empty, with fewer bytes than it announces, or with NaN or infinite values.
    """
    label = source_label(source)
    with decoding(source, ".npy array"), open_source(source, limits) as file:
        header = read_npy_header(file)
        if header.dtype.kind not in "fiub":
            raise UnsupportedMediaError(
                f"{label}: array of type {header.dtype}, expected real numbers; save it as float32"
            )
        announced = math.prod(header.shape) * header.dtype.itemsize
        present = source_size(source) - file.tell()
        if announced == 0 or announced > present:
            raise CorruptMediaError(
                f"{label}: announces shape {header.shape}, {announced:,} bytes, but holds {present:,}; save it again"
            )
        file.seek(0)
        array: np.ndarray[Any, np.dtype[Any]] = np.load(file, allow_pickle=False)
    if not np.isfinite(array).all():
        raise CorruptMediaError(f"{label}: NaN or infinite values, expected finite numbers; remove them and save again")
    return array
