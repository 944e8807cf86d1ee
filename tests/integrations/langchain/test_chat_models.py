"""The chat model of LangChain: media in messages, metadata, access, batches, streams, caches."""

import copy
import pickle
from pathlib import Path

import pytest
from chat_messages import Recorder, asked, encoded
from langchain_core.load import dumps, loads
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
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

# ---- what goes in and what comes out


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
    with pytest.raises(AttachmentAccessError, match="outside the allowed folders, of which there are none"):
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
