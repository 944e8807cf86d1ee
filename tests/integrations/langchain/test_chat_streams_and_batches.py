"""The chat model of LangChain: streams, the event loop, batches, LangChain's cache."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from chat_messages import Recorder, asked, encoded
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from ibllm_tools import Assistant
from ibllm_tools.errors import (
    InvalidRequestError,
    UnsupportedMediaError,
)
from langchain_ibllm import ChatImageBindLLM

# ---- streams and the event loop


def test_the_pieces_of_a_stream_are_the_answer(chat: ChatImageBindLLM, media: Path) -> None:
    messages = [asked("What is this?", type="image", url=str(media / "car.png"))]
    whole = chat.invoke(messages)
    pieces = list(chat.stream(messages))
    assert len(pieces) > 2
    assert [piece.chunk_position for piece in pieces] == [None] * (len(pieces) - 1) + ["last"]
    assert all(piece.usage_metadata is None for piece in pieces[:-1])
    total = sum(pieces[1:], pieces[0])
    assert isinstance(total, AIMessageChunk)
    assert (total.text, total.usage_metadata) == (whole.text, whole.usage_metadata)
    assert total.response_metadata == whole.response_metadata


async def test_the_async_answers_are_the_same(chat: ChatImageBindLLM, media: Path) -> None:
    messages = [asked("What is this?", type="image", url=str(media / "car.png"))]
    whole = chat.invoke(messages)
    alone = await chat.ainvoke(messages)
    assert (alone.text, alone.response_metadata) == (whole.text, whole.response_metadata)
    assert "".join([piece.text async for piece in chat.astream(messages)]) == whole.text


def test_callbacks_see_tokens_of_calls_where_that_is_wanted(media: Path) -> None:
    class Tokens(BaseCallbackHandler):
        seen: ClassVar[list[str]] = []

        def on_llm_new_token(self, token: str, **_: Any) -> None:
            self.seen.append(token)

    quiet = ChatImageBindLLM().invoke("What is a bell?", {"callbacks": [Tokens()]})
    assert Tokens.seen == []
    message = ChatImageBindLLM(streaming=True).invoke("What is a bell?", {"callbacks": [Tokens()]})
    assert len(Tokens.seen) > 2
    assert "".join(Tokens.seen) == message.text == quiet.text


class Endless:
    """A model that writes until it is stopped, and says when it began and when it was."""

    def __init__(self, generate: Any) -> None:
        self.generate, self.begun, self.stopped = generate, threading.Event(), threading.Event()

    def __call__(self, *args: Any, stopping_criteria: Any, **options: Any) -> Any:
        self.begun.set()
        began = time.monotonic()
        while not any(bool(each(options["input_ids"], None).all()) for each in stopping_criteria):
            assert time.monotonic() - began < 30
            options["streamer"].text_queue.put("ding ")
            time.sleep(0.01)
        self.stopped.set()
        return self.generate(*args, **{**options, "streamer": None}, stopping_criteria=stopping_criteria)


@pytest.fixture
def endless(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> Endless:
    model = Endless(assistant.model.generate)
    monkeypatch.setattr(assistant.model, "generate", model)
    return model


def test_leaving_a_stream_stops_the_model(chat: ChatImageBindLLM, endless: Endless) -> None:
    stream = chat.stream("What is a bell?")
    assert next(stream).text == "ding"
    stream.close()
    assert endless.stopped.wait(10)


async def test_leaving_an_async_stream_stops_the_model(chat: ChatImageBindLLM, endless: Endless) -> None:
    stream = chat.astream("What is a bell?")
    assert (await anext(stream)).text == "ding"
    await stream.aclose()
    assert await asyncio.to_thread(endless.stopped.wait, 10)


async def test_cancelling_a_call_stops_the_model(chat: ChatImageBindLLM, endless: Endless) -> None:
    task = asyncio.create_task(chat.ainvoke("What is a bell?"))
    assert await asyncio.to_thread(endless.begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(endless.stopped.wait, 10)


async def test_the_event_loop_is_not_blocked(
    chat: ChatImageBindLLM, assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, generate = threading.Event(), threading.Event(), assistant.model.generate

    def waiting(*args: Any, **options: Any) -> Any:
        begun.set()
        assert go.wait(20)  # only a loop that runs meanwhile lets it go
        return generate(*args, **options)

    monkeypatch.setattr(assistant.model, "generate", waiting)

    async def read() -> None:
        async for _ in chat.astream("What is a bell?"):
            pass

    for work in (chat.ainvoke("What is a bell?"), read(), chat.abatch(["What is a bell?", "What is a car?"])):
        begun.clear()
        go.clear()
        task = asyncio.ensure_future(work)
        assert await asyncio.to_thread(begun.wait, 20)
        go.set()
        await task


# ---- batches


def test_a_batch_is_one_call_of_the_model(chat: ChatImageBindLLM, media: Path, generated: list[int]) -> None:
    inputs = [
        [asked("What is this?", type="image", url=str(media / "car.png"))],
        [asked("What is making this sound?", type="audio", url=str(media / "bell.wav"))],
        "What is the use of a bell?",
    ]
    alone = [chat.invoke(value) for value in inputs]
    del generated[:]
    together = chat.batch(inputs)
    assert generated == [3]
    assert [message.text for message in together] == [message.text for message in alone]
    assert [message.response_metadata["evidence"] for message in together] == [
        message.response_metadata["evidence"] for message in alone
    ]


async def test_an_async_batch_is_one_call_of_the_model(chat: ChatImageBindLLM, generated: list[int]) -> None:
    questions = [f"What is the use of a {thing}?" for thing in ("bell", "car", "guitar", "duck")]
    messages = await chat.abatch(questions)
    assert generated == [4]
    assert [message.text for message in messages] == [chat.invoke(question).text for question in questions]


def test_large_batches_go_in_groups(generated: list[int]) -> None:
    chat = ChatImageBindLLM(batch_size=4, max_tokens=2)
    assert len(chat.batch(["What is a bell?"] * 10)) == 10
    assert generated == [4, 4, 2]
    del generated[:]
    chat.batch(["What is a bell?"] * 4, {"max_concurrency": 2})
    assert generated == [2, 2]
    assert chat.batch([]) == []
    with pytest.raises(InvalidRequestError, match="max_concurrency=-1, expected at least 1"):
        chat.batch(["What is a bell?"], {"max_concurrency": -1})


def test_a_chain_batches_too(chat: ChatImageBindLLM, generated: list[int]) -> None:
    chain = ChatPromptTemplate.from_template("What is the use of a {thing}?") | chat | StrOutputParser()
    assert len(chain.batch([{"thing": "bell"}, {"thing": "car"}])) == 2
    assert generated == [2]


def test_one_bad_input_does_not_harm_the_others(chat: ChatImageBindLLM, media: Path, generated: list[int]) -> None:
    inputs: list[Any] = [
        "What is the use of a bell?",
        [asked("What is this?", type="image", url=str(media / "bell.wav"))],
        [asked("What is this?", type="something_new")],
        [AIMessage("no question")],
        "What is the use of a car?",
    ]
    recorder = Recorder()
    outputs = chat.batch(inputs, {"callbacks": [recorder]}, return_exceptions=True)
    assert [type(output) for output in outputs] == [
        AIMessage,
        UnsupportedMediaError,
        InvalidRequestError,
        InvalidRequestError,
        AIMessage,
    ]
    assert generated == [2]
    assert (recorder.started, len(recorder.ended), len(recorder.failed)) == (5, 2, 3)
    with pytest.raises(UnsupportedMediaError):
        chat.batch(inputs[:2])


async def test_one_bad_input_does_not_harm_the_others_async(chat: ChatImageBindLLM, generated: list[int]) -> None:
    inputs: list[Any] = ["What is a bell?", [AIMessage("no question")], "What is a car?"]
    outputs = await chat.abatch(inputs, return_exceptions=True)
    assert [type(output) for output in outputs] == [AIMessage, InvalidRequestError, AIMessage]
    assert generated == [2]
    with pytest.raises(InvalidRequestError):
        await chat.abatch(inputs)


def test_models_that_callbacks_ask_do_not_disturb_a_batch(chat: ChatImageBindLLM, generated: list[int]) -> None:
    class Asking(BaseCallbackHandler):
        raise_error = True

        def on_chat_model_start(self, serialized: Any, messages: Any, **_: Any) -> None:
            ChatImageBindLLM(max_tokens=2).invoke("What is a duck?")

    questions = ["What is the use of a bell?", "What is the use of a car?"]
    outputs = chat.batch(questions, {"callbacks": [Asking()]})
    assert sorted(generated) == [1, 1, 2]
    assert [message.text for message in outputs] == [chat.invoke(question).text for question in questions]


def test_what_is_wrong_with_all_of_a_batch_is_said_of_each(chat: ChatImageBindLLM) -> None:
    outputs = chat.batch(["What is a bell?", "What is a car?"], return_exceptions=True, stop=[""])
    assert [type(output) for output in outputs] == [InvalidRequestError] * 2


# ---- LangChain's cache


def test_equal_requests_are_answered_from_the_cache(media: Path, generated: list[int]) -> None:
    chat = ChatImageBindLLM(roots=media, cache=InMemoryCache())
    bell, car = (
        [asked("What is this?", type="image", base64=encoded(media / name), mime_type="image/png")]
        for name in ("bell.png", "car.png")
    )
    first = chat.invoke(bell)
    assert chat.invoke(bell).text == first.text
    assert generated == [1]
    assert "car" in chat.invoke(car).text
    assert generated == [1, 1]
    chat.batch([bell, car, "What is a bell?", "What is a car?"])
    assert generated == [1, 1, 2]
    chat.invoke(bell, temperature=0.0)
    assert len(generated) == 4


def test_models_and_settings_do_not_share_answers(assistant: Assistant, generated: list[int]) -> None:
    cache = InMemoryCache()
    for chat in (
        ChatImageBindLLM(cache=cache),
        ChatImageBindLLM(cache=cache, max_tokens=3),
        ChatImageBindLLM(cache=cache, visual_cache=True, temperature=0.0),
        ChatImageBindLLM(cache=cache, assistant=assistant),
        ChatImageBindLLM(cache=cache, assistant=assistant),
    ):
        chat.invoke("What is a bell?")
        chat.invoke("What is a bell?")
    assert generated == [1] * 5
