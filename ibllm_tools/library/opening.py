"""The sources of entries, opened as a library may open them."""

from dataclasses import dataclass
from pathlib import Path

from ibllm_tools.attachments import Attachment, AttachmentStore, Origin, Roots
from ibllm_tools.errors import AttachmentNotFoundError
from ibllm_tools.library.entry import Entry, is_path
from ibllm_tools.media.limits import Limits


@dataclass(frozen=True)
class SourceFiles:
    """Where sources lie and what may be opened of them; it needs no database, so it outlives the library.

    Attributes:
        location: of the library, for messages.
        store: where sources are kept that are no files.
        roots: folder or folders that files must lie in; anywhere by default.
        limits: the most that a source may hold.
    """

    location: str
    store: AttachmentStore | None
    roots: Roots
    limits: Limits

    def open(self, entry: Entry) -> Attachment:
        """The source of an entry or a hit; raises as :meth:`MediaLibrary.attachment`."""
        if not is_path(entry.source):
            if self.store is None:
                raise AttachmentNotFoundError(
                    f"{entry.name}: in the store that {self.location} was opened without; pass attachments=FOLDER"
                )
            return Attachment(entry.handle, store=self.store, limits=self.limits)
        opened = Attachment(Path(entry.source), roots=self.roots, limits=self.limits)
        if opened.sha256 != entry.sha256:
            raise AttachmentNotFoundError(f"{entry.name}: it has changed since it was indexed; index it again")
        return opened

    def origin(self, entry: Entry) -> Origin:
        """How its source is opened when somebody wants to see it; nothing is opened now."""
        return Origin(lambda: self.open(entry), limits=self.limits)
