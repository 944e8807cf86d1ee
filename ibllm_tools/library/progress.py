"""How far a long run is: drawn in a terminal, or told to a function."""

from collections.abc import Callable
from typing import Any, Self

from tqdm import tqdm

Progress = Callable[[int, int], object]
"""Is told how many sources are done, and of how many."""


def progress_bar(progress: bool | Progress, total: int) -> Any:
    """A bar of so many sources: drawn where the output is a terminal, or told to a function."""
    if callable(progress):
        return _ToldBar(progress, total)
    return tqdm(total=total, unit="source", disable=None if progress else True)


class _ToldBar:
    """What of a bar of tqdm is used, for a function."""

    def __init__(self, tell: Progress, total: int) -> None:
        self._tell, self._done, self._total = tell, 0, total

    def update(self, count: int) -> None:
        if count:
            self._done += count
            self._tell(self._done, self._total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was drawn."""
