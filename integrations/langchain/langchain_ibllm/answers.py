"""Answers of an assistant -> messages of LangChain."""

import json
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call, tool_call_chunk

from ibllm_tools.assistant.answer import Answer
from langchain_ibllm.answer_forms import ARGUMENTS, NAME, AnswerForm

PROVIDER = "ibllm"


def as_message(answer: Answer, form: AnswerForm) -> AIMessage:
    """An answer as a message; a call is among its ``tool_calls``."""
    said: dict[str, Any] = {"response_metadata": metadata(answer), "usage_metadata": usage(answer)}
    if form.kind != "call":
        return AIMessage(answer.text, **said)
    call = json.loads(answer.text)
    return AIMessage("", tool_calls=[tool_call(name=call[NAME], args=call[ARGUMENTS], id=_new_id())], **said)


def as_last_chunk(answer: Answer, form: AnswerForm) -> AIMessageChunk:
    """What ends a stream: usage and metadata, and a call, which comes whole."""
    said: dict[str, Any] = {"response_metadata": metadata(answer), "usage_metadata": usage(answer)}
    if form.kind == "call":
        call = json.loads(answer.text)
        arguments = json.dumps(call[ARGUMENTS], ensure_ascii=False)
        said["tool_call_chunks"] = [tool_call_chunk(name=call[NAME], args=arguments, id=_new_id(), index=0)]
    return AIMessageChunk(content="", chunk_position="last", **said)


def metadata(answer: Answer) -> dict[str, Any]:
    """Which model answered, why it ended, and the evidence with its citations, as plain JSON."""
    return {
        "model_name": answer.model,
        "model_provider": PROVIDER,
        "finish_reason": answer.finish_reason,
        "visual_cache": answer.cache,
        "evidence": [
            {**piece.model_dump(mode="json", exclude_none=True), "citation": piece.citation}
            for piece in answer.evidence
        ],
    }


def usage(answer: Answer) -> UsageMetadata:
    """Tokens read and written."""
    read, written = answer.usage.prompt_tokens, answer.usage.completion_tokens
    return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)


def _new_id() -> str:
    return f"call_{uuid4().hex}"
