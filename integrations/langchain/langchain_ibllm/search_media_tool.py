"""The tool that finds media in the library."""

from typing import Any

from ibllm_tools.toolbox.arguments import SearchMediaArguments
from langchain_ibllm.conversation_attachments import SEARCH, ConversationAttachments
from langchain_ibllm.media_tool import MediaTool, Runtime, described


class SearchMediaInput(SearchMediaArguments):
    """The arguments, and the agent's run."""

    runtime: Runtime


class SearchMediaTool(MediaTool):
    """Finds media in the library, by words, by examples or by both; its artifact is a `SearchResult`.

    ``SearchResult.model_validate(message.artifact)`` gives it back. The content of the message has a line per source,
    ``1. dog.wav@0.0-3.0s (audio, score 0.91): It is a dog. <id>``, and the id is what the other tools take.
    """

    name: str = SEARCH
    description: str = described(SearchMediaArguments)
    args_schema: Any = SearchMediaInput

    def _result(self, conversation: ConversationAttachments, **arguments: Any) -> tuple[str, dict[str, Any]]:
        from ibllm_tools.toolbox import search_text

        examples = [conversation.resolved(item) for item in arguments.pop("attachments", ())]
        result = self._toolbox.search_media(attachments=examples, **arguments)
        return search_text(result), result.model_dump(mode="json")
