"""ImageBind-LLM as an LLM of LlamaIndex."""

from ibllm_tools.errors import MissingExtraError

try:
    from llama_index.llms.ibllm.base import ImageBindLLM
except ModuleNotFoundError as error:
    if not str(error.name).startswith("llama_index.core"):
        raise
    raise MissingExtraError("ImageBindLLM", "llama_index.core", "llama-index") from error

__all__ = ["ImageBindLLM"]
