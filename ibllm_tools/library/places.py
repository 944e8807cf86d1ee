"""Folders and files that were named and may not be there, or not for us."""

from collections.abc import Iterator
from contextlib import contextmanager

from ibllm_tools.errors import IbllmError, StoreError, one_line


@contextmanager
def followed(place: object, error: type[IbllmError] = StoreError) -> Iterator[None]:
    """Turn what a path makes fail that leads nowhere or may not be read into one error of ours."""
    try:
        yield
    except (OSError, RuntimeError) as failure:  # a RuntimeError where there is no such user, or links go in a circle
        reason = one_line(getattr(failure, "strerror", None) or failure)
        raise error(f"{one_line(place)}: cannot be used ({reason}); check the path and its permissions") from failure
