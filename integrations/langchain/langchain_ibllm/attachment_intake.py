"""Blocks with content -> what a language model can read of them: what they are, and a handle."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage

from ibllm_tools.assistant.answer import Question
from ibllm_tools.attachments import Attachment, AttachmentStore
from ibllm_tools.errors import IbllmError, LimitExceededError, StoreError
from langchain_ibllm.blocks import announced
from langchain_ibllm.conversation_attachments import NAME_CHARS, NOTES, quoted

if TYPE_CHECKING:
    from ibllm_tools import Assistant

REASON_CHARS = 240
CAPTION_CHARS = 240
CAPTIONS_KEPT = 10_000


@dataclass(frozen=True)
class _Opened:
    """An attachment in the place of its block."""

    attachment: Attachment
    seconds: float | None


@dataclass(frozen=True)
class _Refused:
    """Why there is none in the place of its block."""

    name: str | None
    error: IbllmError


class AttachmentIntake:
    """Takes attachments out of messages, and keeps them. It may be used from several threads at once.

    Args:
        assistant: opens them by its access, and captions them.
        store: keeps them.
        caption: whether they are captioned.
        max_attachments: the most that are taken out of one message.
    """

    def __init__(self, assistant: "Assistant", store: AttachmentStore, *, caption: bool, max_attachments: int) -> None:
        self._assistant, self._store = assistant, store
        self._caption, self._max = caption, max_attachments
        self._captions: dict[str, str] = {}

    def rewritten(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """Those of the messages that hold attachments, with text in their places; all that is new is captioned at once.

        Raises:
            StoreError: the store cannot be written to.
        """
        waiting = [(message, list(self._opened(message))) for message in messages if isinstance(message.content, list)]
        captions = self._captioned([item for _, items in waiting for item in items if isinstance(item, _Opened)])
        return [
            self._written(message, items, captions)
            for message, items in waiting
            if any(isinstance(item, _Opened | _Refused) for item in items)
        ]

    def _opened(self, message: BaseMessage) -> Iterator[Any]:
        """The blocks of a message, in the place of an attachment what it is or why it cannot be used."""
        count = 0
        for block in message.content:
            item = self._opened_block(block, full=count == self._max)
            count += isinstance(item, _Opened)
            yield item

    def _opened_block(self, block: Any, *, full: bool) -> Any:
        source = None
        try:
            source = announced(block)
            if source is None or source.modality == "text":
                return block
            if full:
                raise LimitExceededError(f"more than {self._max} attachments in one message; send it in another")
            attachment = self._assistant.access.open(source)
            if attachment.modality == "text":
                return block
            return _Opened(attachment, self._assistant.access.cite(attachment, attachment, 0.0).end)
        except IbllmError as error:
            return _Refused(None if source is None else source.name, error)

    def _captioned(self, opened: Sequence[_Opened]) -> dict[str, str | IbllmError]:
        """What is said of each content, by its sha256, or why nothing can be."""
        from ibllm_tools.assistant.assistant import DESCRIBE

        if not self._caption:
            return {}
        wanted = {item.attachment.sha256: item.attachment for item in opened}
        captions: dict[str, str | IbllmError] = {
            sha256: self._captions[sha256] for sha256 in wanted if sha256 in self._captions
        }
        new = {sha256: attachment for sha256, attachment in wanted.items() if sha256 not in captions}
        answers = self._assistant.ask_batch([Question(text=DESCRIBE, attachments=(item,)) for item in new.values()])
        for sha256, answer in zip(new, answers, strict=True):
            captions[sha256] = answer if isinstance(answer, IbllmError) else answer.text
            if not isinstance(answer, IbllmError):
                self._remember(sha256, answer.text)
        return captions

    def _remember(self, sha256: str, caption: str) -> None:
        # A caption that is forgotten is written again; another thread may have forgotten the same one.
        if len(self._captions) >= CAPTIONS_KEPT:
            self._captions.pop(next(iter(list(self._captions))), None)
        self._captions[sha256] = caption

    def _written(
        self, message: BaseMessage, items: Sequence[Any], captions: dict[str, str | IbllmError]
    ) -> BaseMessage:
        """A message of the same id, and notes by which the tools find its attachments by name."""
        content, notes = [], []
        for item in items:
            kept = self._kept(item, captions) if isinstance(item, _Opened) else item
            if isinstance(kept, _Opened):
                notes.append({"handle": kept.attachment.handle, "name": kept.attachment.name})
                text = _named(kept, captions.get(kept.attachment.sha256))
            elif isinstance(kept, _Refused):
                text = _refusal(kept)
            else:
                content.append(kept)
                continue
            content.append({"type": "text", "text": text})
        earlier = message.additional_kwargs.get(NOTES)
        noted = {NOTES: [*(earlier if isinstance(earlier, list) else ()), *notes]}
        return message.model_copy(
            update={"content": content, "additional_kwargs": {**message.additional_kwargs, **noted}}
        )

    def _kept(self, item: _Opened, captions: dict[str, str | IbllmError]) -> _Opened | _Refused:
        said = captions.get(item.attachment.sha256)
        if isinstance(said, IbllmError):
            return _Refused(item.attachment.name, said)
        try:
            self._store.put(item.attachment)
        except StoreError:
            raise
        except IbllmError as error:
            return _Refused(item.attachment.name, error)
        return item


def _named(item: _Opened, caption: str | IbllmError | None) -> str:
    attachment = item.attachment
    length = "" if item.seconds is None else f", {item.seconds:.1f} s"
    said = "" if caption is None else f"{quoted(caption, CAPTION_CHARS)} "
    name = quoted(attachment.name, NAME_CHARS)
    return f"[attachment {name} ({attachment.modality}{length}): {said}{attachment.handle}]"


def _refusal(item: _Refused) -> str:
    name = "" if item.name is None else f"{quoted(item.name, NAME_CHARS)} "
    reason = str(item.error).removeprefix(f"{item.name}: ")
    return f"[attachment {name}that cannot be used: {quoted(reason, REASON_CHARS)}]"
