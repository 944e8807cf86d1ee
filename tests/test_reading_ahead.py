"""Reading ahead: order, bounds, errors and the end of the threads."""

import threading
import time
from collections.abc import Iterator

import pytest

from ibllm_tools.assistant.reading_ahead import AHEAD, GROUPS, read_ahead


def threads() -> int:
    return sum(thread.name.startswith("ibllm-decode") for thread in threading.enumerate())


def test_items_come_in_order_however_long_each_takes() -> None:
    def expand(group: int) -> Iterator[tuple[int, int]]:
        time.sleep(0.01 * (group % 3))
        yield from ((group, item) for item in range(group % 4))

    expected = [(group, item) for group in range(40) for item in range(group % 4)]
    assert list(read_ahead(range(40), expand, workers=4)) == expected
    assert threads() == 0


def test_work_is_done_while_nobody_reads() -> None:
    begun = threading.Event()

    def expand(group: int) -> Iterator[int]:
        if group == 1:
            begun.set()
        yield group

    items = read_ahead(range(3), expand, workers=1)
    assert next(items) == 0
    assert begun.wait(5)
    assert list(items) == [1, 2]


def test_no_more_is_begun_than_is_allowed() -> None:
    begun: list[int] = []
    prepared: list[int] = []

    def groups() -> Iterator[int]:
        for group in range(1000):
            begun.append(group)
            yield group

    def expand(group: int) -> Iterator[int]:
        for item in range(100):
            prepared.append(item)
            yield item

    items = read_ahead(groups(), expand, workers=3)
    next(items)
    time.sleep(0.3)
    assert len(begun) <= GROUPS + 3
    assert len(prepared) <= 3 * (AHEAD + 2) + 1
    items.close()  # type: ignore[attr-defined]
    assert threads() == 0


def test_an_error_is_raised_in_its_place() -> None:
    def expand(group: int) -> Iterator[int]:
        yield group
        if group == 2:
            raise ValueError("damaged")
        yield group

    seen: list[int] = []
    with pytest.raises(ValueError, match="damaged"):
        seen.extend(read_ahead(range(10), expand, workers=2))
    assert seen == [0, 0, 1, 1, 2]
    assert threads() == 0


def test_an_error_of_the_groups_is_raised_after_what_came_before() -> None:
    def groups() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    seen: list[int] = []
    with pytest.raises(OSError, match="gone"):
        seen.extend(read_ahead(groups(), lambda group: iter([group]), workers=3))
    assert seen == [1]


def test_nothing_of_nothing() -> None:
    assert list(read_ahead([], lambda group: iter([group]))) == []
