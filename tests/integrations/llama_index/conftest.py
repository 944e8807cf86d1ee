"""A small library, and models whose work can be held up."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ibllm_tools import Assistant, AttachmentStore, MediaLibrary
from llama_index.llms.ibllm import ImageBindLLM

Unblocked = Callable[[Any, str, Callable[[], Awaitable[Any]]], Awaitable[Any]]


@pytest.fixture(scope="session")
def library(assistant: Assistant, media: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaLibrary]:
    """Sounds and a video with captions, a model without one, and a text; nobody writes to it."""
    folder = tmp_path_factory.mktemp("library")
    with MediaLibrary.open(folder, embedder=assistant.embedder, captioner=assistant) as library:
        library.add(media / "bell.wav", caption=True, metadata={"room": "hall", "year": 1712}, tags=["loud"])
        library.add(media / "dog.wav", media / "helicopter.mp4", caption=True, metadata={"room": "yard", "year": 2001})
        library.add(media / "duck.glb")
        library.add(texts=["The bell was cast in 1712."])
        yield library


@pytest.fixture(scope="session")
def llm(assistant: Assistant) -> ImageBindLLM:
    return ImageBindLLM(assistant, roots=None)


@pytest.fixture
def store(tmp_path: Path) -> AttachmentStore:
    return AttachmentStore(tmp_path / "store")


@pytest.fixture
def unblocked(monkeypatch: pytest.MonkeyPatch) -> Unblocked:
    """Awaits a call whose work goes on only once the event loop says so, which it cannot while it is blocked."""

    async def run(owner: Any, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        started, released = threading.Event(), threading.Event()
        work = getattr(owner, name)

        def held(*args: Any, **kwargs: Any) -> Any:
            started.set()
            assert released.wait(5), "the event loop is blocked"
            return work(*args, **kwargs)

        monkeypatch.setattr(owner, name, held)
        task = asyncio.ensure_future(call())
        while not started.is_set() and not task.done():
            await asyncio.sleep(0.01)
        released.set()
        result = await task
        assert started.is_set()
        return result

    return run
