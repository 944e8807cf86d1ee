"""The chat model of LangChain: media in messages, metadata, access, batches, streams, caches."""

import asyncio
import base64
import copy
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps, loads
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import LLMResult
from langchain_core.prompts import ChatPromptTemplate
from pydantic import ValidationError

from ibllm_tools import Access, Assistant, AttachmentStore, Limits, MediaLibrary
from ibllm_tools.assistant.answer import Evidence
from ibllm_tools.assistant.shared import with_access
from ibllm_tools.errors import (
    AttachmentAccessError,
    AttachmentNotFoundError,
    InvalidRequestError,
    LimitExceededError,
    ModelNotFoundError,
    UnsupportedMediaError,
)
from langchain_ibllm import ChatImageBindLLM


@pytest.fixture
def chat(assistant: Assistant, media: Path) -> ChatImageBindLLM:
    return ChatImageBindLLM(roots=media)


def asked(text: str, **block: Any) -> HumanMessage:
    return HumanMessage([{"type": "text", "text": text}, block] if block else text)


def encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


class Recorder(BaseCallbackHandler):
    """What LangChain told its callbacks."""

    def __init__(self) -> None:
        self.started, self.ended, self.failed = 0, [], []

    def on_chat_model_start(self, serialized: Any, messages: Any, **_: Any) -> None:
        self.started += 1

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        self.ended.append(response.generations[0][0].text)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self.failed.append(error)


# ---- what goes in and what comes out


def test_importing_the_package_and_the_class_loads_no_torch() -> None:
    code = (
        "import sys, langchain_ibllm; assert not {'torch', 'chromadb', 'langchain_core'} & set(sys.modules); "
        "langchain_ibllm.ChatImageBindLLM(); langchain_ibllm.ImageBindLLM; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_langchain_the_command_that_installs_it_is_said() -> None:
    code = (
        "import sys; sys.modules['langchain_core'] = None; import langchain_ibllm\n"
        "try: langchain_ibllm.ChatImageBindLLM\n"
        "except ImportError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told.strip().endswith("needs 'langchain_core', which is not installed: pip install 'ibllm-tools[langchain]'")


def test_a_sound_is_answered_and_cited(chat: ChatImageBindLLM, media: Path) -> None:
    message = chat.invoke([asked("What is making this sound?", type="audio", url=str(media / "bell.wav"))])
    assert "bell" in message.text
    said = message.response_metadata
    assert (said["model_name"], said["model_provider"], said["finish_reason"]) == ("mini", "ibllm", "stop")
    [evidence] = said["evidence"]
    assert evidence["citation"] == "bell.wav@0.0-3.0s"
    assert evidence["source"] == str(media / "bell.wav")
    assert Evidence.model_validate(evidence).end == 3
    assert message.usage_metadata is not None
    used = message.usage_metadata
    assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"] > 0


@pytest.mark.parametrize(
    ("block", "thing"),
    [
        ({"type": "image", "url": "car.png"}, "car"),
        ({"type": "video", "url": "helicopter.mp4"}, "helicopter"),
        ({"type": "file", "url": "duck.glb", "mime_type": "model/gltf-binary"}, "duck"),
        ({"type": "file", "url": "piano.obj", "mime_type": "model/obj"}, "piano"),
    ],
)
def test_every_modality_is_answered(chat: ChatImageBindLLM, media: Path, block: dict[str, str], thing: str) -> None:
    message = chat.invoke([asked("What is this?", **{**block, "url": str(media / block["url"])})])
    assert thing in message.text


@pytest.mark.parametrize("form", ["base64", "path", "file url", "data uri", "handle", "handle as url", "openai"])
def test_an_image_may_come_in_any_form(media: Path, tmp_path: Path, form: str) -> None:
    store = AttachmentStore(tmp_path / "store")
    handle = store.put(media / "bell.png")
    block = {
        "base64": {"type": "image", "base64": encoded(media / "bell.png"), "mime_type": "image/png"},
        "path": {"type": "image", "url": str(media / "bell.png")},
        "file url": {"type": "image", "url": (media / "bell.png").as_uri()},
        "data uri": {"type": "image", "url": f"data:image/png;base64,{encoded(media / 'bell.png')}"},
        "handle": {"type": "image", "file_id": handle},
        "handle as url": {"type": "image_url", "image_url": {"url": handle}},
        "openai": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(media / 'bell.png')}"}},
    }[form]
    message = ChatImageBindLLM(roots=media, attachments=store).invoke([asked("What is this?", **block)])
    assert "bell" in message.text
    assert message.response_metadata["evidence"][0]["handle"] == handle


def test_a_follow_up_is_about_what_was_shown_before(chat: ChatImageBindLLM, media: Path) -> None:
    first = asked("What is this?", type="image", url=str(media / "car.png"))
    answer = chat.invoke([first])
    again = chat.invoke([SystemMessage("Be brief."), first, answer, HumanMessage("What colour is it?")])
    assert "blue" in again.text
    assert [piece["name"] for piece in again.response_metadata["evidence"]] == ["car.png"]


def test_a_picture_that_a_tool_returned_is_looked_at(chat: ChatImageBindLLM, media: Path) -> None:
    messages: list[BaseMessage] = [
        HumanMessage("What is this?"),
        AIMessage("", tool_calls=[{"name": "random_image", "args": {}, "id": "1"}]),
        ToolMessage([{"type": "image", "url": str(media / "guitar.png")}], tool_call_id="1"),
    ]
    assert "guitar" in chat.invoke(messages).text


def test_a_long_conversation_loses_its_oldest_turns(chat: ChatImageBindLLM, media: Path) -> None:
    turns: list[BaseMessage] = [HumanMessage("What is the use of a bell?"), AIMessage("It rings.")] * 60
    message = chat.invoke([*turns, asked("What is this?", type="image", url=str(media / "car.png"))])
    assert message.usage_metadata is not None
    assert 100 < message.usage_metadata["input_tokens"] <= 192


def test_answers_are_grounded_in_a_library(assistant: Assistant, media: Path, tmp_path: Path) -> None:
    with MediaLibrary.open(tmp_path / "library", embedder=assistant.embedder) as library:
        library.add(media / "helicopter.mp4", media / "car.png")
    by_folder = ChatImageBindLLM(library=str(tmp_path / "library"), k=1)
    for message in (by_folder.invoke("a flying helicopter"), *by_folder.batch(["a flying helicopter"] * 2)):
        [evidence] = message.response_metadata["evidence"]
        assert (evidence["name"], evidence["modality"]) == ("helicopter.mp4", "video")
        assert evidence["caption"]
        assert 0 < evidence["score"] <= 1
    assert by_folder.cache is False


def test_handles_of_the_library_stand_for_what_it_keeps(assistant: Assistant, media: Path, tmp_path: Path) -> None:
    with MediaLibrary.open(tmp_path / "library", embedder=assistant.embedder) as library:
        library.add(media / "car.png")
        [entry] = library.list()
        chat = ChatImageBindLLM(library=library, k=1)
        message = chat.invoke([asked("What is this?", type="image", file_id=entry.handle)])
        assert "car" in message.text
        with pytest.raises(AttachmentNotFoundError):
            chat.invoke([asked("What is this?", type="image", file_id="att://" + "0" * 64)])


# ---- what may be opened


def test_no_path_is_opened_unless_roots_allow_it(media: Path, tmp_path: Path) -> None:
    escape = tmp_path / "escape.png"
    escape.symlink_to(media / "bell.png")
    path = str(media / "bell.png")
    for chat, url in (
        (ChatImageBindLLM(), path),
        (ChatImageBindLLM(), (media / "bell.png").as_uri()),
        (ChatImageBindLLM(roots=[]), path),
        (ChatImageBindLLM(roots=tmp_path), path),
        (ChatImageBindLLM(roots=tmp_path), str(escape)),
        (ChatImageBindLLM(roots=media), f"{media}/../media/../../README.md"),
    ):
        with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
            chat.invoke([asked("What is this?", type="image", url=url)])


def test_a_ready_assistant_opens_what_both_allow(assistant: Assistant, media: Path, tmp_path: Path) -> None:
    block = {"type": "image", "url": str(media / "bell.png")}
    assert assistant.access.roots is None
    with pytest.raises(AttachmentAccessError):
        ChatImageBindLLM(assistant=assistant).invoke([asked("What is this?", **block)])
    message = ChatImageBindLLM(assistant=assistant, roots=media).invoke([asked("What is this?", **block)])
    assert "bell" in message.text
    elsewhere = with_access(assistant, Access(roots=tmp_path))
    with pytest.raises(AttachmentAccessError, match="expected a file below none"):
        ChatImageBindLLM(assistant=elsewhere, roots=media).invoke([asked("What is this?", **block)])
    small = with_access(assistant, Access(limits=Limits(max_bytes=10)))
    with pytest.raises(LimitExceededError):
        ChatImageBindLLM(assistant=small, roots=media).invoke([asked("What is this?", **block)])


def test_a_ready_assistants_store_is_looked_into(assistant: Assistant, media: Path, tmp_path: Path) -> None:
    store = AttachmentStore(tmp_path)
    handle = store.put(media / "car.png")
    chat = ChatImageBindLLM(assistant=with_access(assistant, Access(store=store)))
    assert "car" in chat.invoke([asked("What is this?", type="image", file_id=handle)]).text


def test_urls_are_not_fetched_and_handles_need_a_store(tmp_path: Path) -> None:
    with pytest.raises(AttachmentAccessError, match="fetching URLs is switched off"):
        ChatImageBindLLM().invoke([asked("What is this?", type="image", url="https://example.org/a.png")])
    with pytest.raises(AttachmentAccessError, match="inside the own network"):
        ChatImageBindLLM(allow_fetch=True).invoke([asked("What?", type="image", url="http://127.0.0.1:9/a.png")])
    handle = "att://" + "0" * 64
    with pytest.raises(InvalidRequestError, match="a handle without a store"):
        ChatImageBindLLM().invoke([asked("What is this?", type="image", file_id=handle)])
    with pytest.raises(AttachmentNotFoundError):
        ChatImageBindLLM(attachments=tmp_path / "store").invoke([asked("What?", type="image", file_id=handle)])


def test_errors_come_as_they_are_and_reach_the_callbacks(chat: ChatImageBindLLM, media: Path) -> None:
    recorder = Recorder()
    block = {"type": "image", "url": str(media / "bell.wav")}
    with pytest.raises(UnsupportedMediaError, match="announced as image, but its content is audio/wav"):
        chat.invoke([asked("What is this?", **block)], {"callbacks": [recorder]})
    assert [type(error) for error in recorder.failed] == [UnsupportedMediaError]


# ---- settings


def test_stop_texts_end_an_answer(chat: ChatImageBindLLM, media: Path) -> None:
    messages = [asked("What is this?", type="image", url=str(media / "car.png"))]
    whole = chat.invoke(messages).text
    assert "car" in whole
    before = whole.partition(" car")[0]
    assert chat.invoke(messages, stop=[" car"]).text == before
    assert ChatImageBindLLM(roots=chat.roots, stop=" car").invoke(messages).text == before
    assert "".join(chunk.text for chunk in chat.stream(messages, stop=[" car"])) == before
    assert ChatImageBindLLM(roots=chat.roots, stop=" car").invoke(messages, stop=["zebra"]).text == whole


def test_the_length_may_be_bounded_under_both_names(media: Path) -> None:
    for settings in ({"max_tokens": 2}, {"max_new_tokens": 2}):
        message = ChatImageBindLLM(**settings).invoke("What is the use of a bell?")
        assert message.response_metadata["finish_reason"] == "length"
        assert message.usage_metadata is not None
        assert message.usage_metadata["output_tokens"] == 2
    message = ChatImageBindLLM(max_tokens=50).invoke("What is the use of a bell?", max_tokens=3)
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == 3


def test_a_misspelt_setting_is_refused(assistant: Assistant) -> None:
    with pytest.raises(ValidationError, match="temprature"):
        ChatImageBindLLM(temprature=0)
    with pytest.raises(InvalidRequestError, match="unknown argument temprature, expected model, max_tokens"):
        ChatImageBindLLM().invoke("Hello", temprature=0)
    with pytest.raises(ValidationError, match="assistant and model: it is loaded already"):
        ChatImageBindLLM(assistant=assistant, model="mini")
    with pytest.raises(ValidationError, match="expected an Assistant"):
        ChatImageBindLLM(assistant="mini")
    with pytest.raises(InvalidRequestError, match="library of type int"):
        ChatImageBindLLM(library=7).invoke("Hello")


def test_a_model_that_is_not_there_is_said_when_it_is_asked(tmp_path: Path) -> None:
    chat = ChatImageBindLLM(model=tmp_path / "nowhere")
    assert chat.profile is None
    with pytest.raises(ModelNotFoundError):
        chat.invoke("Hello")


def test_traces_name_model_and_settings(assistant: Assistant) -> None:
    chat = ChatImageBindLLM(temperature=0.5, max_tokens=10, stop=["x"])
    assert chat._get_ls_params() == {
        "ls_provider": "ibllm",
        "ls_model_name": "mini",
        "ls_model_type": "chat",
        "ls_temperature": 0.5,
        "ls_max_tokens": 10,
        "ls_stop": ["x"],
    }
    assert chat._identifying_params["model_name"] == "mini"
    assert ChatImageBindLLM(assistant=assistant)._get_ls_params()["ls_model_name"] == assistant.name


def test_the_profile_says_what_the_model_takes_in(assistant: Assistant) -> None:
    profile = ChatImageBindLLM().profile
    assert profile is not None
    assert profile["max_input_tokens"] == assistant.context_length
    assert profile["image_inputs"]
    assert profile["audio_inputs"]
    assert profile["video_inputs"]
    assert profile["structured_output"]
    assert not profile["image_url_inputs"]
    assert ChatImageBindLLM(assistant=assistant).profile == profile


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_it_is_written_and_read_back(media: Path, tmp_path: Path) -> None:
    store = AttachmentStore(tmp_path)
    chat = ChatImageBindLLM(roots=media, attachments=store, temperature=0, stop=["x"], max_tokens=7)
    again = loads(dumps(chat), allowed_objects=[ChatImageBindLLM], valid_namespaces=["langchain_ibllm"])
    assert isinstance(again, ChatImageBindLLM)
    assert again._identifying_params == chat._identifying_params
    assert (again.roots, again.attachments) == (chat.roots, chat.attachments) == ((str(media),), str(tmp_path))
    assert ChatImageBindLLM.lc_id() == ["langchain_ibllm", "chat_models", "ChatImageBindLLM"]


def test_it_is_copied_and_sent_to_other_processes() -> None:
    chat = ChatImageBindLLM(max_tokens=7)
    assert copy.deepcopy(chat) == pickle.loads(pickle.dumps(chat)) == chat


def test_tokens_are_the_models_and_media_have_none(chat: ChatImageBindLLM, assistant: Assistant, media: Path) -> None:
    words = "What is the use of a bell?"
    bare = len(assistant.processor.tokenizer(words, add_special_tokens=False)["input_ids"])
    assert chat.get_num_tokens(words) == bare > 0
    shown = asked(words, type="image", base64=encoded(media / "bell.png"), mime_type="image/png")
    assert chat.get_num_tokens_from_messages([shown]) == bare
    assert chat.get_num_tokens_from_messages([shown], tools=[Recorder]) > bare
    assert trim_messages([shown, shown], max_tokens=bare, token_counter=chat) == [shown]
    assert ChatImageBindLLM(custom_get_token_ids=lambda text: [1]).get_num_tokens(words) == 1


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
