"""What travels to the actors of Ray and back: tasks and events as rows of Arrow tables.

Nothing is pickled. A task is a path or a handle, which the actor opens itself. What comes back of a file is what it is,
its vectors, its small pictures and, of a text, the chunks that its entries hold; an error is its class and its message.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ibllm_tools import errors
from ibllm_tools.attachments import Attachment, AttachmentStore
from ibllm_tools.errors import IbllmError, MissingExtraError, ModelError, one_line
from ibllm_tools.library.encoding import Encoded, Event, Facts, Failed, Finished, Identified
from ibllm_tools.library.scanning import Task
from ibllm_tools.media.limits import Limits

TASKS = pa.schema(
    [
        ("number", pa.int64()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.int64()),
        ("modality", pa.string()),  # of an attachment, with its name
        ("name", pa.string()),
        ("handle", pa.string()),  # of an attachment that is no file
    ]
)
EVENTS = pa.schema(
    [
        ("number", pa.int64()),  # of the task
        ("kind", pa.string()),  # of the event; "Raised" ends everything
        ("facts", pa.string()),  # JSON, of Identified
        ("known", pa.bool_()),  # of Identified: whether the content is recorded, so that nothing is encoded
        ("segment", pa.int32()),  # of Encoded: its place among those of the facts
        ("vector", pa.list_(pa.float32())),
        ("thumbnail", pa.binary()),
        ("error", pa.string()),  # the class
        ("message", pa.string()),
        ("extra", pa.string()),  # of a MissingExtraError
    ]
)


@dataclass(frozen=True)
class SentTask(Task):
    """A task as it reaches an actor.

    Attributes:
        number: by which the driver knows it.
        handed_in: modality and name of what was handed in as an attachment.
        handle: of what was no file.
        store: where attachments lie that are no files.
    """

    number: int = -1
    handed_in: tuple[str, str] | None = None
    handle: str | None = None
    store: AttachmentStore | None = None

    def open(self, limits: Limits) -> Attachment:
        """As an attachment, with the modality and the name that it was handed in with."""
        if self.handed_in is None:
            return super().open(limits)
        modality, name = self.handed_in
        settings: Any = {"modality": modality, "name": name, "limits": limits}
        return Attachment(self.path or self.handle or self.source, store=None if self.path else self.store, **settings)


@dataclass(frozen=True)
class Raised:
    """Something ended an actor's work that is no event of a task."""

    error: BaseException


def task_table(numbered: Iterable[tuple[int, Task]]) -> pa.Table:
    """Tasks as they are sent."""
    rows = [
        {
            "number": number,
            "source": task.source,
            "path": None if task.path is None else str(task.path),
            "size": task.size,
            "modified": task.modified,
            "modality": None if task.attachment is None else task.attachment.modality,
            "name": None if task.attachment is None else task.attachment.name,
            "handle": None if task.attachment is None or task.path is not None else task.attachment.handle,
        }
        for number, task in numbered
    ]
    return pa.Table.from_pylist(rows, schema=TASKS)


def sent_tasks(table: pa.Table, store: AttachmentStore | None) -> Iterator[SentTask]:
    """The tasks in a table."""
    for row in table.to_pylist():
        yield SentTask(
            source=row["source"],
            path=None if row["path"] is None else Path(row["path"]),
            size=row["size"],
            modified=row["modified"],
            number=row["number"],
            handed_in=None if row["modality"] is None else (row["modality"], row["name"]),
            handle=row["handle"],
            store=store,
        )


def event_table(events: Sequence[Event | Raised]) -> pa.Table:
    """Events as they come back; their pictures are made now, unless they have been."""
    return pa.Table.from_pylist([_event_row(event) for event in events], schema=EVENTS)


def _event_row(event: Event | Raised) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": type(event).__name__}
    if isinstance(event, Raised):
        return {**row, **_error_row(event.error)}
    assert isinstance(event.task, SentTask)  # the actor has no other ones
    row["number"] = event.task.number
    if isinstance(event, Identified):
        row |= {"facts": event.facts.model_dump_json(), "known": bool(event.known)}
    elif isinstance(event, Encoded):
        row["segment"] = event.facts.segments.index(event.segment)
        row |= (
            _error_row(event.vector)
            if isinstance(event.vector, IbllmError)
            else {"vector": event.vector, "thumbnail": event.thumbnail()}
        )
    elif isinstance(event, Failed):
        row |= _error_row(event.error)
    return row


def _error_row(error: BaseException) -> dict[str, Any]:
    names = [cls.__name__ for cls in type(error).__mro__ if getattr(errors, cls.__name__, None) is cls]
    if names:
        extra = error.extra if isinstance(error, MissingExtraError) else None
        return {"error": names[0], "message": str(error), "extra": extra}
    return {"error": None, "message": f"{type(error).__name__}: {one_line(error, 1000)}"}


class Arrivals:
    """Turns the rows that come back into events.

    Attributes:
        left: the tasks, by number, that have neither finished nor failed yet.
    """

    def __init__(self, tasks: Mapping[int, Task]) -> None:
        self.left = dict(tasks)
        self._facts: dict[int, Facts] = {}

    def events(self, table: pa.Table) -> Iterator[tuple[int, Event]]:
        """The events in a table, with the numbers of their tasks.

        Raises:
            IbllmError: what ended an actor's work.
        """
        columns = [table.column(name).combine_chunks() for name in EVENTS.names]
        for values in zip(*columns, strict=True):
            row = dict(zip(EVENTS.names, values, strict=True))
            if row["kind"].as_py() == "Raised":
                raise _error(row)
            number = row["number"].as_py()
            event = self._event(row["kind"].as_py(), number, row) if number in self.left else None
            if event is not None:
                yield number, event

    def _event(self, kind: str, number: int, row: dict[str, pa.Scalar]) -> Event | None:
        task = self.left[number]
        if kind == "Identified":
            found = self._facts[number] = Facts.model_validate_json(row["facts"].as_py())
            known = map(found.id, found.segments) if row["known"].as_py() else ()
            return Identified(task, found, frozenset(known))
        if kind == "Failed":
            del self.left[number]
            return Failed(task, _error(row), self._facts.pop(number, None))
        facts, place = self._facts.get(number), row["segment"].as_py() or 0
        if facts is None or place >= len(facts.segments):
            return None  # of a file that changed while Ray repeated its block; the task stays with those that are left
        if kind == "Finished":
            del self.left[number], self._facts[number]
            return Finished(task, facts)
        picture = partial(_as_it_is, row["thumbnail"].as_py())
        return Encoded(task, facts, facts.segments[place], _vector(row), picture)


def _vector(row: dict[str, pa.Scalar]) -> NDArray[np.float32] | IbllmError:
    # A copy: a view would hold its whole block in Ray's memory until it is written.
    return _error(row) if not row["vector"].is_valid else np.array(row["vector"].values.to_numpy(), np.float32)


def _error(row: dict[str, pa.Scalar]) -> IbllmError:
    name, message = row["error"].as_py(), row["message"].as_py()
    if name is None:
        return ModelError(f"encoding in an actor of Ray failed, {message}; index without Ray to see where")
    cls: type[IbllmError] = getattr(errors, name)
    error = cls.__new__(cls, message)  # the constructor of some takes no message
    if isinstance(error, MissingExtraError):
        error.extra = row["extra"].as_py()
    return error


def _as_it_is(picture: bytes | None) -> bytes | None:
    return picture
