"""The tool that finds media in the library."""

from collections.abc import Sequence
from typing import Any

from ibllm_tools.media.sniff import Modality
from ibllm_tools.toolbox.arguments import SearchMediaArguments
from langchain_ibllm.conversation_attachments import SEARCH
from langchain_ibllm.media_tool import MediaTool, Runtime, WithRuntime, described


class SearchMediaInput(WithRuntime, SearchMediaArguments):
    """The arguments, and the agent's run."""


class SearchMediaTool(MediaTool):
    """Finds media in the library, by words, by examples or by both; its artifact is a `SearchResult`.

    ``SearchResult.model_validate(message.artifact)`` gives it back. The content of the message has a line per source,
    ``1. dog.wav@0.0-3.0s (audio): It is a dog. <id>``, and the id is what the other tools take.
    """

    name: str = SEARCH
    description: str = described(SearchMediaArguments)
    args_schema: Any = SearchMediaInput

    def _run(
        self,
        query: str | None = None,
        attachments: Sequence[str] = (),
        k: int = 5,
        modality: Sequence[Modality] | None = None,
        tags: Sequence[str] | None = None,
        min_score: float | None = None,
        runtime: Runtime = None,
    ) -> tuple[str, dict[str, Any]]:
        from ibllm_tools.toolbox import search_text

        conversation = self._conversation(runtime)
        with self._in_one_line():
            result = self.toolbox.search_media(
                query,
                [conversation.resolved(item) for item in attachments],
                k=k,
                modality=modality,
                tags=tags,
                min_score=min_score,
            )
        return search_text(result), result.model_dump(mode="json")
