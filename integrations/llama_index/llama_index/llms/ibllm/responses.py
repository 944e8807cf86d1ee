"""Answers, whole or as they are written, as responses of LlamaIndex."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    MessageRole,
)

from ibllm_tools.assistant.answer import Answer

if TYPE_CHECKING:
    from ibllm_tools.assistant.streaming import AnswerStream


class _Written(NamedTuple):
    """How far an answer is; the last one of a stream is complete, and has no piece."""

    text: str
    piece: str
    answer: Answer | None


def details(answer: Answer) -> dict[str, Any]:
    """What a response says besides its text: evidence, its citations, why it ended, and tokens."""
    usage = answer.usage
    return {
        "evidence": [{**piece.model_dump(mode="json"), "citation": piece.citation} for piece in answer.evidence],
        "citations": list(dict.fromkeys(piece.citation for piece in answer.evidence)),
        "finish_reason": answer.finish_reason,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def chat_response(answer: Answer, piece: str | None = None) -> ChatResponse:
    """A complete answer; its details are no part of the message, which may go on to other models."""
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, content=answer.text),
        delta=piece,
        raw=answer.model_dump(mode="json"),
        additional_kwargs=details(answer),
    )


def completion_response(answer: Answer, piece: str | None = None) -> CompletionResponse:
    """A complete answer."""
    return CompletionResponse(
        text=answer.text, delta=piece, raw=answer.model_dump(mode="json"), additional_kwargs=details(answer)
    )


def chat_responses(stream: "AnswerStream") -> ChatResponseGen:
    """A response per piece, and a last one with the details. Leaving early stops the model."""
    with closing(_written(stream)) as written:
        for item in written:
            yield _chat(item)


def completion_responses(stream: "AnswerStream") -> CompletionResponseGen:
    """As :func:`chat_responses`."""
    with closing(_written(stream)) as written:
        for item in written:
            yield _completion(item)


async def achat_responses(stream: "AnswerStream") -> ChatResponseAsyncGen:
    """As :func:`chat_responses`, without blocking the event loop."""
    async with aclosing(_awritten(stream)) as written:
        async for item in written:
            yield _chat(item)


async def acompletion_responses(stream: "AnswerStream") -> CompletionResponseAsyncGen:
    """As :func:`chat_responses`, without blocking the event loop."""
    async with aclosing(_awritten(stream)) as written:
        async for item in written:
            yield _completion(item)


def answer_pieces(stream: "AnswerStream") -> Generator[str, None, None]:
    """The pieces of an answer. Leaving early stops the model."""
    with stream:
        yield from stream


async def aanswer_pieces(stream: "AnswerStream") -> AsyncGenerator[str, None]:
    """As :func:`answer_pieces`, without blocking the event loop."""
    try:
        while (piece := await asyncio.to_thread(next, stream, None)) is not None:
            yield piece
    finally:
        stream.stop()


def _written(stream: "AnswerStream") -> Generator[_Written, None, None]:
    text = ""
    with closing(answer_pieces(stream)) as pieces:
        for piece in pieces:
            text += piece
            yield _Written(text, piece, None)
    yield _Written(text, "", stream.answer)


async def _awritten(stream: "AnswerStream") -> AsyncGenerator[_Written, None]:
    text = ""
    async with aclosing(aanswer_pieces(stream)) as pieces:
        async for piece in pieces:
            text += piece
            yield _Written(text, piece, None)
    yield _Written(text, "", stream.answer)


def _chat(item: _Written) -> ChatResponse:
    if item.answer is not None:
        return chat_response(item.answer, item.piece)
    return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=item.text), delta=item.piece)


def _completion(item: _Written) -> CompletionResponse:
    if item.answer is not None:
        return completion_response(item.answer, item.piece)
    return CompletionResponse(text=item.text, delta=item.piece)
