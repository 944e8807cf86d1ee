"""From files to vectors: what happens to a source before anything of it is written.

The encoder opens and decodes ahead in threads of its own; the same walk runs on this machine and in the actors of
`ibllm_tools.library.ray_engine`. It yields, in the order of the tasks, and for each task in this order: one
`Identified`, one `Encoded` per segment that has to be encoded, one `Finished`; or a `Failed` in place of any of them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import CorruptMediaError, IbllmError
from ibllm_tools.library.catalogue import encoding_key, entry_id
from ibllm_tools.library.scanning import Task
from ibllm_tools.media.image import image_size
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.sniff import Modality
from ibllm_tools.media.thumbnails import thumbnail
from ibllm_tools.media.video import probe_video
from ibllm_tools.store.embedder import Embedder
from ibllm_tools.store.segments import Segment, SegmentSettings, segments

Known = Callable[[str, Sequence[tuple[str, Modality]]], set[str]]
"""Those of a content's entries, given by id and modality, that need not be encoded."""

AHEAD = 256
"""Tasks that are looked at before something is said of them: so many at most, where nothing has to be encoded."""

UNIT_TOLERANCE = 0.01
"""By which the length of a unit vector may differ from 1."""


class Facts(BaseModel):
    """What a file is; plain data, which other machines can send."""

    model_config = ConfigDict(frozen=True)

    sha256: str = Field(description="Of its bytes.")
    size: int = Field(description="In bytes.")
    modality: Modality = Field(description="As a whole.")
    mime: str = Field(description="By content.")
    name: str = Field(description="For messages and titles.")
    key: str = Field(description="Of the encoding, see `ibllm_tools.library.catalogue`.")
    segments: tuple[Segment, ...] = Field(description="All of them.")
    seconds: float | None = Field(default=None, description="Length of a sound or video.")
    width: int | None = Field(default=None, description="Of an image or video in pixels.")
    height: int | None = Field(default=None, description="Of an image or video in pixels.")

    @property
    def handle(self) -> str:
        """``att://<sha256>``."""
        return f"att://{self.sha256}"

    def id(self, segment: Segment) -> str:
        """The id of a segment's entry."""
        return entry_id(self.sha256, self.key, segment.modality, segment.index)


@dataclass(frozen=True)
class Identified:
    """A task's file is known by its content now; ``known`` are the ids of its entries that are there."""

    task: Task
    facts: Facts
    known: frozenset[str]


@dataclass(frozen=True)
class Encoded:
    """A segment's unit vector (E,), or why it has none; and what makes a small picture of it, which takes a while."""

    task: Task
    facts: Facts
    segment: Segment
    vector: NDArray[np.float32] | IbllmError
    thumbnail: Callable[[], bytes | None]


@dataclass(frozen=True)
class Finished:
    """All of a task's segments have come."""

    task: Task
    facts: Facts


@dataclass(frozen=True)
class Failed:
    """Nothing of this task's file can be used, whatever came before."""

    task: Task
    error: IbllmError
    facts: Facts | None = None


Event = Identified | Encoded | Finished | Failed


@dataclass
class _Planned:
    """A task that the encoder has been given, and what has not come back of it yet."""

    task: Task
    attachment: Attachment | None = None
    facts: Facts | None = None
    known: frozenset[str] = frozenset()
    waiting: deque[Segment] = field(default_factory=deque)
    error: IbllmError | None = None
    begun: bool = False


def encode(
    tasks: Iterable[Task], embedder: Embedder, settings: SegmentSettings, *, limits: Limits, known: Known
) -> Iterator[Event]:
    """What becomes of the tasks.

    Args:
        tasks: read ahead, in a thread of the encoder's.
        embedder: the encoder.
        settings: how sources are cut.
        limits: the most that a source may hold.
        known: which entries need not be encoded; called in that thread.
    """
    plan: deque[_Planned] = deque()  # what is read ahead is appended in a thread of the encoder's
    left = iter(tasks)

    def parts() -> Iterator[tuple[Attachment, Sequence[Segment]]]:
        for task in left:
            planned = _plan(task, embedder.fingerprint, settings, limits, known)
            chosen = list(planned.waiting)
            plan.append(planned)
            if planned.attachment is not None and chosen:
                yield planned.attachment, chosen
            if len(plan) >= AHEAD:
                return

    while True:
        for vector in embedder.embed_segments(parts()):
            yield from _settled(plan)
            first = plan[0]
            assert first.facts is not None  # what has segments has facts
            assert first.attachment is not None  # and has been opened
            segment = first.waiting.popleft()
            picture = partial(segment_thumbnail, first.attachment, segment, limits)
            yield Encoded(first.task, first.facts, segment, _usable(vector, first.facts, embedder.dimension), picture)
        if not plan:
            return
        yield from _settled(plan)


def identify(attachment: Attachment, source: str, fingerprint: str, settings: SegmentSettings, limits: Limits) -> Facts:
    """Find out what there is to encode of a source, by its name and its content.

    Raises:
        AttachmentError: it cannot be used.
    """
    found = segments(attachment, settings, limits=limits)
    ends = [segment.end for segment in found if segment.end is not None]
    width, height = _dimensions(attachment, limits)
    return Facts(
        **attachment.model_dump(),
        key=encoding_key(fingerprint, attachment.modality, settings, source),
        segments=tuple(found),
        seconds=max(ends, default=None),  # the last window ends with the recording
        width=width,
        height=height,
    )


def _plan(task: Task, fingerprint: str, settings: SegmentSettings, limits: Limits, known: Known) -> _Planned:
    try:
        attachment = task.open(limits)
        facts = identify(attachment, task.source, fingerprint, settings, limits)
    except IbllmError as error:
        return _Planned(task, error=error)
    there = known(facts.sha256, [(facts.id(segment), segment.modality) for segment in facts.segments])
    waiting = deque(segment for segment in facts.segments if facts.id(segment) not in there)
    return _Planned(task, attachment, facts, frozenset(there), waiting)


def _settled(plan: deque[_Planned]) -> Iterator[Event]:
    """The events before the next segment that is waited for."""
    while plan:
        first = plan[0]
        if first.facts is None:
            plan.popleft()
            yield Failed(first.task, first.error or CorruptMediaError(f"{first.task.source}: cannot be read"))
            continue
        if not first.begun:
            first.begun = True
            yield Identified(first.task, first.facts, first.known)
        if first.waiting:
            return
        plan.popleft()
        if first.task.is_as_it_was():
            yield Finished(first.task, first.facts)
        else:
            reason = f"{first.facts.name}: changed while it was indexed; index it again when it is complete"
            yield Failed(first.task, CorruptMediaError(reason), first.facts)


def _usable(vector: NDArray[np.float32] | IbllmError, facts: Facts, dimension: int) -> NDArray[np.float32] | IbllmError:
    """What came of a segment, unless that is no unit vector: Chroma would keep it, and answer with it."""
    if isinstance(vector, IbllmError) or (
        vector.shape == (dimension,) and abs(float(np.linalg.norm(vector)) - 1) < UNIT_TOLERANCE
    ):
        return vector
    return CorruptMediaError(
        f"{facts.name}: the encoder gave no unit vector of width {dimension} for it (shape {vector.shape}, length "
        f"{float(np.linalg.norm(vector)):g}); check the file, or use another dtype"
    )


def segment_thumbnail(attachment: Attachment, segment: Segment, limits: Limits) -> bytes | None:
    """A small picture of a segment; ``None`` where there is none."""
    try:
        return thumbnail(
            attachment.source,
            segment.modality,
            start=segment.start or 0.0,
            end=segment.end,
            name=attachment.name,
            limits=limits,
        )
    except IbllmError:
        return None  # it was decoded for the model; a picture of it is more than anybody asked for


def _dimensions(attachment: Attachment, limits: Limits) -> tuple[int | None, int | None]:
    if attachment.modality == "video":
        info = probe_video(attachment.source, limits=limits)
        return info.width, info.height
    if attachment.mime.startswith("image/"):
        return image_size(attachment.source, limits=limits)
    return None, None
