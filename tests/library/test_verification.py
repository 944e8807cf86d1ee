"""verify and repair: what is broken is found, whatever Chroma makes of it, and is whole afterwards."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_libraries import DIMENSION, NOTICED, UNNOTICED, embedder, index_folder, open_library, write_texts
from drawn_embedder import DrawnEmbedder
from sample_files import write_image, write_sound

from ibllm_tools import Attachment, MediaLibrary
from ibllm_tools.errors import StoreError
from ibllm_tools.library import LibraryCheck
from ibllm_tools.store.chroma_engine import as_store_errors

TEXTS = 16
QUICK = ("half the upper layers", "an older index", "another vector", "no links")


def case(what: str) -> Any:
    return pytest.param(what, id=what, marks=[] if what in QUICK else pytest.mark.slow)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library of 2,080 entries, and the files of its index as they were before."""
    folder = tmp_path_factory.mktemp("built")
    with open_library(folder / "library") as library:
        library.add(write_texts(folder / "media", range(TEXTS // 2)))
    shutil.copytree(index_folder(folder / "library"), folder / "older")
    with open_library(folder / "library") as library:
        library.add(write_texts(folder / "media", range(TEXTS // 2, TEXTS)))
    return folder


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    """A copy of the library, closed; its sources stay where they are."""
    shutil.copytree(built / "library", tmp_path / "library")
    shutil.copytree(built / "older", tmp_path / "older")
    return tmp_path / "library"


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    write_image(folder / "red.png")
    write_sound(folder / "tone.wav", seconds=23)
    for path in folder.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))  # a file written just now is looked at again by every run
    return folder


@pytest.fixture
def library(tmp_path: Path, media: Path) -> Iterator[MediaLibrary]:
    with MediaLibrary.open(tmp_path / "small", embedder=DrawnEmbedder()) as library:
        library.add(media, texts=["a bell in the fog"], tags=["kept"])
        yield library


def assert_whole(library: MediaLibrary) -> None:
    """Every vector is the one that the encoder gave, and a search finds it."""
    encoder = embedder()
    ids = [id_ for batch, _ in library.vectors("text") for id_ in batch]
    vectors = np.concatenate([rows for _, rows in library.vectors("text")])
    assert len(set(ids)) == len(ids) == 2080
    for id_, vector in zip(ids, vectors, strict=True):
        sha256, _, _, index = id_.split("-")
        np.testing.assert_array_equal(vector, encoder.draw(sha256, "text", int(index)))
    for id_, vector in list(zip(ids, vectors, strict=True))[::130]:
        assert library.search(vector, k=1, calibrated=False)[0].id == id_


class TestIndexes:
    def test_a_whole_library(self, place: Path) -> None:
        with open_library(place) as library:
            check = library.verify(progress=False)
        assert check.ok
        assert (check.indexes, check.vectors, check.sources, check.entries) == (2, 2096, 16, 2080)
        assert str(check) == f"{place}: whole (16 sources, 2,080 entries, 2 indexes)"

    @pytest.mark.parametrize("what", [case(what) for what in UNNOTICED | NOTICED])
    def test_a_broken_index_is_found_and_made_anew(self, place: Path, what: str) -> None:
        (UNNOTICED | NOTICED)[what](index_folder(place))
        with open_library(place) as library:
            check = library.verify(progress=False)
            assert not check.ok
            assert [(index.collection, index.mendable) for index in check.broken_indexes] == [("library.text", True)]
            repaired = library.verify(repair=True, progress=False)
            assert repaired.ok
            assert repaired.repaired == ("index of library.text made anew from its log",)
            assert_whole(library)

    def test_what_is_left_by_a_kill_is_mended_when_it_is_opened(
        self, place: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        UNNOTICED["half the upper layers"](index_folder(place))
        (place / "chroma" / ".ibllm.lock").write_text("1\n")  # as a process leaves it that is killed
        with open_library(place) as library:
            assert "the index of library.text was left broken" in caplog.text
            assert_whole(library)
            assert library.verify(progress=False).ok

    def test_deleted_entries_stay_deleted(self, place: Path, built: Path) -> None:
        with open_library(place) as library:
            library.delete(built / "media" / "003.txt")
        shutil.rmtree(index_folder(place))
        with open_library(place) as library:
            check = library.verify(progress=False)
            assert (check.ok, check.entries) == (True, 1950)

    def test_without_a_log_nothing_is_removed(self, place: Path) -> None:
        index = index_folder(place)
        with closing(sqlite3.connect(place / "chroma" / "chroma.sqlite3")) as tables, tables:
            tables.execute("DELETE FROM embeddings_queue WHERE length(vector) = ?", (4 * DIMENSION,))
        UNNOTICED["half the vectors"](index)
        with open_library(place) as library:
            check = library.verify(repair=True, progress=False)
        assert [(damage.collection, damage.mendable) for damage in check.broken_indexes] == [("library.text", False)]
        assert "what it was made from was not kept" in str(check)
        assert check.repaired == ()
        assert (index / "data_level0.bin").exists()

    def test_a_damaged_table_is_reported(self, place: Path) -> None:
        file = place / "chroma" / "chroma.sqlite3"
        with closing(sqlite3.connect(file)) as tables:
            query = "SELECT rootpage FROM sqlite_master WHERE name = 'embedding_metadata_int_value'"
            (root,) = tables.execute(query).fetchone()
            (page,) = tables.execute("PRAGMA page_size").fetchone()
        with file.open("r+b") as stored:
            stored.seek((root - 1) * page)
            stored.write(b"\x0a" + bytes(page - 1))  # an index without rows
        with open_library(place) as library:
            check = library.verify(progress=False)
        assert not check.ok
        assert f"database: {check.database_problems[0]}" in str(check)

    def test_an_index_that_stops_chroma_says_what_helps(self, place: Path) -> None:
        NOTICED["half the labels"](index_folder(place))
        with open_library(place) as library, pytest.raises(StoreError, match="ibllm library verify --repair"):
            library.search(np.ones(DIMENSION, np.float32))

    def test_a_panic_of_the_engine_is_a_store_error(self) -> None:
        panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
        with (
            pytest.raises(StoreError, match=r"place: reading failed: gone wild; .*verify --repair"),
            as_store_errors("place", "reading"),
        ):
            raise panic("gone wild")

    def test_it_must_not_be_open_elsewhere_in_the_process(self, place: Path) -> None:
        with (
            open_library(place) as library,
            open_library(place),
            pytest.raises(StoreError, match="opened twice in this process"),
        ):
            library.verify(progress=False)

    def test_in_memory_there_is_no_log(self, media: Path) -> None:
        with MediaLibrary.open(None, embedder=DrawnEmbedder()) as library:
            library.add(media)
            check = library.verify(progress=False)
        assert (check.ok, check.indexes, check.sources, check.attachments) == (True, None, 2, None)


class TestEntries:
    def test_missing_entries_are_completed_by_the_next_run(self, library: MediaLibrary, media: Path) -> None:
        windows = sorted(library.list(modality="audio"), key=lambda entry: entry.index)
        library.catalogue.entries("audio").delete([windows[1].id])
        assert library.verify(progress=False).incomplete == (str(media / "tone.wav"),)
        assert library.add(media).entries == 0  # nothing has changed, as far as it knows
        check = library.verify(repair=True, progress=False)
        assert check.incomplete == (str(media / "tone.wav"),)
        assert check.repaired == ("1 incomplete sources marked; the next run that indexes them completes them",)
        assert library.add(media).entries == 1
        assert library.get(windows[1].id) == windows[1]
        assert library.verify(progress=False).ok

    def test_copies_of_a_file_share_theirs(self, library: MediaLibrary, media: Path) -> None:
        shutil.copy(media / "red.png", media / "copy.png")
        library.add(media)
        assert library.verify(progress=False).ok
        library.delete(media / "red.png")
        assert library.verify(progress=False).ok

    def test_segments_that_could_not_be_encoded_are_not_missing(self, tmp_path: Path, media: Path) -> None:
        with MediaLibrary.open(tmp_path / "other", embedder=DrawnEmbedder(damaged=["tone.wav#1"])) as library:
            library.add(media)
            assert library.verify(progress=False).ok

    def test_entries_of_no_source_are_removed(self, library: MediaLibrary, media: Path) -> None:
        library.catalogue.forget([str(media / "tone.wav")])
        check = library.verify(progress=False)
        assert (check.ok, check.orphaned) == (False, 4)
        assert library.verify(repair=True, progress=False).repaired == ("4 entries of no source removed",)
        assert (library.stats().entries["audio"], library.verify(progress=False).ok) == (0, True)


class TestSources:
    def test_files_that_have_gone_or_changed_are_named(self, library: MediaLibrary, media: Path) -> None:
        (media / "tone.wav").unlink()
        write_image(media / "red.png", colour=(1, 2, 3))
        check = library.verify(progress=False)
        assert (check.gone, check.changed) == ((str(media / "tone.wav"),), (str(media / "red.png"),))
        assert check.ok  # the library still is what was indexed

    def test_a_file_with_another_time_is_read(self, library: MediaLibrary, media: Path) -> None:
        (media / "red.png").touch()
        assert library.verify(progress=False).changed == ()

    def test_a_kept_text_that_has_gone_is_named(self, library: MediaLibrary) -> None:
        handle = Attachment.from_text("a bell in the fog").handle
        assert library.attachments is not None
        library.attachments.delete(handle)
        assert library.verify(progress=False).gone == (handle,)


class TestAttachments:
    def test_thumbnails_that_are_damaged_or_missing_are_made_again(self, library: MediaLibrary) -> None:
        assert library.attachments is not None
        before = {entry.id: entry.thumbnail for entry in library.list()}
        image, *sounds = [entry for entry in library.list() if entry.thumbnail is not None]
        library.attachments.path(str(image.thumbnail)).write_bytes(b"damaged")
        library.attachments.delete(str(sounds[0].thumbnail))
        check = library.verify(progress=False)
        assert check.damaged_attachments == (image.thumbnail,)
        assert check.missing_thumbnails >= 2  # of a steady tone, windows look alike
        assert not check.ok
        assert library.verify(repair=True, progress=False).ok
        assert {entry.id: entry.thumbnail for entry in library.list()} == before

    def test_without_its_file_an_entry_does_without_thumbnail(self, library: MediaLibrary, media: Path) -> None:
        (image,) = library.list(modality="image")
        assert library.attachments is not None
        library.attachments.delete(str(image.thumbnail))
        (media / "red.png").unlink()
        check = library.verify(repair=True, progress=False)
        assert check.repaired == ("0 of 1 missing thumbnails made again",)
        assert check.ok
        assert library.get(image.id) == image.model_copy(update={"thumbnail": None})


def test_a_check_is_json() -> None:
    check = LibraryCheck(location="library", indexes=2, gone=("a.png",))
    assert LibraryCheck.model_validate_json(check.model_dump_json()) == check
