"""LangChain's own tests of embeddings, as they are."""

from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_ibllm import ImageBindEmbeddings


class TestImageBindEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[ImageBindEmbeddings]:
        return ImageBindEmbeddings


class TestImageBindEmbeddingsIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[ImageBindEmbeddings]:
        return ImageBindEmbeddings
