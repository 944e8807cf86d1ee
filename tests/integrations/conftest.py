"""What the tests of every integration share: the embedded model, and media that it knows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ibllm_tools import Assistant
from ibllm_tools.assistant.shared import release_shared_assistants, shared_assistant

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def assistant() -> Iterator[Assistant]:
    """The embedded model, as every face shares it; it may open anything."""
    yield shared_assistant()
    release_shared_assistants()


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of sample media: bell.wav, dog.wav, car.png, helicopter.mp4, duck.glb, ..."""
    return REPOSITORY / "examples" / "media"
