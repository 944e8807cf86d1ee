"""The files in which Chroma keeps the index of a collection, and whether they fit together.

Chroma writes them in place, one after the other. A process that is killed meanwhile leaves files of different ages side
by side, and the engine checks hardly anything when it reads them. Measured (chromadb 1.5.9): of 35 kinds of damage 7 do
no harm, 11 are an error at the first use, 8 answer wrongly or in part, 4 end the process with a segmentation fault, and
5 let the next write fill the disk: with a ``link_lists.bin`` that is too old or too short, 8 GB in a minute.

The layout is that of hnswlib (arXiv 1603.09320): ``header.bin`` the sizes; ``data_level0.bin`` per element the number
of its neighbours, their places, its vector and its label; ``link_lists.bin`` per element the length of its upper
layers' lists, and these; ``index_metadata.pickle``, by Chroma, which id has which label.
"""

import pickle
import shutil
import struct
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

HEADER, LABELS = "header.bin", "index_metadata.pickle"
BASE_LAYER, UPPER_LAYERS = "data_level0.bin", "link_lists.bin"
FILES = (HEADER, LABELS, BASE_LAYER, UPPER_LAYERS, "length.bin")
LAYOUT = struct.Struct("<i6QiI3QdQ")
VERSION = 1
BLOCK = 16_384
"""Elements that are looked at together; bounds the memory."""
COUNT_MASK = 0xFFFF
"""Of an element's first number; the bits above mark it as deleted."""


class _Header(NamedTuple):
    """What ``header.bin`` says, in its order."""

    version: int
    base_offset: int
    capacity: int
    elements: int
    element_bytes: int
    label_offset: int
    vector_offset: int
    top_layer: int
    entry_point: int
    upper_links: int
    base_links: int
    links: int
    level_factor: float
    ef_construction: int

    @property
    def is_plausible(self) -> bool:
        """Whether the sizes fit each other."""
        return (
            self.version == VERSION
            and self.base_offset == 0
            and self.vector_offset == 4 + 4 * self.base_links
            and self.vector_offset < self.label_offset == self.element_bytes - 8
            and 0 < self.upper_links < COUNT_MASK
            and 0 < self.base_links < COUNT_MASK
            and self.elements <= self.capacity
            and (self.elements == 0 or self.entry_point < self.elements)
        )


class _DamagedError(Exception):
    """The files do not fit together."""


def index_damage(folder: Path) -> str | None:
    """Why an index on disk cannot be used; ``None`` if it can, or if there is none.

    Everything is read: some 5 KB per vector of width 1024. Whether its vectors are the right ones is not seen here.

    Args:
        folder: of the index, beside ``chroma.sqlite3``; nobody may have it open.
    """
    if not (folder / LABELS).exists():
        return None  # Chroma makes it anew, whatever else is there
    try:
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise _DamagedError(f"{', '.join(missing)} missing")
        header = _header(folder / HEADER)
        levels = _check_upper_layers(folder / UPPER_LAYERS, header)
        if header.elements and (levels[header.entry_point] != header.top_layer or levels.max() != header.top_layer):
            raise _DamagedError(f"{HEADER} and {UPPER_LAYERS} are of different ages")
        labels = _check_base_layer(folder / BASE_LAYER, header)
        _check_labels(folder / LABELS, labels)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except _DamagedError as damage:
        return str(damage)
    return None


def remove_index(folder: Path) -> None:
    """Remove an index that nobody has open, so that Chroma makes it anew from its log.

    A process that is killed meanwhile leaves no index either.
    """
    (folder / LABELS).unlink(missing_ok=True)  # what Chroma looks for
    shutil.rmtree(folder, ignore_errors=True)


def _header(path: Path) -> _Header:
    stored = path.read_bytes()
    if len(stored) != LAYOUT.size or not (header := _Header(*LAYOUT.unpack(stored))).is_plausible:
        raise _DamagedError(f"{HEADER} is damaged")
    return header


def _check_upper_layers(path: Path, header: _Header) -> NDArray[np.int32]:
    """The highest layer of each element, (N,)."""
    stored = path.read_bytes()  # some 8 bytes per vector
    if 4 * header.elements > len(stored):  # before so much memory is asked for
        raise _DamagedError(f"{UPPER_LAYERS} is too short")
    list_bytes = 4 + 4 * header.upper_links
    levels = np.zeros(header.elements, np.int32)
    lists: list[tuple[int, int]] = []  # element, position
    position = 0
    for element in range(header.elements):
        if position + 4 > len(stored):
            raise _DamagedError(f"{UPPER_LAYERS} is too short")
        length = int.from_bytes(stored[position : position + 4], "little")
        if length:
            if length % list_bytes:
                raise _DamagedError(f"{UPPER_LAYERS} is damaged")
            levels[element] = length // list_bytes
            lists.append((element, position + 4))
        position += 4 + length
    if position != len(stored):
        raise _DamagedError(f"{UPPER_LAYERS} has {len(stored):,} bytes, expected {position:,}")
    for element, start in lists:
        for level in range(1, levels[element] + 1):
            place = start + (level - 1) * list_bytes
            count = int.from_bytes(stored[place : place + 4], "little") & COUNT_MASK
            if count > header.upper_links:
                raise _DamagedError(f"{UPPER_LAYERS} is damaged")
            neighbours = np.frombuffer(stored, "<u4", count, place + 4)
            if (neighbours >= header.elements).any() or (levels[neighbours] < level).any():
                raise _DamagedError(f"{UPPER_LAYERS} leads nowhere")
    return levels


def _check_base_layer(path: Path, header: _Header) -> NDArray[np.uint64]:
    """The labels of the elements that are not deleted, sorted."""
    wanted = header.elements * header.element_bytes
    if path.stat().st_size != wanted:
        raise _DamagedError(f"{BASE_LAYER} has {path.stat().st_size:,} bytes, expected {wanted:,}")
    found = [np.empty(0, np.uint64)]
    columns = np.arange(header.base_links)
    with path.open("rb") as file:
        for start in range(0, header.elements, BLOCK):
            rows = min(BLOCK, header.elements - start)
            block = np.frombuffer(file.read(rows * header.element_bytes), np.uint8).reshape(rows, -1)
            numbers = block[:, : header.vector_offset].copy().view("<u4")  # (R, 1 + links)
            counts = numbers[:, 0] & COUNT_MASK
            used = columns < counts[:, None]
            if (counts > header.base_links).any() or (numbers[:, 1:][used] >= header.elements).any():
                raise _DamagedError(f"{BASE_LAYER} leads nowhere")
            labels = block[:, header.label_offset :].copy().view("<u8")[:, 0]
            found.append(labels[numbers[:, 0] <= COUNT_MASK])
    return np.sort(np.concatenate(found))


def _check_labels(path: Path, labels: NDArray[np.uint64]) -> None:
    try:
        with path.open("rb") as file:
            stored = _PlainUnpickler(file).load()
        known = np.sort(np.fromiter(stored["id_to_label"].values(), np.uint64))
    except OSError:
        raise
    except Exception as error:  # whatever bytes may do to an unpickler
        raise _DamagedError(f"{LABELS} is damaged") from error
    if not np.array_equal(known, labels):
        raise _DamagedError(f"{LABELS} and {BASE_LAYER} are of different ages")


class _PlainUnpickler(pickle.Unpickler):
    """Reads what Chroma writes, numbers and texts in dictionaries, and runs nothing that somebody else put there."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(str(pid))
