"""An exported library into another one: on another machine, on a Chroma server, or back.

The whole folder is checked first; then what is not there yet is written: entries, then the sources that they belong to,
as indexing does. So it can be repeated, and goes on where it was stopped.

A library knows the paths of its sources. On another machine they are elsewhere: ``rebase`` says which folder is which,
for files that were brought there by other means; ``media`` writes the files that the export holds below a folder.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from ibllm_tools.attachments import Attachment, AttachmentStore
from ibllm_tools.errors import (
    AttachmentAccessError,
    AttachmentError,
    AttachmentNotFoundError,
    EncoderMismatchError,
    StoreError,
    one_line,
)
from ibllm_tools.library.absent_encoder import AbsentEncoder
from ibllm_tools.library.catalogue import Catalogue, SourceRecord, to_record
from ibllm_tools.library.entry import Entry, IndexFailure, is_path
from ibllm_tools.library.export_format import (
    ATTACHMENTS,
    SOURCES,
    Manifest,
    check_table,
    read_entries,
    read_manifest,
    read_sources,
    require_pyarrow,
)
from ibllm_tools.library.exporting import intact
from ibllm_tools.library.places import followed
from ibllm_tools.library.relocation import Relocation, restore
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.segments import DEFAULT_SETTINGS

IDS = 10_000
"""That are looked up at a time."""


class ImportReport(BaseModel):
    """What became of an export in a library."""

    model_config = ConfigDict(frozen=True)

    folder: str = Field(description="The export.")
    sources: int = Field(description="Sources that it holds.")
    entries: int = Field(description="Entries that it holds.")
    written: int = Field(description="Entries that the library did not have like this.")
    copied: int = Field(description="Thumbnails, attachments and files that were copied.")
    seconds: float = Field(description="Wall-clock time.")
    failures: tuple[IndexFailure, ...] = Field(description="What could not be taken over, and why.")


def exported_encoder(folder: str | Path) -> AbsentEncoder:
    """The encoder whose vectors an export holds, by name: with it a library can be opened to import into.

    Raises:
        StoreError: it is no export.
    """
    manifest = read_manifest(_place(folder))
    return AbsentEncoder(manifest.encoder, manifest.dimension)


def import_library(
    catalogue: Catalogue,
    attachments: AttachmentStore | None,
    folder: str | Path,
    *,
    media: str | Path | None = None,
    rebase: Mapping[str, str | Path] | None = None,
    max_segments: int = DEFAULT_SETTINGS.max_segments,
    progress: bool = True,
) -> ImportReport:
    """Take an export over into a library; see `MediaLibrary.import_`."""
    began = time.perf_counter()
    require_pyarrow("importing a library")
    place = _place(folder)
    manifest = read_manifest(place)
    if (manifest.encoder, manifest.dimension) != (catalogue.fingerprint, catalogue.dimension):
        raise EncoderMismatchError(
            f"{place} holds vectors of encoder {one_line(manifest.encoder)!r} and width {manifest.dimension}, and the "
            f"library those of {catalogue.fingerprint!r}, {catalogue.dimension}; import into another library"
        )
    if manifest.attachments and attachments is None:
        raise StoreError(
            f"{place}: {manifest.attachments:,} sources are no files, and the library has no store to keep them in; "
            "open it with attachments=FOLDER"
        )
    relocation = Relocation(manifest.root, manifest.separator, rebase=rebase, media=media)
    rows = sum(table.rows for table in manifest.tables)
    bar: Any = tqdm(total=2 * rows, unit="row", disable=None if progress else True)
    with bar:
        importing = _Importing(catalogue, attachments, place, manifest, relocation, max_segments, bar.update)
        importing.check()
        importing.write()
    return ImportReport(
        folder=str(place),
        sources=manifest.sources,
        entries=sum(manifest.entries.values()),
        written=importing.written,
        copied=importing.copied,
        seconds=time.perf_counter() - began,
        failures=tuple(importing.failures),
    )


class _Importing:
    """Takes an export over, once it is checked."""

    def __init__(
        self,
        catalogue: Catalogue,
        attachments: AttachmentStore | None,
        folder: Path,
        manifest: Manifest,
        relocation: Relocation,
        max_segments: int,
        advance: Callable[[int], object],
    ) -> None:
        self.written = self.copied = 0
        self.failures: list[IndexFailure] = []
        self._catalogue, self._attachments, self._folder = catalogue, attachments, folder
        self._manifest, self._relocation, self._advance = manifest, relocation, advance
        self._max_segments = max_segments
        # Only where there is one: opening a store makes its folder.
        self._kept = AttachmentStore(folder / ATTACHMENTS) if (folder / ATTACHMENTS).is_dir() else None
        self._without_thumbnail = self._without_store = 0
        self._held: Counter[str] = Counter()  # entries that the export has of a content, by how their ids begin
        self._replacing: dict[str, SourceRecord] = {}  # what sources are now that had another content,
        self._replaced: list[SourceRecord] = []  # and what they were before

    def check(self) -> None:
        """Go through everything once, so that nothing is written of an export that is damaged or was never one.

        Raises:
            StoreError: what is wrong.
        """
        for table in self._manifest.tables:
            check_table(self._folder, table)
        for _, entries, _ in self._entries():
            self._check_places([entry.source for entry in entries])
            self._held.update(entry.id.rsplit("-", 2)[0] for entry in entries)
        for records in self._sources():
            self._check_places([record.source for record in records])

    def write(self) -> None:
        """Take it over."""
        for modality, entries, vectors in self._entries():
            self._take_entries(modality, [self._placed(entry) for entry in entries], vectors)
        for records in self._sources():
            self._take_sources(records)
        self._replace()
        self._catalogue.changed()
        if self._without_thumbnail:
            reason = f"{self._without_thumbnail:,} are missing or damaged in the export; copy or export it again"
            self.failures.append(IndexFailure(source="thumbnails", reason=reason))
        if self._without_store:
            reason = (
                f"{self._without_store:,} are left out, as there is no store; open the library with attachments=FOLDER"
            )
            self.failures.append(IndexFailure(source="thumbnails", reason=reason))

    def _entries(self) -> Iterator[tuple[Modality, list[Entry], NDArray[np.float32]]]:
        for table in self._manifest.tables:
            if table.kind != SOURCES:
                for entries, vectors in read_entries(self._folder, table, table.kind, self._manifest.dimension):
                    yield table.kind, entries, vectors
                    self._advance(len(entries))

    def _sources(self) -> Iterator[list[SourceRecord]]:
        for table in self._manifest.tables:
            if table.kind == SOURCES:
                for records in read_sources(self._folder, table, self._max_segments):
                    yield records
                    self._advance(len(records))

    def _check_places(self, sources: Sequence[str]) -> None:
        for source in sources:
            try:
                self._relocation(source)
            except AttachmentAccessError as error:
                raise StoreError(str(error)) from error

    def _placed(self, entry: Entry) -> Entry:
        """The entry as it is called here."""
        thumbnail = entry.thumbnail
        if thumbnail is not None and not self._has(thumbnail):
            thumbnail = None
        return entry.model_copy(update={"source": self._relocation(entry.source), "thumbnail": thumbnail})

    def _has(self, thumbnail: str) -> bool:
        """Whether the library has a thumbnail, now at least."""
        if self._attachments is None:
            self._without_store += 1
            return False
        try:
            self._keep(thumbnail, self._attachments)
        except AttachmentError:
            self._without_thumbnail += 1
            return False
        return True

    def _keep(self, handle: str, store: AttachmentStore) -> None:
        """Copy an attachment of the export's, unless it is there."""
        if handle not in store:
            store.put(self._exported(handle))
            self.copied += 1

    def _exported(self, handle: str) -> Attachment:
        """An attachment of the export.

        Raises:
            AttachmentError: it is missing, damaged, or leads out of the export.
        """
        with followed(handle, AttachmentAccessError):
            if self._kept is None or handle not in self._kept:
                raise AttachmentNotFoundError(f"{handle}: not in the export; export it again, its file with files=True")
            return intact(self._kept, handle, roots=self._folder)

    def _take_entries(self, modality: Modality, entries: Sequence[Entry], vectors: NDArray[np.float32]) -> None:
        """Write those entries that are not there like this."""
        collection, ids = self._catalogue.entries(modality), [entry.id for entry in entries]
        there = collection.get(ids, include=["embeddings", "metadatas", "documents"])
        stored = {
            id_: (vector.tobytes(), metadata, document)
            for id_, vector, metadata, document in zip(
                there.ids, there.vectors, there.metadatas, there.documents, strict=True
            )
        }
        records = [to_record(entry) for entry in entries]
        rows = [row for row, id_ in enumerate(ids) if stored.get(id_) != (vectors[row].tobytes(), *records[row])]
        if not rows:
            return
        # None takes away what was said of an entry before
        said = {id_: dict.fromkeys(metadata) for id_, (_, metadata, _) in stored.items()}
        collection.upsert(
            [ids[row] for row in rows],
            vectors[rows],
            metadatas=[{**said.get(ids[row], {}), **records[row][0]} for row in rows],
            documents=[records[row][1] for row in rows],
        )
        self._catalogue.changed()
        self.written += len(rows)

    def _take_sources(self, records: Sequence[SourceRecord]) -> None:
        """Remember sources, but for those that had another content before."""
        placed = list(map(self._with_content, records))
        known = {**self._catalogue.recorded(list({record.source for record in placed})), **self._replacing}
        settled = {}
        for record in self._checked(placed):
            old = known.get(record.source)
            if old is not None and old.content != record.content:
                self._replacing[record.source] = record
                self._replaced.append(old)
            elif record != old:
                settled[record.source] = record
            known[record.source] = record  # rebase may unite two folders
        self._catalogue.record(list(settled.values()))

    def _replace(self) -> None:
        """Remember the sources that have new content, once what they had before is deleted.

        This is done last, for until then a source may come that has this content. Until then they are recorded as they
        were, so that an import that was stopped is completed by repeating it.
        """
        coming = {record.content: record for record in self._replacing.values()}
        self._catalogue.give_up(self._replaced, going=self._replacing, coming=coming)
        self._catalogue.record(list(self._replacing.values()))

    def _with_content(self, record: SourceRecord) -> SourceRecord:
        """The record as the source is called here, where its bytes have been put."""
        here = record.model_copy(update={"source": self._relocation(record.source)})
        target, media = self._relocation.restored(record.source), self._relocation.media
        try:
            if not is_path(record.source) and self._attachments is not None:
                self._keep(f"att://{record.sha256}", self._attachments)
            elif target is not None and media is not None:
                self.copied += restore(self._exported(f"att://{record.sha256}"), target, media, record.modified)
        except AttachmentError as error:
            self.failures.append(IndexFailure(source=here.source, reason=one_line(error, 1000)))
            return here.model_copy(update={"modified": -1})
        return here

    def _checked(self, records: Sequence[SourceRecord]) -> Iterator[SourceRecord]:
        """Records that say whether their entries are there; where they are not, indexing completes them."""
        for group in _grouped(records):
            wanted: defaultdict[Modality, list[str]] = defaultdict(list)
            for record in group:
                for modality, ids in self._ids(record).items():
                    wanted[modality] += ids
            known = {
                id_
                for modality, ids in wanted.items()
                for id_ in self._catalogue.entries(modality).known(list(dict.fromkeys(ids)))
            }
            for record in group:
                there = sum(len(known.intersection(ids)) for ids in self._ids(record).values())
                if record.complete and there < max(1, sum(record.counts.values()) - record.failed):
                    reason = "the export lacks some of its entries; index it again"
                    self.failures.append(IndexFailure(source=record.source, reason=reason))
                    yield record.model_copy(update={"complete": False})
                else:
                    yield record

    def _ids(self, record: SourceRecord) -> dict[Modality, list[str]]:
        """The ids of its entries, where the export holds as many as it says."""
        said = sum(record.counts.values()) - record.failed
        return record.ids() if said <= self._held[f"{record.sha256}-{record.key}"] else {}


def _place(folder: str | Path) -> Path:
    with followed(folder):
        return Path(folder).expanduser()


def _grouped(records: Sequence[SourceRecord]) -> Iterator[list[SourceRecord]]:
    """Records with some `IDS` entries together."""
    group: list[SourceRecord] = []
    size = 0
    for record in records:
        group.append(record)
        size += sum(record.counts.values())
        if size >= IDS:
            yield group
            group, size = [], 0
    if group:
        yield group
