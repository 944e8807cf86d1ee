"""Language models that follow a script, in place of the large one that drives an agent or a router."""

import json
import re
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool
from pydantic import Field


class ScriptedLLM(CustomLLM):
    """Chooses query engines, asks them sub-questions, and repeats what they answered."""

    sub_questions: dict[str, str] = Field(default_factory=dict)
    choice: int = 1

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=self._reply(prompt))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        yield self.complete(prompt)

    def _reply(self, prompt: str) -> str:
        if "Some choices are given below" in prompt:
            return json.dumps([{"choice": self.choice, "reason": "it is about sounds"}])
        if "relevant sub-questions" in prompt:
            items = [{"sub_question": text, "tool_name": tool} for tool, text in self.sub_questions.items()]
            return f"```json\n{json.dumps({'items': items})}\n```"
        return " ".join(re.findall(r"^Response: (.+)$", prompt, re.MULTILINE)) or "I was told nothing."


class ScriptedAgentLLM(FunctionCallingLLM):
    """Calls a tool with the handle that it reads in the conversation, then says what the tool said."""

    tool: str = "ask_attachment"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted", is_function_calling_model=True, is_chat_model=True)

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        last = messages[-1]
        if last.role == MessageRole.TOOL:
            return _said(f"I listened. {last.content}")
        read = "\n".join(message.content or "" for message in messages)
        handle = re.search(r"att://[0-9a-f]{64}|[^\s]+\.wav", read)
        if handle is None:
            return _said("What shall I listen to?")
        arguments = {"question": "What is making this sound?", "attachments": [handle[0]]}
        call = {"id": "call-1", "name": self.tool, "arguments": arguments}
        return _said("", calls=[call])

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self.chat(messages)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        return [
            ToolSelection(tool_id=call["id"], tool_name=call["name"], tool_kwargs=call["arguments"])
            for call in response.message.additional_kwargs.get("calls", [])
        ]

    def _prepare_chat_with_tools(
        self, tools: Sequence[BaseTool], chat_history: list[ChatMessage] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        assert self.tool in {tool.metadata.name for tool in tools}
        return {"messages": chat_history or []}

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        async def one() -> ChatResponseAsyncGen:
            yield self.chat(messages)

        return one()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        raise NotImplementedError

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        raise NotImplementedError


def _said(text: str, **additional: Any) -> ChatResponse:
    return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=text, additional_kwargs=additional))
