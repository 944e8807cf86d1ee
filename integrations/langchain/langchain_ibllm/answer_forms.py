"""What an answer is to look like: words, JSON of a schema, or the call of a tool.

The last two are ways of decoding, not of asking: whatever the model knows, the JSON parses and validates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.json_schema import dereference_refs

from ibllm_tools.errors import InvalidRequestError, one_line

Tool = Mapping[str, Any]
"""A tool as ``convert_to_openai_tool`` describes it."""
NAME, ARGUMENTS = "name", "arguments"


@dataclass(frozen=True)
class AnswerForm:
    """The form of one answer.

    Attributes:
        kind: words, JSON, or a call.
        schema: what is decoded, unless words are.
        note: what the model is told of it.
    """

    kind: Literal["text", "json", "call"] = "text"
    schema: Mapping[str, Any] | None = None
    note: str = ""


def as_tools(given: Sequence[Any]) -> list[Tool]:
    """Anything that LangChain takes for a tool, described.

    Raises:
        InvalidRequestError: a tool that the caller does not run, such as a provider's search, or one without a name.
        ValueError: what LangChain takes for no tool.
    """
    described: list[Tool] = [convert_to_openai_tool(tool) for tool in given]
    for tool in described:
        function = tool.get("function")
        said = function if isinstance(function, Mapping) else {}
        if not isinstance(said.get("name"), str) or not isinstance(said.get("parameters"), Mapping | None):
            raise InvalidRequestError(f"tool {one_line(tool)}, expected a function with a name and parameters")
    return described


def choose_form(
    tools: Sequence[Tool],
    tool_choice: str | None,
    response_format: Mapping[str, Any] | None,
    *,
    answered: bool,
    shown: bool,
) -> AnswerForm:
    """The form of the next answer.

    Args:
        tools: what may be called.
        tool_choice: ``"any"``, the name of a tool, ``"none"``; or ``None`` for "auto": a tool is called when there is
            nothing to look at and no tool has answered the question yet.
        response_format: ``{"type": "json_schema", "json_schema": {"schema": ...}}`` for what is no call.
        answered: whether a tool has answered the question.
        shown: whether the question has attachments.

    Raises:
        InvalidRequestError: no such tool, or no such format.
    """
    if tool_choice is not None and tool_choice not in ("any", "none"):
        return AnswerForm("call", _call(_named(tools, tool_choice)["function"]))
    if tools and (tool_choice == "any" or (tool_choice is None and not answered and not shown)):
        return AnswerForm("call", {"anyOf": [_call(tool["function"]) for tool in tools]}, listed(tools))
    if response_format is None:
        return AnswerForm()
    return AnswerForm("json", _schema_of(response_format))


def checked_choice(choice: str | bool | Mapping[str, Any] | None, tools: Sequence[Tool]) -> str | None:
    """A ``tool_choice`` of LangChain or OpenAI as "any", "none", a tool's name, or ``None`` for "auto".

    Raises:
        InvalidRequestError: neither of them.
    """
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        choice = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(choice, str):
            raise InvalidRequestError("tool_choice without the name of a tool, expected {'function': {'name': ...}}")
    if choice in (None, "auto"):
        return None
    if choice in (True, "any", "required"):
        if not tools:
            raise InvalidRequestError(f"tool_choice={choice!r} without tools; bind some")
        return "any"
    if choice in (False, "none"):
        return "none"
    return str(_named(tools, str(choice))["function"]["name"])


def _named(tools: Sequence[Tool], name: str) -> Tool:
    for tool in tools:
        if tool["function"]["name"] == name:
            return tool
    known = ", ".join(str(tool["function"]["name"]) for tool in tools)
    raise InvalidRequestError(
        f"tool_choice {one_line(name)!r}, expected 'auto', 'any', 'required', 'none' or one of the tools: "
        f"{known or 'there are none'}"
    )


def listed(tools: Sequence[Tool]) -> str:
    """What the model is told of several tools."""
    lines = (f"- {tool['function']['name']}: {tool['function'].get('description', '')}" for tool in tools)
    return "\n".join(("Tools to call:", *lines))


def _call(function: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of a call of a tool."""
    # A reference of a tool's own schema would point into nothing once the schema lies within another one.
    arguments = dereference_refs(dict(function.get("parameters") or {"type": "object", "properties": {}}))
    arguments.pop("$defs", None)
    return {
        "type": "object",
        "properties": {NAME: {"const": function["name"]}, ARGUMENTS: arguments},
        "required": [NAME, ARGUMENTS],
        "additionalProperties": False,
    }


def _schema_of(response_format: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(response_format, Mapping):
        raise InvalidRequestError(
            f"response_format {one_line(response_format)}, expected a mapping; with_structured_output takes classes"
        )
    kind, described = response_format.get("type"), response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema" or not isinstance(schema, Mapping):
        raise InvalidRequestError(
            f"response_format of type {one_line(kind)!r}, expected {{'type': 'json_schema', 'json_schema': "
            "{'schema': ...}}"
        )
    return schema
