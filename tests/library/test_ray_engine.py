"""Indexing on Ray: the same library as without it, whoever dies on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import ray.data
from drawn_embedder import DrawnEmbedder
from drawn_in_actors import LOADING, DrawnInActors, DrawnSource
from PIL import Image
from sample_files import broken_files, write_image, write_mesh, write_sound, write_video

from ibllm_tools import Attachment, JointEmbedder, MediaLibrary
from ibllm_tools.errors import (
    CorruptMediaError,
    EncoderMismatchError,
    InvalidRequestError,
    MissingExtraError,
    ModelError,
)
from ibllm_tools.library import ray_engine
from ibllm_tools.library.encoding import Finished
from ibllm_tools.library.entry import Entry
from ibllm_tools.library.scanning import scan
from ibllm_tools.media.limits import DEFAULT_LIMITS
from ibllm_tools.store.segments import DEFAULT_SETTINGS

pytestmark = [
    # Ray Data builds its own settings through setters that it has deprecated.
    pytest.mark.filterwarnings(r"ignore:`use_\w+` is deprecated:DeprecationWarning"),
]

OLD = (1_700_000_000, 1_700_000_000)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[str]:
    """Ray on this machine, as a program may have started it; its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # for what the actors load
        ray.init(
            address="local",
            num_cpus=1,
            object_store_memory=128 << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    write_image(folder / "red.png")
    write_sound(folder / "tone.wav", seconds=23)
    write_video(folder / "clip.mp4")
    write_mesh(folder / "box.glb")
    (folder / "notes.md").write_text("# Bells\n\nA bell rings in the tower.\n")
    return aged(folder)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def open_library(tmp_path: Path) -> Iterator[Callable[..., MediaLibrary]]:
    opened: list[MediaLibrary] = []

    def open_(embedder: DrawnEmbedder | JointEmbedder, name: str = "library") -> MediaLibrary:
        opened.append(MediaLibrary.open(tmp_path / name, embedder=embedder))
        return opened[-1]

    yield open_
    for library in opened:
        library.close()


def aged(folder: Path) -> Path:
    for path in folder.iterdir():
        os.utime(path, OLD)
    return folder


def texts(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number:04}.txt").write_text(f"text number {number}")
    return aged(folder)


def entries(library: MediaLibrary) -> list[Entry]:
    return sorted(library.list(), key=lambda entry: entry.id)


def actors() -> list[str]:
    """Those of ours that live in the cluster."""
    titles = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            titles.append(" ".join(process.cmdline()))
    return [title for title in titles if "Ledger" in title or "EncodingActor" in title]


def vectors(library: MediaLibrary) -> dict[str, np.ndarray]:
    batches = [batch for modality in library.stats().entries for batch in library.vectors(modality)]
    return {id_: row for ids, rows in batches for id_, row in zip(ids, rows, strict=True)}


def test_the_library_is_the_one_that_is_made_without_ray(
    open_library: Callable[..., MediaLibrary], media: Path
) -> None:
    embedder = JointEmbedder.load("mini", device="cpu")
    local, distributed = open_library(embedder, "local"), open_library(embedder, "ray")
    array = Attachment(np.full((4, 4, 3), 90, np.uint8), modality="image", name="grey.png")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 500).save(media.parent / "map.png")
    map_ = Attachment(media.parent / "map.png", modality="depth", name="far.png")
    for library, engine in ((local, "local"), (distributed, "ray")):
        report = library.add(
            media,
            array,
            map_,
            texts=["a ringing bell"],
            tags=["x"],
            metadata={"year": 2020},
            caption="given",
            engine=engine,
        )
        assert (report.added, report.failures) == (8, ())
    assert entries(distributed) == entries(local)
    assert len(list(distributed.attachments or ())) == len(list(local.attachments or ()))
    expected, found = vectors(local), vectors(distributed)
    assert found.keys() == expected.keys()
    for id_, row in expected.items():
        np.testing.assert_allclose(found[id_], row, rtol=0, atol=1e-5)


class TestFailures:
    def test_are_those_of_the_local_engine(
        self, open_library: Callable[..., MediaLibrary], media: Path, notes: Path
    ) -> None:
        broken_files(media)
        embedder = DrawnInActors(DrawnSource(notes, damaged=("red.png",)))
        local = open_library(embedder, "local").add(media, media / "nowhere.png")
        found = open_library(embedder, "ray").add(media, media / "nowhere.png", engine="ray")
        assert sorted(found.failures, key=str) == sorted(local.failures, key=str)
        assert len(found.failures) > 8
        assert (found.added, found.entries) == (local.added, local.entries)

    def test_strict_raises_the_error_itself(
        self, open_library: Callable[..., MediaLibrary], media: Path, notes: Path
    ) -> None:
        (media / "empty.png").touch()
        library = open_library(DrawnInActors(DrawnSource(notes)))
        with pytest.raises(CorruptMediaError, match=r"empty\.png"):
            library.add(media, engine="ray", strict=True)

    @pytest.mark.slow
    def test_an_error_that_is_none_of_ours_is_not_lost(
        self, open_library: Callable[..., MediaLibrary], media: Path, notes: Path
    ) -> None:
        library = open_library(DrawnInActors(DrawnSource(notes)))
        notes.rmdir()  # where the encoder wants to write
        with pytest.raises(ModelError, match="FileNotFoundError"):
            library.add(media, engine="ray")

    def test_another_encoder_in_the_actors(
        self, open_library: Callable[..., MediaLibrary], media: Path, notes: Path
    ) -> None:
        library = open_library(DrawnInActors(DrawnSource(notes, fingerprint="other"), fingerprint="drawn"))
        with pytest.raises(EncoderMismatchError, match=r"'other'.*'drawn'"):
            library.add(media, engine="ray")
        assert len(library) == 0

    def test_an_encoder_that_actors_cannot_load(self, open_library: Callable[..., MediaLibrary], media: Path) -> None:
        with pytest.raises(InvalidRequestError, match="DrawnEmbedder without a source"):
            open_library(DrawnEmbedder()).add(media, engine="ray")

    def test_a_device_that_ray_does_not_have(
        self, open_library: Callable[..., MediaLibrary], media: Path, notes: Path
    ) -> None:
        with pytest.raises(InvalidRequestError, match="'cuda': Ray has no GPU"):
            open_library(DrawnInActors(DrawnSource(notes, device="cuda"))).add(media, engine="ray")

    def test_an_engine_that_there_is_not(self, open_library: Callable[..., MediaLibrary], media: Path) -> None:
        with pytest.raises(InvalidRequestError, match="engine 'spark', expected one of local, ray"):
            open_library(DrawnEmbedder()).add(media, engine="spark")  # type: ignore[arg-type]

    @pytest.mark.parametrize("package", ["ray", "pyarrow"])
    def test_without_the_extra(
        self,
        open_library: Callable[..., MediaLibrary],
        media: Path,
        notes: Path,
        package: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for module in [name for name in sys.modules if name.startswith("ibllm_tools.library.ray_")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"needs '{package}'.*ibllm-tools\[ray\]"):
            open_library(DrawnInActors(DrawnSource(notes))).add(media, engine="ray")


class TestAgain:
    def test_what_is_there_is_not_encoded_again(
        self, open_library: Callable[..., MediaLibrary], tmp_path: Path, notes: Path
    ) -> None:
        source = DrawnSource(notes)
        library, folder = open_library(DrawnInActors(source)), texts(tmp_path / "media", 5)
        library.add(folder)
        source.forget()
        (folder / "0000.txt").rename(folder / "moved.txt")
        (folder / "0001.txt").write_text("something new")
        (folder / "copy.txt").write_text("text number 2")
        before = vectors(library)
        report = library.add(folder, engine="ray")
        assert (report.added, report.changed, report.moved, report.unchanged) == (1, 1, 1, 3)
        assert source.noted() == ["0001.txt"]
        after = vectors(library)
        assert len(after) == 5
        assert sum(np.array_equal(before.get(id_), row) for id_, row in after.items()) == 4

    def test_what_is_recorded_but_lost_is_encoded_again(
        self, open_library: Callable[..., MediaLibrary], tmp_path: Path, notes: Path
    ) -> None:
        source = DrawnSource(notes)
        library, folder = open_library(DrawnInActors(source)), texts(tmp_path / "media", 3)
        library.add(folder)
        source.forget()
        lost = next(entry for entry in library.list() if entry.title == "0001")
        library.catalogue.entries("text").delete([lost.id])
        (folder / "0000.txt").rename(folder / "whole.txt")
        (folder / "0001.txt").rename(folder / "torn.txt")
        library.add(folder, engine="ray")
        assert source.noted() == ["torn.txt"]
        assert sorted(str(entry.text) for entry in library.list()) == [f"text number {number}" for number in range(3)]


class TestDeath:
    @pytest.mark.slow
    def test_what_a_dead_actor_was_at_is_repeated(
        self, open_library: Callable[..., MediaLibrary], tmp_path: Path, notes: Path
    ) -> None:
        source = DrawnSource(notes, deadly_once=("0070.txt",))
        library = open_library(DrawnInActors(source))
        report = library.add(texts(tmp_path / "media", 100), engine="ray")
        assert (notes / "killed by 0070.txt").exists()
        assert (report.added, report.entries, report.failures) == (100, 100, ())
        assert len({entry.id for entry in library.list()}) == len(library) == 100

    def test_a_file_that_kills_every_actor_is_left_out(
        self, open_library: Callable[..., MediaLibrary], tmp_path: Path, notes: Path
    ) -> None:
        library = open_library(DrawnInActors(DrawnSource(notes, deadly=("0005.txt",))))
        report = library.add(texts(tmp_path / "media", 10), engine="ray")
        assert [Path(failure.source).name for failure in report.failures] == ["0005.txt"]
        assert "2 processes died of encoding it" in report.failures[0].reason
        assert report.added == len(library) == 9

    @pytest.mark.slow
    def test_an_encoder_that_kills_every_actor_ends_the_run(
        self, open_library: Callable[..., MediaLibrary], media: Path, notes: Path
    ) -> None:
        library = open_library(DrawnInActors(DrawnSource(notes, deadly=(LOADING,))))
        with pytest.raises(ModelError, match="the actor of Ray that loads it has died 2 times"):
            library.add(media, engine="ray")

    def test_a_run_whose_driver_was_killed_is_completed(
        self, open_library: Callable[..., MediaLibrary], tmp_path: Path, notes: Path, cluster: str
    ) -> None:
        source, folder = DrawnSource(notes, seconds=0.005), texts(tmp_path / "media", 1000)
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path / "library"), str(folder), str(notes)],
            env={**os.environ, "RAY_ADDRESS": cluster, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        deadline = time.monotonic() + 60
        while len(source.noted()) < 700 and time.monotonic() < deadline and driver.poll() is None:
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
        source.forget()
        library = open_library(DrawnInActors(source))
        kept = sum(1 for _ in library.sources())
        assert 0 < kept < 1000
        report = library.add(folder, engine="ray")
        assert (report.unchanged, report.added, report.failures) == (kept, 1000 - kept, ())
        assert len(set(source.noted())) == 1000 - kept  # an actor may outlive its driver for a moment
        assert sorted(str(entry.text) for entry in library.list()) == sorted(f"text number {i}" for i in range(1000))


DRIVER = """
import sys
from pathlib import Path
from drawn_in_actors import LOADING, DrawnInActors, DrawnSource
from PIL import Image
from ibllm_tools import MediaLibrary

place, folder, notes = map(Path, sys.argv[1:])
with MediaLibrary.open(place, embedder=DrawnInActors(DrawnSource(notes, seconds=0.005))) as library:
    library.add(folder, engine="ray", progress=False)
"""


class TestRayItself:
    def test_one_that_is_there_is_left_as_it_is(
        self, open_library: Callable[..., MediaLibrary], media: Path, notes: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        context = ray.data.DataContext.get_current()
        before = (context.target_max_block_size, context.enable_progress_bars)
        open_library(DrawnInActors(DrawnSource(notes))).add(media, engine="ray")
        assert ray.is_initialized()
        assert (context.target_max_block_size, context.enable_progress_bars) == before
        deadline = time.monotonic() + 20
        while ray.available_resources().get("CPU") != 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ray.available_resources()["CPU"] == 1  # the actor has gone
        while (left := actors()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == []
        assert capfd.readouterr().out == ""

    @pytest.mark.slow
    def test_one_that_is_started_is_quiet_and_ended(self, media: Path, notes: Path) -> None:
        environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-c", ALONE, str(media), str(notes)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "5 False\n", "")

    @pytest.mark.slow
    def test_a_cluster_that_is_not_there(self, media: Path, notes: Path) -> None:
        environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9", "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-c", ALONE, str(media), str(notes)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert "InvalidRequestError: RAY_ADDRESS=127.0.0.1:9: no Ray cluster answers there" in done.stderr

    @pytest.mark.slow
    def test_actors_pause_while_nothing_is_written(
        self, tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ray_engine, "MEMORY", 16 << 20)
        monkeypatch.setattr(ray_engine, "BLOCK_BYTES", 1 << 20)
        source = DrawnSource(notes, dimension=1 << 15)  # 128 KiB each, 256 MiB together
        tasks = scan([texts(tmp_path / "media", 2000)]).tasks
        events = ray_engine.encode_on_ray(
            tasks,
            DrawnInActors(source),
            DEFAULT_SETTINGS,
            limits=DEFAULT_LIMITS,
            known=lambda sha256, entries: set(),
            recorded=[],
            attachments=None,
        )
        next(events)
        before = -1
        while before != (now := len(source.noted())):  # until they pause
            before = now
            time.sleep(3)
        assert now < 1000
        rest = list(events)
        assert len(source.noted()) == 2000
        assert sum(isinstance(event, Finished) for event in rest) == 2000


ALONE = """
import sys
from pathlib import Path
from drawn_in_actors import DrawnInActors, DrawnSource
from ibllm_tools import MediaLibrary

if __name__ == "__main__":
    folder, notes = map(Path, sys.argv[1:])
    with MediaLibrary.open(None, embedder=DrawnInActors(DrawnSource(notes))) as library:
        added = library.add(folder, engine="ray").added
    import ray

    print(added, ray.is_initialized())
"""
