"""Image features from files: NumPy's .npy, safetensors, and Parquet.

A file comes from anyone, so its head is checked before anything is allocated, no pickle is opened, and every row is
looked at before it is handed on. Rows are read as they are needed.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import (
    AttachmentNotFoundError,
    CorruptMediaError,
    MissingExtraError,
    UnsupportedMediaError,
    one_line,
)
from ibllm_tools.media.npy import read_npy_header

BATCH = 4096
COLUMNS = ("feature", "features", "embedding", "embeddings", "vector")
"""What the column of a Parquet file, or one tensor among several of a safetensors file, may be called."""

_EXPECTED = "expected rows of floating point numbers, (N, E)"


@dataclass(frozen=True)
class FeatureFile:
    """A file of features that can be read.

    Attributes:
        path: the file.
        count: how many rows it announces.
        dimension: width E of the features.
        read: gives the rows (N, E) batch by batch, unchecked.
    """

    path: Path
    count: int
    dimension: int
    read: Callable[[], Iterator[NDArray[Any]]]

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """The features, as rows (N, E) in the order of the file.

        Raises:
            CorruptMediaError: a row is zero, undefined, infinite or of another width, or rows are missing or damaged.
        """
        start = 0
        for rows in self._read():
            if rows.ndim != 2 or rows.shape[1] != self.dimension:
                raise CorruptMediaError(f"{self.path}: a row of another width than {self.dimension}; {_EXPECTED}")
            with np.errstate(over="ignore", invalid="ignore"):
                values = rows.astype(np.float32)
                lengths = np.linalg.norm(values, axis=1)
            usable = np.isfinite(lengths) & (lengths > 0)
            if not usable.all():
                raise CorruptMediaError(
                    f"{self.path}: row {start + int(usable.argmin())} is zero, undefined or infinite, expected a "
                    "direction; remove it"
                )
            yield values
            start += len(rows)
        if start != self.count:
            raise CorruptMediaError(
                f"{self.path}: {start:,} rows, and its head announces {self.count:,}; save it again"
            )

    def _read(self) -> Iterator[NDArray[Any]]:
        with _as_corrupt(self.path):
            yield from self.read()


def open_features(path: str | Path) -> FeatureFile:
    """Open a file of features by its ending: ``.npy``, ``.safetensors`` or ``.parquet``.

    Raises:
        AttachmentNotFoundError: there is no such file.
        UnsupportedMediaError: another ending, Python objects, or anything but rows of floating point numbers.
        CorruptMediaError: it is damaged.
        MissingExtraError: pyarrow, which reads Parquet, is not installed.
    """
    file = Path(path).expanduser()
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise UnsupportedMediaError(f"{file}: no file of features, expected {', '.join(_READERS)}")
    if not file.is_file():
        raise AttachmentNotFoundError(f"{file}: no such file; check the path")
    with _as_corrupt(file):
        return reader(file)


@contextmanager
def _as_corrupt(path: Path) -> Iterator[None]:
    """Turn what the libraries throw, each in its own ways, into an error about the file."""
    try:
        yield
    except (UnsupportedMediaError, CorruptMediaError, MissingExtraError):
        raise
    except Exception as error:
        raise CorruptMediaError(f"{path}: cannot be read ({one_line(error)}); save it again") from error


def is_feature_file(path: str | Path) -> bool:
    """Whether a name ends as one of a file of features does."""
    return Path(path).suffix.lower() in _READERS


def _open_npy(path: Path) -> FeatureFile:
    with path.open("rb") as file:
        header = read_npy_header(file)
        present = path.stat().st_size - file.tell()
    count, dimension = _checked_shape(path, header.shape, str(header.dtype), header.dtype.kind == "f")
    announced = math.prod(header.shape) * header.dtype.itemsize
    if announced > present:
        raise CorruptMediaError(
            f"{path}: announces shape {header.shape}, {announced:,} bytes, but holds {present:,}; save it again"
        )

    def read() -> Iterator[NDArray[Any]]:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        for start in range(0, count, BATCH):
            yield np.asarray(rows[start : start + BATCH])

    return FeatureFile(path, count, dimension, read)


def _open_safetensors(path: Path) -> FeatureFile:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = list(file.keys())
        wanted = names if len(names) == 1 else [name for name in names if name in COLUMNS]
        if len(wanted) != 1:
            raise UnsupportedMediaError(
                f"{path}: tensors {one_line(names)}; expected one, or one that is called {' or '.join(COLUMNS)}"
            )
        found = file.get_slice(wanted[0])
        shape, dtype = tuple(found.get_shape()), str(found.get_dtype())
    count, dimension = _checked_shape(path, shape, dtype, dtype in ("F16", "BF16", "F32", "F64"))

    def read() -> Iterator[NDArray[Any]]:
        with safe_open(path, "pt") as file:
            rows = file.get_slice(wanted[0])
            for start in range(0, count, BATCH):
                yield rows[start : start + BATCH].float().numpy()

    return FeatureFile(path, count, dimension, read)


def _open_parquet(path: Path) -> FeatureFile:
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("reading Parquet", "pyarrow", "parquet") from error
    with parquet.ParquetFile(path) as file:
        kinds = {field.name: field.type for field in file.schema_arrow}
        wanted = [name for name in kinds if name in COLUMNS]
        count = int(file.metadata.num_rows)
    if len(wanted) != 1:
        raise UnsupportedMediaError(
            f"{path}: columns {one_line(list(kinds))}; expected one that is called {' or '.join(COLUMNS)}"
        )
    element = str(getattr(kinds[wanted[0]], "value_type", kinds[wanted[0]]))
    if element not in ("halffloat", "float", "double") or element == str(kinds[wanted[0]]):
        raise UnsupportedMediaError(f"{path}: column {wanted[0]} of type {kinds[wanted[0]]}; {_EXPECTED}")

    def read() -> Iterator[NDArray[Any]]:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH, columns=wanted):
                yield _rows_of_lists(path, batch.column(0))

    first = next(read(), np.empty((0, 0)))
    _checked_shape(path, (count, first.shape[1]), element, True)
    return FeatureFile(path, count, int(first.shape[1]), read)


def _rows_of_lists(path: Path, lists: Any) -> NDArray[Any]:
    values = lists.flatten().to_numpy(zero_copy_only=False)
    if lists.null_count or not len(lists) or len(values) % len(lists):
        raise CorruptMediaError(f"{path}: rows that are missing or of different widths; {_EXPECTED}")
    width = len(values) // len(lists)
    widths = {width} if not hasattr(lists, "offsets") else set(np.diff(lists.offsets.to_numpy()).tolist())
    if widths != {width}:
        raise CorruptMediaError(f"{path}: rows of different widths; {_EXPECTED}")
    return np.asarray(values).reshape(len(lists), width)


def _checked_shape(path: Path, shape: tuple[int, ...], dtype: str, is_float: bool) -> tuple[int, int]:
    if len(shape) != 2 or min(shape) < 1 or not is_float:
        raise UnsupportedMediaError(f"{path}: shape {shape} of type {dtype}; {_EXPECTED}")
    return shape[0], shape[1]


_READERS = {".npy": _open_npy, ".safetensors": _open_safetensors, ".parquet": _open_parquet}
