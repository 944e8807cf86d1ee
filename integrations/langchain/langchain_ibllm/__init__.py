"""ImageBind-LLM for LangChain: chat model, embeddings, retriever, vector store, tools and middleware.

The public names are imported on first use, so ``import langchain_ibllm`` loads neither torch nor chromadb.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_ibllm.ask_attachment_tool import AskAttachmentTool
    from langchain_ibllm.chat_models import ChatImageBindLLM
    from langchain_ibllm.describe_attachment_tool import DescribeAttachmentTool
    from langchain_ibllm.embeddings import ImageBindEmbeddings
    from langchain_ibllm.llms import ImageBindLLM
    from langchain_ibllm.middleware import AttachmentMiddleware
    from langchain_ibllm.retrievers import ImageBindRetriever
    from langchain_ibllm.search_media_tool import SearchMediaTool
    from langchain_ibllm.toolkit import ImageBindToolkit
    from langchain_ibllm.vectorstores import ImageBindVectorStore

_HOMES = {
    "AskAttachmentTool": "ask_attachment_tool",
    "AttachmentMiddleware": "middleware",
    "ChatImageBindLLM": "chat_models",
    "DescribeAttachmentTool": "describe_attachment_tool",
    "ImageBindEmbeddings": "embeddings",
    "ImageBindLLM": "llms",
    "ImageBindRetriever": "retrievers",
    "ImageBindToolkit": "toolkit",
    "ImageBindVectorStore": "vectorstores",
    "SearchMediaTool": "search_media_tool",
}

_PACKAGES = ("langchain", "langchain_core")
_EXTRAS = {"AttachmentMiddleware": "agents"}
"""Of names that need more than the extra langchain brings."""

__all__ = [
    "AskAttachmentTool",
    "AttachmentMiddleware",
    "ChatImageBindLLM",
    "DescribeAttachmentTool",
    "ImageBindEmbeddings",
    "ImageBindLLM",
    "ImageBindRetriever",
    "ImageBindToolkit",
    "ImageBindVectorStore",
    "SearchMediaTool",
]


def __getattr__(name: str) -> Any:
    """Import the file that holds a public name when it is first used.

    Raises:
        MissingExtraError: LangChain is not installed.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _PACKAGES:
            raise
        from ibllm_tools.errors import MissingExtraError

        raise MissingExtraError(f"{__name__}.{name}", missing, _EXTRAS.get(name, "langchain")) from error


def __dir__() -> list[str]:
    return __all__
