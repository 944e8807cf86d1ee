"""compact: smaller, the same to whoever asks, and whole whenever it is killed."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from damaged_libraries import UNNOTICED, embedder, index_folder, open_library, write_texts
from forked_runs import Runs

from ibllm_tools import MediaLibrary
from ibllm_tools.errors import StoreError, StoreLockedError
from ibllm_tools.library.compaction import size_on_disk
from ibllm_tools.store.chroma import VectorDatabase

TEXTS = 10


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of 1,300 entries, of which 780 were deleted, and a second one in the same folder."""
    folder = tmp_path_factory.mktemp("built")
    media = write_texts(folder / "media", range(TEXTS))
    with open_library(folder / "library") as library:
        library.add(media, tags=["note"], metadata={"year": 2024})
        library.delete(*(media / f"{text:03}.txt" for text in range(6)))
    with MediaLibrary.open(folder / "library", embedder=embedder(), name="second") as second:
        second.add(media / "009.txt")
    return folder


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built / "library", tmp_path / "library")
    return tmp_path / "library"


def contents(library: MediaLibrary) -> object:
    """All that it would say, in its order."""
    vectors = [(ids, rows.tobytes()) for ids, rows in library.vectors("text")]
    return list(library.list()), list(library.sources()), vectors, library.catalogue.version


class TestCompacting:
    def test_it_is_smaller_and_the_same(self, place: Path) -> None:
        with open_library(place) as library:
            before, size = contents(library), size_on_disk(place / "chroma")
            compaction = library.compact(progress=False)
            assert contents(library) == before
            assert library.verify(progress=False).ok
        assert (compaction.bytes_before, compaction.bytes_after) == (size, size_on_disk(place / "chroma"))
        assert compaction.bytes_after < 0.6 * compaction.bytes_before
        assert sorted(path.name for path in place.iterdir()) == [".ibllm.lock", "attachments", "chroma"]
        with open_library(place) as library:
            assert contents(library) == before

    def test_other_libraries_of_the_folder_come_with_it(self, place: Path) -> None:
        with open_library(place) as library:
            library.compact(progress=False)
        with MediaLibrary.open(place, embedder=embedder(), name="second") as second:
            assert second.stats().sources == 1

    def test_it_goes_on_as_before(self, place: Path, built: Path) -> None:
        with open_library(place) as library:
            library.compact(progress=False)
            report = library.add(built / "media")
            assert (report.added, report.unchanged) == (6, 4)
            sha256 = next(library.sources()).sha256
            (hit,) = library.search(embedder().draw(sha256, "text", 0), k=1, calibrated=False)
            assert hit.sha256 == sha256
            assert library.verify(progress=False).ok

    def test_in_memory_there_is_nothing_to_compact(self) -> None:
        with MediaLibrary.open(None, embedder=embedder()) as library, pytest.raises(StoreError, match="no folder"):
            library.compact(progress=False)

    def test_a_broken_index_is_repaired_first(self, place: Path) -> None:
        UNNOTICED["half the vectors"](index_folder(place))
        with open_library(place) as library:
            with pytest.raises(StoreError, match="verify --repair"):
                library.compact(progress=False)
            assert library.verify(repair=True, progress=False).ok
        assert not (place / "chroma.compacted").exists()

    def test_nobody_else_in_the_process_may_have_it_open(self, place: Path) -> None:
        with open_library(place) as library, open_library(place) as other:
            with pytest.raises(StoreError, match="opened twice"):
                library.compact(progress=False)
            assert len(library) == len(other) == 520


class TestKilled:
    @pytest.mark.parametrize(
        ("there", "expected"),
        [
            ({"chroma": "old", "chroma.compacted": "part"}, "old"),  # while it was built
            ({"chroma.previous": "old", "chroma.compacted": "new"}, "new"),  # between the renames
            ({"chroma": "new", "chroma.previous": "old"}, "new"),  # while the old one was removed
            ({"chroma.previous": "old"}, "old"),  # never left by a kill, and no reason to lose everything
            ({"chroma": "empty", "chroma.previous": "old", "chroma.compacted": "new"}, "new"),  # nor these
            ({"chroma": "empty", "chroma.previous": "old"}, "old"),
            ({"chroma": "bare", "chroma.previous": "old"}, "old"),
        ],
    )
    def test_what_is_left_is_one_whole_database(
        self, place: Path, tmp_path: Path, there: dict[str, str], expected: str
    ) -> None:
        with open_library(place) as library:
            before = contents(library)
        (place / "chroma").rename(tmp_path / "old")
        shutil.copytree(tmp_path / "old", tmp_path / "new")
        shutil.copytree(tmp_path / "old", tmp_path / "part")
        (tmp_path / "part" / "chroma.sqlite3").write_bytes(b"SQLite format 3\0")
        VectorDatabase.open(tmp_path / "empty", keep_log=True).close()
        (tmp_path / "bare").mkdir()
        for kind in ("old", "new"):
            (tmp_path / kind / "mark").write_text(kind)
        for name, kind in there.items():
            (tmp_path / kind).rename(place / name)
        with open_library(place) as library:
            assert contents(library) == before
        assert (place / "chroma" / "mark").read_text() == expected
        assert [path.name for path in place.iterdir() if path.name.startswith("chroma")] == ["chroma"]

    @pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
    @pytest.mark.parametrize("renamed", ["chroma", "chroma.compacted"])
    @pytest.mark.parametrize("done", [False, True])
    def test_stopped_at_a_rename_nothing_is_lost(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, renamed: str, done: bool
    ) -> None:
        rename = Path.rename

        def stopped(path: Path, target: Path) -> Path:
            if path.name != renamed or path.parent != place:
                return rename(path, target)
            monkeypatch.setattr(Path, "rename", rename)
            if done:
                rename(path, target)
            raise error

        with open_library(place) as library:
            before = contents(library)
            monkeypatch.setattr(Path, "rename", stopped)
            with pytest.raises(StoreError if isinstance(error, OSError) else KeyboardInterrupt):
                library.compact(progress=False)
            assert contents(library) == before
        with open_library(place) as library:
            assert contents(library) == before
        assert [path.name for path in place.iterdir() if path.name.startswith("chroma")] == ["chroma"]

    def test_killed_at_any_moment_it_is_whole(self, place: Path, tmp_path: Path, runs: Runs) -> None:
        with open_library(place) as library:
            before = contents(library)
        longest = 1.0
        for attempt, moment in enumerate((1.0, 0.2, 0.5, 0.7, 0.85, 0.95)):
            copy = Path(shutil.copytree(place, tmp_path / f"copy{attempt}"))
            began = time.monotonic()
            run = runs.start("compact", copy)
            if moment == 1:
                assert run.wait() == 0
                longest = time.monotonic() - began
            else:
                time.sleep(longest * moment)
                run.kill()
            with open_library(copy) as library:
                assert contents(library) == before
            assert [path.name for path in copy.iterdir() if path.name.startswith("chroma")] == ["chroma"]

    def test_meanwhile_it_is_locked(self, place: Path, runs: Runs) -> None:
        run = runs.start("compact", place)
        while not (place / "chroma.compacted").exists():
            time.sleep(0.001)
        os.kill(run.process, signal.SIGSTOP)
        with pytest.raises(StoreLockedError, match=f"process {run.process} owns"):
            open_library(place)
        os.kill(run.process, signal.SIGCONT)
        assert run.wait() == 0
        open_library(place).close()


def test_what_cannot_be_counted_is_said(place: Path) -> None:
    (place / "chroma" / "link").symlink_to("x" * 300)
    with open_library(place) as library, pytest.raises(StoreError, match="cannot be used"):
        library.stats()


def test_a_full_disk_leaves_the_old_database(place: Path, small_disk: Path) -> None:
    shutil.copytree(place, small_disk / "library")
    with open_library(small_disk / "library") as library:
        before = contents(library)
        (small_disk / "filler").write_bytes(bytes(max(shutil.disk_usage(small_disk).free - 600_000, 0)))
        with pytest.raises(StoreError):
            library.compact(progress=False)
        assert contents(library) == before
    assert not (small_disk / "library" / "chroma.compacted").exists()
