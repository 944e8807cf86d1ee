"""ImageBindLLM: what goes in as blocks, what comes out, and what stays closed."""

import asyncio
import base64
import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.schema import ImageDocument, ImageNode
from pydantic import BaseModel, ValidationError, field_validator

from ibllm_tools import Access, Answer, Assistant, AttachmentStore
from ibllm_tools.assistant import shared
from ibllm_tools.assistant.shared import with_access
from ibllm_tools.assistant.streaming import AnswerStream
from ibllm_tools.errors import AttachmentAccessError, InvalidRequestError, UnsupportedMediaError
from llama_index.llms.ibllm import ImageBindLLM

Block = Callable[[Path], ContentBlock]


class Thing(BaseModel):
    name: Literal["bell", "car", "dog"]
    big: bool


def asked(text: str, *blocks: ContentBlock) -> ChatMessage:
    return ChatMessage(role=MessageRole.USER, blocks=[TextBlock(text=text), *blocks])


def data_uri(path: Path, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"


@pytest.mark.parametrize(
    ("block", "thing", "citation"),
    [
        (lambda media: AudioBlock(path=media / "bell.wav"), "bell", "bell.wav@0.0-3.0s"),
        (lambda media: AudioBlock(url=data_uri(media / "bell.wav", "audio/wav")), "bell", "@0.0-3.0s"),
        (lambda media: ImageBlock(image=(media / "car.png").read_bytes()), "car", ".png"),
        (lambda media: ImageBlock(image=BytesIO((media / "car.png").read_bytes())), "car", ".png"),
        (lambda media: ImageBlock(url=(media / "car.png").as_uri()), "car", "car.png"),
        (lambda media: VideoBlock(path=media / "helicopter.mp4"), "helicopter", "helicopter.mp4@0.0-3.0s"),
        (lambda media: DocumentBlock(path=media / "duck.glb"), "duck", "duck.glb"),
        (lambda media: DocumentBlock(data=(media / "piano.obj").read_bytes(), title="x.obj"), "piano", "x.obj"),
    ],
    ids=["sound", "sound in a URI", "image bytes", "image file", "image file URL", "video", "3D path", "3D bytes"],
)
def test_it_perceives_what_a_block_holds(
    llm: ImageBindLLM, media: Path, block: Block, thing: str, citation: str
) -> None:
    response = llm.chat([asked("What is this?", block(media))])
    assert thing in (response.message.content or "")
    assert response.additional_kwargs["citations"][0].endswith(citation)


def test_a_handle_leads_to_the_store(assistant: Assistant, media: Path, store: AttachmentStore) -> None:
    llm = ImageBindLLM(attachments=store)
    for block in (AudioBlock(url=store.put(media / "bell.wav")), DocumentBlock(url=store.put(media / "bell.wav"))):
        response = llm.chat([asked("What is making this sound?", block)])
        assert response.message.content == "It is a bell."
        assert response.additional_kwargs["citations"] == ["bell.wav@0.0-3.0s"]


def test_text_documents_and_citable_texts_are_read(llm: ImageBindLLM) -> None:
    for block in (
        DocumentBlock(data=b"My bell is red.", title="notes.txt"),
        CitableBlock(title="notes", source="notes.txt", content=[TextBlock(text="My bell is red.")]),
    ):
        assert llm.chat([asked("What colour is the bell?", block)]).message.content == "It is red."


def test_what_is_in_a_citable_block_is_seen(llm: ImageBindLLM, media: Path) -> None:
    block = CitableBlock(title="car", source="car.png", content=[ImageBlock(path=media / "car.png")])
    assert "car" in str(llm.chat([asked("What is this?", block)]))


def test_a_follow_up_is_about_what_was_shown_before(llm: ImageBindLLM, media: Path) -> None:
    history = [
        ChatMessage(role=MessageRole.SYSTEM, content="Be brief."),
        asked("What is this?", ImageBlock(path=media / "bell.png")),
        ChatMessage(role=MessageRole.ASSISTANT, content="It is a bell."),
    ]
    assert llm.chat([*history, asked("What colour is it?")]).message.content == "It is red."


def test_thoughts_and_tool_calls_are_passed_over(llm: ImageBindLLM, media: Path) -> None:
    called = ChatMessage(
        role=MessageRole.ASSISTANT,
        blocks=[ThinkingBlock(content="Hm."), ToolCallBlock(tool_name="listen", tool_kwargs={"to": "bell.wav"})],
    )
    answer = llm.chat([called, asked("What is making this sound?", AudioBlock(path=media / "bell.wav"))])
    assert answer.message.content == "It is a bell."
    assert answer.raw == Answer(**answer.raw).model_dump(mode="json")


@pytest.mark.parametrize(
    "block",
    [
        lambda media: ImageBlock(path=media / "car.png"),
        lambda media: ImageBlock(url=(media / "car.png").as_uri()),
        lambda media: AudioBlock(path=media / "bell.wav"),
        lambda media: DocumentBlock(path=str(media / "duck.glb")),
        lambda media: DocumentBlock(path=media.parent / "demo.py"),
        lambda media: VideoBlock(url="https://example.com/film.mp4"),
        lambda media: CitableBlock(title="x", source="x", content=[ImageBlock(path=media / "car.png")]),
    ],
    ids=["path", "file URL", "sound", "document", "text", "URL", "citable"],
)
def test_without_settings_no_path_is_read_and_no_url_fetched(assistant: Assistant, media: Path, block: Block) -> None:
    with pytest.raises(AttachmentAccessError, match=r"outside the allowed folders|fetching URLs is switched off"):
        ImageBindLLM().chat([asked("What is this?", block(media))])


def test_roots_open_their_folder_and_nothing_else(assistant: Assistant, media: Path, tmp_path: Path) -> None:
    llm = ImageBindLLM(roots=media)
    assert "car" in str(llm.chat([asked("What is this?", ImageBlock(path=media / "car.png"))]))
    outside = tmp_path / "car.png"
    outside.write_bytes((media / "car.png").read_bytes())
    with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
        llm.chat([asked("What is this?", ImageBlock(path=outside))])


def test_blocks_that_cannot_be_used_say_why(llm: ImageBindLLM, media: Path) -> None:
    with pytest.raises(UnsupportedMediaError, match="announced as audio, but its content is image/png"):
        llm.chat([asked("What is this?", AudioBlock(path=media / "car.png"))])
    with pytest.raises(InvalidRequestError, match="a block of type image with nothing in it"):
        llm.chat([asked("What is this?", ImageBlock())])
    with pytest.raises(InvalidRequestError, match="a handle without a store"):
        ImageBindLLM().chat([asked("What is this?", ImageBlock(url=f"att://{'0' * 64}"))])


def test_an_answer_comes_with_evidence_and_usage(llm: ImageBindLLM, media: Path) -> None:
    said = llm.chat([asked("What is making this sound?", AudioBlock(path=media / "bell.wav"))]).additional_kwargs
    (evidence,) = said["evidence"]
    assert (evidence["name"], evidence["modality"], evidence["start"], evidence["end"]) == ("bell.wav", "audio", 0, 3)
    assert evidence["citation"] == "bell.wav@0.0-3.0s"
    assert said["finish_reason"] == "stop"
    assert said["total_tokens"] == said["prompt_tokens"] + said["completion_tokens"]


def test_a_stream_says_the_same_and_ends_with_the_evidence(llm: ImageBindLLM, media: Path) -> None:
    message = asked("What is making this sound?", AudioBlock(path=media / "bell.wav"))
    *pieces, last = llm.stream_chat([message])
    assert "".join(str(piece.delta) for piece in pieces) == "It is a bell."
    assert pieces[1].message.content == "".join(str(piece.delta) for piece in pieces[:2])
    assert (last.delta, last.message.content) == ("", "It is a bell.")
    assert last.additional_kwargs["citations"] == ["bell.wav@0.0-3.0s"]
    assert [piece.text for piece in llm.stream_complete("What does a bell sound like?")][-1].startswith("It is a bell")


def test_a_stream_fails_before_it_begins(llm: ImageBindLLM) -> None:
    with pytest.raises(InvalidRequestError, match="the last user turn is empty"):
        llm.stream_chat([asked(" ")])


def test_leaving_a_stream_stops_the_model(llm: ImageBindLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []
    monkeypatch.setattr(AnswerStream, "close", lambda stream: stopped.append(stream))
    stream = llm.stream_complete("What does a bell sound like?")
    next(stream)
    assert not stopped
    stream.close()
    del stream
    assert stopped


async def test_leaving_an_asynchronous_stream_stops_the_model(
    llm: ImageBindLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []
    monkeypatch.setattr(AnswerStream, "stop", lambda stream: stopped.append(stream))
    stream = await llm.astream_complete("What does a bell sound like?")
    await anext(stream)
    assert not stopped
    await stream.aclose()
    del stream
    await asyncio.sleep(0.01)  # LlamaIndex leaves closing its own generator's source to the loop
    assert stopped


async def test_asynchronous_calls_say_the_same(llm: ImageBindLLM, media: Path) -> None:
    message = asked("What is making this sound?", AudioBlock(path=media / "bell.wav"))
    assert (await llm.achat([message])).message.content == "It is a bell."
    responses = [item async for item in await llm.astream_chat([message])]
    assert "".join(str(item.delta) for item in responses) == "It is a bell."
    assert responses[-1].additional_kwargs["citations"] == ["bell.wav@0.0-3.0s"]
    assert (await llm.acomplete("What does a bell sound like?")).text.startswith("It is a bell")


async def test_the_event_loop_is_free_meanwhile(assistant: Assistant, llm: ImageBindLLM, unblocked: Any) -> None:
    response = await unblocked(assistant.model, "generate", lambda: llm.acomplete("What does a bell sound like?"))
    assert response.text.startswith("It is a bell")

    async def streamed() -> str:
        stream = await llm.astream_complete("What does a bell sound like?")
        return [item.text async for item in stream][-1]

    assert (await unblocked(assistant.model, "generate", streamed)).startswith("It is a bell")


async def test_the_event_loop_is_free_while_the_model_is_loaded(assistant: Assistant, unblocked: Any) -> None:
    llm, prompt = ImageBindLLM(), PromptTemplate("What does a {thing} sound like?")
    assert await unblocked(shared, "shared_assistant", lambda: llm.apredict(prompt, thing="bell"))
    pieces = [piece async for piece in await ImageBindLLM().astream(prompt, thing="bell")]
    assert "".join(pieces).startswith("It is a bell")


def test_stop_texts_and_limits_end_an_answer(llm: ImageBindLLM) -> None:
    question = "What does a bell sound like?"
    assert llm.complete(question, stop=[" bell"]).text == "It is a"
    cut = llm.complete(question, max_tokens=2)
    assert cut.additional_kwargs["finish_reason"] == "length"
    assert cut.additional_kwargs["completion_tokens"] == 2
    assert ImageBindLLM(max_tokens=2).complete(question).text == cut.text
    with pytest.raises(InvalidRequestError, match="unknown setting tools"):
        llm.complete(question, tools=[])


def test_images_of_older_engines_are_seen(llm: ImageBindLLM, media: Path) -> None:
    path = str(media / "car.png")
    encoded = base64.b64encode((media / "car.png").read_bytes()).decode()
    for image in (ImageNode(image_path=path), ImageNode(image=encoded), ImageDocument(image_path=path)):
        assert "car" in llm.complete("What is this?", image_documents=[image]).text
    with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
        ImageBindLLM().complete("What is this?", image_documents=[ImageNode(image_path=path)])
    with pytest.raises(InvalidRequestError, match="an image of type str"):
        llm.complete("What is this?", image_documents=[path])


def test_structured_predictions_always_fit(llm: ImageBindLLM, media: Path) -> None:
    assert isinstance(llm.structured_predict(Thing, PromptTemplate("Describe a {thing}."), thing="bell"), Thing)
    shown = ChatPromptTemplate(message_templates=[asked("What is this?", ImageBlock(path=media / "car.png"))])
    (thing,) = llm.stream_structured_predict(Thing, shown)
    assert isinstance(thing, Thing)
    response = llm.as_structured_llm(Thing).chat([asked("What is this?", ImageBlock(path=media / "car.png"))])
    assert isinstance(response.raw, Thing)


class Even(BaseModel):
    number: Literal[1]

    @field_validator("number")
    @classmethod
    def even(cls, number: int) -> int:
        raise ValueError(f"{number} is odd")


def test_an_object_that_cannot_be_made_says_why(llm: ImageBindLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = PromptTemplate("How many bells?")
    with pytest.raises(InvalidRequestError, match=r"no Even, for number: Value error, 1 is odd, which its schema"):
        llm.structured_predict(Even, prompt)
    cut = ChatResponse(message=ChatMessage(content='{"num'), additional_kwargs={"finish_reason": "length"})
    monkeypatch.setattr(ImageBindLLM, "chat", lambda *_, **__: cut)
    with pytest.raises(InvalidRequestError, match="no Even, for it was cut off"):
        llm.structured_predict(Even, prompt)


async def test_structured_predictions_are_asynchronous_too(llm: ImageBindLLM) -> None:
    prompt = PromptTemplate("Describe a {thing}.")
    assert isinstance(await llm.astructured_predict(Thing, prompt, thing="bell"), Thing)
    stream = await llm.astream_structured_predict(Thing, prompt, thing="bell")
    assert [type(item) async for item in stream] == [Thing]


def test_it_is_written_down_and_read_again(media: Path, tmp_path: Path) -> None:
    llm = ImageBindLLM(roots=[media], attachments=tmp_path, temperature=0.5, max_tokens=7, cache=False)
    again = ImageBindLLM.from_json(llm.to_json())
    assert again.to_dict() == llm.to_dict()
    assert (again.class_name(), again.roots, again.attachments) == ("ImageBindLLM", [str(media)], str(tmp_path))
    assert ImageBindLLM.from_dict({}).roots == []


def test_a_pickle_is_as_closed_as_it_was(assistant: Assistant, media: Path) -> None:
    again = pickle.loads(pickle.dumps(ImageBindLLM(assistant, temperature=0.0)))
    assert (again.model, again.temperature, again.roots) == ("mini", 0.0, [])
    with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
        again.chat([asked("What is this?", ImageBlock(path=media / "car.png"))])


def test_an_assistant_that_may_open_anything_opens_no_more_than_the_roots(assistant: Assistant, media: Path) -> None:
    shown = asked("What is this?", ImageBlock(path=media / "car.png"))
    assert assistant.access.roots is None
    with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
        ImageBindLLM(assistant).chat([shown])
    assert "car" in str(ImageBindLLM(assistant, roots=media).chat([shown]))


def test_the_roots_of_an_assistant_hold_as_well(assistant: Assistant, media: Path, tmp_path: Path) -> None:
    shown = asked("What is this?", ImageBlock(path=media / "car.png"))
    for roots in (media, None):
        with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
            ImageBindLLM(with_access(assistant, Access(roots=tmp_path)), roots=roots).chat([shown])


def test_what_is_written_down_of_an_assistant_is_as_closed_as_it_was(assistant: Assistant, tmp_path: Path) -> None:
    bound = with_access(assistant, Access(roots=tmp_path))
    for llm in (ImageBindLLM(bound, roots=None), ImageBindLLM(bound, roots=tmp_path.parent)):
        assert ImageBindLLM.from_dict(llm.to_dict()).roots == pickle.loads(pickle.dumps(llm)).roots == [str(tmp_path)]


def test_a_setting_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="unknown setting root; expected"):
        ImageBindLLM(root="media")
    with pytest.raises(ValidationError, match="roots"):
        ImageBindLLM(roots=5)


def test_an_assistant_says_which_model_it_is(assistant: Assistant) -> None:
    assert ImageBindLLM(assistant).model == "mini"
    with pytest.raises(InvalidRequestError, match="assistant= together with dtype, which it has already"):
        ImageBindLLM(assistant, dtype="float32")


def test_prompts_are_planned_by_what_the_model_reads(llm: ImageBindLLM, assistant: Assistant) -> None:
    metadata = llm.metadata
    assert metadata.context_window == assistant.context_length
    assert metadata.num_output == assistant.model.generation_config.max_new_tokens
    assert ImageBindLLM(assistant, max_tokens=1000).metadata.num_output == assistant.context_length // 4
    assert (metadata.is_chat_model, metadata.model_name) == (True, "mini")


def test_what_events_say_loads_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "shared_assistant", None)
    assert ImageBindLLM(temperature=0).to_payload() == {
        "class_name": "ImageBindLLM",
        "model_name": "mini",
        "temperature": 0,
        "max_tokens": None,
    }


def test_callbacks_see_each_call_once(assistant: Assistant) -> None:
    handler = LlamaDebugHandler(print_trace_on_end=False)
    llm = ImageBindLLM(assistant, callback_manager=CallbackManager([handler]))
    llm.complete("What does a bell sound like?")
    list(llm.stream_chat([asked("What does a bell sound like?")]))
    assert len(handler.get_event_pairs(CBEventType.LLM)) == 2
