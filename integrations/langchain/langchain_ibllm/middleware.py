"""Attachments of a conversation as handles, for language models that read text."""

import asyncio
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage, ToolMessage

from ibllm_tools.attachments import AttachmentStore, Roots
from ibllm_tools.errors import InvalidRequestError, MissingExtraError
from langchain_ibllm.attachment_intake import AttachmentIntake
from langchain_ibllm.toolkit import ImageBindToolkit

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain.agents.middleware.types import AgentState
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "langchain":
        raise
    raise MissingExtraError("AttachmentMiddleware", "langchain", "agents") from error

if TYPE_CHECKING:
    from langgraph.runtime import Runtime

    from ibllm_tools import Assistant, MediaLibrary

MAX_ATTACHMENTS = 16


class AttachmentMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Lets any agent of ``create_agent`` hear, watch and look, whichever language model drives it.

    Images, sounds, videos and 3D models that come as blocks of human and tool messages are kept in a store, and the
    model reads in their place what they are and how they are called::

        [attachment bell.wav (audio, 3.0 s): It is a bell. att://<sha256>]

    A megabyte of base64 would cost it 250,000 tokens. The tools that come with the middleware take the handle, and
    see the original. The messages of the state are rewritten, under the same ids, so that checkpoints hold handles too
    (but for the one with which a run begins: with ``durability="exit"`` that is not written).

    What cannot be used, such as a damaged file, a PDF or a URL that may not be fetched, is named with the reason: left
    as it is, it would end the run with a model that reads text. Text files, files that another provider keeps, and
    everything else stay as they are. Put it first among the middleware: what comes before it sees the content.

    Args:
        assistant: the model, by name or folder, or an assistant; as in `ImageBindToolkit`.
        library: what the agent can search; none by default.
        store: where the content is kept, a folder or a store; the assistant's, or a temporary one that goes with the
            process. A conversation that is to outlive the process needs a folder.
        roots: folder or folders that paths in messages and in calls must lie in; none by default, so none is opened.
        caption: whether the model reads in a sentence what an attachment is. Each content is captioned once.
        max_attachments: the most that are taken from one message; the others are named as left out.

    Attributes:
        store: where the content is kept.
        tools: those of `ImageBindToolkit`, which the agent gets.

    Raises:
        InvalidRequestError: ``max_attachments`` is not positive.
        IbllmError: as `ImageBindToolkit`.
        MissingExtraError: on import, where langchain is not installed.

    Example:
        >>> agent = create_agent("anthropic:claude-sonnet-4-5", middleware=[AttachmentMiddleware()])
    """

    def __init__(
        self,
        assistant: "Assistant | str | Path" = "mini",
        *,
        library: "MediaLibrary | str | Path | None" = None,
        store: AttachmentStore | str | Path | None = None,
        roots: Roots = None,
        caption: bool = True,
        max_attachments: int = MAX_ATTACHMENTS,
    ) -> None:
        super().__init__()
        if max_attachments < 1:
            raise InvalidRequestError(f"max_attachments={max_attachments}, expected at least 1")
        if isinstance(store, str | Path):
            store = AttachmentStore(store)
        self.store = store if store is not None else _store_of(assistant) or _temporary_store()
        toolkit = ImageBindToolkit(assistant, library=library, store=self.store, roots=roots)
        self.tools = toolkit.get_tools()
        self._intake = AttachmentIntake(
            toolkit.toolbox.assistant, self.store, caption=caption, max_attachments=max_attachments
        )

    def before_model(self, state: AgentState[Any], runtime: "Runtime[Any]") -> dict[str, Any] | None:
        """The messages that hold attachments, rewritten; nothing where none does.

        Raises:
            StoreError: the store cannot be written to.
        """
        said = [item for item in state["messages"] if isinstance(item, HumanMessage | ToolMessage)]
        rewritten = self._intake.rewritten(said)
        return {"messages": rewritten} if rewritten else None

    async def abefore_model(self, state: AgentState[Any], runtime: "Runtime[Any]") -> dict[str, Any] | None:
        """:meth:`before_model` without blocking the event loop."""
        return await asyncio.to_thread(self.before_model, state, runtime)


def _store_of(assistant: Any) -> AttachmentStore | None:
    store = getattr(getattr(assistant, "access", None), "store", None)
    return store if isinstance(store, AttachmentStore) else None


def _temporary_store() -> AttachmentStore:
    """A store whose folder is removed when nobody holds the store any more."""
    folder = tempfile.mkdtemp(prefix="ibllm-attachments-")
    store = AttachmentStore(folder)
    weakref.finalize(store, shutil.rmtree, folder, ignore_errors=True)
    return store
