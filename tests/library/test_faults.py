"""What befalls a library from outside: kills, full and read-only disks, other processes and threads, bad encoders."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from damaged_libraries import DIMENSION, SHORT, embedder, index_folder, open_library, write_texts
from drawn_embedder import DrawnEmbedder
from forked_runs import Runs
from numpy.typing import NDArray
from sample_files import write_image, write_sound

from ibllm_tools import Attachment, AttachmentStore, MediaLibrary
from ibllm_tools.errors import IbllmError, StoreError, StoreLockedError
from ibllm_tools.store.chroma import VectorDatabase
from ibllm_tools.store.database_file import DatabaseFile
from ibllm_tools.store.hnsw_files import index_damage
from ibllm_tools.store.segments import Segment

TEXTS = 17
"""Of 130 entries each, so that an index of more than 1,000 is written twice."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "library"


@pytest.fixture
def media(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "media", range(TEXTS))


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "few", range(3))


def ids(library: MediaLibrary) -> list[str]:
    return [entry.id for entry in library.list()]


def assert_nothing_lost(library: MediaLibrary, acknowledged: Iterable[str]) -> None:
    """What was acknowledged is recorded, and what is recorded has its entries, each once."""
    recorded = {record.source: record for record in library.sources()}
    there = ids(library)
    assert len(set(there)) == len(there)
    assert set(acknowledged) <= recorded.keys()
    expected = [id_ for record in recorded.values() for some in record.ids().values() for id_ in some]
    assert set(expected) <= set(there)
    if expected:
        id_ = expected[0]
        vector = embedder().draw(id_.split("-")[0], "text", 0)
        assert library.search(vector, k=1, calibrated=False)[0].id == id_


class TestKilled:
    @pytest.mark.parametrize("times", [8, pytest.param(20, marks=pytest.mark.slow)])
    def test_nothing_acknowledged_is_lost_and_a_resumed_run_completes(
        self, place: Path, media: Path, runs: Runs, times: int
    ) -> None:
        moments, acknowledged, kills = random.Random(times), set[str](), 0
        while kills < times:
            run = runs.start("add", place, media)
            time.sleep(moments.uniform(0.05, 0.9))
            kills += run.kill() == signal.SIGKILL
            acknowledged |= set(run.acknowledged())
            with open_library(place) as library:
                assert_nothing_lost(library, acknowledged)
            if len(acknowledged) == TEXTS:  # from an empty library again
                shutil.rmtree(place)
                acknowledged = set()
        with MediaLibrary.open(None, embedder=embedder(), settings=SHORT) as unkilled:
            unkilled.add(media)
            expected = sorted(ids(unkilled))
        with open_library(place) as library:
            library.add(media)
            assert sorted(ids(library)) == expected
            assert library.verify(progress=False).ok

    def test_killed_while_an_index_is_written_it_is_made_anew(
        self, place: Path, media: Path, runs: Runs, caplog: pytest.LogCaptureFixture
    ) -> None:
        acknowledged: set[str] = set()
        for _ in range(30):
            run = runs.start("add", place, media)
            before = written_at(place)
            while not run.has_ended() and (not before or written_at(place) == before):
                before = before or written_at(place)
            run.kill()
            acknowledged |= set(run.acknowledged())
            if (place / "chroma" / "chroma.sqlite3").exists() and index_damage(index_folder(place)) is not None:
                break
            if len(acknowledged) == TEXTS:
                shutil.rmtree(place)
                acknowledged = set()
        else:
            pytest.fail("no kill left a broken index")
        with open_library(place) as library:
            assert "the index of library.text was left broken" in caplog.text
            assert_nothing_lost(library, acknowledged)
            assert library.verify(progress=False).broken_indexes == ()
            library.add(media)
            assert library.verify(progress=False).ok
            assert len(library) == TEXTS * 130

    def test_killed_while_it_was_made_it_keeps_its_log(self, place: Path, media: Path) -> None:
        VectorDatabase.open(place / "chroma").close()  # as far as it came
        with open_library(place) as library:
            library.add(media / "000.txt")
        with DatabaseFile.open(place / "chroma") as file:
            assert file.keeps_log


def written_at(place: Path) -> list[int]:
    """When indexes that are complete were last written to."""
    times = []
    for labels in sorted(place.glob("chroma/*-*/index_metadata.pickle")):
        with suppress(FileNotFoundError):
            times.append(labels.with_name("data_level0.bin").stat().st_mtime_ns)
    return times


def add_each(library: MediaLibrary, paths: Iterable[Path], added: list[str]) -> None:
    for path in paths:
        library.add(path)
        added.append(str(path))


class TestFullDisk:
    def test_the_library_says_so_and_goes_on_when_there_is_room(self, small_disk: Path, media: Path) -> None:
        place, added = small_disk / "library", list[str]()
        with open_library(place) as library:
            (small_disk / "filler").write_bytes(bytes(max(shutil.disk_usage(small_disk).free - 3_000_000, 0)))
            with pytest.raises(StoreError, match=r"chroma: writing failed: .*; the disk may be full: free space"):
                add_each(library, sorted(media.iterdir()), added)
        assert added
        (small_disk / "filler").unlink()
        with open_library(place) as library:
            assert_nothing_lost(library, added)
            assert library.verify(progress=False).broken_indexes == ()
            assert library.add(*sorted(media.iterdir())[: len(added) + 1]).failures == ()
            assert library.verify(progress=False).ok

    def test_so_does_the_attachment_store(self, small_disk: Path, tmp_path: Path) -> None:
        store = AttachmentStore(small_disk / "attachments")
        with MediaLibrary.open(tmp_path / "library", embedder=DrawnEmbedder(), attachments=store) as library:
            (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
            with pytest.raises(StoreError, match="attachments: cannot be written"):
                library.add(write_image(tmp_path / "red.png"))
            (small_disk / "filler").unlink()
            assert library.add(tmp_path / "red.png").added == 1
            assert next(library.list()).thumbnail in store
            assert library.verify(progress=False).ok

    def test_files_that_may_not_grow(self, place: Path, media: Path, runs: Runs) -> None:
        run = runs.start("limited", place, media)  # what a quota does; it needs no disk of its own
        assert run.wait() == 0
        *acknowledged, said = run.acknowledged()
        assert said.startswith(f"StoreError: {place}/chroma: writing failed: ")
        assert acknowledged
        with open_library(place) as library:
            assert_nothing_lost(library, acknowledged)
            library.add(media)
            assert library.verify(progress=False).ok


def test_a_read_only_folder_is_refused(place: Path, media: Path, tmp_path: Path) -> None:
    with open_library(place) as library:
        library.add(media / "000.txt")
    seen = tmp_path / "seen"
    seen.mkdir()
    mounted = subprocess.run(["mount", "--bind", place, seen], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted: {mounted.stderr.decode().strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", seen], check=True)
        with pytest.raises(StoreError, match=r"Read-only file system; a store needs a folder that can be written to"):
            open_library(seen)
    finally:
        subprocess.run(["umount", "-l", seen], check=True)
    open_library(place).close()


class TestOtherProcesses:
    def test_a_second_writer_is_refused_at_once_and_the_first_one_completes(
        self, place: Path, few: Path, runs: Runs
    ) -> None:
        run = runs.start("add", place, few)
        while not run.acknowledged():
            time.sleep(0.01)
        os.kill(run.process, signal.SIGSTOP)  # in the midst of writing
        for _ in range(3):
            with pytest.raises(StoreLockedError, match=f"process {run.process} owns this store"):
                open_library(place)
        os.kill(run.process, signal.SIGCONT)
        assert run.wait() == 0
        with open_library(place) as library:
            assert_nothing_lost(library, map(str, few.iterdir()))
            assert library.verify(progress=False).ok

    def test_of_two_that_begin_at_the_same_time_one_is_refused(self, place: Path, few: Path, runs: Runs) -> None:
        with open_library(place) as library:
            run = runs.start("add", place, few)
            assert run.wait() != 0
            assert library.add(few).added == 3
            assert library.verify(progress=False).ok

    def test_a_forked_child_is_refused(self, place: Path, few: Path, runs: Runs) -> None:
        run = runs.start("fork", place, few)
        assert run.wait() == 0
        (said,) = run.acknowledged()
        assert said.startswith("StoreError: ")
        assert "of which this one is a fork" in said

    def test_a_later_schema_is_refused(self, place: Path) -> None:
        with open_library(place) as library:
            library.catalogue.sources.describe({"schema": 99})
        with pytest.raises(StoreError, match=r"written by a later version \(schema 99, this one reads 1\)"):
            open_library(place)


class TestThreads:
    def test_readers_see_what_a_writer_has_written(self, place: Path, media: Path) -> None:
        """Every source can be found by its own vector as soon as `add` has returned, in a library opened before."""
        texts = sorted(media.iterdir())[:8]
        vectors = [embedder().draw(Attachment(path).sha256, "text", 0) for path in texts]
        written, problems = threading.Semaphore(0), []
        done = threading.Event()

        def search_on() -> None:
            while not done.is_set():
                try:
                    reader.search(vectors[0], k=3)
                except BaseException as error:
                    problems.append(error)

        with open_library(place) as writer, open_library(place) as reader:
            searching = threading.Thread(target=search_on)
            searching.start()

            def write() -> None:
                for path in texts:
                    writer.add(path)
                    written.release()

            writing = threading.Thread(target=write)
            writing.start()
            for path, vector in zip(texts, vectors, strict=True):
                assert written.acquire(timeout=60)
                assert reader.search(vector, k=1, calibrated=False)[0].source == str(path)
            writing.join()
            done.set()
            searching.join()
        assert problems == []


class Changing(DrawnEmbedder):
    """Changes files while they are embedded."""

    def __init__(self, target: Path, text: str) -> None:
        super().__init__(dimension=DIMENSION)
        self.target, self.text = target, text

    def embed_segments(
        self, parts: Iterable[tuple[Attachment, Sequence[Segment]]]
    ) -> Iterator[NDArray[np.float32] | IbllmError]:
        for vector in super().embed_segments(parts):
            if self.text:
                self.target.write_text(self.text)
                self.text = ""
            yield vector


class ChangingWhatItReads(Changing):
    """Changes a file while that very file is embedded."""

    def embed_segments(
        self, parts: Iterable[tuple[Attachment, Sequence[Segment]]]
    ) -> Iterator[NDArray[np.float32] | IbllmError]:
        for attachment, segments in parts:
            vectors = list(DrawnEmbedder.embed_segments(self, [(attachment, segments)]))
            if attachment.name == self.target.name:
                self.target.write_text(self.text)
            yield from vectors


class TestFiles:
    def test_a_file_that_changes_meanwhile_leaves_nothing(self, place: Path, media: Path) -> None:
        first, second = media / "000.txt", media / "001.txt"
        changing = Changing(first, "something else, shorter")
        with MediaLibrary.open(place, embedder=changing, settings=SHORT) as library:
            report = library.add(first, second)
            assert [failure.source for failure in report.failures] == [str(first)]
            assert "changed while it was indexed" in report.failures[0].reason
            assert {entry.source for entry in library.list()} == {str(second)}
            assert library.add(first, second).added == 1
            assert library.verify(progress=False).ok

    @pytest.mark.parametrize("changing", ["000.txt", "copy.txt"])
    def test_the_copy_of_a_file_that_changes_meanwhile_stays(self, place: Path, media: Path, changing: str) -> None:
        files = [media / "000.txt", media / "copy.txt"]
        files[1].write_bytes(files[0].read_bytes())
        (stays,) = (file for file in files if file.name != changing)
        embedder = ChangingWhatItReads(media / changing, "something else, shorter")
        with MediaLibrary.open(place, embedder=embedder, settings=SHORT) as library:
            report = library.add(*files)
            assert [failure.source for failure in report.failures] == [str(media / changing)]
            assert {entry.source for entry in library.list()} == {str(stays)}
            assert library.verify(progress=False).ok

    def test_a_copy_that_changes_meanwhile_leaves_what_is_said_of_the_other(self, place: Path, media: Path) -> None:
        first, copy = media / "000.txt", media / "copy.txt"
        copy.write_bytes(first.read_bytes())
        with open_library(place) as library:
            library.add(first, title="the first one")
        with MediaLibrary.open(place, embedder=Changing(copy, "something else, shorter"), settings=SHORT) as library:
            report = library.add(copy, media / "001.txt")
            assert [failure.source for failure in report.failures] == [str(copy)]
            kept = [entry for entry in library.list() if entry.source == str(first)]
            assert {entry.title for entry in kept} == {"the first one"}
            assert library.verify(progress=False).ok

    def test_what_a_replaced_file_was_stays_until_the_new_one_is_complete(self, place: Path, media: Path) -> None:
        first = media / "000.txt"
        with open_library(place) as library:
            library.add(first)
            before = ids(library)
        first.write_text("a new text that is about to change again")
        with MediaLibrary.open(place, embedder=Changing(first, "changed again"), settings=SHORT) as library:
            assert len(library.add(first).failures) == 1
            assert ids(library) == before
            assert library.add(first).changed == 1
            assert library.verify(progress=False).ok


class Unsound(DrawnEmbedder):
    """Gives vectors that are none, for some segments."""

    def draw(self, sha256: str, modality: str, index: int) -> NDArray[np.float32]:
        vector = super().draw(sha256, modality, index)
        return {0: vector, 1: vector * np.nan, 2: vector * 0, 3: vector[:-1]}[index]


def test_vectors_that_are_none_are_reported_and_not_stored(place: Path, tmp_path: Path) -> None:
    tone = write_sound(tmp_path / "tone.wav", seconds=23)
    with MediaLibrary.open(place, embedder=Unsound()) as library:
        report = library.add(tone)
        assert [entry.index for entry in library.list()] == [0]
        assert len(report.failures) == 3
        assert all("no unit vector of width 32" in failure.reason for failure in report.failures)
        assert library.verify(progress=False).ok
