"""What there is to do: tasks compared with what the library remembers of their sources."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from json import dumps
from typing import Any

from ibllm_tools.errors import IbllmError
from ibllm_tools.library.catalogue import Catalogue, SourceRecord, encoding_key
from ibllm_tools.library.entry import Value, checked_metadata, checked_tags
from ibllm_tools.library.scanning import Refusal, Task
from ibllm_tools.store.segments import SegmentSettings

PAGE = 1000

Metadata = Mapping[str, Any] | Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True)
class Labels:
    """What the user says of a source.

    Attributes:
        title: its own; by default the file's name.
        tags: of its entries.
        metadata: of its entries, under the user's own keys.
        caption: of its entries, or whether the model writes one.
    """

    title: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Value] = field(default_factory=dict)
    caption: str | bool = False

    @property
    def digest(self) -> str:
        """Identifies them; empty where nothing is said."""
        if self == Labels():
            return ""
        said = [self.title, self.tags, self.metadata, self.caption]
        return sha256(dumps(said, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Comparison:
    """What is left to do.

    Attributes:
        waiting: tasks whose source is new, has changed, or is to be described otherwise.
        unchanged: number of the others.
        previous: the records of the sources, where there are any.
        labels: what the user says of the sources that wait.
        refusals: tasks whose labels cannot be stored.
    """

    waiting: list[Task] = field(default_factory=list)
    unchanged: int = 0
    previous: dict[str, SourceRecord] = field(default_factory=dict)
    labels: dict[str, Labels] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)


class Labelling:
    """Gives sources their labels.

    Args:
        title: of every source.
        tags: of every source.
        metadata: of every source, or a function of the source that gives it.
        caption: of every source, or whether the model writes one.

    Raises:
        InvalidRequestError: they cannot be stored.
    """

    def __init__(self, title: str | None, tags: Sequence[str], metadata: Metadata | None, caption: str | bool) -> None:
        fixed = {} if metadata is None or callable(metadata) else checked_metadata(metadata)
        self._all = Labels(title, checked_tags(tags), fixed, caption)
        self._metadata = metadata if callable(metadata) else None

    def of(self, source: str) -> Labels:
        """Those of one source.

        Raises:
            InvalidRequestError: the metadata that the function gives cannot be stored.
        """
        if self._metadata is None:
            return self._all
        metadata = checked_metadata(self._metadata(source) or {})
        return Labels(self._all.title, self._all.tags, metadata, self._all.caption)


def compare(tasks: Sequence[Task], catalogue: Catalogue, labelling: Labelling, settings: SegmentSettings) -> Comparison:
    """Find out which tasks there is something to do for; their files are not opened."""
    found = Comparison()
    for start in range(0, len(tasks), PAGE):
        part = tasks[start : start + PAGE]
        records = catalogue.recorded([task.source for task in part])
        for task in part:
            try:
                labels = labelling.of(task.source)
            except IbllmError as error:
                found.refusals.append(Refusal(task.source, error))
                continue
            record = records.get(task.source)
            if record is not None and _is_current(task, record, labels, catalogue.fingerprint, settings):
                found.unchanged += 1
                continue
            found.waiting.append(task)
            found.labels[task.source] = labels
            if record is not None:
                found.previous[task.source] = record
    return found


def _is_current(task: Task, record: SourceRecord, labels: Labels, fingerprint: str, settings: SegmentSettings) -> bool:
    if task.path is None:
        same = task.attachment is not None and task.attachment.sha256 == record.sha256
    else:
        same = (task.size, task.modified) == (record.size, record.modified)
    key = encoding_key(fingerprint, record.modality, settings)
    return same and record.complete and record.key == key and (labels == Labels() or labels.digest == record.labels)
