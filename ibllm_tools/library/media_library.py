"""A folder of mixed media as a library that any modality can query, and whose hits can be cited."""

import builtins
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.attachments import Attachment, AttachmentStore, Roots, common_roots
from ibllm_tools.errors import IbllmError, InvalidRequestError, StoreError, one_line
from ibllm_tools.library.absent_encoder import AbsentEncoder
from ibllm_tools.library.catalogue import (
    Catalogue,
    SourceRecord,
    entries_of,
    modality_of,
)
from ibllm_tools.library.compaction import Compaction, compact, complete_swap, size_on_disk
from ibllm_tools.library.comparing import Labelling, Metadata, compare
from ibllm_tools.library.encoding import Event, encode
from ibllm_tools.library.entry import NAMED_TEXT, Entry, Hit, IndexReport, LibraryStats, Ranking, checked_name, is_path
from ibllm_tools.library.exporting import ExportReport, export_library
from ibllm_tools.library.filtering import checked_where
from ibllm_tools.library.importing import ImportReport, import_library
from ibllm_tools.library.indexing import Captioner, Indexing
from ibllm_tools.library.opening import SourceFiles
from ibllm_tools.library.places import followed
from ibllm_tools.library.progress import Progress, progress_bar
from ibllm_tools.library.querying import Query, QueryEncoder, as_queries, as_weights, modalities, share, whole
from ibllm_tools.library.references import references
from ibllm_tools.library.scanning import Refusal, Task, has_gone, is_file, scan
from ibllm_tools.library.searching import Searcher, Wanted
from ibllm_tools.library.verification import LibraryCheck, Verification
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.chroma import Records, VectorDatabase, Where
from ibllm_tools.store.chroma_engine import is_server
from ibllm_tools.store.database_file import SQLITE_FILE
from ibllm_tools.store.embedder import Embedder
from ibllm_tools.store.segments import DEFAULT_SETTINGS, SegmentSettings

Engine = Literal["local", "ray"]
EntryT = TypeVar("EntryT", bound=Entry)
DATABASE_FOLDER, ATTACHMENT_FOLDER = "chroma", "attachments"
PAGE = 1000


class MediaLibrary:
    """Images, sounds, videos, 3D models, depth maps and texts, found by what they are. Made by :meth:`open`.

    It may be used from several threads at once. An embedded folder belongs to one process; several share a server.

    Example:
        >>> library = MediaLibrary.open("library", embedder=assistant.embedder)
        >>> library.add("media")
        >>> for hit in library.search("a ringing bell", k=5):
        ...     print(hit.source, hit.start, hit.end, hit.score)
    """

    def __init__(
        self,
        catalogue: Catalogue,
        embedder: Embedder,
        attachments: AttachmentStore | None,
        *,
        captioner: Captioner | None = None,
        settings: SegmentSettings = DEFAULT_SETTINGS,
        roots: Roots = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.catalogue, self.embedder, self.attachments = catalogue, embedder, attachments
        self.captioner, self.settings, self.roots, self.limits = captioner, settings, roots, limits
        self._searcher = Searcher(catalogue)

    @classmethod
    def open(
        cls,
        location: str | Path | None,
        *,
        embedder: Embedder | None = None,
        name: str = "library",
        attachments: AttachmentStore | str | Path | None = None,
        captioner: Captioner | None = None,
        settings: SegmentSettings = DEFAULT_SETTINGS,
        roots: Roots = None,
        limits: Limits = DEFAULT_LIMITS,
        create: bool = True,
    ) -> Self:
        """Open a library, and make an empty one where there is none.

        Args:
            location: a folder, the URL of a Chroma server (``"http://host:port"``), or None for memory.
            embedder: the encoder; a library holds the vectors of one. Without it, one that is there is opened for
                what needs none: looking, searching by words, exporting, importing, tidying up.
            name: of the library in its database, 3 to 500 characters of ``[a-zA-Z0-9_-]``.
            attachments: where thumbnails and attachments that are no files are kept; by default within the folder.
                Without one, as on a server where none is given, there are no thumbnails.
            captioner: writes captions where they are asked for; an ``Assistant`` does.
            settings: how sounds, videos and texts are cut when they are added.
            roots: folder or folders that files to be added must lie in; anywhere by default.
            limits: the most that a source may hold.
            create: whether one is made where there is none, which takes an encoder.

        Raises:
            EncoderMismatchError: it was filled with another encoder.
            StoreLockedError: another process owns the folder.
            StoreError: there is none and none is made; it cannot be opened, or a later version has written it.
        """
        place = location
        if location is not None and not is_server(location):
            with followed(location):
                place = Path(location).expanduser() / DATABASE_FOLDER
                complete_swap(place)
                if embedder is None or not create:
                    _require_database(place)
            attachments = place.with_name(ATTACHMENT_FOLDER) if attachments is None else attachments
        database = VectorDatabase.open(place, keep_log=True)
        try:
            catalogue = Catalogue.open(
                database,
                name,
                fingerprint=None if embedder is None else embedder.fingerprint,
                dimension=None if embedder is None else embedder.dimension,
                create=create,
            )
            store = attachments if isinstance(attachments, AttachmentStore | None) else AttachmentStore(attachments)
        except BaseException:
            database.close()
            raise
        if embedder is None:
            embedder = AbsentEncoder(catalogue.fingerprint, catalogue.dimension)
        return cls(catalogue, embedder, store, captioner=captioner, settings=settings, roots=roots, limits=limits)

    @property
    def location(self) -> str:
        """The folder or URL, or ``"memory"``."""
        folder = self.folder
        return self.catalogue.database.location if folder is None else str(folder)

    @property
    def folder(self) -> Path | None:
        """The folder of an embedded library."""
        place = self.catalogue.database.folder
        return None if place is None else place.parent

    def add(
        self,
        *sources: Any,
        texts: Sequence[str] | Mapping[str, str] = (),
        title: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Metadata | None = None,
        caption: str | bool = False,
        strict: bool = False,
        roots: Roots = None,
        progress: bool | Progress = True,
        engine: Engine = "local",
    ) -> IndexReport:
        """Index files, folders, globs, attachments and texts.

        What is there and has not changed, by size and time, is passed over; what has changed is replaced; a file that
        was moved keeps its entries. What cannot be used is reported and left out. A run that was stopped, in whatever
        way, is completed by the next one. Title, tags, metadata and captions stay, each until another is given.

        Args:
            sources: paths, folders, globs and attachments. In folders and globs only files that are named like media.
            texts: texts, literally. In a mapping each has a name: it is the source ``text:NAME`` on its own, whatever
                others say, and another text of that name replaces it.
            title: of the sources; their names by default, and again where it is empty.
            tags: of the sources; an empty list takes away those that they have.
            metadata: of the sources, or a function of the source's path that gives it: text, numbers, true and false,
                and lists of these. It replaces what they have.
            caption: of the sources, or True, and the captioner writes one for every entry that is no text.
            strict: raise the first failure, instead of reporting it.
            roots: folder or folders that these files must lie in as well as in those of the library.
            progress: draw a bar where the output is a terminal; or a function that is told how many sources are done,
                and of how many.
            engine: where it is encoded: in this process, or by actors of ``"ray"``, see docs/scale.md.

        Raises:
            InvalidRequestError: titles, tags or metadata that cannot be stored; captions without a captioner; Ray with
                an encoder that was not loaded from anywhere, or with a cluster that is not there.
            MissingExtraError: Ray is not installed.
            StoreError: it cannot be written: a full disk, a server that does not answer.
            IbllmError: with ``strict``, why the first source cannot be used.
        """
        if engine not in get_args(Engine):
            raise InvalidRequestError(f"engine {one_line(engine)!r}, expected one of {', '.join(get_args(Engine))}")
        began = time.perf_counter()
        labelling = Labelling(title, tags, metadata, caption)
        if caption is True and self.captioner is None:
            raise InvalidRequestError("caption=True without a captioner; open the library with captioner=assistant")
        found = scan(
            self._listed(sources, texts),
            roots=common_roots(self.roots, roots),
            without=[] if self.folder is None else [self.folder.resolve()],
        )
        with progress_bar(progress, len(found.tasks)) as bar:
            todo = compare(found.tasks, self.catalogue, labelling, self.settings)
            bar.update(todo.unchanged)
            with Indexing(
                self.catalogue,
                self.attachments,
                labels=todo.labels,
                previous=todo.previous,
                captioner=self.captioner if caption is True else None,
                strict=strict,
                progress=bar.update,
            ) as indexing:
                for refusal in [*found.refusals, *todo.refusals]:
                    indexing.refuse(refusal.source, refusal.error)
                with closing(self._events(todo.waiting, engine)) as events:
                    indexing.take(events)
        tally = indexing.tally
        return IndexReport(
            added=tally.added,
            changed=tally.changed,
            unchanged=tally.unchanged + todo.unchanged,
            moved=tally.moved,
            ignored=found.ignored,
            entries=tally.entries,
            seconds=time.perf_counter() - began,
            failures=tuple(tally.failures),
        )

    def search(
        self,
        query: Query | Sequence[Query],
        k: int = 10,
        *,
        modality: Modality | Sequence[Modality] | None = None,
        where: Where | None = None,
        min_score: float | None = None,
        query_weights: Sequence[float] | None = None,
        ranking: Ranking = "similarity",
        diversity: float = 0.0,
        candidates: int | None = None,
        segments: int = 3,
        calibrated: bool = True,
    ) -> builtins.list[Hit]:
        """The sources that answer a query, best first, each with its best segments.

        Args:
            query: a text, a file, an attachment, a handle, a hit, a vector; or several, which are mixed.
            k: sources, at most.
            modality: of what is to be found; everything by default.
            where: filter of the metadata, in Chroma's language.
            min_score: leaves out what scores less.
            query_weights: of several queries; negative ones say what it is not to be like. The words of these do not
                count; those of a text with 0 do, and nothing else of it.
            ranking: by ``"similarity"`` of the embeddings; by the ``"words"`` of captions, texts and titles; or both.
            diversity: 0 to 1; above 0, sources that resemble those before them come later.
            candidates: the best sources, of which diversity chooses; four times ``k`` by default.
            segments: of each source, at most.
            calibrated: make scores comparable across modalities; otherwise a score is the similarity itself.

        Raises:
            InvalidRequestError: a query, a filter or a number that cannot be used.
            AttachmentError: a file of the query cannot be used.
            StoreError: the library is closed or cannot be reached.
        """
        wanted = Wanted(
            k=whole("k", k, least=1),
            modalities=modalities(modality),
            where=None if where is None else checked_where(where),
            min_score=min_score,
            segments=whole("segments", segments, least=1),
            diversity=share("diversity", diversity),
            candidates=None if candidates is None else whole("candidates", candidates, least=1),
            calibrated=calibrated,
        )
        if ranking not in get_args(Ranking):
            raise InvalidRequestError(f"ranking {one_line(ranking)!r}, expected one of {', '.join(get_args(Ranking))}")
        queries = as_queries(query)
        if ranking == "similarity":
            return self._seen(self._searcher.by_similarity(self.embed_query(queries, query_weights), wanted))
        weights = as_weights(query_weights, len(queries))
        words = " ".join(
            item
            for item, weight in zip(queries, weights, strict=True)
            if isinstance(item, str) and not item.startswith("att://") and weight >= 0
        )
        if not words.strip():
            raise InvalidRequestError(
                f"ranking {ranking!r} of a query without text; add one of a weight that is not negative, or rank by "
                "similarity"
            )
        if ranking == "words":
            return self._seen(self._searcher.by_words(words, wanted))
        return self._seen(self._searcher.hybrid(self.embed_query(queries, query_weights), words, wanted))

    def embed_query(
        self, query: Query | Sequence[Query], weights: Sequence[float] | None = None
    ) -> NDArray[np.float32]:
        """The unit vector (E,) of a query, or of a weighted mix of them: unit(sum_i w_i e_i).

        Raises:
            InvalidRequestError, AttachmentError: as :meth:`search`.
        """
        return self._query_encoder.mix(as_queries(query), weights)

    def get(self, id_: str) -> Entry:
        """An entry by its id.

        Raises:
            InvalidRequestError: there is none.
        """
        modality = modality_of(id_)
        if modality is not None and modality in self.catalogue.modalities():
            found = self.catalogue.entries(modality).get([id_], include=["metadatas", "documents"])
            if found.ids:
                return self._seen(entries_of(found))[0]
        raise InvalidRequestError(f"{one_line(id_)!r}: no such entry; take an id from a hit, or from list")

    def entries(self, *sources: str | Path | Entry) -> builtins.list[Entry]:
        """The entries of some sources, by path, handle, ``text:NAME`` or one of their entries; of unknown ones none."""
        records = self.catalogue.recorded(list(dict.fromkeys(map(_source_name, sources))))
        found: dict[str, Entry] = {}
        wanted = [item for record in records.values() for item in record.ids().items()]
        for kind in self._present([modality for modality, _ in wanted] or None):
            ids = list(dict.fromkeys(id_ for modality, some in wanted if modality == kind for id_ in some))
            for page in self._pages(kind, ids, PAGE, ["metadatas", "documents"]):
                found |= {entry.id: entry for entry in self._seen(entries_of(page))}
        return [
            found[id_].of_source(record.source)
            for record in records.values()
            for some in record.ids().values()
            for id_ in some
            if id_ in found
        ]

    def list(
        self,
        *,
        modality: Modality | Sequence[Modality] | None = None,
        where: Where | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> Iterator[Entry]:
        """Entries, modality by modality, in the order in which they came; the library may change meanwhile.

        Args:
            modality: of the entries; everything by default.
            where: filter of the metadata, in Chroma's language.
            limit: entries, at most.
            offset: entries that are passed over.

        Raises:
            InvalidRequestError: a modality, a filter or a number that cannot be used.
            StoreError: the library is closed or cannot be reached.
        """
        skip = whole("offset", offset, least=0)
        left = None if limit is None else whole("limit", limit, least=0)
        return self._listing(self._present(modality), None if where is None else checked_where(where), left, skip)

    def sources(self) -> Iterator[SourceRecord]:
        """Everything that was added, in the order in which it came."""
        return self.catalogue.all_sources()

    def vectors(
        self, modality: Modality, batch: int = PAGE
    ) -> Iterator[tuple[builtins.list[str], NDArray[np.float32]]]:
        """Ids and unit vectors (B, E) of a modality, batch by batch; the library may change meanwhile.

        Raises:
            InvalidRequestError: a modality or a number that cannot be used.
            StoreError: the library is closed or cannot be reached.
        """
        whole("batch", batch, least=1)
        for kind in self._present(modality):
            for records in self._pages(kind, self.catalogue.entries(kind).find().ids, batch, ["embeddings"]):
                yield records.ids, records.vectors

    def attachment(self, entry: Entry | str) -> Attachment:
        """The source of an entry or a hit, or what an ``att://`` handle stands for, opened.

        Raises:
            AttachmentError: it has gone, cannot be used any more, or is in a store that the library was opened without.
            StoreError: what the store remembers of it is damaged.
        """
        if isinstance(entry, str):
            return self._query_encoder.opened(entry)
        return self._files.open(entry)

    def delete(self, *sources: str | Path | Entry) -> int:
        """Remove sources, with their entries, by path, handle, ``text:NAME`` or one of their entries; how many."""
        names = list(dict.fromkeys(map(_source_name, sources)))
        return self._remove(list(self.catalogue.recorded(names).values()))

    def prune(self) -> builtins.list[str]:
        """Remove the sources whose files have gone, and what nothing refers to in the library's own attachment store.

        What was put there or opened within a day stays: someone may be about to refer to it. A store that was passed to
        :meth:`open` is left alone, for others may use it.

        Returns:
            The names of the sources.

        Raises:
            StoreError: the library or its store cannot be written.
        """
        gone = [record for record in self.sources() if is_path(record.source) and has_gone(record.source)]
        self._remove(gone)
        if self.attachments is not None and self.folder is not None:
            own = self.folder / ATTACHMENT_FOLDER
            if own.exists() and own.samefile(self.attachments.folder):
                self.attachments.collect(references(self.catalogue.database))
        return [record.source for record in gone]

    def verify(self, *, repair: bool = False, progress: bool = True) -> LibraryCheck:
        """Check that everything is there: indexes, entries, sources, thumbnails and attachments.

        Indexes are compared with the log that they are made from; on a server that is the server's business. Everything
        in the attachment store is read, and the files of sources whose time has changed. Nothing else may use the
        library meanwhile.

        Args:
            repair: make broken indexes anew from their log and thumbnails from their sources, remove entries of no
                source and damaged attachments, and have incomplete sources indexed again by the next run.
            progress: draw a bar where the output is a terminal.

        Returns:
            How it is now, and what was repaired.

        Raises:
            StoreError: the library cannot be read, or is open elsewhere in this process too.
        """
        verification = Verification(
            self.catalogue,
            self.attachments,
            location=self.location,
            opened=self.attachment,
            limits=self.limits,
            progress=progress,
        )
        return verification.repair() if repair else verification.check()

    def compact(self, *, progress: bool = True) -> Compaction:
        """Build the database anew, without what was deleted; nothing else may use the library meanwhile.

        It needs the room of the new one until the old one is replaced. A kill leaves one of them, whole.

        Args:
            progress: draw a bar where the output is a terminal.

        Raises:
            StoreError: it lies on a server or in memory; an index is broken; the disk is full; it is open elsewhere in
                this process too. The old database stays then.
        """
        place, name = self.catalogue.database.folder, self.catalogue.name
        if place is None:
            raise StoreError(
                f"{self.location}: no folder, so there is nothing to compact; on a server use `chroma vacuum`"
            )
        try:
            return compact(self.catalogue.database, place, progress=progress)
        finally:
            self.catalogue.database.close()
            complete_swap(place)
            _require_database(place)
            self.catalogue = Catalogue.open(VectorDatabase.open(place, keep_log=True), name)
            self._searcher = Searcher(self.catalogue)

    def export(
        self, folder: str | Path, *, files: bool = False, overwrite: bool = False, progress: bool = True
    ) -> ExportReport:
        """Write everything into a folder: Parquet, thumbnails and attachments; see docs/library-export.md.

        Args:
            folder: new or empty. It is there when it is complete, or not at all.
            files: also the files of the sources, each once, for a library that goes to another machine.
            overwrite: replace an export that is there, once the new one is complete.
            progress: draw a bar where the output is a terminal.

        Raises:
            MissingExtraError: pyarrow is not installed.
            InvalidRequestError: the folder cannot be written to, is too small, or holds something else.
            StoreError: the library cannot be read, or changed meanwhile.
        """
        return export_library(
            self.catalogue,
            self.attachments,
            folder,
            files=files,
            overwrite=overwrite,
            roots=self.roots,
            progress=progress,
        )

    def import_(
        self,
        folder: str | Path,
        *,
        media: str | Path | None = None,
        rebase: Mapping[str, str | Path] | None = None,
        progress: bool = True,
    ) -> ImportReport:
        """Take over what :meth:`export` wrote, of whichever library of this encoder; nothing is encoded.

        What the export says of a source or an entry that is there replaces it. Vectors, metadata, captions and
        thumbnails stay as they are. It can be repeated, and is completed by repeating it.

        Args:
            folder: an export. It may come from anyone: everything is checked before anything is written.
            media: folder that the files in the export are written below, and where the sources are then; needs an
                export with ``files=True``. Without it sources keep their paths.
            rebase: folders that the sources lay below, and which they are here.
            progress: draw a bar where the output is a terminal.

        Raises:
            MissingExtraError: pyarrow is not installed.
            EncoderMismatchError: it holds the vectors of another encoder.
            StoreError: it is no export, is damaged, or has a source of more than ``settings.max_segments`` segments;
                or the library cannot be written.
            InvalidRequestError: a folder in ``rebase`` that is not absolute.
        """
        return import_library(
            self.catalogue,
            self.attachments,
            folder,
            media=media,
            rebase=rebase,
            max_segments=self.settings.max_segments,
            progress=progress,
        )

    def stats(self) -> LibraryStats:
        """How much there is."""
        sources = size = 0
        seconds: dict[Modality, float] = {}
        for record in self.sources():
            sources, size = sources + 1, size + record.size
            if record.seconds is not None:
                seconds[record.modality] = seconds.get(record.modality, 0.0) + record.seconds
        kept = None if self.attachments is None else self.attachments.size()
        return LibraryStats(
            location=self.location,
            encoder=self.catalogue.fingerprint,
            dimension=self.catalogue.dimension,
            sources=sources,
            entries={modality: len(self.catalogue.entries(modality)) for modality in self.catalogue.modalities()},
            seconds=seconds,
            source_bytes=size,
            database_bytes=None if self.folder is None else size_on_disk(self.folder / DATABASE_FOLDER),
            attachments=0 if kept is None else kept.attachments,
            attachment_bytes=0 if kept is None else kept.bytes,
        )

    def __len__(self) -> int:
        """The number of entries."""
        return sum(len(self.catalogue.entries(modality)) for modality in self.catalogue.modalities())

    def close(self) -> None:
        """Release the database and its lock. Closing twice does nothing."""
        self.catalogue.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _query_encoder(self) -> QueryEncoder:
        return QueryEncoder(self.catalogue, self.embedder, self.attachments, roots=self.roots, limits=self.limits)

    def _listed(self, sources: Iterable[Any], texts: Sequence[str] | Mapping[str, str]) -> Iterator[Any]:
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise InvalidRequestError(f"texts={one_line(repr(texts))}, expected a list of texts, or a mapping of names")
        for source in sources:
            for item in source if isinstance(source, list | tuple | set) else [source]:
                yield self._kept(item) if isinstance(item, Attachment) and not is_file(item) else item
        named = texts.items() if isinstance(texts, Mapping) else ((None, text) for text in texts)
        for name, text in named:
            try:
                attachment = Attachment.from_text(text, limits=self.limits)
                source = attachment.handle if name is None else NAMED_TEXT + checked_name(name)
            except IbllmError as error:
                yield Refusal(one_line(text if name is None else NAMED_TEXT + str(name)), error)
            else:
                yield Task(source, None, self._kept(attachment), attachment.size)

    def _kept(self, attachment: Attachment) -> Attachment:
        """An attachment that is no file, in the store."""
        if self.attachments is None:
            raise StoreError(
                f"{attachment.name}: no file, and {self.location} has no store to keep it in; open the library with "
                "attachments=FOLDER"
            )
        self.attachments.put(attachment)
        return attachment

    def _events(self, tasks: Sequence[Task], engine: Engine) -> Generator[Event, None, None]:
        if engine == "local":
            yield from encode(tasks, self.embedder, self.settings, limits=self.limits, known=self._known)
            return
        from ibllm_tools.library.ray_engine import encode_on_ray

        yield from encode_on_ray(
            tasks,
            self.embedder,
            self.settings,
            limits=self.limits,
            known=self._known,
            recorded=((record.sha256, record.key) for record in self.sources()),
            attachments=self.attachments,
        )

    @property
    def _files(self) -> SourceFiles:
        return SourceFiles(self.location, self.attachments, self.roots, self.limits)

    def _seen(self, entries: Sequence[EntryT]) -> builtins.list[EntryT]:
        """Entries that a notebook can show."""
        files = self._files
        return [entry.traced_to(files.origin(entry)) for entry in entries]

    def _known(self, sha256: str, entries: Sequence[tuple[str, Modality]]) -> set[str]:
        present = set(self.catalogue.modalities())
        found: set[str] = set()
        for modality in dict.fromkeys(modality for _, modality in entries):
            if modality in present:
                found |= self.catalogue.entries(modality).known([id_ for id_, kind in entries if kind == modality])
        return found

    def _present(self, modality: Modality | Sequence[Modality] | None) -> builtins.list[Modality]:
        wanted = modalities(modality)
        return [kind for kind in self.catalogue.modalities() if kind in wanted]

    def _listing(self, kinds: Sequence[Modality], where: Where | None, left: int | None, skip: int) -> Iterator[Entry]:
        for kind in kinds:
            if left == 0:
                return
            collection = self.catalogue.entries(kind)
            ids = collection.find(where, limit=left, offset=skip).ids
            if skip:
                skip = 0 if ids else skip - len(collection.find(where, limit=skip).ids)
            left = None if left is None else left - len(ids)
            for records in self._pages(kind, ids, PAGE, ["metadatas", "documents"]):
                yield from self._seen(entries_of(records))

    def _pages(self, kind: Modality, ids: Sequence[str], size: int, include: Sequence[str]) -> Iterator[Records]:
        """What is there of some entries, by their ids: an offset would pass over some when others are deleted."""
        for start in range(0, len(ids), size):
            records = self.catalogue.entries(kind).get(ids[start : start + size], include=include)
            if records.ids:
                yield records

    def _remove(self, records: Sequence[SourceRecord]) -> int:
        going = {record.source for record in records}
        # A kill from here on leaves sources that the next run indexes again, and none that seem to have their entries.
        self.catalogue.record([record.model_copy(update={"complete": False}) for record in records])
        self.catalogue.give_up(records, going=going)
        if records:
            self.catalogue.forget(going)
            self.catalogue.changed()
        return len(records)


def _require_database(place: Path) -> None:
    """Refuse a folder without a database, in which Chroma would make an empty one."""
    if not (place / SQLITE_FILE).exists():
        raise StoreError(f"{place.parent}: no library there; index something into it first, or correct the path")


def _source_name(source: str | Path | Entry) -> str:
    if isinstance(source, Entry):
        return source.source
    if isinstance(source, str) and not is_path(source):
        return source
    try:
        return str(Path(source).expanduser().resolve())
    except (OSError, ValueError, RuntimeError):  # no path at all, so it names no source
        return str(source)
