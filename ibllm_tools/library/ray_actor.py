"""What runs in the actors of Ray: the encoder, loaded once, and the same walk as on one machine."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from ibllm_tools.attachments import AttachmentStore
from ibllm_tools.errors import AttachmentError, EncoderMismatchError, IbllmError, ModelError
from ibllm_tools.library.encoding import Encoded, Event, Failed, encode
from ibllm_tools.library.ray_rows import Raised, SentTask, event_table, sent_tasks
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.embedder import Embedder, EncoderSource
from ibllm_tools.store.segments import SegmentSettings

ROWS = 64
"""Events that travel together; as many more wait for their pictures, so that the model need not."""
PICTURE_THREADS = 2
ATTEMPTS = 2
"""Of loading the encoder, and of a file alone, that may end with the death of the actor."""


@dataclass(frozen=True)
class Assignment:
    """What an actor is to do; it pickles.

    Attributes:
        source: of the encoder.
        device: that it is loaded on.
        fingerprint: that it must have.
        settings: how sources are cut.
        limits: the most that a source may hold.
        store: the folder of attachments that are no files.
        pictures: whether thumbnails are wanted.
    """

    source: EncoderSource
    device: str
    fingerprint: str
    settings: SegmentSettings
    limits: Limits
    store: Path | None
    pictures: bool


class Ledger:
    """What the actors are at; it lives in an actor of its own, and so survives them.

    Ray repeats what an actor was doing when it died for as long as it takes, which is for ever where that is what kills
    it. The ledger tells a repetition from a first attempt.
    """

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, work: str) -> int:
        """Note that some work begins; how often it was begun before, and never ended."""
        self._begun[work] += 1
        return self._begun[work] - 1

    def end(self, work: str) -> None:
        """Note that it has ended."""
        del self._begun[work]


class EncodingActor:
    """Tables of tasks -> tables of events. Whatever goes wrong comes back as a row, for Ray would only log it."""

    def __init__(self, assignment: Assignment, recorded: Any, ledger: Any) -> None:
        """Load the encoder.

        Args:
            assignment: what to do.
            recorded: a reference to what :func:`content_numbers` gave, in Ray's memory, which all actors of a machine
                share.
            ledger: the handle of the run's :class:`Ledger`.
        """
        self._assignment, self._ledger, self._refusal = assignment, ledger, None
        self._recorded: NDArray[np.uint64] = ray.get(recorded)
        self._store = None if assignment.store is None else AttachmentStore(assignment.store)
        try:
            self._embedder = self._loaded()
        except Exception as error:
            self._refusal = Raised(error)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """The events of some tasks, in tables of :data:`ROWS`."""
        if self._refusal is not None:
            yield event_table([self._refusal])
            return
        block = f"block {table['number'][0]}"
        try:
            repeated = self._begin(block) > 0
            yield from self._encoded(list(sent_tasks(table, self._store)), one_by_one=repeated)
            self._end(block)
        except Exception as error:
            yield event_table([Raised(error)])

    def _loaded(self) -> Embedder:
        do, loading = self._assignment, f"loading in {ray.get_runtime_context().get_actor_id()}"
        if self._begin(loading) >= ATTEMPTS:
            raise ModelError(
                f"{do.source}: the actor of Ray that loads it has died {ATTEMPTS} times; it may need more memory than "
                "there is, so choose a smaller dtype or larger machines"
            )
        embedder = do.source.load(do.device)
        if embedder.fingerprint != do.fingerprint:
            raise EncoderMismatchError(
                f"{do.source}: in an actor of Ray it is encoder {embedder.fingerprint!r}, and the library holds the "
                f"vectors of {do.fingerprint!r}; make the same files visible on all machines"
            )
        self._end(loading)
        return embedder

    def _encoded(self, tasks: Sequence[SentTask], *, one_by_one: bool) -> Iterator[pa.Table]:
        waiting: list[Event] = []
        with ThreadPoolExecutor(PICTURE_THREADS, thread_name_prefix="ibllm-thumbnail") as threads:
            for event in self._one_by_one(tasks) if one_by_one else self._events(tasks):
                waiting.append(self._with_picture(event, threads))
                if len(waiting) == 2 * ROWS:
                    yield event_table(waiting[:ROWS])
                    del waiting[:ROWS]
            yield event_table(waiting)

    def _events(self, tasks: Iterable[SentTask]) -> Iterator[Event]:
        do = self._assignment
        return encode(tasks, self._embedder, do.settings, limits=do.limits, known=self._known)

    def _one_by_one(self, tasks: Iterable[SentTask]) -> Iterator[Event]:
        """The same events. What kills the actor is alone then, so that the ledger knows it, and is left out at last."""
        for task in tasks:
            work = f"task {task.number}"
            if self._begin(work) >= ATTEMPTS:
                reason = (
                    f"{task.source}: {ATTEMPTS} processes died of encoding it: it takes too much memory, or crashes"
                )
                yield Failed(task, AttachmentError(f"{reason} a decoder; leave it out, or index it alone to see why"))
                continue
            for event in self._events([task]):
                if isinstance(event, Encoded) and self._assignment.pictures:
                    yield replace(event, thumbnail=partial(_as_it_is, event.thumbnail()))
                else:
                    yield event
            self._end(work)

    def _begin(self, work: str) -> int:
        return int(ray.get(self._ledger.begin.remote(work)))

    def _end(self, work: str) -> None:
        ray.get(self._ledger.end.remote(work))

    def _with_picture(self, event: Event, threads: ThreadPoolExecutor) -> Event:
        """The event, with its picture begun."""
        if not isinstance(event, Encoded) or isinstance(event.vector, IbllmError):
            return event
        if not self._assignment.pictures:
            return replace(event, thumbnail=partial(_as_it_is, None))
        picture: Future[bytes | None] = threads.submit(event.thumbnail)
        return replace(event, thumbnail=picture.result)

    def _known(self, sha256: str, entries: Sequence[tuple[str, Modality]]) -> set[str]:
        """All of a content's entries if it is recorded, none otherwise.

        The library itself is not asked: its answer would change while it is written, and Ray, when it repeats the work
        of an actor that has died, counts on the same results.
        """
        number = content_number(*entries[0][0].split("-")[:2])
        place = int(np.searchsorted(self._recorded, number))
        there = place < len(self._recorded) and self._recorded[place] == number
        return {id_ for id_, _ in entries} if there else set()


def content_numbers(contents: "Sequence[tuple[str, str]]") -> NDArray[np.uint64]:
    """The numbers of contents, by sha256 and key of the encoding, in order: 8 bytes each."""
    return np.unique(np.fromiter((content_number(*content) for content in contents), np.uint64))


def content_number(sha256: str, key: str) -> np.uint64:
    """64 bits of a content's identity; whoever relies on them checks."""
    return np.uint64(int(sha256[:16], 16) ^ int(key, 16))


def _as_it_is(picture: bytes | None) -> bytes | None:
    return picture
