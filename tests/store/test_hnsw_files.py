"""The files of an index on disk: what does not fit together is seen without opening it."""

import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from damaged_libraries import NOTICED, UNNOTICED, missing

from ibllm_tools.errors import StoreError
from ibllm_tools.store.chroma import HnswSettings, VectorDatabase
from ibllm_tools.store.database_file import DatabaseFile, mend_indexes
from ibllm_tools.store.folder_lock import distrust, own_folder
from ibllm_tools.store.hnsw_files import LAYOUT, index_damage

WIDTH = 8
FIT = ("another vector", "no links", "an older index")
"""Here the files fit together; only who compares vectors, and searches for them, sees it."""


def fill(folder: Path, keep_log: bool = True) -> None:
    """A database of 2,000 vectors, of which 200 were deleted, and beside it its index as it was at 1,000."""
    rows = np.random.default_rng(0).normal(size=(2000, WIDTH)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for half in (0, 1000):
        with VectorDatabase.open(folder / "place" / "chroma", keep_log=keep_log) as database:
            vectors = database.collection("a.text", fingerprint="a", dimension=WIDTH, index=HnswSettings(50, 50, 8))
            vectors.upsert([str(half + row) for row in range(1000)], rows[half : half + 1000])
            vectors.delete([str(row) for row in range(200)])
        if half == 0:
            shutil.copytree(index_of(folder), folder / "older")


def index_of(folder: Path) -> Path:
    with DatabaseFile.open(folder / "place" / "chroma") as file:
        (collection,) = file.collections()
    return collection.index_folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    fill(folder)
    return folder


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_whole_index(built: Path) -> None:
    assert index_damage(index_of(built)) is None
    assert index_damage(built / "older") is None


@pytest.mark.parametrize("what", [what for what in UNNOTICED | NOTICED if what not in FIT])
def test_what_does_not_fit_together_is_seen(copied: Path, what: str) -> None:
    (UNNOTICED | NOTICED)[what](index_of(copied))
    damage = index_damage(index_of(copied))
    assert damage is not None
    assert any(name in damage for name in ("header", "data_level0", "link_lists", "index_metadata"))


def test_without_labels_there_is_no_index(copied: Path) -> None:
    missing("index_metadata.pickle")(index_of(copied))
    assert index_damage(index_of(copied)) is None  # Chroma makes it anew


def test_a_head_that_announces_more_than_memory_holds(copied: Path) -> None:
    file = index_of(copied) / "header.bin"
    head = list(LAYOUT.unpack(file.read_bytes()))
    head[2:4] = 2**50, 2**50  # capacity, elements
    file.write_bytes(LAYOUT.pack(*head))
    assert index_damage(index_of(copied)) == "link_lists.bin is too short"


def test_nothing_in_a_pickle_is_run(copied: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (copied / "ran",)

    (index_of(copied) / "index_metadata.pickle").write_bytes(pickle.dumps({"id_to_label": Harmful()}))
    assert index_damage(index_of(copied)) == "index_metadata.pickle is damaged"
    assert not (copied / "ran").exists()


def test_mending_removes_broken_indexes_only(copied: Path) -> None:
    assert mend_indexes(copied / "place" / "chroma") == []
    UNNOTICED["half the upper layers"](index_of(copied))
    assert mend_indexes(copied / "place" / "chroma") == ["a.text"]
    assert not index_of(copied).exists()
    with VectorDatabase.open(copied / "place" / "chroma", keep_log=True) as database:
        assert len(database.collection("a.text", fingerprint="a", dimension=WIDTH)) == 1800


def test_what_nobody_has_written_to_is_not_read(copied: Path) -> None:
    index = index_of(copied)
    UNNOTICED["half the upper layers"](index)
    for path in index.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    an_hour_later = 1_700_003_600 * 10**9
    assert mend_indexes(copied / "place" / "chroma", since=an_hour_later) == []
    os.utime(index / "link_lists.bin")
    assert mend_indexes(copied / "place" / "chroma", since=an_hour_later) == ["a.text"]


def test_who_opens_it_next_is_told_since_when_it_was_left(tmp_path: Path) -> None:
    began, told = time.time_ns(), list[int]()
    release = own_folder(tmp_path, left=told.append)
    distrust(tmp_path)
    release()
    own_folder(tmp_path, left=told.append)()
    own_folder(tmp_path, left=told.append)()
    assert len(told) == 1
    assert began <= told[0] <= time.time_ns()


def test_without_its_log_a_broken_index_stays_and_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, keep_log=False)
    UNNOTICED["half the upper layers"](index_of(tmp_path))
    with pytest.raises(StoreError, match=r"index of 'a\.text' is broken .* build it again"):
        mend_indexes(tmp_path / "place" / "chroma")
    assert index_of(tmp_path).exists()
