"""LangChain's own tests of vector stores, as they are, with the embedded model's encoder in place of fake vectors."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from ibllm_tools import Assistant
from langchain_ibllm import ImageBindEmbeddings, ImageBindVectorStore


class TestImageBindVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, assistant: Assistant, tmp_path: Path) -> Iterator[ImageBindVectorStore]:
        with ImageBindVectorStore.open(tmp_path, ImageBindEmbeddings(assistant=assistant)) as store:
            yield store
