"""What a face of LangChain asks an assistant: one question, several together, or one whose answer is read live."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ibllm_tools.assistant.answer import Answer, Question
from ibllm_tools.errors import IbllmError
from langchain_ibllm.gathering import seat_of

if TYPE_CHECKING:
    from ibllm_tools.assistant.assistant import Assistant
    from ibllm_tools.assistant.streaming import AnswerStream


@dataclass(frozen=True)
class Request:
    """A question, and how it is answered.

    Attributes:
        assistant: who is asked.
        question: the question; its attachments may not be opened yet.
        options: further arguments of ``Assistant.ask_batch``, the same for every question that is answered with it.
    """

    assistant: "Assistant"
    question: Question
    options: Mapping[str, Any] = field(default_factory=dict)

    def open_stream(self) -> "AnswerStream":
        """The answer, to be read while it is written; raises as ``Assistant.stream``."""
        return self.assistant.stream(
            self.question.text, *self.question.attachments, context=self.question.context, **self.options
        )


def ask(owner: object, request: Request) -> Answer:
    """The answer to one request, together with those of the batch that it belongs to.

    Args:
        owner: who asks, see :class:`~langchain_ibllm.gathering.Gathering`.
        request: what is asked.

    Raises:
        IbllmError: why there is no answer.
    """
    seat = seat_of(owner)
    return _answer(ask_together([request])[0] if seat is None else seat.ask(request))


async def aask(owner: object, request: Request) -> Answer:
    """`ask` without blocking the event loop. Where nobody waits any more, a model that answers one question stops."""
    seat = seat_of(owner)
    if seat is not None:
        return _answer(await seat.aask(request))
    stream = await asyncio.to_thread(request.open_stream)
    try:
        return await asyncio.to_thread(_read, stream)
    finally:
        stream.stop()


def ask_together(requests: Sequence[Request]) -> list[Answer | IbllmError]:
    """In the place of each request its answer or the error; those that differ in nothing but the question at once."""
    groups: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(_kind(request), []).append(place)
    answers: dict[int, Answer | IbllmError] = {}
    for places in groups.values():
        answers.update(zip(places, _ask_alike([requests[place] for place in places]), strict=True))
    return [answers[place] for place in range(len(requests))]


async def read_aside(stream: "AnswerStream") -> AsyncIterator[str]:
    """The pieces of a stream, read in a thread."""
    while (piece := await asyncio.to_thread(next, stream, None)) is not None:
        yield piece


def _ask_alike(requests: Sequence[Request]) -> Sequence[Answer | IbllmError]:
    first = requests[0]
    try:
        return first.assistant.ask_batch(
            [request.question for request in requests], batch_size=len(requests), **first.options
        )
    except IbllmError as error:  # of what they have in common
        return [error] * len(requests)


def _kind(request: Request) -> str:
    options = {key: value if _is_json(value) else id(value) for key, value in request.options.items()}
    return json.dumps([id(request.assistant.model), options], sort_keys=True)


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _read(stream: "Iterator[str] | AnswerStream") -> Answer:
    for _ in stream:
        pass
    return stream.answer  # type: ignore[union-attr]


def _answer(answer: Any) -> Answer:
    if isinstance(answer, IbllmError):
        raise answer
    assert isinstance(answer, Answer)
    return answer
