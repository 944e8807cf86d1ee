"""A folder that is written beside its place, and takes the place in one step once it is complete.

Beside ``models/imagebind`` everything happens in ``models/.imagebind.partial``, which one process owns at a time: the
new folder grows in ``new``, and the one that it replaces is deleted from there afterwards. Whoever looks at
``models/imagebind`` sees the old folder, whole, or the new one, whole. An error or Ctrl-C removes
``.imagebind.partial``; what a kill leaves of it is removed by the next run.

Where the operating system cannot exchange two folders (it can on Linux and macOS), the old one is moved to ``old`` and
then the new one into its place. A kill between the two leaves the place empty; the next run puts the old one back.
"""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ibllm_tools.errors import InvalidRequestError, StoreError, StoreLockedError, one_line
from ibllm_tools.store.folder_lock import own_folder

_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2


@contextmanager
def staged_folder(target: Path, *, bytes_needed: int, require_target: Callable[[Path], None]) -> Iterator[Path]:
    """A fresh folder that takes the place of ``target`` when the block ends without an error.

    Args:
        target: the folder's place; one that is there is replaced.
        bytes_needed: how much will be written.
        require_target: raises an error where the place must not be taken. It is asked before the block begins, once
            what a killed run left behind is out of the way.

    Raises:
        InvalidRequestError: the place cannot be written to, is too small, or another process writes to it.
    """
    target = target.expanduser().resolve()
    work = _work_folder(target)
    release = _own(work, target)
    try:
        _recover(target, work)
        require_target(target)
        _require_space(target, bytes_needed)
        (work / "new").mkdir()
        yield work / "new"
        _flush(work / "new")
        _take_place(work / "new", target, work / "old")
    except (OSError, SafetensorError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise InvalidRequestError(f"{target}: cannot be written ({reason}); choose another place") from error
    finally:
        _recover(target, work)
        shutil.rmtree(work, ignore_errors=True)  # before somebody else can own it
        release()


def heal(target: Path) -> None:
    """Give a folder its place back that a kill between two moves took from it; nothing where none did.

    Raises:
        InvalidRequestError: another process writes to the place.
    """
    target = target.expanduser().resolve()
    work = _work_folder(target)
    if not (work / "old").exists():
        return
    release = _own(work, target)
    try:
        _recover(target, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        release()


def _work_folder(target: Path) -> Path:
    return target.parent / f".{target.name}.partial"


def _own(work: Path, target: Path) -> Callable[[], None]:
    if os.path.ismount(target):
        raise InvalidRequestError(f"{target}: a mount point cannot be replaced; use a folder below one")
    if Path.cwd().is_relative_to(target):
        raise InvalidRequestError(f"{target}: the current folder cannot be replaced; change to another one first")
    try:
        return own_folder(work)
    except StoreLockedError as error:
        raise InvalidRequestError(f"{target}: another process is writing it; wait until it has ended") from error
    except StoreError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise InvalidRequestError(f"{target}: cannot be written ({reason}); choose another place") from error


def _recover(target: Path, work: Path) -> None:
    """Undo whatever is half done; an old folder that lost its place gets it back."""
    old = work / "old"
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(work / "new", ignore_errors=True)


def _require_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise InvalidRequestError(
            f"{target}: {needed / 1e9:.1f} GB will be written, {free / 1e9:.1f} GB are free there; make room or choose "
            "another disk"
        )


def _take_place(new: Path, target: Path, old: Path) -> None:
    if target.exists() and not any(target.iterdir()):
        target.rmdir()  # not every system renames onto an empty folder
    if not target.exists():
        new.rename(target)
    elif not _exchanged(new, target):
        target.rename(old)
        new.rename(target)
    _flush_folder(target.parent)


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; ``False`` where the operating system or the file system cannot."""
    if os.name != "posix":
        return False
    libc: Any = ctypes.CDLL(None)
    paths = os.fsencode(first), os.fsencode(second)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        return bool(libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        return bool(libc.renamex_np(*paths, _RENAME_SWAP) == 0)
    return False


def _flush(folder: Path) -> None:
    """Have everything in a folder on the disk: a name must not be there before what it names."""
    for parent, _, files in os.walk(folder):
        for file in files:
            descriptor = os.open(Path(parent, file), os.O_RDONLY if os.name == "posix" else os.O_RDWR)
            os.fsync(descriptor)
            os.close(descriptor)
        _flush_folder(Path(parent))


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
