"""The three tools over one model and one library."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.tools import BaseTool, BaseToolkit
from pydantic import PrivateAttr

from ibllm_tools.attachments import AttachmentStore, Roots
from langchain_ibllm.ask_attachment_tool import AskAttachmentTool
from langchain_ibllm.describe_attachment_tool import DescribeAttachmentTool
from langchain_ibllm.search_media_tool import SearchMediaTool

if TYPE_CHECKING:
    from ibllm_tools import Assistant, MediaLibrary
    from ibllm_tools.toolbox import Toolbox


class ImageBindToolkit(BaseToolkit):
    """Tools with which an agent hears, watches and looks.

    It fails closed, because a language model chooses what is opened: without roots no path is, and no URL is fetched
    unless the access of an assistant that is passed allows it. Handles, attachments of the conversation and what the
    library holds are always open.

    Args:
        assistant: the model, by name or folder, whose weights are shared within the process; or an assistant.
        library: what can be searched; a folder is opened, and there must be a library. It may be left out.
        store: where ``att://`` handles are looked up, a folder or a store; that of the assistant by default.
        roots: folder or folders that paths must lie in; those of the assistant by default, and otherwise none.

    Raises:
        IbllmError: the model cannot be loaded, the library cannot be opened or was filled with another encoder.

    Example:
        >>> tools = ImageBindToolkit(library="library", roots="media").get_tools()
    """

    _toolbox: "Toolbox" = PrivateAttr()

    def __init__(
        self,
        assistant: "Assistant | str | Path" = "mini",
        *,
        library: "MediaLibrary | str | Path | None" = None,
        store: AttachmentStore | str | Path | None = None,
        roots: Roots = None,
    ) -> None:
        from ibllm_tools.toolbox import Toolbox

        super().__init__()
        kept = AttachmentStore(store) if isinstance(store, str | Path) else store
        answering = _assistant(assistant, kept, roots)
        self._toolbox = Toolbox(answering, _library(library, answering))

    @property
    def toolbox(self) -> "Toolbox":
        """What does the work."""
        return self._toolbox

    def get_tools(self) -> list[BaseTool]:
        """``ask_attachment`` and ``describe_attachment``, and ``search_media`` where there is a library."""
        toolbox = self._toolbox
        tools: list[BaseTool] = [AskAttachmentTool(toolbox=toolbox), DescribeAttachmentTool(toolbox=toolbox)]
        return tools if toolbox.library is None else [*tools, SearchMediaTool(toolbox=toolbox)]


def _assistant(assistant: Any, store: AttachmentStore | None, roots: Roots) -> "Assistant":
    from ibllm_tools import Access, Assistant
    from ibllm_tools.assistant.shared import shared_assistant, with_access

    given = assistant.access if isinstance(assistant, Assistant) else Access()
    allowed = given.roots if roots is None else roots
    access = replace(given, store=given.store if store is None else store, roots=() if allowed is None else allowed)
    if isinstance(assistant, Assistant):
        return with_access(assistant, access)
    return shared_assistant(assistant, access=access)


def _library(library: Any, assistant: "Assistant") -> "MediaLibrary | None":
    from ibllm_tools import MediaLibrary

    if library is None or isinstance(library, MediaLibrary):
        return library
    return MediaLibrary.open(library, embedder=assistant.embedder, captioner=assistant, create=False)
