"""A library out of its database: a folder that any reader of Parquet can open, and that another library takes over.

It is written beside its place (see `ibllm_tools.library.export_format`), and takes the place when it is complete. A
page of rows is in memory at a time.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from ibllm_tools.attachments import Attachment, AttachmentStore, Roots
from ibllm_tools.checkpoints.staging import staged_folder
from ibllm_tools.errors import (
    AttachmentError,
    AttachmentNotFoundError,
    CorruptMediaError,
    InvalidRequestError,
    StoreError,
    one_line,
)
from ibllm_tools.library.catalogue import Catalogue, SourceRecord, entries_of
from ibllm_tools.library.entry import IndexFailure, is_path
from ibllm_tools.library.export_format import (
    ATTACHMENTS,
    COLUMNS,
    MANIFEST,
    ROWS,
    SOURCES,
    Manifest,
    entry_table,
    read_manifest,
    require_pyarrow,
    source_table,
    write_manifest,
    write_tables,
)
from ibllm_tools.library.places import followed
from ibllm_tools.library.relocation import common_root
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.sniff import Modality

if TYPE_CHECKING:
    import pyarrow as pa

UNLIMITED = Limits(max_bytes=sys.maxsize)
"""What could be indexed is copied, however large."""
ROW_BYTES = 200
"""Of an entry beside its vector, at least; for an estimate of the room that is needed."""
RECORD_BYTES = 1 << 16
"""Of what an attachment store remembers beside the bytes, at most."""


class ExportReport(BaseModel):
    """What an export holds."""

    model_config = ConfigDict(frozen=True)

    folder: str = Field(description="Where it is.")
    sources: int = Field(description="Files, attachments and texts.")
    entries: int = Field(description="Entries, each with its vector.")
    copied: int = Field(description="Thumbnails, attachments and files that were copied.")
    seconds: float = Field(description="Wall-clock time.")
    failures: tuple[IndexFailure, ...] = Field(description="What could not be copied, and why.")


def export_library(
    catalogue: Catalogue,
    attachments: AttachmentStore | None,
    folder: str | Path,
    *,
    files: bool = False,
    overwrite: bool = False,
    roots: Roots = None,
    progress: bool = True,
) -> ExportReport:
    """Write a library into a folder; see `MediaLibrary.export`."""
    began = time.perf_counter()
    require_pyarrow("exporting a library")
    sizes = {modality: len(catalogue.entries(modality)) for modality in catalogue.modalities()}
    room = sum(sizes.values()) * (4 * catalogue.dimension + ROW_BYTES)
    if files:
        room += sum(record.size for record in catalogue.all_sources())
    with followed(folder, InvalidRequestError):
        target = Path(folder).expanduser()
    version = catalogue.version
    bar: Any = tqdm(total=sum(sizes.values()), unit="entry", disable=None if progress else True)
    free = partial(_require_free, overwrite=overwrite)
    with bar, staged_folder(target, bytes_needed=room, require_target=free) as staging:
        exporting = _Exporting(catalogue, attachments, staging, files=files, roots=roots, advance=bar.update)
        manifest = exporting.write([modality for modality, size in sizes.items() if size])
        if catalogue.version != version:
            raise StoreError(f"{target}: the library changed while it was exported; export it again")
    return ExportReport(
        folder=str(target),
        sources=manifest.sources,
        entries=sum(manifest.entries.values()),
        copied=exporting.copied,
        seconds=time.perf_counter() - began,
        failures=tuple(exporting.failures),
    )


class _Exporting:
    """Writes a library into a folder that nobody sees yet."""

    def __init__(
        self,
        catalogue: Catalogue,
        attachments: AttachmentStore | None,
        folder: Path,
        *,
        files: bool,
        roots: Roots,
        advance: Callable[[int], object],
    ) -> None:
        self.copied = 0
        self.failures: list[IndexFailure] = []
        self._catalogue, self._attachments, self._folder = catalogue, attachments, folder
        self._files, self._roots, self._advance = files, roots, advance
        self._kept = AttachmentStore(folder / ATTACHMENTS)
        self._thumbnails = self._without_thumbnail = self._from_store = self._from_files = 0
        self._root: str | None = None

    def write(self, modalities: Sequence[Modality]) -> Manifest:
        """Everything; what it is."""
        tables = [table for kind in modalities for table in write_tables(self._folder, kind, self._entries(kind))]
        tables += write_tables(self._folder, SOURCES, self._sources())
        if self._without_thumbnail:
            reason = f"{self._without_thumbnail:,} are not in the attachment store; index again, or pass its folder"
            self.failures.append(IndexFailure(source="thumbnails", reason=reason))
        manifest = Manifest(
            encoder=self._catalogue.fingerprint,
            dimension=self._catalogue.dimension,
            sources=sum(table.rows for table in tables if table.kind == SOURCES),
            entries={kind: sum(table.rows for table in tables if table.kind == kind) for kind in modalities},
            thumbnails=self._thumbnails,
            attachments=self._from_store,
            files=self._from_files,
            root=self._root or "",
            separator="\\" if os.sep == "\\" else "/",
            columns=COLUMNS,
            tables=tuple(tables),
        )
        write_manifest(self._folder, manifest)
        return manifest

    def _entries(self, modality: Modality) -> "Iterator[pa.Table]":
        collection, place = self._catalogue.entries(modality), 0
        include = ["embeddings", "metadatas", "documents"]
        while (records := collection.find(limit=ROWS, offset=place, include=include)).ids:
            entries = entries_of(records)
            for thumbnail in (entry.thumbnail for entry in entries if entry.thumbnail is not None):
                try:
                    self._keep(thumbnail)
                    self._thumbnails += 1
                except AttachmentError:
                    self._without_thumbnail += 1
            yield entry_table(entries, records.vectors)
            place += len(entries)
            self._advance(len(entries))

    def _sources(self) -> "Iterator[pa.Table]":
        page: list[SourceRecord] = []
        for record in self._catalogue.all_sources():
            self._keep_source(record)
            page.append(record)
            if len(page) == ROWS:
                yield source_table(page)
                page = []
        if page:
            yield source_table(page)

    def _keep_source(self, record: SourceRecord) -> None:
        try:
            if not is_path(record.source):
                self._from_store += 1
                self._keep(f"att://{record.sha256}")
                return
            if Path(record.source).is_absolute():
                self._root = common_root(self._root, record.source)
            if self._files:
                self._keep_file(record)
                self._from_files += 1
        except AttachmentError as error:
            self.failures.append(IndexFailure(source=record.source, reason=one_line(error, 1000)))

    def _keep(self, handle: str) -> None:
        """Copy an attachment of the library's, unless it is there."""
        if handle in self._kept:
            return
        if self._attachments is None:
            raise AttachmentNotFoundError(
                f"{handle}: the library was opened without its store; open it with attachments=FOLDER"
            )
        self._put(intact(self._attachments, handle))

    def _keep_file(self, record: SourceRecord) -> None:
        handle = f"att://{record.sha256}"
        if handle in self._kept:
            return
        path = Path(record.source)
        attachment = Attachment(path, modality=record.modality, roots=self._roots, limits=UNLIMITED)
        if attachment.handle != handle:
            raise CorruptMediaError(f"{path.name}: it has changed since it was indexed; index it again")
        self._put(attachment)

    def _put(self, attachment: Attachment) -> None:
        self._kept.put(attachment)
        self.copied += 1


def intact(store: AttachmentStore, handle: str, *, roots: Roots = None) -> Attachment:
    """What a store keeps under a handle, compared with it.

    Raises:
        AttachmentError: it is missing, damaged, or leads out of the folder that it must lie in.
    """
    path = store.path(handle)
    try:
        if path.with_suffix(".json").stat().st_size > RECORD_BYTES:
            raise CorruptMediaError(f"{handle}: its record is no record; put the attachment there again")
        record = store.meta(handle)
    except (OSError, StoreError) as error:
        raise CorruptMediaError(f"{handle}: its record is missing or damaged ({one_line(error)})") from error
    attachment = Attachment(path, name=record.name, modality=record.modality, roots=roots, limits=UNLIMITED)
    if attachment.handle != handle:
        raise CorruptMediaError(f"{handle}: damaged; put it there again, or copy the folder again")
    return attachment


def _require_free(target: Path, *, overwrite: bool) -> None:
    """Refuse a place where something is that an export must not replace."""
    if target.exists() and not target.is_dir():
        raise InvalidRequestError(f"{target}: a file; expected a folder, or a name for a new one")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise InvalidRequestError(
            f"{target}: not empty; choose another folder, or overwrite the export that is there (--overwrite)"
        )
    try:
        own = {MANIFEST, ATTACHMENTS, *(table.name for table in read_manifest(target).tables)}
    except StoreError as error:
        raise InvalidRequestError(f"{error}; what is there stays, so choose another folder") from error
    if foreign := sorted(path.name for path in target.iterdir() if path.name not in own):
        raise InvalidRequestError(
            f"{target}: holds what is no part of an export ({', '.join(foreign[:3])}), so it stays; choose another "
            "folder"
        )
