"""The vectors of a FAISS index, batch by batch.

Facts about FAISS (1.15) that shape this file:

- It checks what a file announces when it reads into memory, and when it maps the lists of an inverted file
  (`IO_FLAG_MMAP`), but not when it maps anything else (`IO_FLAG_MMAP_IFC`): a damaged file then ends the process. So of
  the others only flat indices are mapped, once the sizes at their head are known to be those of the file.
- It allocates what a file announces before it reads it, up to a limit. No part is larger than the file, but FAISS takes
  some of them for doubles.
- `reconstruct_n` ends the process where an index cannot do it, for the error is thrown on a thread that nobody watches,
  and leaves rows unwritten whose ids an inverted file does not hold. `reconstruct` raises; it takes 2 µs a vector.
- `reconstruct` ends the process for inverted lists in FastScan's layout.
- A part of an index does not keep the whole alive.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import CheckpointError, MissingExtraError, one_line

if TYPE_CHECKING:
    import faiss

INNER_PRODUCT, L2 = 0, 1
"""FAISS's numbers of the metrics."""

_WANTED = "expected an index that FAISS can reconstruct vectors from, such as IndexFlatIP"
_FLAT = (b"IxFI", b"IxF2", b"IxFl")
_FLAT_HEAD = struct.Struct("<4s i q 8x 8x ? i Q")
"""Kind, width, vectors, unused, unused, trained, metric, numbers that follow."""


class FaissIndex:
    """An open FAISS index that gives its vectors back.

    Args:
        path: the file, as ``faiss.write_index`` writes it.

    Attributes:
        kind: its classes, from the outside in, e.g. ``"IndexIDMap > IndexFlatIP"``.
        dimension: width E of the vectors.
        metric: FAISS's number, e.g. :data:`INNER_PRODUCT`.
        exact: whether the vectors come back as they were put in, and not from a compressed form.

    Raises:
        CheckpointError: no readable index, an empty one, or one that does not give its vectors back.
        MissingExtraError: FAISS is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole = _read(path)
        parts = list(_parts(self._whole))
        self.kind = " > ".join(type(part).__name__ for part in parts)
        self.dimension, self.metric = int(self._whole.d), int(self._whole.metric_type)
        self.exact = _is_exact(parts)
        self._count = int(self._whole.ntotal)
        self._source = _by_position(parts)
        self._require_sound(parts)

    def __len__(self) -> int:
        return self._count

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """The vectors (stop - start, E) from one position to before another.

        Raises:
            CheckpointError: it does not give them back.
        """
        try:
            rows = np.empty((stop - start, self.dimension), np.float32)
            for position, row in enumerate(rows, start):
                self._source.reconstruct(position, row)
        except (RuntimeError, MemoryError) as error:
            raise CheckpointError(
                f"{self.path}: {self.kind} does not give its vectors back ({_reason(error)}), {_WANTED}"
            ) from error
        return rows

    def _require_sound(self, parts: "list[faiss.Index]") -> None:
        """Counts and widths agree, and lists hold the ids 0 to N - 1; before anything is allocated by such a number."""
        import faiss

        if self._count == 0:
            raise CheckpointError(f"{self.path}: an empty index, expected the features of images")
        lists = parts[-1] if isinstance(parts[-1], faiss.IndexIVF) else None
        if isinstance(lists, faiss.IndexIVFFastScan):
            raise CheckpointError(f"{self.path}: {self.kind} does not give its vectors back, {_WANTED}")
        counts, widths = {int(part.ntotal) for part in parts}, {self.dimension, int(self._source.d)}
        if lists is not None:
            counts.add(int(lists.invlists.compute_ntotal()))
        if len(counts) > 1 or len(widths) > 1:
            raise CheckpointError(
                f"{self.path}: {sorted(counts)} vectors of width {sorted(widths)} in the parts of {self.kind}, "
                "expected the same in each; download or copy it again"
            )
        if lists is not None:
            try:
                lists.set_direct_map_type(faiss.DirectMap.NoMap)  # one that was stored would be kept, unchecked
                lists.set_direct_map_type(faiss.DirectMap.Array)
            except RuntimeError as error:
                raise CheckpointError(
                    f"{self.path}: its lists hold other ids than 0 to {self._count - 1:,} ({_reason(error)}); expected "
                    "an index that numbers its vectors itself"
                ) from error


def _read(path: Path) -> "faiss.Index":
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("reading a FAISS index", "faiss", "faiss") from error
    try:
        size = path.stat().st_size
        flags = faiss.IO_FLAG_MMAP_IFC if _is_sound_flat_index(path, size) else faiss.IO_FLAG_MMAP
    except OSError as error:
        raise CheckpointError(
            f"{path}: {error.strerror or error}; expected a FAISS index, such as knn.index"
        ) from error
    limit = faiss.get_deserialization_vector_byte_limit()
    faiss.set_deserialization_vector_byte_limit(2 * size)
    try:
        return faiss.read_index(str(path), flags | faiss.IO_FLAG_READ_ONLY)
    except (RuntimeError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: no readable FAISS index ({_reason(error)}); download or copy it again"
        ) from error
    finally:
        faiss.set_deserialization_vector_byte_limit(limit)


def _is_sound_flat_index(path: Path, size: int) -> bool:
    """Whether it is a flat index, which is then as long as its head says.

    Raises:
        CheckpointError: it is of another length.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_FLAT_HEAD.size)
    if len(head) < _FLAT_HEAD.size or head[:4] not in _FLAT:
        return False
    _, width, count, _, metric, numbers = _FLAT_HEAD.unpack(head)
    if metric not in (INNER_PRODUCT, L2):
        return False  # its head is longer
    announced = _FLAT_HEAD.size + 4 * count * width
    if width < 1 or count < 0 or numbers != count * width or size != announced:
        raise CheckpointError(
            f"{path}: {size:,} bytes, and its head announces {count:,} vectors of width {width}, {announced:,} bytes; "
            "download or copy it again"
        )
    return True


def _parts(whole: "faiss.Index") -> "Iterator[faiss.Index]":
    """An index and those that its vectors come from, from the outside in."""
    import faiss

    part: Any = whole
    yield part
    while isinstance(part, faiss.IndexIDMap | faiss.IndexPreTransform | faiss.IndexRefine):
        part = faiss.downcast_index(part.refine_index if isinstance(part, faiss.IndexRefine) else part.index)
        yield part


def _by_position(parts: "list[faiss.Index]") -> "faiss.Index":
    """The outermost part that calls a vector by its position; ids from elsewhere mean nothing here."""
    import faiss

    return next(part for part in parts if not isinstance(part, faiss.IndexIDMap))


def _is_exact(parts: "list[faiss.Index]") -> bool:
    import faiss

    *wrappers, innermost = parts
    plain = (faiss.IndexFlat, faiss.IndexIVFFlat, faiss.IndexHNSWFlat, faiss.IndexNSGFlat)
    return isinstance(innermost, plain) and all(wrapper.d == innermost.d for wrapper in wrappers)


def _reason(error: Exception) -> str:
    """What FAISS says, without its source code: ``Error in void f() at g.cpp:1: Error: 'x == y' failed: reason``."""
    said = re.sub(r"^Error in .* at \S+:\d+: (Error: )?('.*' failed: )?", "", str(error), flags=re.DOTALL)
    return one_line(said) or "not enough memory"
