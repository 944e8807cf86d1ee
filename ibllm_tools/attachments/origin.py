"""Where the bytes of something cited are, so that a notebook can play it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from ibllm_tools.attachments.attachment import Attachment
from ibllm_tools.errors import AttachmentNotFoundError, LimitExceededError
from ibllm_tools.media.limits import DEFAULT_LIMITS, MEBIBYTE, Limits
from ibllm_tools.media.sniff import Modality

if TYPE_CHECKING:
    from ibllm_tools.notebook.medium import Medium

KEPT_BYTES = 8 * MEBIBYTE
"""Of what was handed in as bytes or array; an answer keeps no more than that alive."""


class Origin:
    """How to open again what evidence, an entry or a hit is about; on this machine, and as long as it is unchanged.

    It is no part of what it belongs to: it is in no JSON, is equal to any other one, and is left behind when pickled.

    Args:
        opening: opens it; without one nothing is known.
        limits: the most that it may hold when it is decoded.
    """

    def __init__(self, opening: Callable[[], Attachment] | None = None, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._opening, self.limits = opening, limits

    @classmethod
    def of(cls, attachment: Attachment, *, limits: Limits = DEFAULT_LIMITS) -> Self:
        """That of an attachment: its file or its bytes. Bytes are kept up to `KEPT_BYTES`."""
        if isinstance(attachment.source, bytes) and attachment.size > KEPT_BYTES:
            name, size = attachment.name, attachment.size

            def refuse() -> Attachment:
                raise LimitExceededError(
                    f"{name}: {size:,} bytes without a file, the limit of what is kept for showing is {KEPT_BYTES:,}; "
                    "pass a path or a handle"
                )

            return cls(refuse, limits=limits)
        return cls(lambda: attachment.reopened(limits=limits), limits=limits)

    def open(self) -> Attachment:
        """What it is about, checked again.

        Raises:
            AttachmentError: it has gone, has changed, or may not be opened any more; or where it is is not known.
            StoreError: what the store remembers of it is damaged.
        """
        if self._opening is None:
            raise AttachmentNotFoundError(
                "nothing is known of where it is, since this was read from JSON or comes from another process; open "
                "it with Attachment(...), or take its entry from the library"
            )
        return self._opening()

    def medium(
        self,
        modality: Modality,
        start: float | None = None,
        end: float | None = None,
        char_start: int | None = None,
        char_end: int | None = None,
    ) -> "Medium":
        """A part of it, to be shown; errors as in :meth:`open`.

        Args:
            modality: what it is to be taken as: of a video, its sound may be meant.
            start: of a sound or video, in seconds.
            end: of a sound or video, in seconds.
            char_start: of a text, in characters.
            char_end: of a text, in characters.
        """
        from ibllm_tools.notebook.medium import Medium

        found = self.open()
        return Medium(
            found.source,
            modality,
            found.mime,
            found.name,
            found.size,
            start=start,
            end=end,
            char_start=char_start,
            char_end=char_end,
            limits=self.limits,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return hash(Origin)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type["Origin"], tuple[()]]:
        return (Origin, ())
