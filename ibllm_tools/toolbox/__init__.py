"""What an agent may do with media, in one place; LangChain, LlamaIndex and MCP each hand it on in their own form."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibllm_tools.toolbox.arguments import (
        AskAttachmentArguments,
        DescribeAttachmentArguments,
        IndexMediaArguments,
        ListMediaArguments,
        SearchMediaArguments,
    )
    from ibllm_tools.toolbox.results import MediaListing, SearchResult
    from ibllm_tools.toolbox.texts import answer_text, listing_text, report_text, search_text
    from ibllm_tools.toolbox.toolbox import Toolbox

_HOMES = {
    "AskAttachmentArguments": "arguments",
    "DescribeAttachmentArguments": "arguments",
    "IndexMediaArguments": "arguments",
    "ListMediaArguments": "arguments",
    "MediaListing": "results",
    "SearchMediaArguments": "arguments",
    "SearchResult": "results",
    "Toolbox": "toolbox",
    "answer_text": "texts",
    "listing_text": "texts",
    "report_text": "texts",
    "search_text": "texts",
}

__all__ = [
    "AskAttachmentArguments",
    "DescribeAttachmentArguments",
    "IndexMediaArguments",
    "ListMediaArguments",
    "MediaListing",
    "SearchMediaArguments",
    "SearchResult",
    "Toolbox",
    "answer_text",
    "listing_text",
    "report_text",
    "search_text",
]


def __getattr__(name: str) -> Any:
    """Import the file that holds a public name when it is first used; the toolbox alone brings torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
