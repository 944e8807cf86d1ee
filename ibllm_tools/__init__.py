"""Let an agent hear, watch and look: ImageBind-LLM as a composable plugin.

The public names are imported on first use, so ``import ibllm_tools`` loads neither torch nor chromadb. The auto classes
of transformers know ours from now on.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ibllm_tools.auto_classes import register_with_transformers

if TYPE_CHECKING:
    from ibllm_tools.assistant.access import Access
    from ibllm_tools.assistant.answer import Answer, Evidence, Question, Usage
    from ibllm_tools.assistant.assistant import Assistant
    from ibllm_tools.assistant.embedding import JointEmbedder
    from ibllm_tools.assistant.streaming import AnswerStream
    from ibllm_tools.attachments import Attachment, AttachmentStore
    from ibllm_tools.errors import IbllmError
    from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
    from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel
    from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor
    from ibllm_tools.imagebind_llm.configuration_imagebind_llm import ImageBindLlmConfig
    from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration
    from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor
    from ibllm_tools.library import Entry, Hit, IndexReport, MediaLibrary
    from ibllm_tools.media.limits import Limits
    from ibllm_tools.store.embedder import Embedder
    from ibllm_tools.store.visual_cache import VisualCache

    __version__: str

_HOMES = {
    "Access": "assistant.access",
    "Answer": "assistant.answer",
    "AnswerStream": "assistant.streaming",
    "Assistant": "assistant.assistant",
    "Attachment": "attachments",
    "AttachmentStore": "attachments",
    "Embedder": "store.embedder",
    "Entry": "library",
    "Evidence": "assistant.answer",
    "Hit": "library",
    "IbllmError": "errors",
    "ImageBindConfig": "imagebind.configuration_imagebind",
    "ImageBindLlmConfig": "imagebind_llm.configuration_imagebind_llm",
    "ImageBindLlmForConditionalGeneration": "imagebind_llm.modeling_imagebind_llm",
    "ImageBindLlmProcessor": "imagebind_llm.processing_imagebind_llm",
    "ImageBindModel": "imagebind.modeling_imagebind",
    "ImageBindProcessor": "imagebind.processing_imagebind",
    "IndexReport": "library",
    "JointEmbedder": "assistant.embedding",
    "Limits": "media.limits",
    "MediaLibrary": "library",
    "Question": "assistant.answer",
    "Usage": "assistant.answer",
    "VisualCache": "store.visual_cache",
}

__all__ = [
    "Access",
    "Answer",
    "AnswerStream",
    "Assistant",
    "Attachment",
    "AttachmentStore",
    "Embedder",
    "Entry",
    "Evidence",
    "Hit",
    "IbllmError",
    "ImageBindConfig",
    "ImageBindLlmConfig",
    "ImageBindLlmForConditionalGeneration",
    "ImageBindLlmProcessor",
    "ImageBindModel",
    "ImageBindProcessor",
    "IndexReport",
    "JointEmbedder",
    "Limits",
    "MediaLibrary",
    "Question",
    "Usage",
    "VisualCache",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import the file that holds a public name when it is first used; the version is that of the installation."""
    if name == "__version__":
        from importlib.metadata import version

        return version("ibllm-tools")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


register_with_transformers()
