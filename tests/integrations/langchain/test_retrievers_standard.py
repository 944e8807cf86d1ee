"""LangChain's own tests of retrievers, as they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_tests.integration_tests import RetrieversIntegrationTests

from ibllm_tools import Assistant, MediaLibrary
from langchain_ibllm import ImageBindRetriever


@pytest.fixture(scope="module")
def filled(assistant: Assistant, media: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaLibrary]:
    with MediaLibrary.open(tmp_path_factory.mktemp("library"), embedder=assistant.embedder) as library:
        library.add(media / "bell.wav", media / "bell.png", media / "duck.glb", media / "car.png")
        yield library


class TestImageBindRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def with_library(self, filled: MediaLibrary) -> None:
        self.library = filled

    @property
    def retriever_constructor(self) -> type[ImageBindRetriever]:
        return ImageBindRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"library": self.library}

    @property
    def retriever_query_example(self) -> str:
        return "a ringing bell"
