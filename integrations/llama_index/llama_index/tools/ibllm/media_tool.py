"""A tool whose arguments are checked and whose errors an agent can read."""

from collections.abc import Mapping
from typing import Any

from llama_index.core.tools import FunctionTool, ToolOutput
from pydantic import BaseModel, ValidationError

from ibllm_tools.errors import IbllmError, InvalidRequestError, one_line
from ibllm_tools.toolbox.arguments import problems


class MediaTool(FunctionTool):
    """A `FunctionTool` that a wrong call does not crash: the output says what is wrong, with ``is_error``.

    Arguments are checked against the tool's schema; a single positional one is the schema's first. The content of the
    output is a short text, the ``raw_output`` the result.
    """

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """Check the arguments and call the function."""
        try:
            return super().call(**self._checked(args, kwargs))
        except IbllmError as error:
            return self._failed(error, kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        """:meth:`call` without blocking the event loop."""
        try:
            return await super().acall(**self._checked(args, kwargs))
        except IbllmError as error:
            return self._failed(error, kwargs)

    def _checked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        schema = self.metadata.fn_schema or BaseModel
        try:
            arguments = schema.model_validate({**dict(zip(schema.model_fields, args, strict=False)), **kwargs})
        except ValidationError as error:
            raise InvalidRequestError(f"{problems(error)}; call {self.metadata.name} again") from error
        return dict(arguments)

    def _failed(self, error: IbllmError, kwargs: Mapping[str, Any]) -> ToolOutput:
        return ToolOutput(
            content=f"Error: {one_line(error, 800)}",
            tool_name=self.metadata.get_name(),
            raw_input=dict(kwargs),
            raw_output=str(error),
            is_error=True,
            exception=error,
        )
