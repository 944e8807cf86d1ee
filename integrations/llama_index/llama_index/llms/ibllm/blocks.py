"""Messages of LlamaIndex as turns of a conversation; what their blocks hold is opened by the assistant alone.

The blocks' own ``resolve_...`` read any path and fetch any URL, so they are not used.
"""

from collections.abc import Iterator, Sequence
from io import IOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    VideoBlock,
)
from llama_index.core.schema import ImageDocument, ImageNode

from ibllm_tools.assistant.access import Access, Announced
from ibllm_tools.attachments import SCHEME
from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.media.sniff import Modality
from ibllm_tools.media.text import decode_text

if TYPE_CHECKING:
    from ibllm_tools.assistant.conversation import Role, Turn

_ROLES: "dict[MessageRole, Role]" = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}
_UNTITLED = "input_document"  # what LlamaIndex calls a document without a title

MediaBlock = ImageBlock | AudioBlock | VideoBlock | DocumentBlock


def turns(messages: Sequence[ChatMessage], access: Access) -> "list[Turn]":
    """The messages as turns. Text documents become turns of their own before their message's, to be read.

    Tool calls, thoughts and cache points say nothing to this model and are passed over.

    Args:
        messages: oldest first.
        access: opens documents, to see which are text; media stay closed until they are asked about.

    Raises:
        AttachmentError: a document cannot be used.
        InvalidRequestError: a block that holds nothing.
    """
    return [turn for message in messages for turn in _turns(message, access)]


def announced(block: MediaBlock) -> Announced:
    """What a block holds, with what it says of it: a sound is heard even where the file is a video.

    An image block may hold a depth map, and a document block a 3D model or text; their content decides.

    Raises:
        InvalidRequestError: neither content nor path nor URL.
    """
    modality: Modality | None = None
    name: str | None = None
    if isinstance(block, AudioBlock):
        content, modality = block.audio, "audio"
    elif isinstance(block, VideoBlock):
        content, modality = block.video, "video"
    elif isinstance(block, DocumentBlock):
        content, name = block.data, None if block.title == _UNTITLED else block.title
    else:
        content = block.image
    return Announced(_source(block, content), modality, name)


def image_source(image: Any) -> Announced:
    """What an `ImageBlock`, `ImageNode` or `ImageDocument` holds.

    Raises:
        InvalidRequestError: something else, or nothing in it.
    """
    if isinstance(image, ImageBlock):
        return announced(image)
    if not isinstance(image, ImageNode | ImageDocument):
        raise InvalidRequestError(
            f"an image of type {type(image).__name__}, expected an ImageBlock, ImageNode or ImageDocument; make one"
        )
    if image.image:
        return Announced(f"data:;base64,{image.image}")
    place = image.image_path or image.image_url
    if not place:
        raise InvalidRequestError("an image with nothing in it, expected content, a path or a URL; fill one in")
    return Announced(place)


def _turns(message: ChatMessage, access: Access) -> "Iterator[Turn]":
    from ibllm_tools.assistant.conversation import Turn

    role = _ROLES[message.role]
    words: list[str] = []
    media: list[Any] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            words.append(block.text)
        elif isinstance(block, CitableBlock):
            for part in block.content:
                yield from _shown(part, block.title, role, access, media)
        elif isinstance(block, CitationBlock):
            yield from _shown(block.cited_content, block.title, role, access, media)
        elif isinstance(block, MediaBlock):
            yield from _shown(block, None, role, access, media)
    yield Turn(role, "\n".join(words), tuple(media))


def _shown(
    block: TextBlock | MediaBlock, title: str | None, role: "Role", access: Access, media: list[Any]
) -> "Iterator[Turn]":
    """Text as a turn of its own; media are put to the others of the message."""
    from ibllm_tools.assistant.conversation import Turn

    if isinstance(block, TextBlock):
        yield Turn(role, f"{title}: {block.text}" if title else block.text)
        return
    source = announced(block)
    if not isinstance(block, DocumentBlock):
        media.append(source)
        return
    opened = access.open(source)
    if opened.modality == "text":
        yield Turn(role, f"{title or opened.name}: {decode_text(opened.source, limits=access.limits).strip()}")
    else:
        media.append(source)


def _source(block: MediaBlock, content: bytes | IOBase | None) -> Any:
    if content:
        return _content(content)
    if block.path:
        return Path(block.path)
    url = str(block.url or "")
    if SCHEME.match(url) is None:
        raise InvalidRequestError(
            f"a block of type {block.block_type} with {'URL ' + repr(url[:40]) if url else 'nothing in it'}, expected "
            "content, a path, an att:// handle, a data URI or a URL; fill one in"
        )
    return url


def _content(content: bytes | IOBase) -> Any:
    """Blocks hold base64; a file that was handed in holds the bytes themselves."""
    if isinstance(content, bytes):
        return f"data:;base64,{content.decode('ascii', errors='replace')}"
    content.seek(0)
    return content.read()
