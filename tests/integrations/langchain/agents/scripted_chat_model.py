"""A language model that reads text and calls tools, by rules instead of weights."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

HANDLE = re.compile(r"att://[0-9a-f]{64}")
FOUND = re.compile(r"^1\. .*<(\S+)>$", re.MULTILINE)


class ScriptedChatModel(BaseChatModel):
    """Decides by what it reads, so it answers only where the chain before it holds.

    It looks into the library where it is asked to, asks about the first hit or about the last handle that it was shown,
    and answers with what the tool said. It can call only what it was told that there is.
    """

    read: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.read.append(messages)
        return ChatResult(generations=[ChatGeneration(message=self._said(messages, kwargs.get("tools", [])))])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        message = self._generate(messages, **kwargs).generations[0].message
        assert isinstance(message, AIMessage)
        for word in re.findall(r"\S+\s*", message.text) or [""]:
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        if message.tool_calls:
            calls = [
                {"name": call["name"], "args": call["args"], "id": call["id"], "type": "tool_call"}
                for call in message.tool_calls
            ]
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_calls=calls))

    def _said(self, messages: list[BaseMessage], tools: list[dict[str, Any]]) -> AIMessage:
        known = {tool["function"]["name"] for tool in tools}
        last, question = messages[-1], _question(messages)
        if isinstance(last, ToolMessage) and last.name == "search_media":
            hit = FOUND.search(str(last.content))
            return self._call(known, "ask_attachment", question="What is it?", attachments=[hit[1]] if hit else [])
        if isinstance(last, ToolMessage):
            return AIMessage(f"The tool says: {last.text}")
        if "library" in question:
            return self._call(known, "search_media", query=question.partition(":")[2])
        named = re.findall(r"\b\w+\.(?:wav|png|glb)\b", question) if "named" in question else []
        handles = named or [handle for message in messages for handle in HANDLE.findall(message.text)]
        if not handles:
            return AIMessage("I was shown no attachment.")
        return self._call(known, "ask_attachment", question="What is making this sound?", attachments=handles[-1:])

    def _call(self, known: set[str], name: str, **arguments: Any) -> AIMessage:
        assert name in known
        call = {"name": name, "args": arguments, "id": f"call-{len(self.read)}", "type": "tool_call"}
        return AIMessage("", tool_calls=[call])


def _question(messages: list[BaseMessage]) -> str:
    human = [message for message in messages if message.type == "human"]
    content = human[-1].content
    return content if isinstance(content, str) else str(content[0]["text"])  # type: ignore[index]
