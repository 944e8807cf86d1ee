"""The tools as MCP lists and takes them: the arguments, results and texts are those of `ibllm_tools.toolbox`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mcp_types
from pydantic import BaseModel, ValidationError

from ibllm_tools.assistant.answer import Answer
from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.library import IndexReport
from ibllm_tools.toolbox import (
    AskAttachmentArguments,
    DescribeAttachmentArguments,
    IndexMediaArguments,
    ListMediaArguments,
    MediaListing,
    SearchMediaArguments,
    SearchResult,
    answer_text,
    listing_text,
    report_text,
    search_text,
)
from ibllm_tools.toolbox.arguments import problems


@dataclass(frozen=True, kw_only=True)
class MediaTool:
    """One of the tools.

    Attributes:
        name: of the tool, and of the method of `Toolbox` that it calls.
        title: for people.
        arguments: what it takes; the docstring describes the tool.
        result: its structured content.
        text: the result as the short text that a language model reads.
        needs_library: whether it makes no sense without a library.
        writes: whether it changes the library.
    """

    name: str
    title: str
    arguments: type[BaseModel]
    result: type[BaseModel]
    text: Callable[[Any], str]
    needs_library: bool = True
    writes: bool = False

    def listed(self, *, open_world: bool) -> mcp_types.Tool:
        """As ``tools/list`` has it.

        Args:
            open_world: whether it may fetch URLs.
        """
        return mcp_types.Tool(
            name=self.name,
            title=self.title,
            description=self.arguments.__doc__,
            input_schema=self.arguments.model_json_schema(),
            output_schema=self.result.model_json_schema(mode="serialization"),
            annotations=mcp_types.ToolAnnotations(
                title=self.title,
                read_only_hint=not self.writes,
                destructive_hint=False,
                idempotent_hint=True,
                open_world_hint=open_world,
            ),
        )

    def checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the toolbox's method.

        Raises:
            InvalidRequestError: they are not those of the input schema.
        """
        try:
            model = self.arguments.model_validate({key: self._unquoted(key, arguments[key]) for key in arguments})
        except ValidationError as error:
            raise InvalidRequestError(f"{self.name}: {problems(error)}; see its input schema") from error
        return {field: getattr(model, field) for field in self.arguments.model_fields}

    def _unquoted(self, key: str, value: Any) -> Any:
        """A list that a client has sent as text: some do so with every one."""
        field = self.arguments.model_fields.get(key)
        if field is None or field.annotation is str or not isinstance(value, str) or not value.startswith("["):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value


TOOLS = (
    MediaTool(
        name="ask_attachment",
        title="Ask about media",
        arguments=AskAttachmentArguments,
        result=Answer,
        text=answer_text,
        needs_library=False,
    ),
    MediaTool(
        name="describe_attachment",
        title="Describe media",
        arguments=DescribeAttachmentArguments,
        result=Answer,
        text=answer_text,
        needs_library=False,
    ),
    MediaTool(
        name="search_media",
        title="Search the media library",
        arguments=SearchMediaArguments,
        result=SearchResult,
        text=search_text,
    ),
    MediaTool(
        name="index_media",
        title="Add to the media library",
        arguments=IndexMediaArguments,
        result=IndexReport,
        text=report_text,
        writes=True,
    ),
    MediaTool(
        name="list_media",
        title="List the media library",
        arguments=ListMediaArguments,
        result=MediaListing,
        text=listing_text,
    ),
)
