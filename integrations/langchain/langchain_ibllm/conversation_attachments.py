"""What the messages of a conversation hold, found again by handle or by file name."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from langchain_core.messages import BaseMessage, ToolMessage

from ibllm_tools.assistant.access import Access, Announced
from ibllm_tools.attachments import Attachment
from ibllm_tools.attachments.store import HANDLE
from ibllm_tools.errors import IbllmError, InvalidRequestError, one_line
from langchain_ibllm.blocks import announced

NOTES = "ibllm_attachments"
"""Key of a message's ``additional_kwargs`` under which `AttachmentMiddleware` notes what it took out of the message."""

SEARCH = "search_media"
NAME_CHARS = 240
_BRACKETS = str.maketrans("[]", "()")


def quoted(text: object, longest: int) -> str:
    """Foreign text on one line, which cannot end the brackets that it stands in."""
    return one_line(text, longest).translate(_BRACKETS)


class ConversationAttachments:
    """The attachments of a conversation: blocks with content, what was taken out of it, and what was found.

    Args:
        messages: of the conversation, the oldest first.
        access: by whose limits blocks are opened.
    """

    def __init__(self, messages: Sequence[Any], access: Access) -> None:
        self._messages = [message for message in messages if isinstance(message, BaseMessage)]
        self._access = access

    def resolved(self, reference: str) -> Any:
        """What a reference stands for in the conversation; itself, where it stands for nothing there.

        An ``att://`` handle is a block's with this content. A file name is that of an attachment, or else of something
        that an earlier search found.

        Raises:
            InvalidRequestError: several have this name.
        """
        if HANDLE.fullmatch(reference):
            return next((item for item in self._contents() if item.handle == reference), reference)
        for known in (self._handed_in(reference), self._found(reference)):
            if len(known) > 1:
                raise InvalidRequestError(
                    f"{one_line(reference)}: {len(known)} attachments of this conversation have that name, expected "
                    "one; pass the att:// handle"
                )
            if known:
                return known.popitem()[1]
        return reference

    def _contents(self, name: str | None = None) -> Iterator[Attachment]:
        """Blocks with content, of that name; what cannot be opened is passed over."""
        for block in self._blocks():
            with suppress(IbllmError):
                source = announced(block)
                if source is not None and _is_content(source) and name in (None, source.name):
                    yield self._access.open(source)

    def _blocks(self) -> Iterator[Any]:
        for message in self._messages:
            if isinstance(message.content, list):
                yield from message.content

    def _handed_in(self, name: str) -> dict[str, Any]:
        """By handle, what was handed in under a name: the attachment, or the handle it is kept under."""
        known: dict[str, Any] = {
            note["handle"]: note["handle"]
            for note in self._notes()
            if name in (note["name"], quoted(note["name"], NAME_CHARS))  # the model has read the latter
        }
        return known | {item.handle: item for item in self._contents(name)}

    def _notes(self) -> Iterator[dict[str, str]]:
        for message in self._messages:
            notes = message.additional_kwargs.get(NOTES)
            for note in notes if isinstance(notes, list) else ():
                if isinstance(note, dict) and all(isinstance(note.get(key), str) for key in ("handle", "name")):
                    yield note

    def _found(self, name: str) -> dict[str, str]:
        from ibllm_tools.toolbox import SearchResult

        known = {}
        for message in self._messages:
            if isinstance(message, ToolMessage) and message.name == SEARCH and message.artifact is not None:
                with suppress(ValueError):
                    hits = SearchResult.model_validate(message.artifact).hits
                    known.update({hit.handle: hit.handle for hit in hits if hit.name == name})
        return known


def _is_content(source: Announced) -> bool:
    """Whether it holds the bytes, rather than saying where they are."""
    return isinstance(source.source, bytes) or str(source.source)[:5].lower() == "data:"
