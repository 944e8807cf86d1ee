"""A library on a Chroma server: what it does in a folder it does there too, for several clients at once."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn_embedder import DrawnEmbedder
from sample_files import write_image, write_mesh, write_sound, write_video

from ibllm_tools import Attachment, MediaLibrary
from ibllm_tools.errors import EncoderMismatchError, StoreError
from ibllm_tools.library.entry import Entry

OLD = (1_700_000_000, 1_700_000_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Chroma server, in which every test has a library of its own name."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chroma = [Path(sys.executable).parent / "chroma", "run", "--path", folder, "--port", str(port)]
    with subprocess.Popen(chroma, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        process.kill()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of the test's library."""
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    write_image(folder / "red.png")
    write_sound(folder / "tone.wav", seconds=23)
    write_video(folder / "clip.mp4")
    write_mesh(folder / "box.glb")
    (folder / "bells.md").write_text("A bell rings in the tower.")
    (folder / "birds.md").write_text("A bird sings in the tree.")
    for path in folder.iterdir():
        os.utime(path, OLD)
    return folder


@pytest.fixture
def library(server: str, name: str, tmp_path: Path) -> Iterator[MediaLibrary]:
    with open_(server, name, attachments=tmp_path / "attachments") as library:
        yield library


def open_(server: str, name: str, attachments: Path | None = None, fingerprint: str = "drawn") -> MediaLibrary:
    return MediaLibrary.open(server, embedder=DrawnEmbedder(fingerprint), name=name, attachments=attachments)


def entries(library: MediaLibrary) -> list[Entry]:
    return sorted(library.list(), key=lambda entry: entry.id)


def test_it_holds_what_a_folder_would(library: MediaLibrary, media: Path, tmp_path: Path) -> None:
    said = {"texts": ["a ringing bell"], "tags": ["x", "y"], "metadata": {"year": 2020, "places": ["a", "b"]}}
    with MediaLibrary.open(tmp_path / "embedded", embedder=DrawnEmbedder()) as embedded:
        expected_report, report = embedded.add(media, **said), library.add(media, **said)
        assert entries(library) == entries(embedded)
        assert report.model_dump(exclude={"seconds"}) == expected_report.model_dump(exclude={"seconds"})
        same = {
            "sources",
            "entries",
            "seconds",
            "source_bytes",
            "attachments",
            "attachment_bytes",
            "encoder",
            "dimension",
        }
        assert library.stats().model_dump(include=same) == embedded.stats().model_dump(include=same)
        for question in (
            {"query": media / "red.png"},
            {"query": "a bell", "modality": "audio", "segments": 2},
            {"query": "a bell", "ranking": "words"},
            {"query": "a bell", "ranking": "hybrid", "modality": ["text", "image"]},
            {"query": media / "red.png", "where": {"year": {"$gte": 2020}}, "diversity": 0.3},
            {"query": media / "red.png", "where": {"tags": {"$contains": "z"}}},
        ):
            found, expected = library.search(**question), embedded.search(**question)
            assert [(hit.id, hit.segments) for hit in found] == [(hit.id, hit.segments) for hit in expected]
    assert library.stats().location == library.location
    assert library.stats().database_bytes is None


def test_what_is_there_is_found_again_by_another_client(
    library: MediaLibrary, media: Path, server: str, name: str
) -> None:
    library.add(media)
    embedder = DrawnEmbedder()
    with MediaLibrary.open(server, embedder=embedder, name=name) as other:
        assert other.add(media).unchanged == 6
        assert embedder.encoded == []
        assert other.search(media / "red.png", k=1)[0].title == "red"
        assert entries(other) == entries(library)


def test_deleting_and_pruning(library: MediaLibrary, media: Path) -> None:
    library.add(media)
    assert library.delete(media / "red.png") == 1
    (media / "birds.md").unlink()
    assert library.prune() == [str(media / "birds.md")]
    assert {entry.title for entry in library.list()} == {"tone", "clip", "box", "bells"}
    assert library.search("bird", ranking="words") == []
    assert library.stats().entries["image"] == 0


def test_a_changed_and_a_moved_file(library: MediaLibrary, media: Path) -> None:
    library.add(media)
    (media / "bells.md").write_text("Many bells.")
    (media / "red.png").rename(media / "crimson.png")
    report = library.add(media)
    assert (report.changed, report.moved, report.added, report.unchanged) == (1, 1, 0, 4)
    assert {entry.title for entry in library.list(modality="image")} == {"crimson"}


def test_libraries_of_different_names_do_not_see_each_other(
    library: MediaLibrary, media: Path, server: str, name: str
) -> None:
    library.add(media)
    with open_(server, f"{name}-other") as other:
        assert len(other) == 0
        assert other.search("a bell") == []


def test_another_encoder_is_refused(library: MediaLibrary, server: str, name: str) -> None:
    with pytest.raises(EncoderMismatchError, match=r"'drawn'.*'another'"):
        open_(server, name, fingerprint="another")


class TestAttachments:
    def test_lie_in_a_folder_that_is_named(self, library: MediaLibrary, media: Path, tmp_path: Path) -> None:
        library.add(media, Attachment.from_text("a text of its own"))
        thumbnails = {entry.thumbnail for entry in library.list() if entry.text is None}
        assert None not in thumbnails
        assert all(library.attachments is not None and handle in library.attachments for handle in thumbnails)
        assert library.stats().attachments == len(thumbnails) + 1
        assert library.search("att://" + next(library.list(modality="text")).sha256, k=1)[0].modality == "text"

    def test_without_one_there_are_no_thumbnails(self, server: str, name: str, media: Path) -> None:
        with open_(server, name) as library:
            assert library.add(media).failures == ()
            assert {entry.thumbnail for entry in library.list()} == {None}
            assert library.stats().attachments == 0

    def test_without_one_only_files_can_be_added(self, server: str, name: str) -> None:
        with open_(server, name) as library, pytest.raises(StoreError, match="attachments=FOLDER"):
            library.add(texts=["a ringing bell"])


WRITER = """
import sys
from drawn_embedder import DrawnEmbedder
from ibllm_tools import MediaLibrary

server, name, folder = sys.argv[1:]
with MediaLibrary.open(server, embedder=DrawnEmbedder(), name=name) as library:
    for start in range(0, 300, 100):
        library.add(f"{folder}/{start // 100}*.txt", progress=False)
"""


def test_two_processes_write_at_once_and_both_see_everything(server: str, name: str, tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for number in range(300):
            (tmp_path / place / f"{number:03}.txt").write_text(f"text {number} from {place}")
    with open_(server, name) as library:
        command = [sys.executable, "-c", WRITER, server, name, str(tmp_path / "there")]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with subprocess.Popen(command, env=environment) as other:
            seen = set[int]()
            for start in range(0, 300, 100):
                report = library.add(f"{tmp_path / 'here'}/{start // 100}*.txt")
                assert (report.added, report.failures) == (100, ())
                seen.add(len(library))
            while other.poll() is None:
                assert library.search("a text", k=1)
        assert other.returncode == 0
        expected = sorted(f"text {number} from {place}" for number in range(300) for place in ("here", "there"))
        assert sorted(str(entry.text) for entry in library.list()) == expected
        assert library.stats().sources == 600
        # the searcher knows that the other one has written since
        there = tmp_path / "there" / "299.txt"
        assert library.search(there, k=1, calibrated=False)[0].source == str(there)
        assert len(seen) > 1
