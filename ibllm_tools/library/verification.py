"""Whether a library is whole: its indexes, its sources with their entries and files, its thumbnails and attachments."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from ibllm_tools.attachments import Attachment, AttachmentStore
from ibllm_tools.errors import IbllmError, one_line
from ibllm_tools.library.catalogue import Catalogue, SourceRecord, entries_of
from ibllm_tools.library.encoding import segment_thumbnail
from ibllm_tools.library.entry import Entry, is_path
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.chroma import Records
from ibllm_tools.store.chroma_engine import is_server
from ibllm_tools.store.index_verification import IndexDamage, Progress, check_indexes, repair_indexes
from ibllm_tools.store.segments import Segment

PAGE = 1000


class LibraryCheck(BaseModel):
    """What `MediaLibrary.verify` found, and what it mended; everything is as it is now."""

    model_config = ConfigDict(frozen=True)

    location: str = Field(description="Folder, URL, or 'memory'.")
    indexes: int | None = Field(description="Indexes that were compared with their log; null on a server, in memory.")
    vectors: int = Field(default=0, description="Vectors that were compared.")
    broken_indexes: tuple[IndexDamage, ...] = Field(
        default=(), description="Indexes that answer wrongly or not at all."
    )
    database_problems: tuple[str, ...] = Field(default=(), description="What SQLite finds wrong with its own file.")
    sources: int | None = Field(default=None, description="Sources that were checked; null beside a broken index.")
    entries: int | None = Field(default=None, description="Entries that were checked; null beside a broken index.")
    incomplete: tuple[str, ...] = Field(default=(), description="Sources of which entries are missing.")
    orphaned: int = Field(default=0, description="Entries that no source has, as a killed run leaves them.")
    gone: tuple[str, ...] = Field(default=(), description="Sources whose file, or bytes in the store, cannot be read.")
    changed: tuple[str, ...] = Field(default=(), description="Sources whose files are not what was indexed.")
    attachments: int | None = Field(
        default=None, description="Attachments and thumbnails that were read; null without."
    )
    damaged_attachments: tuple[str, ...] = Field(default=(), description="Handles whose bytes or records are damaged.")
    missing_thumbnails: int = Field(default=0, description="Entries whose thumbnail is not in the store.")
    repaired: tuple[str, ...] = Field(default=(), description="What was mended, in one line each.")

    @property
    def ok(self) -> bool:
        """Whether everything that the library remembers is there; its sources may have gone or changed since."""
        return not (
            self.broken_indexes
            or self.database_problems
            or self.incomplete
            or self.orphaned
            or self.damaged_attachments
            or self.missing_thumbnails
        )

    def __str__(self) -> str:
        """A line for each thing that is wrong or was mended, and the verdict."""
        return "\n".join([*self._repairs(), *self._findings(), self._verdict()])

    def _repairs(self) -> Iterator[str]:
        yield from (f"repaired: {text}" for text in self.repaired)

    def _findings(self) -> Iterator[str]:
        yield from (f"database: {text}" for text in self.database_problems)
        for index in self.broken_indexes:
            remedy = (
                "" if index.mendable else "; what it was made from was not kept: index its sources into a new library"
            )
            yield f"index of {index.collection}: {index.reason}{remedy}"
        yield from (f"entries missing, index it again: {one_line(name, 1000)}" for name in self.incomplete)
        if self.orphaned:
            yield f"{self.orphaned:,} entries of no source: finish the run that made them, or repair"
        yield from (f"damaged in the attachment store: {handle}" for handle in self.damaged_attachments)
        if self.missing_thumbnails:
            yield f"{self.missing_thumbnails:,} thumbnails missing"
        yield from (f"gone: {one_line(name, 1000)}" for name in self.gone)
        yield from (f"changed, index it again: {one_line(name, 1000)}" for name in self.changed)

    def _verdict(self) -> str:
        counted = (
            "nothing else checked" if self.sources is None else f"{self.sources:,} sources, {self.entries:,} entries"
        )
        indexes = "indexes are the server's" if self.indexes is None else f"{self.indexes:,} indexes"
        if self.indexes is None and not is_server(self.location):
            indexes = "indexes in memory"
        return f"{self.location}: {'whole' if self.ok else 'not whole'} ({counted}, {indexes})"


class Verification:
    """Checks a library, and repairs what can be repaired. Nothing else may use it meanwhile.

    Args:
        catalogue: of the library.
        location: what the report calls it.
        attachments: its store.
        opened: opens the source of an entry.
        limits: bounds on what a thumbnail may decode.
        progress: draw a bar where the output is a terminal.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        attachments: AttachmentStore | None,
        *,
        location: str,
        opened: Callable[[Entry], Attachment],
        limits: Limits,
        progress: bool = True,
    ) -> None:
        self._catalogue, self._attachments, self._opened, self._limits = catalogue, attachments, opened, limits
        self._location = location
        self._bar = partial(tqdm, desc="verify", unit="item", leave=False, disable=None if progress else True)

    def check(self) -> LibraryCheck:
        """What is there, and what is wrong with it; changes nothing.

        Raises:
            StoreError: the database or the attachments cannot be read, or are open elsewhere in this process too.
        """
        found, _ = self._check()
        return found

    def repair(self) -> LibraryCheck:
        """Repair what can be repaired, and check everything again; raises as :meth:`check` does."""
        found, contents = self._check()
        if found.ok:
            return found
        repaired = repair_indexes(self._catalogue.database, found.broken_indexes)
        if repaired:
            found, contents = self._check()
        if contents is not None:
            repaired += [*self._repair_attachments(contents), *self._repair_records(contents)]
            self._catalogue.changed()
            found, _ = self._check()
        return found.model_copy(update={"repaired": tuple(repaired)})

    def _check(self) -> tuple[LibraryCheck, "_Contents | None"]:
        database = self._catalogue.database
        with self._bar() as bar:
            indexes = None if database.folder is None else check_indexes(database, bar.update)
            contents = None if indexes is not None and indexes.broken else self._check_contents(bar.update)
        fields: dict[str, Any] = {"location": self._location, "indexes": None}
        if indexes is not None:
            fields |= {"indexes": indexes.indexes, "vectors": indexes.vectors}
            fields |= {"broken_indexes": indexes.broken, "database_problems": indexes.problems}
        if contents is not None:
            fields |= contents.fields()
        return LibraryCheck(**fields), contents

    def _check_contents(self, progress: Progress) -> "_Contents":
        found = _Contents()
        if self._attachments is not None:
            kept = self._attachments.verify()
            found.attachments, found.damaged = kept.checked, list(kept.damaged)
        records = self._catalogue.all_sources()
        while page := list(islice(records, PAGE)):
            self._check_sources(page, found)
            progress(len(page))
        known = np.unique(np.array(found.known, np.int64))
        for modality, entries in self._pages():
            found.entries += len(entries.ids)
            contents = np.array([_content(id_) for id_ in entries.ids], np.int64)
            found.orphans += [
                (modality, id_) for id_, has in zip(entries.ids, np.isin(contents, known), strict=True) if not has
            ]
            found.without_picture += [
                (modality, id_)
                for id_, metadata in zip(entries.ids, entries.metadatas, strict=True)
                if self._lacks_picture(metadata.get("thumbnail"), found.damaged)
            ]
            progress(len(entries.ids))
        return found

    def _pages(self) -> Iterator[tuple[Modality, Records]]:
        for modality in self._catalogue.modalities():
            collection, place = self._catalogue.entries(modality), 0
            while (records := collection.find(limit=PAGE, offset=place, include=["metadatas"])).ids:
                place += len(records.ids)
                yield modality, records

    def _check_sources(self, records: Sequence[SourceRecord], found: "_Contents") -> None:
        expected: defaultdict[Modality, list[str]] = defaultdict(list)
        for record in records:
            for modality, ids in record.ids().items():
                expected[modality] += ids
        present = self._catalogue.modalities()
        there = {
            modality: self._catalogue.entries(modality).known(ids) if modality in present else set()
            for modality, ids in expected.items()
        }
        for record in records:
            found.sources += 1
            lacking = 0
            for modality, ids in record.ids().items():
                found.known += [_content(ids[0])] if ids else []
                lacking += sum(id_ not in there[modality] for id_ in ids)
            if lacking > record.failed or not record.complete:
                found.incomplete.append(record)
            if (state := self._state(record, found.damaged)) is not None:
                found.stale[state].append(record.source)

    def _state(self, record: SourceRecord, damaged: Sequence[str]) -> Literal["gone", "changed"] | None:
        """What has become of a source since it was indexed."""
        if not is_path(record.source):
            handle = f"att://{record.sha256}"
            kept = self._attachments is None or (handle in self._attachments and handle not in damaged)
            return None if kept else "gone"
        path = Path(record.source)
        try:
            status = path.stat()
            if status.st_size != record.size:
                return "changed"
            if status.st_mtime_ns == record.modified:
                return None
            with path.open("rb") as file:
                return None if hashlib.file_digest(file, "sha256").hexdigest() == record.sha256 else "changed"
        except OSError:
            return "gone"

    def _lacks_picture(self, handle: str | None, damaged: Sequence[str]) -> bool:
        return (
            handle is not None
            and self._attachments is not None
            and (handle not in self._attachments or handle in damaged)
        )

    def _repair_attachments(self, found: "_Contents") -> Iterator[str]:
        """Remove what is damaged, and make thumbnails again."""
        if self._attachments is not None and found.damaged:
            for handle in found.damaged:
                self._attachments.delete(handle)
            yield f"{len(found.damaged):,} damaged attachments removed"
        drawn = 0
        for modality, ids in _grouped(found.without_picture):
            collection = self._catalogue.entries(modality)
            stored = collection.get(ids, include=["embeddings", "metadatas", "documents"])
            pictures = [self._picture(entry) for entry in entries_of(stored)]
            drawn += sum(picture is not None for picture in pictures)
            metadatas = [
                {**metadata, "thumbnail": picture} for metadata, picture in zip(stored.metadatas, pictures, strict=True)
            ]
            collection.update(stored.ids, stored.vectors, metadatas=metadatas, documents=stored.documents)
        if found.without_picture:
            yield f"{drawn:,} of {len(found.without_picture):,} missing thumbnails made again"

    def _picture(self, entry: Entry) -> str | None:
        try:
            segment = Segment(modality=entry.modality, index=entry.index, start=entry.start, end=entry.end)
            picture = segment_thumbnail(self._opened(entry), segment, self._limits)
        except IbllmError:
            return None  # the source has gone or changed
        if picture is None or self._attachments is None:
            return None
        return self._attachments.put(picture, name="thumbnail.webp")

    def _repair_records(self, found: "_Contents") -> Iterator[str]:
        """Have incomplete sources indexed again by the next run, and remove entries that nobody knows."""
        if marked := [record.model_copy(update={"complete": False}) for record in found.incomplete if record.complete]:
            self._catalogue.record(marked)
            yield f"{len(marked):,} incomplete sources marked; the next run that indexes them completes them"
        for modality, ids in _grouped(found.orphans):
            self._catalogue.entries(modality).delete(ids)
        if found.orphans:
            yield f"{len(found.orphans):,} entries of no source removed"


@dataclass
class _Contents:
    """What was found below the indexes, and what its repair needs to know."""

    sources: int = 0
    entries: int = 0
    attachments: int | None = None
    damaged: list[str] = field(default_factory=list)
    incomplete: list[SourceRecord] = field(default_factory=list)
    stale: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    orphans: list[tuple[Modality, str]] = field(default_factory=list)
    without_picture: list[tuple[Modality, str]] = field(default_factory=list)
    known: list[int] = field(default_factory=list)  # of each source what `_content` makes of its entries' ids

    def fields(self) -> dict[str, Any]:
        """Those of a `LibraryCheck`."""
        return {
            "sources": self.sources,
            "entries": self.entries,
            "incomplete": tuple(record.source for record in self.incomplete),
            "orphaned": len(self.orphans),
            "gone": tuple(self.stale["gone"]),
            "changed": tuple(self.stale["changed"]),
            "attachments": self.attachments,
            "damaged_attachments": tuple(self.damaged),
            "missing_thumbnails": len(self.without_picture),
        }


def _content(id_: str) -> int:
    """What an entry is made of and how, as 64 bits: some 10^6 sources take 8 MB so, and never collide."""
    return hash(tuple(id_.split("-", 2)[:2]))


def _grouped(items: Iterable[tuple[Modality, str]]) -> Iterator[tuple[Modality, list[str]]]:
    """Ids of one modality together, some at a time."""
    alike: defaultdict[Modality, list[str]] = defaultdict(list)
    for modality, id_ in items:
        alike[modality].append(id_)
    for modality, ids in alike.items():
        for start in range(0, len(ids), PAGE):
            yield modality, ids[start : start + PAGE]
