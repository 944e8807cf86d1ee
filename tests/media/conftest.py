from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest


@contextmanager
def _one_line_error(kind: type[Exception]) -> Iterator[None]:
    message = ""
    try:
        yield
    except kind as error:
        message = str(error)
    assert "\n" not in message


@pytest.fixture
def one_line_error() -> Callable[[type[Exception]], AbstractContextManager[None]]:
    """Lets the block succeed, or fail with an error of the given class whose message is one line."""
    return _one_line_error
