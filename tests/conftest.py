"""Fixtures that several test files share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
import pytest
from sample_files import png

if TYPE_CHECKING:
    from ibllm_tools import Assistant

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of golden fixtures made by running the research code."""
    folder = Path(os.environ.get("IBLLM_REFERENCE", REPOSITORY.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"golden fixtures not found at {folder}; set IBLLM_REFERENCE to their folder")
    return folder


@pytest.fixture(scope="session")
def assistant() -> "Iterator[Assistant]":
    """The embedded model."""
    from ibllm_tools import Assistant

    with Assistant.load(device="cpu") as loaded:
        yield loaded


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts the frames that come out of the decoder."""
    count = 0
    opened = av.open

    class Counting:
        def __init__(self, container: object) -> None:
            self.container = container

        def __getattr__(self, name: str) -> object:
            return getattr(self.container, name)

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *_: object) -> None:
            self.container.close()

        def decode(self, stream: object) -> object:
            nonlocal count
            for frame in self.container.decode(stream):
                count += 1
                yield frame

    monkeypatch.setattr(av, "open", lambda *args, **options: Counting(opened(*args, **options)))
    return lambda: count


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(png())
    return path
