"""What there is to do: tasks compared with what the library remembers of their sources."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from json import dumps
from typing import Any

from ibllm_tools.errors import IbllmError
from ibllm_tools.library.catalogue import Catalogue, SourceRecord, encoding_key
from ibllm_tools.library.entry import Value, checked_metadata, checked_tags, checked_text
from ibllm_tools.library.scanning import Refusal, Task
from ibllm_tools.store.segments import SegmentSettings

PAGE = 1000

Metadata = Mapping[str, Any] | Callable[[str], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Labels:
    """What the user says of a source; of what is None nothing is said.

    Attributes:
        title: its own; an empty one is the file's name, as it is by default.
        tags: of its entries.
        metadata: of its entries, under the user's own keys.
        caption: of its entries, or whether the model writes one; nothing is said by False.
    """

    title: str | None = None
    tags: tuple[str, ...] | None = None
    metadata: dict[str, Value] | None = None
    caption: str | bool = False

    @property
    def digest(self) -> str:
        """Identifies each thing that is said, as ``tags:1f0c... caption:9a2b...``."""
        said = {name: value for name, value in vars(self).items() if value is not None and value is not False}
        return " ".join(f"{name}:{_digest_of(value)}" for name, value in said.items())

    def over(self, earlier: "Labels") -> "Labels":
        """These, and what was said earlier of that of which nothing is said now; captions are left out of that."""
        return Labels(
            earlier.title if self.title is None else self.title,
            earlier.tags if self.tags is None else self.tags,
            earlier.metadata if self.metadata is None else self.metadata,
            self.caption,
        )


def digest_over(digest: str, earlier: str) -> str:
    """The digest of what is said now and, of the rest, earlier."""
    said = {part.partition(":")[0]: part for part in [*earlier.split(), *digest.split()]}
    return " ".join(said.values())


def _digest_of(value: object) -> str:
    return sha256(dumps(value, sort_keys=True).encode()).hexdigest()[:16]


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
        title: of every source; None says nothing, here as below.
        tags: of every source.
        metadata: of every source, or a function of the source that gives it.
        caption: of every source, or whether the model writes one.

    Raises:
        InvalidRequestError: they cannot be stored.
    """

    def __init__(
        self, title: str | None, tags: Sequence[str] | None, metadata: Metadata | None, caption: str | bool
    ) -> None:
        self._all = Labels(
            title=None if title is None else checked_text("title", title),
            tags=None if tags is None else checked_tags(tags),
            metadata=None if metadata is None or callable(metadata) else checked_metadata(metadata),
            caption=caption if isinstance(caption, bool) else checked_text("caption", caption),
        )
        self._metadata = metadata if callable(metadata) else None

    def of(self, source: str) -> Labels:
        """Those of one source.

        Raises:
            InvalidRequestError: the metadata that the function gives cannot be stored.
        """
        if self._metadata is None:
            return self._all
        metadata = self._metadata(source)
        return self._all if metadata is None else replace(self._all, metadata=checked_metadata(metadata))


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
    modality = record.modality if task.attachment is None else task.attachment.modality
    key = encoding_key(fingerprint, modality, settings, task.source)
    said = set(labels.digest.split()) <= set(record.labels.split())
    return same and record.complete and record.key == key and said
