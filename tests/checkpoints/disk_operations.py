"""What is on the disk, looked at before every operation that could be the last one of a killed process."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ibllm_tools.checkpoints import staging

OPERATIONS = {"open", "os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "shutil.rmtree"}

_looks: list[Callable[[], None]] = []


def skip_without_exchange(place: Path) -> None:
    """Skip a test where the file system cannot exchange two folders in one step."""
    folders = place / "first", place / "second"
    for folder in folders:
        folder.mkdir()
    exchanged = staging._exchanged(*folders)
    for folder in folders:
        folder.rmdir()
    if not exchanged:
        pytest.skip("this file system cannot exchange two folders")


@contextmanager
def before_each_operation(look: Callable[[], None]) -> Iterator[None]:
    """Call ``look`` before whatever Python does to a file or a folder."""
    _looks.append(look)
    try:
        yield
    finally:
        _looks.clear()


def _audit(event: str, _: object) -> None:
    if _looks and event in OPERATIONS:
        look = _looks.pop()  # it opens files itself
        try:
            look()
        finally:
            _looks.append(look)


sys.addaudithook(_audit)
