"""A Chroma server that is killed, restarted, or not there."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from damaged_libraries import SHORT, embedder, write_texts

from ibllm_tools import MediaLibrary
from ibllm_tools.errors import StoreError


class Server:
    """``chroma run`` on a folder; always on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        chroma = [Path(sys.executable).parent / "chroma", "run", "--path", self._folder, "--port", str(self.port)]
        self._process = subprocess.Popen(chroma, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        pytest.fail("the server does not answer")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    yield server
    server.kill()


def open_library(server: Server) -> MediaLibrary:
    return MediaLibrary.open(server.url, embedder=embedder(), settings=SHORT)


def test_killed_it_is_an_error_and_restarted_nothing_is_lost(server: Server, tmp_path: Path) -> None:
    texts = sorted(write_texts(tmp_path / "media", range(4)).iterdir())
    with open_library(server) as library:
        library.add(*texts[:2])
        known = [entry.id for entry in library.list()]
        server.kill()
        for use in (lambda: library.add(texts[2]), lambda: library.stats(), lambda: library.verify(progress=False)):
            with pytest.raises(StoreError, match=server.url):
                use()
        server.start()
        assert [entry.id for entry in library.list()] == known  # the same client goes on
        assert library.add(*texts).added == 2
        assert library.verify(progress=False).ok


def test_killed_while_it_is_written_to_it_loses_nothing_acknowledged(server: Server, tmp_path: Path) -> None:
    media = write_texts(tmp_path / "media", range(12))
    acknowledged = list[str]()
    with open_library(server) as library:
        killing = threading.Timer(2.0, server.kill)
        killing.start()
        with pytest.raises(StoreError, match=server.url):
            add_again_and_again(library, media, acknowledged)
        killing.join()
    server.start()
    with open_library(server) as library:
        assert set(acknowledged) <= {record.source for record in library.sources()}
        library.add(media)
        check = library.verify(progress=False)
        assert check.ok, str(check)
        assert (check.sources, check.entries) == (12, 12 * 130)


def add_again_and_again(library: MediaLibrary, media: Path, acknowledged: list[str]) -> None:
    """Until something goes wrong, or a minute has passed."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in sorted(media.iterdir()):
            assert library.add(path).sources == 1
            acknowledged.append(str(path))
        acknowledged.clear()
        library.delete(*media.iterdir())


def test_one_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"http://127\.0\.0\.1:9: opening failed"):
        MediaLibrary.open("http://127.0.0.1:9", embedder=embedder())


def test_its_indexes_are_its_own_business(server: Server, tmp_path: Path) -> None:
    with open_library(server) as library:
        library.add(write_texts(tmp_path / "media", range(1)))
        check = library.verify(repair=True, progress=False)
        assert str(check) == f"{server.url}: whole (1 sources, 130 entries, indexes are the server's)"
        with pytest.raises(StoreError, match="on a server use `chroma vacuum`"):
            library.compact(progress=False)
