"""What the content blocks of messages are read as."""

import base64
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from ibllm_tools import Access, Limits
from ibllm_tools.assistant.access import Announced
from ibllm_tools.errors import CorruptMediaError, InvalidRequestError, LimitExceededError, UnsupportedMediaError
from langchain_ibllm.blocks import announced, turns

HANDLE = "att://" + "0" * 64
WAV = "UklGRg=="


def read(block: dict[str, Any], kind: type[BaseMessage] = HumanMessage, **fields: Any) -> Announced:
    [turn] = turns([kind([block], **fields)])
    [attachment] = turn.attachments
    return attachment


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"type": "image", "url": "bell.png"}, Announced("bell.png", "image")),
        ({"type": "image", "url": "file:///srv/bell.png"}, Announced("file:///srv/bell.png", "image")),
        ({"type": "image", "url": "https://a.org/b.png"}, Announced("https://a.org/b.png", "image")),
        ({"type": "image", "url": HANDLE}, Announced(HANDLE, "image")),
        ({"type": "audio", "base64": WAV, "mime_type": "audio/wav"}, Announced(f"data:;base64,{WAV}", "audio")),
        ({"type": "video", "file_id": HANDLE}, Announced(HANDLE, "video")),
        ({"type": "file", "url": "duck.glb", "mime_type": "model/gltf-binary"}, Announced("duck.glb", "point")),
        ({"type": "file", "url": "p.obj", "mime_type": "model/obj"}, Announced("p.obj", "point")),
        ({"type": "file", "url": "p.stl", "mime_type": "model/stl"}, Announced("p.stl", "point")),
        ({"type": "file", "url": "p.stl", "mime_type": "application/sla"}, Announced("p.stl", "point")),
        ({"type": "file", "url": "a.txt", "mime_type": "text/plain"}, Announced("a.txt", "text")),
        ({"type": "file", "url": "a.wav", "mime_type": "AUDIO/WAV"}, Announced("a.wav", "audio")),
        ({"type": "file", "url": "something"}, Announced("something")),
        ({"type": "file", "url": "a", "mime_type": "application/octet-stream"}, Announced("a")),
        ({"type": "text-plain", "url": "a.txt", "mime_type": "text/plain"}, Announced("a.txt", "text")),
        ({"type": "image", "url": "x", "extras": {"filename": "bell.png"}}, Announced("x", "image", "bell.png")),
    ],
)
def test_standard_blocks(block: dict[str, Any], expected: Announced) -> None:
    assert read(block) == expected


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": "https://a.org/b.png"}}, Announced("https://a.org/b.png", "image")),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            Announced("data:;base64,AAAA", "image"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}},
            Announced(f"data:;base64,{WAV}", "audio"),
        ),
        ({"type": "file", "file": {"file_id": HANDLE}}, Announced(HANDLE)),
        (
            {"type": "file", "file": {"file_data": f"data:audio/wav;base64,{WAV}", "filename": "bell.wav"}},
            Announced(f"data:audio/wav;base64,{WAV}", None, "bell.wav"),
        ),
        ({"type": "video_url", "video_url": {"url": "https://a.org/b.mp4"}}, Announced("https://a.org/b.mp4", "video")),
        ({"type": "audio_url", "audio_url": "bell.wav"}, Announced("bell.wav", "audio")),
        ({"type": "image_url", "image_url": "bell.png"}, Announced("bell.png", "image")),
        ({"type": "input_image", "image_url": "https://a.org/b.png"}, Announced("https://a.org/b.png", "image")),
        (
            {"type": "input_file", "filename": "bell.wav", "file_data": f"data:audio/wav;base64,{WAV}"},
            Announced(f"data:audio/wav;base64,{WAV}", None, "bell.wav"),
        ),
        ({"type": "input_file", "file_url": "https://a.org/b"}, Announced("https://a.org/b")),
        ({"type": "media", "data": WAV, "mime_type": "audio/wav"}, Announced(f"data:;base64,{WAV}", "audio")),
        ({"type": "image", "source_type": "base64", "data": "AAAA"}, Announced("data:;base64,AAAA", "image")),
        ({"type": "audio", "source_type": "url", "url": "bell.wav"}, Announced("bell.wav", "audio")),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
            Announced("data:;base64,AAAA", "image"),
        ),
    ],
)
def test_blocks_of_providers_and_of_earlier_versions(block: dict[str, Any], expected: Announced) -> None:
    assert read(block) == expected == announced(block)  # by the chat model as by the middleware


def test_blocks_in_tool_messages_are_read() -> None:
    assert read({"type": "image", "url": "bell.png"}, ToolMessage, tool_call_id="1") == Announced("bell.png", "image")


def test_roles() -> None:
    messages = [
        SystemMessage("a"),
        HumanMessage("b"),
        AIMessage("c"),
        AIMessageChunk("c"),
        ToolMessage("d", tool_call_id="1"),
        ToolMessage("no such file", tool_call_id="1", status="error"),
        ChatMessage("e", role="user"),
        ChatMessage("f", role="developer"),
    ]
    assert [(turn.role, turn.text) for turn in turns(messages)] == [
        ("system", "a"),
        ("user", "b"),
        ("assistant", "c"),
        ("assistant", "c"),
        ("tool", "d"),
        ("tool", "Error:\nno such file"),
        ("user", "e"),
        ("system", "f"),
    ]


def test_texts_of_a_message_are_lines_and_calls_are_told() -> None:
    asked = HumanMessage([{"type": "text", "text": "What is this?"}, "Be brief.", {"type": "text", "text": ""}])
    noted = HumanMessage([{"type": "text-plain", "text": "a red bell", "mime_type": "text/plain"}])
    called = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "1"}])
    assert [turn.text for turn in turns([asked, noted, called])] == [
        "What is this?\nBe brief.",
        "a red bell",
        'Called add with {"a": 1}',
    ]


def test_what_another_model_noted_for_itself_is_left_out() -> None:
    blocks = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": "A bell."},
        {"type": "tool_use", "id": "1", "name": "add", "input": {}},
        {"type": "something_new"},
    ]
    [turn] = turns([AIMessage(blocks)])
    assert (turn.text, turn.attachments) == ("A bell.", ())


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "media", "file_uri": "gs://bucket/a.png"}, "of type 'media', expected text"),
        ({"type": "input_file", "file_id": "file-123"}, "of type 'input_file', expected text"),
        ({"type": "input_image", "image_url": {"url": "a.png"}}, "url is of type dict"),
        ({"type": "video_url", "video_url": 5}, "url is of type int"),
        ({"type": "file", "file": {"file_data": 5}}, "url is of type int"),
        (
            {"type": "file", "url": "a.pdf", "mime_type": "application/pdf"},
            r"'file' \(application/pdf\), expected text",
        ),
        ({"type": "something\nnew"}, r"'something\\nnew', expected text"),
        ({"no": "type"}, "of type None, expected text"),
        ({"type": "image"}, "'image' with nothing in it, expected exactly one of base64, url, file_id"),
        ({"type": "image", "url": "a.png", "base64": "AAAA"}, "with base64 and url, expected exactly one"),
        ({"type": "image", "base64": b"AAAA"}, "base64 is of type bytes"),
        ({"type": "image", "url": ["a.png"]}, "url is of type list"),
        ({"type": "image", "file_id": "file-123"}, "'file-123': of another provider, expected an att:// handle"),
        ({"type": "text", "text": 7}, "text is of type int"),
        ({"type": "text"}, "text is of type NoneType"),
        ({"type": "input_audio", "input_audio": None}, "expected"),
        ({"type": ["image"]}, "expected"),
    ],
)
def test_what_is_not_read_is_refused_by_name(block: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        turns([HumanMessage([block])])


def test_messages_of_another_kind_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="role 'remove', expected system"):
        turns([RemoveMessage(id="1")])
    with pytest.raises(InvalidRequestError, match="role 'judge'"):
        turns([ChatMessage("x", role="judge")])


def test_nothing_is_opened_before_it_is_asked(tmp_path: Path) -> None:
    assert read({"type": "image", "url": str(tmp_path / "nowhere.png")}).source == str(tmp_path / "nowhere.png")


def test_hostile_content_is_refused_where_it_is_opened(media: Path) -> None:
    sound = base64.b64encode((media / "bell.wav").read_bytes()).decode()
    pickle = base64.b64encode(b"\x80\x04\x95" + bytes(100)).decode()
    for block, error in (
        ({"type": "image", "base64": sound, "mime_type": "image/png"}, UnsupportedMediaError),
        ({"type": "file", "base64": sound, "mime_type": "model/gltf-binary"}, UnsupportedMediaError),
        ({"type": "image", "base64": pickle}, UnsupportedMediaError),
        ({"type": "image", "base64": "@@@"}, CorruptMediaError),
        ({"type": "image", "base64": "A" * 1000}, LimitExceededError),
    ):
        limits = Limits(max_bytes=100) if error is LimitExceededError else Limits()
        with pytest.raises(error):
            Access(limits=limits).open(read(block))
