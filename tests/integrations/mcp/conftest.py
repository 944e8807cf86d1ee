"""A folder that clients may name files in, a library of some of it, and a server over both."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibllm_mcp import MediaServer, create_server
from ibllm_tools import Assistant, MediaLibrary

SAMPLES = Path(__file__).parents[3] / "examples" / "media"


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mcp") / "media"
    (folder / "pictures").mkdir(parents=True)
    for name in ("bell.wav", "dog.wav", "duck.glb"):
        shutil.copy(SAMPLES / name, folder)
    shutil.copy(SAMPLES / "bell.png", folder / "pictures")
    (folder / "notes.txt").write_text("The bell of the tower rings at noon.\n")
    return folder


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture outside the root, which is in the library all the same."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(SAMPLES / "car.png", folder)
    return folder / "car.png"


@pytest.fixture(scope="session")
def library(
    assistant: Assistant, root: Path, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MediaLibrary]:
    """One that tests look into and do not change."""
    folder = tmp_path_factory.mktemp("library")
    with MediaLibrary.open(folder, embedder=assistant.embedder, captioner=assistant) as opened:
        opened.add(root / "bell.wav", root / "pictures", root / "notes.txt", elsewhere, caption=True, progress=False)
        yield opened


@pytest.fixture
def server(assistant: Assistant, library: MediaLibrary, root: Path) -> MediaServer:
    return create_server(assistant, library=library, roots=root)
