"""ImageBind's joint space as embeddings of LlamaIndex."""

from ibllm_tools.errors import MissingExtraError

try:
    from llama_index.embeddings.ibllm.base import ImageBindEmbedding
except ModuleNotFoundError as error:
    if not str(error.name).startswith("llama_index.core"):
        raise
    raise MissingExtraError("ImageBindEmbedding", "llama_index.core", "llama-index") from error

__all__ = ["ImageBindEmbedding"]
