"""What the three tools have in common: the toolbox behind them, the conversation around them, errors as one line."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from langchain_core.tools import BaseTool, InjectedToolArg, ToolException
from pydantic import BaseModel, Field, field_validator

from ibllm_tools.errors import IbllmError, one_line
from langchain_ibllm.conversation_attachments import ConversationAttachments

if TYPE_CHECKING:
    from ibllm_tools.toolbox import Toolbox

ERROR_CHARS = 600

Runtime = Annotated[Any, InjectedToolArg]
"""What an agent says of its run to a tool: langgraph's ``ToolRuntime``, which langchain-core does without.

An agent gives it to whatever has a field named ``runtime``; the marker keeps it out of the schema that models see, and
what they pass under this name away from the tool. Without an agent there is none.
"""


class WithRuntime(BaseModel):
    """The field that the agent's run comes in; it is left out of dumps, which would copy the whole state."""

    runtime: Runtime = Field(default=None, exclude=True)


class MediaTool(BaseTool):
    """A tool of a toolbox. It may be called from several threads at once; ``ainvoke`` does not block the event loop.

    The content of its message is a short text with citations, the artifact the whole result as JSON holds it, which
    every checkpointer can store.

    What cannot be done (a file that is damaged, a handle that nothing is kept under, a path outside the roots) is
    the tool's answer, in one line and with ``status="error"``, so that the model can try something else; with
    ``handle_tool_error=False`` it raises ToolException. Other exceptions are faults, and are raised.

    Attributes:
        toolbox: a `Toolbox`, which does the work and says what may be opened.
    """

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True
    toolbox: Any = Field(exclude=True, repr=False)

    @field_validator("toolbox")
    @classmethod
    def _checked(cls, toolbox: Any) -> "Toolbox":
        from ibllm_tools.toolbox import Toolbox

        if not isinstance(toolbox, Toolbox):
            raise ValueError(f"toolbox of type {type(toolbox).__name__}, expected a Toolbox; see ImageBindToolkit")
        return toolbox

    def _conversation(self, runtime: Any) -> ConversationAttachments:
        """The attachments of the agent's conversation; none without an agent."""
        return ConversationAttachments(_messages(runtime), self.toolbox.access)

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        try:
            yield
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
