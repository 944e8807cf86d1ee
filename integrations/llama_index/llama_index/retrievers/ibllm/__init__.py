"""A media library as a retriever and a query engine of LlamaIndex."""

from ibllm_tools.errors import MissingExtraError

try:
    from llama_index.retrievers.ibllm.base import ImageBindRetriever
    from llama_index.retrievers.ibllm.query_engine import ImageBindQueryEngine
    from llama_index.retrievers.ibllm.synthesizer import ImageBindSynthesizer
except ModuleNotFoundError as error:
    if not str(error.name).startswith("llama_index.core"):
        raise
    raise MissingExtraError("ImageBindRetriever", "llama_index.core", "llama-index") from error

__all__ = ["ImageBindQueryEngine", "ImageBindRetriever", "ImageBindSynthesizer"]
