"""The tools themselves, over one assistant and one library."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ibllm_tools.assistant.access import Access
from ibllm_tools.assistant.answer import Answer, Impression
from ibllm_tools.assistant.assistant import Assistant
from ibllm_tools.assistant.grounding import cited, require_same_encoder
from ibllm_tools.attachments import SCHEME, Attachment, Roots, allowed_path
from ibllm_tools.errors import AttachmentAccessError, InvalidRequestError
from ibllm_tools.library import Entry, IndexReport, MediaLibrary, Ranking
from ibllm_tools.library.catalogue import SourceRecord, modality_of
from ibllm_tools.library.progress import Progress
from ibllm_tools.library.querying import Query, modalities, whole
from ibllm_tools.media.sniff import Modality
from ibllm_tools.toolbox.results import MediaListing, SearchResult


class Toolbox:
    """What an agent may do with media. It may be used from several threads at once.

    Whatever an agent names is opened by the rules of the access, and by those of the library where it is something that
    was indexed. An attachment may be named by

    - an ``att://`` handle, of the access's store or of something in the library;
    - the id of an entry or a hit of the library, which stands for that segment alone;
    - a path: a relative one is looked for below each of the access's roots;
    - a URL or data URI, by the rules of the access; or be anything else that `Attachment` takes.

    Args:
        assistant: answers.
        library: what is searched, listed and added to, filled with the assistant's encoder.
        access: what may be opened; by default what the assistant may.

    Raises:
        EncoderMismatchError: the library was filled with another encoder.
    """

    def __init__(
        self, assistant: Assistant, library: MediaLibrary | None = None, *, access: Access | None = None
    ) -> None:
        if library is not None:
            require_same_encoder(library, assistant.embedder.fingerprint)
        self.assistant, self.library = assistant, library
        self.access = assistant.access if access is None else access

    def ask_attachment(
        self,
        question: str,
        attachments: Sequence[Any] = (),
        *,
        weights: Sequence[float] | None = None,
        search_library: bool = False,
        **options: Any,
    ) -> Answer:
        """Answer a question about attachments, or about what the library holds.

        Args:
            question: the question or instruction.
            attachments: named as the class says.
            weights: share of each; equal by default.
            search_library: whether the answer builds on what the library holds too.
            options: as in `Assistant.ask`.

        Raises:
            IbllmError: as `Assistant.ask`; InvalidRequestError where there is no library to look in.
        """
        library = self._required_library() if search_library else None
        opened = [self.opened(item) for item in attachments]
        return self.assistant.ask(question, *opened, weights=weights, library=library, **options)

    def describe_attachment(self, attachment: Any) -> Answer:
        """Say what an attachment is; raises as `Assistant.ask`."""
        return self.assistant.describe(self.opened(attachment))

    def search_media(
        self,
        query: str | None = None,
        attachments: Sequence[Any] = (),
        *,
        k: int = 5,
        modality: Sequence[Modality] | None = None,
        tags: Sequence[str] | None = None,
        min_score: float | None = None,
    ) -> SearchResult:
        """Find sources: words alone are looked for in captions and texts as well as by what they mean.

        With examples or ``min_score`` only what it means counts, and the score says how well a source fits.

        Args:
            query: words.
            attachments: examples, named as the class says; with words they are mixed, each counting as much.
            k: sources, at most.
            modality: of what is found; everything by default, and where none is named.
            tags: all of which it must have.
            min_score: leaves out what scores less, 0 to 1.

        Raises:
            InvalidRequestError: neither words nor examples; no library; a number out of its range.
            AttachmentError: an example cannot be used.
        """
        library = self._required_library()
        words = [query] if query and query.strip() else []
        examples = [self._query(item) for item in attachments]
        if not words and not examples:
            raise InvalidRequestError("neither query nor attachments, expected words or examples; pass one of them")
        conditions = [{"tags": {"$contains": tag}} for tag in dict.fromkeys(tags or ())]
        # a fused score says how high both rankings put it; only that of the similarity says how well it fits
        ranking: Ranking = "similarity" if examples or min_score is not None else "hybrid"
        hits = library.search(
            [*words, *examples],
            k,
            modality=modality or None,
            where={"$and": conditions} if len(conditions) > 1 else conditions[0] if conditions else None,
            min_score=min_score,
            ranking=ranking,
        )
        return SearchResult(hits=tuple(hits), ranking=ranking)

    def index_media(
        self,
        paths: Sequence[Any],
        *,
        title: str | None = None,
        tags: Sequence[str] | None = None,
        caption: bool = False,
        progress: bool | Progress = False,
    ) -> IndexReport:
        """Add sources to the library; what cannot be used is in the report.

        Args:
            paths: files, folders and globs that the access allows, handles and attachments.
            title: of all of them.
            tags: of all of them.
            caption: whether captions are written.
            progress: as in `MediaLibrary.add`.

        Raises:
            InvalidRequestError: no library; titles, tags or captions that cannot be stored or written.
            AttachmentError: a handle that nothing is kept under, a path outside the roots.
            StoreError: the library cannot be written.
        """
        library = self._required_library()
        sources = [self._indexable(item) for item in paths]
        return library.add(
            *sources,
            title=title,
            tags=tags,
            caption=caption,
            roots=self.access.roots,
            progress=progress,
        )

    def list_media(
        self, *, modality: Sequence[Modality] | None = None, limit: int = 20, offset: int = 0
    ) -> MediaListing:
        """A page of the library's sources, without those of which no segment could be encoded or that go meanwhile.

        Args:
            modality: of the sources; everything by default, and where none is named.
            limit: sources, at most.
            offset: sources that are passed over.

        Raises:
            InvalidRequestError: no library, a modality that is none, or a number out of its range.
        """
        library, kinds = self._required_library(), modalities(modality or None)
        start = whole("offset", offset, least=0)
        end = start + whole("limit", limit, least=1)
        records = [record for record in library.sources() if record.modality in kinds and any(record.counts.values())]
        entries = [_first_entry(library, record) for record in records[start:end]]
        return MediaListing(
            entries=tuple(entry for entry in entries if entry is not None),
            total=len(records),
            next_offset=end if end < len(records) else None,
        )

    def opened(self, reference: Any) -> Attachment | Impression:
        """What a reference names, opened and checked; a segment of the library is one that has been seen already.

        Raises:
            AttachmentError: it cannot be used.
            InvalidRequestError: it names nothing.
        """
        if isinstance(reference, str):
            if self.library is not None and modality_of(reference) is not None:
                entry = self.library.get(reference)
                return Impression(self.library.embed_query(entry), cited(entry))
            if _is_handle(reference):
                return self._by_handle(reference)
            if SCHEME.match(reference) is None:
                return self.access.open(self._path(reference))
        return self.access.open(reference)

    def _by_handle(self, handle: str) -> Attachment:
        store, library = self.access.store, self.library
        if library is None or (store is not None and handle in store):
            return self.access.open(handle)
        return library.attachment(handle)

    def _path(self, path: str) -> Path:
        """A relative path is one below the roots: the first that has it, or the first of all."""
        roots = self.access.roots
        folders = [roots] if isinstance(roots, str | Path) else roots or ()
        below = [Path(folder) / path for folder in folders]
        return next((place for place in below if _exists(place, roots)), below[0] if below else Path(path))

    def _query(self, reference: Any) -> Query:
        opened = self.opened(reference)
        return opened.embedding if isinstance(opened, Impression) else opened

    def _indexable(self, source: Any) -> Any:
        """A source as `MediaLibrary.add` takes it. A folder or glob outside the roots is not even looked into."""
        if isinstance(source, str) and SCHEME.match(source) is None:
            source = self._path(source)
        if isinstance(source, Path):
            allowed_path(source, self.access.roots)
            return source
        return self._by_handle(source) if _is_handle(source) else self.access.open(source)

    def _required_library(self) -> MediaLibrary:
        if self.library is None:
            raise InvalidRequestError("no media library; make the toolbox with library=MediaLibrary.open(...)")
        return self.library


def _is_handle(reference: Any) -> bool:
    return isinstance(reference, str) and reference.startswith("att://")


def _first_entry(library: MediaLibrary, record: SourceRecord) -> Entry | None:
    """None where a source has no entry: it is removed just now, or none of its segments could be encoded."""
    by_modality = record.ids()
    for modality in sorted(by_modality, key=lambda kind: kind != record.modality):
        for id_ in by_modality[modality]:
            with suppress(InvalidRequestError):
                return library.get(id_).of_source(record.source)
    return None


def _exists(path: Path, roots: Roots) -> bool:
    """Whether an agent may name it and it is there; what lies outside is not looked at."""
    try:
        return allowed_path(path, roots).exists()
    except (AttachmentAccessError, OSError):  # outside; a name that is too long, a folder that may not be looked into
        return False
