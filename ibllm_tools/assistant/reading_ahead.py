"""Decoding ahead of the model: threads prepare what comes next while the encoder works."""

import os
from collections.abc import Callable, Iterable, Iterator
from queue import Full, Queue
from threading import Event, Lock, Thread
from typing import Generic, TypeAlias, TypeVar

G = TypeVar("G")
T = TypeVar("T")
Q = TypeVar("Q")

WORKERS = min(os.cpu_count() or 1, 8)
GROUPS = 16
"""Groups that are begun before they are read, at most."""
AHEAD = 2
"""Items of each that wait, at most; both bound the memory."""
PATIENCE = 0.1


def read_ahead(groups: Iterable[G], expand: Callable[[G], Iterator[T]], *, workers: int = WORKERS) -> Iterator[T]:
    """The items of every group, group by group and in order, prepared by threads.

    A group is expanded by one thread; several are at work at the same time. Groups are read one after the other, as
    threads become free. What is raised there is raised here, in its place. Leaving the iteration early ends them.

    Args:
        groups: what is expanded.
        expand: the items of a group; called in a thread, and gone through there.
        workers: threads.
    """
    reading = _Reading(groups, expand)
    threads = [Thread(target=reading.work, name=f"ibllm-decode-{index}", daemon=True) for index in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield from reading.items()
    finally:
        reading.stopped.set()
        for thread in threads:
            thread.join()


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _End:
    def __init__(self, *, of_all: bool) -> None:
        self.of_all = of_all


_Items: TypeAlias = Queue[T | _Raised | _End]


class _Reading(Generic[G, T]):
    """What the threads share: the groups that are left, and a queue of items for each that is being expanded."""

    def __init__(self, groups: Iterable[G], expand: Callable[[G], Iterator[T]]) -> None:
        self._groups, self._expand = iter(groups), expand
        self._turn = Lock()
        self._order: Queue[_Items[T]] = Queue(GROUPS)
        self.stopped = Event()

    def work(self) -> None:
        """Expand group after group, in a thread."""
        while not self.stopped.is_set():
            items: _Items[T] = Queue(AHEAD)
            try:
                with self._turn:
                    if not self._put(self._order, items):
                        return
                    group = next(self._groups)
                for item in self._expand(group):
                    if not self._put(items, item):
                        return
                self._put(items, _End(of_all=False))
            except StopIteration:
                self._put(items, _End(of_all=True))
                return
            except BaseException as error:
                self._put(items, _Raised(error))
                return

    def items(self) -> Iterator[T]:
        """What the threads prepare, in order."""
        while True:
            items = self._order.get()
            while not isinstance(item := items.get(), _End):
                if isinstance(item, _Raised):
                    raise item.error
                yield item
            if item.of_all:
                return

    def _put(self, queue: Queue[Q], item: Q) -> bool:
        while not self.stopped.is_set():
            try:
                queue.put(item, timeout=PATIENCE)
            except Full:
                continue
            return True
        return False
