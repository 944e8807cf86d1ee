"""The server: the five tools and the library's resources, over one toolbox."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import mcp_types
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceError, ToolError, UnexpectedToolError

from ibllm_mcp import resources
from ibllm_mcp.lazy_toolbox import LazyToolbox
from ibllm_mcp.outward import Outward
from ibllm_mcp.progress import ProgressBridge
from ibllm_mcp.tools import TOOLS, MediaTool
from ibllm_tools.errors import IbllmError, InvalidRequestError, one_line

if TYPE_CHECKING:
    from ibllm_tools.assistant.assistant import Assistant
    from ibllm_tools.attachments import Roots
    from ibllm_tools.library import MediaLibrary
    from ibllm_tools.toolbox import Toolbox

WORKERS = 4
"""Calls that are worked on at a time; others wait, for each may take a model's memory."""

INSTRUCTIONS = """\
Hear, watch and look. An attachment is named by an att:// handle, by the id of a search hit (then only that part of \
it is meant), or by a file path{where}. Answers and hits carry citations such as bell.wav@0.0-2.0s: quote them."""
PLACE_OF_PATHS, NO_PATHS = ", relative to an allowed folder", " (no folder is allowed)"

T = TypeVar("T")


class MediaServer(MCPServer[None]):
    """An MCP server with the tools of `ibllm_tools.toolbox`; made by :func:`create_server`.

    It is an ``MCPServer`` like any other: more tools and resources can be added to it, and it can be mounted or run
    over every transport of the SDK.

    Args:
        toolbox: what the tools call; it is loaded when the first client connects.
        roots: folders that clients may name files in; none by default. The toolbox's access must have the same.
        has_library: whether there is a library, without which there are tools to ask and to describe alone.
        read_only: leaves out the tool that changes the library.
        allow_fetch: whether the toolbox's access fetches URLs.
        name: what clients call the server.
    """

    def __init__(
        self,
        toolbox: LazyToolbox,
        *,
        roots: Sequence[str | Path] = (),
        has_library: bool = True,
        read_only: bool = False,
        allow_fetch: bool = False,
        name: str = "ibllm",
    ) -> None:
        self.toolbox, self.allow_fetch = toolbox, allow_fetch
        self.outward = Outward(resolved(roots))
        self.media_tools = {
            tool.name: tool
            for tool in TOOLS
            if (has_library or not tool.needs_library) and not (read_only and tool.writes)
        }
        # not anyio's threads: a call that is cancelled leaves them to the next while its work still goes on
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="ibllm-mcp")
        super().__init__(
            name,
            title="ImageBind-LLM",
            instructions=INSTRUCTIONS.format(where=PLACE_OF_PATHS if roots else NO_PATHS),
            version=version("ibllm-tools"),
            log_level="WARNING",
            lifespan=_load_meanwhile,  # type: ignore[arg-type]  # it takes any server; the SDK wants this very class
        )

    def close(self) -> None:
        """Give back the model and the library, as far as the server has opened them. Closing twice does nothing."""
        self.toolbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def list_tools(self) -> list[mcp_types.Tool]:
        """The media tools, then those that were added."""
        own = [tool.listed(open_world=self.allow_fetch) for tool in self.media_tools.values()]
        return own + await super().list_tools()

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: "Context[Any, Any] | None" = None
    ) -> mcp_types.CallToolResult | mcp_types.InputRequiredResult:
        """Call a tool.

        Raises:
            ToolError: what was handed in cannot be used; one line says why.
            UnexpectedToolError: anything else went wrong, of which the client learns no more; it is logged.
        """
        tool = self.media_tools.get(name)
        if tool is None:
            return await super().call_tool(name, arguments, context)
        try:
            result = await self._called(tool, tool.checked(arguments), context)
            if tool.writes and context is not None:
                await context.notify_resources_changed()
            return result
        except IbllmError as error:
            raise ToolError(self.outward.line(str(error))) from error
        except Exception as error:
            raise UnexpectedToolError(f"{name}: failed for a reason that is in the server's log") from error

    async def list_resources(self) -> list[mcp_types.Resource]:
        """The first sources of the library, then the resources that were added.

        Raises:
            MCPError: the library cannot be opened or read.
        """
        try:
            own = await self._in_worker(lambda: resources.listed(self.toolbox.get()))
        except IbllmError as error:
            raise MCPError(mcp_types.INTERNAL_ERROR, self.outward.line(str(error))) from error
        return own + await super().list_resources()

    async def list_resource_templates(self) -> list[mcp_types.ResourceTemplate]:
        """The addresses of sources and thumbnails, then the templates that were added."""
        return [*resources.TEMPLATES, *await super().list_resource_templates()]

    async def read_resource(
        self, uri: Any, context: "Context[Any, Any] | None" = None
    ) -> Iterable[ReadResourceContents] | mcp_types.InputRequiredResult:
        """The content of a resource.

        Raises:
            ResourceNotFoundError: it is not in the library, or has gone.
            ResourceError: it is too large, or the library cannot be read.
        """
        if not str(uri).startswith("media://"):
            return await super().read_resource(uri, context)
        try:
            return [await self._in_worker(lambda: resources.read(self.toolbox.get(), str(uri)))]
        except IbllmError as error:
            raise ResourceError(self.outward.line(str(error))) from error

    async def _called(
        self, tool: MediaTool, arguments: dict[str, Any], context: "Context[Any, Any] | None"
    ) -> mcp_types.CallToolResult:
        if context is not None and not self.toolbox.is_loaded:
            await context.report_progress(0, message="loading the model")
        with ProgressBridge(context) as bridge:
            return await self._in_worker(partial(self._work, tool, arguments, bridge))

    def _work(self, tool: MediaTool, arguments: dict[str, Any], bridge: ProgressBridge) -> mcp_types.CallToolResult:
        toolbox = self.toolbox.get()
        bridge.require_wanted()
        if tool.writes:
            arguments["progress"] = bridge.tell
        result = getattr(toolbox, tool.name)(**arguments)
        text = mcp_types.TextContent(text=self.outward.text(tool.text(result)))
        return mcp_types.CallToolResult(
            content=[text, *resources.links(toolbox, result)],
            structured_content=self.outward.result(result).model_dump(mode="json"),
        )

    async def _in_worker(self, work: Callable[[], T]) -> T:
        """Off the event loop. A call that is cancelled returns at once; its work goes on to where it can stop."""
        return await asyncio.wrap_future(self._workers.submit(copy_context().run, work))


def create_server(
    assistant: "Assistant | str" = "mini",
    *,
    library: "MediaLibrary | str | Path | None" = None,
    roots: "Roots" = (),
    read_only: bool = False,
    allow_fetch: bool = False,
    name: str = "ibllm",
) -> MediaServer:
    """A server for other programs: run it over a transport, mount it, or connect ``mcp.Client`` to it in memory.

    Args:
        assistant: answers; or the model that is loaded for it, as `Assistant.load` takes it, when a client connects.
        library: what is searched and listed; or the folder or server that it is opened from, and made where there is
            none. Without it there are tools to ask and to describe alone.
        roots: folder or folders that clients may name files in; by default none, so that only handles, data URIs and
            what is in the library can be used. The roots of the assistant's own access do not count.
        read_only: leaves out the tool that changes the library; nothing is made where there is no library.
        allow_fetch: whether URLs are fetched.
        name: what clients call the server.

    Raises:
        MissingExtraError: the SDK is not installed.
        InvalidRequestError: ``roots`` is None, which would be every file; or a root is no folder.

    Example:
        >>> with create_server(library="library", roots=["media"]) as server:
        ...     async with mcp.Client(server) as client:
        ...         await client.call_tool("describe_attachment", {"attachment": "bell.wav"})
    """
    if roots is None:
        raise InvalidRequestError("roots=None would allow every file, expected folders; pass roots=[] to allow none")
    folders = resolved([roots] if isinstance(roots, str | Path) else roots)
    toolbox = LazyToolbox(
        partial(_load, assistant, library, folders, read_only=read_only, allow_fetch=allow_fetch),
        lambda loaded: _close(loaded, assistant, library),
    )
    return MediaServer(
        toolbox,
        roots=folders,
        has_library=library is not None,
        read_only=read_only,
        allow_fetch=allow_fetch,
        name=name,
    )


def resolved(roots: Sequence[str | Path]) -> list[Path]:
    """The folders, resolved.

    Raises:
        InvalidRequestError: one is no folder, and would allow nothing.
    """
    folders = []
    for root in roots:
        try:
            folder = Path(root).expanduser().resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidRequestError(f"root {one_line(root)}: no such folder; check the path") from error
        if not folder.is_dir():
            raise InvalidRequestError(f"root {one_line(root)}: not a folder; pass the folder that it is in")
        folders.append(folder)
    return folders


@asynccontextmanager
async def _load_meanwhile(server: MediaServer) -> AsyncIterator[None]:
    server.toolbox.begin()
    yield


def _load(
    assistant: "Assistant | str",
    library: "MediaLibrary | str | Path | None",
    roots: Sequence[Path],
    *,
    read_only: bool,
    allow_fetch: bool,
) -> "Toolbox":
    from ibllm_tools.assistant.access import Access
    from ibllm_tools.assistant.assistant import Assistant
    from ibllm_tools.library import MediaLibrary
    from ibllm_tools.toolbox import Toolbox

    answering = Assistant.load(assistant) if isinstance(assistant, str) else assistant
    if isinstance(library, str | Path):
        library = MediaLibrary.open(
            library,
            embedder=answering.embedder,
            captioner=answering,
            limits=answering.access.limits,
            create=not read_only,
        )
    own = answering.access
    access = Access(roots=list(roots), store=own.store, limits=own.limits, allow_fetch=allow_fetch)
    return Toolbox(answering, library, access=access)


def _close(loaded: "Toolbox", assistant: "Assistant | str", library: "MediaLibrary | str | Path | None") -> None:
    """Close what was opened here; what was handed in is its owner's."""
    if isinstance(library, str | Path) and loaded.library is not None:
        loaded.library.close()
    if isinstance(assistant, str):
        loaded.assistant.close()
