"""Ask about attachments and get answers with evidence: the one flow that every face uses."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibllm_tools.assistant.access import Access
    from ibllm_tools.assistant.answer import Answer, Evidence, Question, Usage
    from ibllm_tools.assistant.assistant import Assistant
    from ibllm_tools.assistant.embedding import JointEmbedder
    from ibllm_tools.assistant.streaming import AnswerStream

_HOMES = {
    "Access": "access",
    "Answer": "answer",
    "AnswerStream": "streaming",
    "Assistant": "assistant",
    "Evidence": "answer",
    "JointEmbedder": "embedding",
    "Question": "answer",
    "Usage": "answer",
}

__all__ = ["Access", "Answer", "AnswerStream", "Assistant", "Evidence", "JointEmbedder", "Question", "Usage"]


def __getattr__(name: str) -> Any:
    """Import the file that holds a public name when it is first used; torch and transformers take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
