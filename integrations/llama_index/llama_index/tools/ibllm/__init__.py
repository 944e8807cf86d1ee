"""What an agent may do with media, as tools of LlamaIndex."""

from ibllm_tools.errors import MissingExtraError

try:
    from llama_index.tools.ibllm.base import ImageBindToolSpec
except ModuleNotFoundError as error:
    if not str(error.name).startswith("llama_index.core"):
        raise
    raise MissingExtraError("ImageBindToolSpec", "llama_index.core", "llama-index") from error

__all__ = ["ImageBindToolSpec"]
