"""What the tests of LangChain's tools and agents share."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ibllm_tools import Access, Assistant, MediaLibrary
from ibllm_tools.assistant.shared import with_access
from ibllm_tools.toolbox import Toolbox

KINDS = {".wav": ("audio", "audio/wav"), ".png": ("image", "image/png"), ".mp4": ("video", "video/mp4")}
Block = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def media_library(
    assistant: Assistant, media: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MediaLibrary]:
    """A library of a bell, a dog and a duck, with captions."""
    folder = tmp_path_factory.mktemp("library")
    with MediaLibrary.open(folder, embedder=assistant.embedder, captioner=assistant) as library:
        library.add(*(media / name for name in ("bell.wav", "dog.wav", "duck.glb")), caption=True)
        yield library


@pytest.fixture(scope="session")
def toolbox(assistant: Assistant, media: Path, media_library: MediaLibrary) -> Toolbox:
    """Over that library; what lies in the folder of sample media may be opened."""
    return Toolbox(with_access(assistant, Access(roots=media)), media_library)


@pytest.fixture(scope="session")
def block(media: Path) -> Block:
    """A sample file as a standard content block with its bytes."""

    def made(name: str) -> dict[str, Any]:
        kind, mime = KINDS.get(Path(name).suffix, ("file", "model/gltf-binary"))
        content = base64.b64encode((media / name).read_bytes()).decode()
        return {"type": kind, "base64": content, "mime_type": mime, "extras": {"filename": name}}

    return made
