"""LangChain's own tests of retrievers, as they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_tests.integration_tests import RetrieversIntegrationTests

from ibllm_tools import Assistant, MediaLibrary
from langchain_ibllm import ImageBindRetriever


class TestImageBindRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def filled(self, assistant: Assistant, media: Path, tmp_path: Path) -> Iterator[None]:
        with MediaLibrary.open(tmp_path / "library", embedder=assistant.embedder) as library:
            library.add(media / "bell.wav", media / "bell.png", media / "duck.glb", media / "car.png")
            self.library = library
            yield

    @property
    def retriever_constructor(self) -> type[ImageBindRetriever]:
        return ImageBindRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"library": self.library}

    @property
    def retriever_query_example(self) -> str:
        return "a ringing bell"
