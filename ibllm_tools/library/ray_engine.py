"""Bulk indexing on Ray Data: the same events as on one machine, from a pool of actors that hold the encoder.

::

    tasks -> blocks -> actors: open, decode, encode, draw -> blocks of events, as many as wait for the driver -> driver

The driver scans, compares, labels and writes, as it does without Ray; the library's folder or server is touched by
nobody else. So every id is the same, and a run that was killed, in whatever place, is completed by the next one.

**What is known already** is decided in two steps, for the driver does not know a file's content and an actor does not
know the library. Every actor has the numbers of all recorded contents as they were when the run began, 8 bytes each.
It encodes nothing of a file whose content is among them; the driver then asks the library whether all entries are
really there, and has the file encoded after all where they are not.

**An actor that dies** is replaced, and what it was doing repeated, by Ray. A block that is repeated is encoded file by
file, so that a file which has ended several actors is known, reported and left out.
"""

import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from ibllm_tools.attachments import AttachmentStore
from ibllm_tools.errors import AttachmentError, InvalidRequestError, MissingExtraError, ModelError, one_line
from ibllm_tools.library.encoding import Event, Failed, Identified, Known
from ibllm_tools.library.scanning import Task
from ibllm_tools.media.limits import Limits
from ibllm_tools.store.embedder import Embedder, EncoderSource
from ibllm_tools.store.segments import SegmentSettings

if TYPE_CHECKING:
    from pyarrow import Table

    from ibllm_tools.library.ray_actor import Assignment
    from ibllm_tools.library.ray_session import Pool

BLOCK = 64
"""Tasks that are given to an actor together."""
BLOCK_BYTES = 4 << 20
"""Of events, after which an actor sends them on."""
MEMORY = 256 << 20
"""Bytes of events that wait for the driver before actors pause."""


def encode_on_ray(
    tasks: Iterable[Task],
    embedder: Embedder,
    settings: SegmentSettings,
    *,
    limits: Limits,
    known: Known,
    recorded: Iterable[tuple[str, str]],
    attachments: AttachmentStore | None,
) -> Iterator[Event]:
    """What becomes of the tasks; as :func:`~ibllm_tools.library.encoding.encode`, though not in their order.

    Args:
        tasks: their files must have the same paths on all machines of the cluster.
        embedder: an encoder that was loaded from somewhere; it is loaded again by every actor.
        settings: how sources are cut.
        limits: the most that a source may hold.
        known: which entries are there; asked only about contents that are recorded.
        recorded: sha256 and key of the encoding of all contents that the library knows.
        attachments: where attachments lie that are no files, and where thumbnails go; without one there are none.

    Raises:
        InvalidRequestError: the embedder cannot be loaded again, or there is no Ray as it is asked for.
        MissingExtraError: Ray is not installed.
        ModelError: the encoder cannot be loaded or used in the actors.
    """
    source = _source_of(embedder)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import
    try:
        import pyarrow  # noqa: F401 - a part of the extra

        from ibllm_tools.library.ray_actor import Assignment, content_numbers
        from ibllm_tools.library.ray_session import choose_pool, ray_session
    except ImportError as error:
        raise MissingExtraError("indexing on Ray", str(error.name), "ray") from error
    waiting = dict(enumerate(tasks))
    if not waiting:
        return
    with ray_session(), _as_model_errors():
        pool = choose_pool(source.device)
        folder = None if attachments is None else attachments.folder.resolve()
        assignment = Assignment(
            source, pool.device, embedder.fingerprint, settings, limits, folder, attachments is not None
        )
        again = yield from _round(waiting, pool, assignment, content_numbers(list(recorded)), known)
        lost = yield from _round(again, pool, assignment, content_numbers([]), known)
    for task in lost.values():
        yield Failed(task, AttachmentError(f"{task.source}: changed while it was indexed; index it again"))


def _source_of(embedder: Embedder) -> EncoderSource:
    source: EncoderSource | None = getattr(embedder, "source", None)
    if source is None:
        raise InvalidRequestError(
            f"{type(embedder).__name__} without a source, expected an encoder that actors can load too; load it with "
            "JointEmbedder.load or Assistant.load, or index without Ray"
        )
    return source


def _round(
    tasks: Mapping[int, Task], pool: "Pool", assignment: "Assignment", recorded: Any, known: Known
) -> Generator[Event, None, dict[int, Task]]:
    """Give the tasks to the actors once; returns those that have to be given to them again."""
    from ibllm_tools.library.ray_rows import Arrivals

    arrivals, doubted = Arrivals(tasks), dict[int, Task]()
    with closing(_tables(tasks, pool, assignment, recorded)) as tables:
        for table in tables:
            for number, event in arrivals.events(table):
                if isinstance(event, Identified) and event.known:
                    facts = event.facts
                    there = known(facts.sha256, [(facts.id(item), item.modality) for item in facts.segments])
                    if there != event.known:
                        doubted[number] = event.task
                if number not in doubted:
                    yield event
    return arrivals.left | doubted


def _tables(
    tasks: Mapping[int, Task], pool: "Pool", assignment: "Assignment", recorded: Any
) -> "Generator[Table, None, None]":
    """What comes back of the tasks, table by table; leaving the iteration ends the actors."""
    if not tasks:
        return
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from ibllm_tools.library.ray_actor import EncodingActor, Ledger
    from ibllm_tools.library.ray_rows import task_table

    numbers = list(tasks)
    blocks = [numbers[start : start + BLOCK] for start in range(0, len(numbers), BLOCK)]
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    ledger: Any = ray.remote(Ledger).options(num_cpus=0, scheduling_strategy=here).remote()
    sent = ray.data.from_arrow([task_table((number, tasks[number]) for number in some) for some in blocks])
    events = sent.map_batches(
        EncodingActor,
        fn_constructor_kwargs={"assignment": assignment, "recorded": ray.put(recorded), "ledger": ledger},
        batch_size=None,  # a block as it is
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(blocks)), max_tasks_in_flight_per_actor=2),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    _configure(events.context)
    try:
        yield from events.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    finally:
        ray.kill(ledger)  # the dataset refers to it, and is kept by Ray


def _configure(context: Any) -> None:
    """Of this run alone; the program's own settings stay."""
    from ray.data import ExecutionResources

    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = BLOCK_BYTES
    context.target_min_block_size = 1
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=MEMORY)
    context.max_consecutive_actor_init_deaths = 2


@contextmanager
def _as_model_errors() -> Iterator[None]:
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as error:
        reason = one_line(error, 300) or type(error).__name__
        raise ModelError(f"Ray cannot run the encoder ({reason}); see its logs, or index without it") from error
