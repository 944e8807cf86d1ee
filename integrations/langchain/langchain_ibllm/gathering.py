"""A batch that is really one: calls of `invoke` that run beside each other meet, and the model answers them together.

LangChain's own ``batch`` runs ``invoke`` for each input in a thread (``abatch``: in a task), each with its callbacks,
its cache and its error. That stays so; only the innermost step waits until everyone has come to it, or has ended
without (answered by the cache, failed), and the one who completes the group asks the model for all.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Gathering(Generic[Q, A]):
    """The requests of one group, until everyone who is expected has come or gone.

    Args:
        owner: whose requests they are; others that run within the same calls do not take part.
        expected: how many there can be.
        ask: answers several requests, in their order.
    """

    def __init__(self, owner: object, expected: int, ask: Callable[[Sequence[Q]], Sequence[A]]) -> None:
        self.owner = owner
        self._ask = ask
        self._away = expected
        self._waiting: list[tuple[Q, Future[A]]] = []
        self._lock = Lock()

    @contextmanager
    def seat(self) -> "Iterator[Seat[Q, A]]":
        """A place in the group, in the current context, for one call."""
        seat = Seat(self)
        token = _SEAT.set(seat)
        try:
            yield seat
        finally:
            _SEAT.reset(token)

    def come(self, request: Q) -> tuple[Future[A], bool]:
        """Wait with a request; and whether the group is complete with it, so that `answer` is to be called."""
        future: Future[A] = Future()
        with self._lock:
            self._waiting.append((request, future))
            self._away -= 1
            return future, self._away == 0

    def go(self) -> bool:
        """Leave without a request; and whether `answer` is to be called for those who wait."""
        with self._lock:
            self._away -= 1
            return self._away == 0 and bool(self._waiting)

    def answer(self) -> None:
        """Ask for all who have not given up."""
        left = [(request, future) for request, future in self._waiting if future.set_running_or_notify_cancel()]
        try:
            answers = self._ask([request for request, _ in left])
        except BaseException as error:
            for _, future in left:
                future.set_exception(error)
            return
        for (_, future), answer in zip(left, answers, strict=True):
            future.set_result(answer)


class Seat(Generic[Q, A]):
    """One call's place in a group; it is taken once."""

    def __init__(self, group: Gathering[Q, A]) -> None:
        self.group = group
        self.taken = False

    def ask(self, request: Q) -> A:
        """The answer, when the group has been asked; blocks until then."""
        self.taken = True
        future, complete = self.group.come(request)
        if complete:
            self.group.answer()
        return future.result()

    async def aask(self, request: Q) -> A:
        """`ask` without blocking the event loop."""
        self.taken = True
        future, complete = self.group.come(request)
        if complete:
            await asyncio.to_thread(self.group.answer)
        return await asyncio.wrap_future(future)

    def leave(self) -> None:
        """Give the place up, unless it was taken."""
        if not self.taken and self.group.go():
            self.group.answer()

    async def aleave(self) -> None:
        """`leave` without blocking the event loop."""
        if not self.taken and self.group.go():
            await asyncio.to_thread(self.group.answer)


_SEAT: ContextVar["Seat[Any, Any] | None"] = ContextVar("langchain_ibllm_seat", default=None)


def seat_of(owner: object) -> "Seat[Any, Any] | None":
    """The place that the current call has in a group of this owner, if it has one and has not taken it."""
    seat = _SEAT.get()
    return seat if seat is not None and seat.group.owner is owner and not seat.taken else None
