"""What an assistant may open on behalf of whoever asks, and how it cites what it opened."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ibllm_tools.assistant.answer import Evidence
from ibllm_tools.attachments import SCHEME, Attachment, AttachmentStore, Origin, Roots, common_roots
from ibllm_tools.media.audio import probe_audio
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import Modality
from ibllm_tools.media.video import probe_video


@dataclass(frozen=True)
class Announced:
    """A source with what its carrier says of it, such as a content block of a message; opened by an `Access`.

    Attributes:
        source: anything that `Attachment` takes.
        modality: what it was announced as; its content must agree. ``None`` leaves it to the content.
        name: a file name for messages and citations.
    """

    source: Any
    modality: Modality | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Access:
    """What may be opened. The defaults suit a person's own files; give roots where an agent chooses the paths.

    Attributes:
        roots: folder or folders that paths must lie in, symbolic links resolved; anywhere by default.
        store: where ``att://`` handles are looked up.
        limits: the most that an attachment may hold.
        allow_fetch: whether URLs are fetched.
    """

    roots: Roots = None
    store: AttachmentStore | None = None
    limits: Limits = DEFAULT_LIMITS
    allow_fetch: bool = False

    def on_behalf_of(
        self, *, roots: Roots, store: AttachmentStore | None = None, allow_fetch: bool = False
    ) -> "Access":
        """What a face may open for whoever talks to it, where its owner may open what this access allows.

        Args:
            roots: of the face; a path must lie in one of these and in one of this access's. None is as this access.
            store: of the face; that of this access where it has none.
            allow_fetch: whether the face fetches URLs.
        """
        return replace(
            self,
            roots=common_roots(self.roots, roots),
            store=self.store if store is None else store,
            allow_fetch=allow_fetch,
        )

    def open(self, source: Any) -> Attachment:
        """The source, or `Announced` source, as a checked attachment; one that was opened before is taken as it is.

        Raises:
            AttachmentError: it cannot be used.
            InvalidRequestError: not something that `Attachment` takes.
        """
        said: dict[str, Any] = {}
        if isinstance(source, Announced):
            source, said = source.source, {"modality": source.modality, "name": source.name}
            if isinstance(source, Attachment):
                return Attachment(source, **said, limits=self.limits)
        return Attachment.of(
            source, roots=self.roots, store=self.store, limits=self.limits, allow_fetch=self.allow_fetch, **said
        )

    def cite(self, source: Any, attachment: Attachment, weight: float) -> Evidence:
        """The evidence that an attachment is.

        Raises:
            AttachmentError: the length of a sound or video cannot be found out.
        """
        seconds = self._seconds(attachment)
        return Evidence(
            source=_as_handed_in(source) or attachment.name,
            name=attachment.name,
            sha256=attachment.sha256,
            handle=attachment.handle,
            modality=attachment.modality,
            mime=attachment.mime,
            # clips are sampled evenly from the first to the last second
            start=None if seconds is None else 0.0,
            end=seconds,
            weight=weight,
        ).traced_to(Origin.of(attachment, limits=self.limits))

    def _seconds(self, attachment: Attachment) -> float | None:
        if attachment.modality == "audio":
            return probe_audio(attachment.source, limits=self.limits).seconds
        if attachment.modality == "video":
            return float(probe_video(attachment.source, limits=self.limits).seconds)
        return None


def _as_handed_in(source: Any) -> str | None:
    if isinstance(source, Announced):
        source = source.source
    if isinstance(source, Attachment):
        source = source.source
    if isinstance(source, Path):
        return str(source)
    if not isinstance(source, str):
        return None
    match = SCHEME.match(source)
    return None if match and match[1].lower() == "data" else source
