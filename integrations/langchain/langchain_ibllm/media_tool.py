"""What the three tools have in common: the toolbox behind them, the conversation around them, errors as one line."""

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from langchain_core.tools import BaseTool, InjectedToolArg, ToolException
from pydantic import BaseModel, Field, PrivateAttr

from ibllm_tools.errors import IbllmError, one_line
from langchain_ibllm.conversation_attachments import ConversationAttachments

if TYPE_CHECKING:
    from ibllm_tools.toolbox import Toolbox

ERROR_CHARS = 600

Runtime = Annotated[Any, InjectedToolArg, Field(default=None, exclude=True)]
"""What an agent says of its run to a tool; no model sees it or can pass it, and without an agent there is none.

``ToolNode`` fills a field of this name with its ``ToolRuntime``. That class is langgraph's, which langchain-core does
without; the marker alone keeps the field out of the schema. It is left out of dumps, which would copy the whole state.
"""


class MediaTool(BaseTool):
    """A tool of a toolbox. It may be called from several threads at once; ``ainvoke`` does not block the event loop.

    The content of its message is a short text with citations, the artifact the whole result as JSON holds it, which
    every checkpointer can store.

    What cannot be done (a file that is damaged, a handle that nothing is kept under, a path outside the roots) is
    the tool's answer, in one line and with ``status="error"``, so that the model can try something else; with
    ``handle_tool_error=False`` it raises ToolException. Other exceptions are faults, and are raised.

    Args:
        toolbox: what does the work, and says what may be opened.
        settings: any other field of a LangChain tool.
    """

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True
    _toolbox: "Toolbox" = PrivateAttr()

    def __init__(self, toolbox: "Toolbox", **settings: Any) -> None:
        super().__init__(**settings)
        self._toolbox = toolbox

    @abstractmethod
    def _result(self, conversation: ConversationAttachments, **arguments: Any) -> tuple[str, dict[str, Any]]:
        """The text and the artifact."""

    def _run(self, runtime: Annotated[Any, InjectedToolArg] = None, **arguments: Any) -> tuple[str, dict[str, Any]]:
        conversation = ConversationAttachments(_messages(runtime), self._toolbox.assistant.access)
        try:
            return self._result(conversation, **arguments)
        except IbllmError as error:
            raise ToolException(one_line(error, ERROR_CHARS)) from error


def described(arguments: type[BaseModel]) -> str:
    """The description of a tool, which is the docstring of its arguments."""
    return inspect.cleandoc(arguments.__doc__ or "")


def _messages(runtime: Any) -> Sequence[Any]:
    """The messages of the state, whether that is a mapping, a list or a model."""
    state = getattr(runtime, "state", None)
    messages = state.get("messages") if isinstance(state, dict) else getattr(state, "messages", state)
    return messages if isinstance(messages, list | tuple) else ()
