"""The tool spec: ask about attachments, describe them, search the media library, list it and add to it."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.core.tools.tool_spec.base import SPEC_FUNCTION_TYPE, BaseToolSpec
from pydantic import BaseModel

from ibllm_tools.errors import InvalidRequestError, one_line
from ibllm_tools.toolbox.arguments import (
    AskAttachmentArguments,
    DescribeAttachmentArguments,
    IndexMediaArguments,
    ListMediaArguments,
    SearchMediaArguments,
)
from llama_index.llms.ibllm.model_settings import ModelSettings
from llama_index.tools.ibllm.media_tool import MediaTool

if TYPE_CHECKING:
    from ibllm_tools.assistant.answer import Answer
    from ibllm_tools.assistant.assistant import Assistant
    from ibllm_tools.library import IndexReport, MediaLibrary
    from ibllm_tools.toolbox import MediaListing, SearchResult, Toolbox

_ARGUMENTS: dict[str, type[BaseModel]] = {
    "ask_attachment": AskAttachmentArguments,
    "describe_attachment": DescribeAttachmentArguments,
    "search_media": SearchMediaArguments,
    "list_media": ListMediaArguments,
    "index_media": IndexMediaArguments,
}
_TEXTS = {
    "ask_attachment": "answer_text",
    "describe_attachment": "answer_text",
    "search_media": "search_text",
    "list_media": "listing_text",
    "index_media": "report_text",
}


class ImageBindToolSpec(BaseToolSpec):
    """Lets an agent hear, watch and look, whichever LLM drives it.

    The agent names attachments by ``att://`` handle, by the id of a search hit, or by a path below the roots. It reads
    a short text with citations (``It is a bell. [bell.wav@0.0-3.0s]``); the ``raw_output`` of a `ToolOutput` is the
    result with its evidence. What goes wrong is said in the text, with ``is_error``.

    ``search_media`` and ``list_media`` are among the tools where there is a library, ``index_media`` where it may be
    written to.

    Args:
        library: what is searched, filled with the assistant's encoder.
        assistant: answers; by default made of the settings when it is first needed. It opens no more for the agent than
            the settings say.
        writable: whether the agent may add files to the library.
        settings: which model, and what may be opened, as in `ImageBindLLM`: nothing but data URIs and what is in the
            library by default, ``roots=["media"]`` for paths, ``attachments="store"`` for handles.

    Example:
        >>> tools = ImageBindToolSpec(library, roots=["media"]).to_tool_list()
        >>> FunctionAgent(tools=tools, llm=llm)
    """

    def __init__(
        self,
        library: "MediaLibrary | None" = None,
        *,
        assistant: "Assistant | None" = None,
        writable: bool = False,
        **settings: Any,
    ) -> None:
        self._settings, self._library = ModelSettings(assistant, **settings), library
        self._lock = Lock()
        self._made: Toolbox | None = None
        searching = ["search_media", "list_media"] if library is not None else []
        writing = ["index_media"] if library is not None and writable else []
        self.spec_functions = ["ask_attachment", "describe_attachment", *searching, *writing]

    def ask_attachment(
        self,
        question: str,
        attachments: Sequence[str] = (),
        weights: Sequence[float] | None = None,
        search_library: bool = False,
    ) -> "Answer":
        """Answer a question about attachments, or about what the library holds; see `Toolbox.ask_attachment`."""
        return self.toolbox.ask_attachment(question, attachments, weights=weights, search_library=search_library)

    def describe_attachment(self, attachment: str) -> "Answer":
        """Say what an attachment is; see `Toolbox.describe_attachment`."""
        return self.toolbox.describe_attachment(attachment)

    def search_media(self, query: str | None = None, **arguments: Any) -> "SearchResult":
        """Find sources of the library; see `Toolbox.search_media`."""
        return self.toolbox.search_media(query, **arguments)

    def list_media(self, **arguments: Any) -> "MediaListing":
        """A page of the library's sources; see `Toolbox.list_media`."""
        return self.toolbox.list_media(**arguments)

    def index_media(self, paths: Sequence[str], **arguments: Any) -> "IndexReport":
        """Add files and folders to the library; see `Toolbox.index_media`."""
        return self.toolbox.index_media(paths, **arguments)

    @property
    def toolbox(self) -> "Toolbox":
        """What the tools are made of, with the model loaded.

        Raises:
            EncoderMismatchError: the library was filled with another encoder.
            IbllmError: as `Assistant.load`.
        """
        from ibllm_tools.toolbox import Toolbox

        with self._lock:
            if self._made is None:
                self._made = Toolbox(self._settings.assistant, self._library)
            return self._made

    def get_fn_schema_from_fn_name(
        self, fn_name: str, spec_functions: list[SPEC_FUNCTION_TYPE] | None = None
    ) -> type[BaseModel] | None:
        """The arguments of a tool."""
        return _ARGUMENTS.get(fn_name)

    def get_metadata_from_fn_name(
        self, fn_name: str, spec_functions: list[SPEC_FUNCTION_TYPE] | None = None
    ) -> ToolMetadata | None:
        """Name, description and arguments of a tool, as every face of ibllm-tools has them."""
        schema = _ARGUMENTS.get(fn_name)
        if schema is None:
            return None
        return ToolMetadata(name=fn_name, description=schema.__doc__ or "", fn_schema=schema)

    def to_tool_list(
        self,
        spec_functions: list[SPEC_FUNCTION_TYPE] | None = None,
        func_to_metadata_mapping: dict[str, ToolMetadata] | None = None,
    ) -> list[FunctionTool]:
        """The tools, for agents that call them at once or asynchronously.

        Args:
            spec_functions: names of some; all by default.
            func_to_metadata_mapping: other names and descriptions, by the function's name.

        Raises:
            InvalidRequestError: a tool that there is not.
        """
        return [
            self._tool(name, (func_to_metadata_mapping or {}).get(str(name)))
            for name in spec_functions or self.spec_functions
        ]

    def _tool(self, name: SPEC_FUNCTION_TYPE, metadata: ToolMetadata | None) -> FunctionTool:
        if name not in self.spec_functions or not isinstance(name, str):
            raise InvalidRequestError(
                f"no tool {one_line(name)!r}, expected some of {', '.join(map(str, self.spec_functions))}"
            )
        return MediaTool(
            fn=getattr(self, name),
            metadata=metadata or self.get_metadata_from_fn_name(name),
            callback=_reader(_TEXTS[name]),
        )


def _reader(name: str) -> Callable[[Any], str]:
    """The function that makes a short text of a result."""

    def read(result: Any) -> str:
        from ibllm_tools import toolbox

        return str(getattr(toolbox, name)(result))

    return read
