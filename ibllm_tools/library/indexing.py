"""From vectors to records: what the encoder yields is written in batches, sources after their entries.

Thumbnails are kept and batches written in threads of their own, while the model works on what comes next.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.attachments import AttachmentStore
from ibllm_tools.errors import IbllmError, one_line
from ibllm_tools.library.catalogue import Catalogue, SourceRecord, entries_of, to_record
from ibllm_tools.library.comparing import Labels, digest_over
from ibllm_tools.library.encoding import Encoded, Event, Facts, Failed, Finished, Identified
from ibllm_tools.library.entry import NAMED_TEXT, Entry, IndexFailure, file_title, is_path
from ibllm_tools.library.scanning import Task, has_gone
from ibllm_tools.media.sniff import Modality

BATCH = 256
"""Entries or sources that are written together; Chroma holds the interpreter while it writes."""
LONGEST_WAIT = 10.0
"""Seconds after which what is ready is written, full batch or not."""
TITLE_CHARS = 60


class Captioner(Protocol):
    """Writes captions from embeddings; :class:`~ibllm_tools.assistant.assistant.Assistant` is one."""

    def captions(self, embeddings: NDArray[np.float32]) -> list[str]:
        """A caption per unit vector (B, E)."""
        ...


@dataclass
class _Source:
    """A source on its way."""

    facts: Facts
    known: frozenset[str]
    labels: Labels
    """Those of now, and of before what is not said anew."""
    said: str
    """Their digest."""
    previous: SourceRecord | None
    encoded: int = 0
    reasons: list[IbllmError] = field(default_factory=list)


@dataclass
class _Batch:
    entries: list[tuple[Entry, NDArray[np.float32], "Future[str | None]"]] = field(default_factory=list)
    sources: list[tuple[Task, _Source]] = field(default_factory=list)


@dataclass
class Tally:
    """What became of the sources so far."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    moved: int = 0
    entries: int = 0
    failures: list[IndexFailure] = field(default_factory=list)


class Indexing:
    """Writes the events of one run into a catalogue; a context manager, which writes what is left.

    Args:
        catalogue: where to.
        attachments: where thumbnails go; without one there are none.
        labels: what the user says of the sources.
        previous: the records that the sources had before.
        captioner: writes captions; without one there are none but those that were given.
        strict: whether the first failure is raised.
        progress: told the number of sources that are done.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        attachments: AttachmentStore | None,
        *,
        labels: Mapping[str, Labels],
        previous: Mapping[str, SourceRecord],
        captioner: Captioner | None = None,
        strict: bool = False,
        progress: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.tally = Tally()
        self._catalogue, self._attachments, self._labels, self._previous = catalogue, attachments, labels, previous
        self._captioner, self._strict, self._progress = captioner, strict, progress
        self._open: dict[str, _Source] = {}
        self._batch, self._written_at = _Batch(), time.monotonic()
        self._replacing: list[tuple[SourceRecord, SourceRecord]] = []  # what a source is now, and what it was before
        self._thumbnails = ThreadPoolExecutor(2, thread_name_prefix="ibllm-thumbnail")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ibllm-write")
        self._writing: Future[None] | None = None

    def take(self, events: Iterable[Event]) -> None:
        """Write what becomes of some tasks.

        Raises:
            StoreError: it cannot be written. What was written before stays.
            IbllmError: with ``strict``, why the first source cannot be used.
        """
        for event in events:
            if isinstance(event, Identified):
                self._begin(event)
            elif isinstance(event, Encoded):
                self._add(event)
            elif isinstance(event, Finished):
                self._finish(event)
            else:
                self._drop(event)
            waited = time.monotonic() - self._written_at > LONGEST_WAIT
            if waited or len(self._batch.entries) >= BATCH or len(self._batch.sources) >= BATCH:
                self._write()

    def refuse(self, source: str, error: IbllmError) -> None:
        """Report something that cannot be indexed; with ``strict`` it is raised."""
        self.tally.failures.append(IndexFailure(source=source, reason=one_line(error, 1000)))
        self._progress(1)
        if self._strict:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what is complete, also after Ctrl-C or a failure."""
        try:
            self._write()
            self._settle()
            self._replace()
        except BaseException:
            if kind is None:  # what came first is the better reason
                raise
        finally:
            self._thumbnails.shutdown(cancel_futures=True)
            self._writer.shutdown(cancel_futures=True)

    def _begin(self, event: Identified) -> None:
        name = event.task.source
        labels = self._labels.get(name, Labels())
        source = _Source(event.facts, event.known, labels, labels.digest, self._previous.get(name))
        if source.previous is not None:
            self._keep_labels(source, source.previous)
        self._open[name] = source

    def _keep_labels(self, source: _Source, earlier: SourceRecord) -> None:
        """What was said of a source before, and is not said anew, still holds."""
        entry = self._stored(earlier) if earlier.labels else None
        if entry is None:
            return
        kept = {part.partition(":")[0]: part for part in earlier.labels.split()}
        if earlier.content != (source.facts.sha256, source.facts.key):
            kept.pop("caption", None)  # it was one of other segments
        title = entry.title if "title" in kept else None
        source.labels = source.labels.over(Labels(title, entry.tags, entry.metadata))
        source.said = digest_over(source.said, " ".join(kept.values()))

    def _stored(self, record: SourceRecord) -> Entry | None:
        """The first entry of a source."""
        for modality, ids in record.ids().items():
            found = self._catalogue.entries(modality).get(ids[:1], include=["metadatas", "documents"])
            if found.ids:
                return entries_of(found)[0]
        return None

    def _add(self, event: Encoded) -> None:
        source = self._open[event.task.source]
        if isinstance(event.vector, IbllmError):
            source.reasons.append(event.vector)
            return
        source.encoded += 1
        entry = _entry(event, source.labels)
        made = self._thumbnails.submit(self._thumbnail, event)
        self._batch.entries.append((entry, event.vector, made))

    def _thumbnail(self, event: Encoded) -> str | None:
        """The handle of a segment's picture, once it is in the store."""
        picture = None if self._attachments is None else event.thumbnail()
        if picture is None or self._attachments is None:
            return None
        return self._attachments.put(picture, name="thumbnail.webp")

    def _finish(self, event: Finished) -> None:
        source = self._open.pop(event.task.source)
        for reason in dict.fromkeys(map(str, source.reasons)):
            self.tally.failures.append(IndexFailure(source=event.task.source, reason=one_line(reason, 1000)))
        if source.encoded or source.known:
            self._batch.sources.append((event.task, source))
        else:
            self._progress(1)
        if source.reasons and self._strict:
            raise source.reasons[0]

    def _drop(self, event: Failed) -> None:
        """Take back what came of a file before it turned out to be unusable."""
        source = self._open.pop(event.task.source, None)
        if source is not None and event.facts is not None:
            record = _record(event.task, source)
            self._batch.entries = [item for item in self._batch.entries if item[0].source != record.source]
            self._settle()
            heir = self._heir(record)
            if heir is not None:
                stored = self._stored(record)
                if stored is not None and stored.source == record.source:  # written over those of the heir
                    self._relabel(heir[0], replace(source, labels=heir[1]))
            elif all(other.facts.sha256 != record.sha256 for other in self._open.values()):
                for modality, ids in record.ids().items():
                    self._catalogue.entries(modality).delete([id_ for id_ in ids if id_ not in source.known])
        self.refuse(event.task.source, event.error)

    def _heir(self, record: SourceRecord) -> tuple[SourceRecord, Labels] | None:
        """A complete source with the same content, which has the same entries, and what the user says of it."""
        complete = [
            *((_record(task, source), source.labels) for task, source in self._batch.sources),
            *((new, Labels()) for new, _ in self._replacing),
            *((stored, Labels()) for stored in self._catalogue.with_content(record.sha256)),
        ]
        heirs = (other for other in complete if other[0].content == record.content and other[0].source != record.source)
        return next(heirs, None)

    def _write(self) -> None:
        """Have the batch written, after the one before."""
        batch, self._batch, self._written_at = self._batch, _Batch(), time.monotonic()
        if not batch.entries and not batch.sources:
            return
        entries = [entry for entry, _, _ in batch.entries]
        if entries:
            entries = self._with_captions(entries, np.stack([vector for _, vector, _ in batch.entries]))
        self._settle()
        self._writing = self._writer.submit(self._write_batch, batch, entries)

    def _settle(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _with_captions(self, entries: list[Entry], vectors: NDArray[np.float32]) -> list[Entry]:
        """The entries, with captions of the model where any are asked for and there is no text."""
        if self._captioner is None or not entries:
            return entries
        return [
            entry if entry.text is not None else entry.model_copy(update={"caption": caption})
            for entry, caption in zip(entries, self._captioner.captions(vectors), strict=True)
        ]

    def _write_batch(self, batch: _Batch, entries: Sequence[Entry]) -> None:
        alike: defaultdict[Modality, list[tuple[Entry, NDArray[np.float32]]]] = defaultdict(list)
        for entry, (_, vector, made) in zip(entries, batch.entries, strict=True):
            alike[entry.modality].append((entry.model_copy(update={"thumbnail": made.result()}), vector))
        for modality, items in alike.items():
            unique = {entry.id: (entry, vector) for entry, vector in items}  # Chroma refuses an id twice
            records = [to_record(entry) for entry, _ in unique.values()]
            self._catalogue.entries(modality).upsert(
                list(unique),
                np.stack([vector for _, vector in unique.values()]),
                metadatas=[metadata for metadata, _ in records],
                documents=[document for _, document in records],
            )
        self.tally.entries += len(entries)
        settled = []
        for task, source in batch.sources:
            record, previous = _record(task, source), source.previous
            if previous is not None and previous.content != record.content:
                self._replacing.append((record, previous))
            else:
                settled.append(self._settle_source(record, source))
        self._catalogue.record(settled)
        self._catalogue.changed()
        self._progress(len(settled))

    def _replace(self) -> None:
        """Record the sources that have new content, and delete what they had before.

        This is done last, for the content that one file gives up may be what another has now: of files that were
        swapped or rotated. Until then they are recorded as they were, so that a killed run is completed by the next.
        """
        replacing, self._replacing = self._replacing, []
        going = {record.source for record, _ in replacing}
        coming = {record.content: record for record, _ in replacing}
        for start in range(0, len(replacing), BATCH):
            part = replacing[start : start + BATCH]
            self._catalogue.give_up([previous for _, previous in part], going=going, coming=coming)
            self._catalogue.record([record for record, _ in part])
            self._catalogue.changed()
            self.tally.changed += len(part)
            self._progress(len(part))

    def _settle_source(self, record: SourceRecord, source: _Source) -> SourceRecord:
        """Bring the entries that are there into line with a source, and count it; what is to be recorded of it."""
        previous = source.previous
        if previous is None and source.known:
            gone = self._moved_from(record)
            if gone is not None:
                for earlier in self._catalogue.recorded([gone]).values():
                    self._keep_labels(source, earlier)
                record = record.model_copy(update={"labels": source.said})
                self._relabel(record, source)
                self._catalogue.forget([gone])
                self.tally.moved += 1
                return record
        if previous is None:
            self.tally.added += 1
            return record
        if previous.labels != record.labels:
            self._relabel(record, source)
        self.tally.unchanged += 1
        return record

    def _moved_from(self, record: SourceRecord) -> str | None:
        """The file that has gone and whose entries are those of the one that has its content now."""
        entry = self._stored(record)
        if entry is None or entry.source == record.source or not is_path(entry.source):
            return None
        if not has_gone(entry.source):
            return None
        return entry.source

    def _relabel(self, record: SourceRecord, source: _Source) -> None:
        """Say of a source's entries what the user says now; vectors and thumbnails stay."""
        for modality, ids in record.ids().items():
            collection = self._catalogue.entries(modality)
            stored = collection.get(ids, include=["embeddings", "metadatas", "documents"])
            if not stored.ids:
                continue
            entries = [_relabelled(entry, record, source) for entry in entries_of(stored)]
            entries = self._with_captions(entries, stored.vectors)
            records = [to_record(entry) for entry in entries]
            metadatas = [
                {**dict.fromkeys(old.keys() - new.keys()), **new}
                for old, (new, _) in zip(stored.metadatas, records, strict=True)
            ]
            collection.update(
                stored.ids, stored.vectors, metadatas=metadatas, documents=[document for _, document in records]
            )


def _relabelled(entry: Entry, record: SourceRecord, source: _Source) -> Entry:
    labels = source.labels
    title = entry.title if labels.title is None and entry.source == record.source else labels.title
    caption = labels.caption if isinstance(labels.caption, str) else entry.caption
    return entry.model_copy(
        update={
            "source": record.source,
            "title": title or _title(record.source, source.facts),
            "tags": entry.tags if labels.tags is None else labels.tags,
            "metadata": entry.metadata if labels.metadata is None else labels.metadata,
            "caption": caption if entry.text is None else None,
        }
    )


def _entry(event: Encoded, labels: Labels) -> Entry:
    facts, segment = event.facts, event.segment
    seen = segment.modality != "audio"
    return Entry(
        **segment.model_dump(exclude={"text"}),
        id=facts.id(segment),
        source=event.task.source,
        sha256=facts.sha256,
        mime=facts.mime,
        duration=facts.seconds,
        width=facts.width if seen else None,
        height=facts.height if seen else None,
        title=labels.title or _title(event.task.source, facts),
        tags=labels.tags or (),
        text=segment.text,
        caption=labels.caption if isinstance(labels.caption, str) and segment.text is None else None,
        metadata=labels.metadata or {},
    )


def _title(source: str, facts: Facts) -> str:
    if is_path(source):
        return file_title(source)
    if source.startswith(NAMED_TEXT):
        return source.removeprefix(NAMED_TEXT)
    if facts.modality == "text":
        return one_line(facts.segments[0].text, TITLE_CHARS)
    return Path(facts.name).stem or facts.name


def _record(task: Task, source: _Source) -> SourceRecord:
    facts = source.facts
    counts: dict[Modality, int] = {}
    for segment in facts.segments:
        counts[segment.modality] = counts.get(segment.modality, 0) + 1
    return SourceRecord(
        source=task.source,
        sha256=facts.sha256,
        size=facts.size,
        modified=-1 if task.fresh else task.modified,
        modality=facts.modality,
        mime=facts.mime,
        key=facts.key,
        counts=counts,
        failed=len(source.reasons),
        labels=source.said,
        seconds=facts.seconds,
    )
