"""Content blocks of messages -> turns of a conversation.

What is read, in every kind of message:

===================  ==============================================================================================
block                read as
===================  ==============================================================================================
text                 the turn's words
text-plain           the turn's words too, when it carries ``text``
image, audio, video  an attachment of that modality
file                 an attachment, by its MIME type: ``model/*`` is 3D, then ``image/*``, ``audio/*``, ``video/*`` and
                     ``text/*``; with no type or ``application/octet-stream`` the content decides
===================  ==============================================================================================

An attachment comes as ``base64``, as ``url`` (path, ``file://``, ``data:``, ``http(s)://`` or ``att://``) or as
``file_id`` (``att://``). OpenAI's ``image_url``, ``audio_url``, ``video_url``, ``input_audio``, ``input_image``,
``input_file`` and ``file``, Anthropic's ``image``, Gemini's ``media`` and LangChain's v0 blocks are read as the
standard blocks that they stand for. Nothing is opened here: see :class:`~ibllm_tools.assistant.access.Announced`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, ToolMessage

from ibllm_tools.assistant.access import Announced
from ibllm_tools.errors import InvalidRequestError, one_line
from ibllm_tools.media.sniff import Modality

if TYPE_CHECKING:
    from ibllm_tools.assistant.conversation import Role, Turn

READ = "text, text-plain, image, audio, video, and file with a 3D, image, audio, video or text type"
_ROLES: dict[str, "Role"] = {
    "system": "system", "developer": "system",
    "human": "user", "user": "user",
    "ai": "assistant", "assistant": "assistant",
    "tool": "tool", "function": "tool",
}  # fmt: skip
_MEDIA: dict[str, Modality] = {"image": "image", "audio": "audio", "video": "video"}
_FILES: dict[str, Modality] = {**_MEDIA, "model": "point", "text": "text"}
_ANY_FILE = ("", "application/octet-stream")
_3D_FILES = ("application/sla", "application/vnd.ms-pki.stl", "application/x-ply")
_CARRIERS = ("base64", "url", "file_id")
_LINKS = {"image_url": "image", "audio_url": "audio", "video_url": "video"}


def turns(messages: Sequence[BaseMessage]) -> "list[Turn]":
    """The messages as turns, in their order.

    Raises:
        InvalidRequestError: a block that is not read, or a message of another kind.
    """
    return [_turn(message) for message in messages]


def announced(block: object) -> Announced | None:
    """The attachment that a block of a message's content is; ``None`` for words, calls and files of other providers.

    Args:
        block: an item of ``message.content``.

    Raises:
        InvalidRequestError: an attachment that is not read.
    """
    if not isinstance(block, dict) or "text" in (block.get("type"), block.get("source_type")):
        return None
    [standard] = _blocks(HumanMessage(content=[block]))
    carriers = {carrier: standard[carrier] for carrier in _CARRIERS if standard.get(carrier)}
    if standard.get("type") not in (*_MEDIA, "file") or not carriers:
        return None
    of_another_provider = carriers.keys() == {"file_id"} and not str(carriers["file_id"]).startswith("att://")
    return None if of_another_provider else _announced(standard)


def _turn(message: BaseMessage) -> "Turn":
    from ibllm_tools.assistant.conversation import Turn

    role = _role(message)
    words: list[str] = []
    attachments: list[Announced] = []
    for block in _blocks(message):
        kind = block.get("type")
        if kind == "text" or (kind == "text-plain" and "text" in block):
            words.append(_text_of(block))
        elif kind in (*_MEDIA, "file", "text-plain"):
            attachments.append(_announced(block))
        elif role != "assistant":  # what another model noted for itself, reasoning or calls, is no input
            raise InvalidRequestError(f"a content block of type {_named(block)}, expected {READ}; leave it out")
    if isinstance(message, AIMessage):
        words += [
            f"Called {call['name']} with {json.dumps(call['args'], ensure_ascii=False, default=str)}"
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage) and message.status == "error":
        words.insert(0, "Error:")
    return Turn(role, "\n".join(word for word in words if word), tuple(attachments))


def _role(message: BaseMessage) -> "Role":
    said = message.role if isinstance(message, ChatMessage) else message.type
    kind = said.lower().removesuffix("messagechunk")
    if kind not in _ROLES:
        raise InvalidRequestError(
            f"a message of role {one_line(said)!r}, expected {', '.join(_ROLES)}; give it one of these"
        )
    return _ROLES[kind]


def _blocks(message: BaseMessage) -> Iterator[Mapping[str, Any]]:
    """The content of a message as standard blocks, and what stands for none of them as it is."""
    if isinstance(message.content, list):
        message = message.model_copy(update={"content": list(map(_with_open_type, message.content))})
    try:
        blocks = [_standard(cast("Mapping[str, Any]", block)) for block in message.content_blocks]
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a block that is not what its type says
        raise InvalidRequestError(
            f"a content block that is not what its type says ({one_line(error)}); expected LangChain's standard blocks"
        ) from error
    yield from blocks


def _with_open_type(block: Any) -> Any:
    """The block; OpenAI's ``file``, which LangChain takes for a PDF whatever it holds, as one whose content decides."""
    file = block.get("file") if isinstance(block, dict) else None
    if isinstance(file, dict) and file.get("file_data"):
        return {"type": "file", "url": file["file_data"], "extras": file}
    return block


def _standard(block: Mapping[str, Any]) -> Mapping[str, Any]:
    """A block that LangChain leaves as its provider has it, as the standard block that it stands for."""
    value = block.get("value") if block.get("type") == "non_standard" else None
    if not isinstance(value, Mapping):
        return block
    kind = value.get("type")
    if kind in _LINKS:
        link = value.get(kind)
        return {"type": _LINKS[kind], "url": link.get("url") if isinstance(link, Mapping) else link}
    if kind == "input_image" and value.get("image_url"):
        return {"type": "image", "url": value["image_url"]}
    if kind == "input_file" and (url := value.get("file_data") or value.get("file_url")):
        return {"type": "file", "url": url, "filename": value.get("filename")}
    if kind == "media" and value.get("data"):  # with file_uri it is a file that the provider keeps
        return {"type": "file", "base64": value["data"], "mime_type": value.get("mime_type")}
    return block


def _text_of(block: Mapping[str, Any]) -> str:
    text = block.get("text")
    if not isinstance(text, str):
        raise InvalidRequestError(
            f"a {block['type']} block whose text is of type {type(text).__name__}, expected a string; convert it"
        )
    return text


def _announced(block: Mapping[str, Any]) -> Announced:
    carriers = [carrier for carrier in _CARRIERS if block.get(carrier)]
    if len(carriers) != 1:
        raise InvalidRequestError(
            f"a content block of type {_named(block)} with {' and '.join(carriers) or 'nothing in it'}, expected "
            f"exactly one of {', '.join(_CARRIERS)}"
        )
    [carrier] = carriers
    value = block[carrier]
    if not isinstance(value, str):
        raise InvalidRequestError(
            f"a content block of type {_named(block)} whose {carrier} is of type {type(value).__name__}, expected a "
            "string; encode it"
        )
    if carrier == "file_id" and not value.startswith("att://"):
        raise InvalidRequestError(
            f"file_id {one_line(value)!r}: of another provider, expected an att:// handle; hand the content over"
        )
    source = f"data:;base64,{value}" if carrier == "base64" else value
    return Announced(source, _modality(block), _name(block))


def _modality(block: Mapping[str, Any]) -> Modality | None:
    """What a block says it holds; ``None`` where its content decides."""
    kind = block["type"]
    if kind in _MEDIA:
        return _MEDIA[kind]
    mime = str(block.get("mime_type") or ("text/plain" if kind == "text-plain" else "")).lower()
    if mime in _ANY_FILE:
        return None
    if mime in _3D_FILES:
        return "point"
    family = mime.partition("/")[0]
    if family not in _FILES:
        raise InvalidRequestError(f"a content block of type {_named(block)}, expected {READ}; leave it out")
    return _FILES[family]


def _name(block: Mapping[str, Any]) -> str | None:
    """The file name that a block gives, at the places where LangChain and OpenAI put it."""
    extras = block.get("extras")
    places = [block, extras] if isinstance(extras, Mapping) else [block]
    names = (place.get(key) for place in places for key in ("filename", "file_name", "name", "title"))
    return next((name for name in names if isinstance(name, str) and name), None)


def _named(block: Mapping[str, Any]) -> str:
    """The type of a block as its author would know it."""
    if block.get("type") == "non_standard" and isinstance(block.get("value"), Mapping):
        block = block["value"]
    mime: Any | Literal[""] = block.get("mime_type") or ""
    return one_line(f"{block.get('type')!r}" + (f" ({mime})" if mime else ""))
