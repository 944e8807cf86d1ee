"""What an agent may do with media, in one place; LangChain, LlamaIndex and MCP each hand it on in their own form."""

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
