"""A library with an index on disk, and what can befall the files of such an index."""

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from drawn_embedder import DrawnEmbedder

from ibllm_tools import MediaLibrary
from ibllm_tools.store.database_file import DatabaseFile
from ibllm_tools.store.hnsw_files import LAYOUT
from ibllm_tools.store.segments import SegmentSettings

SHORT = SegmentSettings(chunk_chars=20, overlap_chars=0)
WORDS = 130
"""Of a text: as many entries with these settings, so that nine texts fill the 1,000 that Chroma puts on disk."""
DIMENSION = 16


def embedder() -> DrawnEmbedder:
    return DrawnEmbedder(dimension=DIMENSION)


def write_texts(folder: Path, texts: range, words: int = WORDS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for text in texts:
        (folder / f"{text:03}.txt").write_text(" ".join(f"text{text:03}word{word:04}" for word in range(words)))
    return folder


def open_library(folder: Path) -> MediaLibrary:
    return MediaLibrary.open(folder, embedder=embedder(), settings=SHORT)


def index_folder(library: Path, collection: str = "library.text") -> Path:
    """Where the index of a closed library's collection lies."""
    with DatabaseFile.open(library / "chroma") as file:
        (found,) = (stored for stored in file.collections() if stored.name == collection)
    return found.index_folder


def cut(name: str, share: float) -> Callable[[Path], object]:
    return lambda index: os.truncate(index / name, int((index / name).stat().st_size * share))


def zero(name: str) -> Callable[[Path], object]:
    return lambda index: (index / name).write_bytes(bytes((index / name).stat().st_size))


def noise(name: str) -> Callable[[Path], object]:
    return lambda index: (index / name).write_bytes(np.random.default_rng(0).bytes((index / name).stat().st_size))


def missing(name: str) -> Callable[[Path], object]:
    return lambda index: (index / name).unlink()


def older(*names: str) -> Callable[[Path], object]:
    """Files as they were 1,000 vectors ago; the fixture keeps these in a folder beside."""
    return lambda index: [shutil.copy(index.parents[2] / "older" / name, index / name) for name in names]


def another_vector(index: Path) -> None:
    """One bit of one vector."""
    _, _, _, _, size, _, place, *_ = LAYOUT.unpack((index / "header.bin").read_bytes())
    with (index / "data_level0.bin").open("r+b") as file:
        file.seek(3 * size + place + 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def without_links(index: Path) -> None:
    """Every vector is there, and none leads to another."""
    _, _, _, count, size, *_ = LAYOUT.unpack((index / "header.bin").read_bytes())
    with (index / "data_level0.bin").open("r+b") as file:
        for element in range(count):
            file.seek(element * size)
            file.write(struct.pack("<I", 0))


BASE, UPPER, HEADER, LABELS = "data_level0.bin", "link_lists.bin", "header.bin", "index_metadata.pickle"

UNNOTICED = {  # by Chroma 1.5.9
    "an older header": older(HEADER),  # ends the process with a segmentation fault at the next write
    "links to nowhere": noise(BASE),  # the same, at a search
    "no upper layers": zero(UPPER),  # the same
    "half the upper layers": cut(UPPER, 0.5),  # fills the disk at the next write
    "older upper layers": older(UPPER),  # the same
    "half the vectors": cut(BASE, 0.5),  # answers wrongly
    "older vectors": older(BASE),  # the same
    "an older index": older(BASE, UPPER, HEADER, LABELS),  # the same
    "older labels": older(LABELS),  # the same
    "another vector": another_vector,
    "no links": without_links,
}
NOTICED = {
    "no header": missing(HEADER),
    "an empty header": cut(HEADER, 0),
    "noise in the header": noise(HEADER),
    "no vectors": missing(BASE),
    "no upper layers at all": missing(UPPER),
    "half the labels": cut(LABELS, 0.5),
    "zeros for labels": zero(LABELS),
}
"""What Chroma itself stumbles over at the first use."""
