"""One owning process per folder: two that write the same Chroma folder lose data without any error."""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ibllm_tools.errors import StoreError, StoreLockedError

LOCK_FILE = ".ibllm.lock"

_owned: dict[tuple[int, Path], "_Ownership"] = {}  # (process, folder)
_owned_guard = threading.Lock()


def own_folder(folder: Path, *, left: Callable[[int], object] = lambda since: None) -> Callable[[], None]:
    """Make this process the only owner of a folder, which is created where it is missing.

    The same process may own it several times over; it gives it back with the last release.

    Args:
        folder: what is owned.
        left: called first of all, when the owner before this process ended without giving it back, because it was
            killed or did not bother, or was told to :func:`distrust` it; with the time at which that one
            began, in nanoseconds. What it raises is raised, and the folder is
            not owned then.

    Returns:
        What gives it back. The operating system does so too when the process ends, however it ends.

    Raises:
        StoreLockedError: another process owns it.
        StoreError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        key = (os.getpid(), folder.resolve())  # a forked child is another process, though it inherits the table
        with _owned_guard:
            if key not in _owned:
                _owned[key] = _Ownership(_lock(folder, left))
            _owned[key].owners += 1
    except OSError as error:
        raise StoreError(
            f"{folder}: {error.strerror or error}; a store needs a folder that can be written to"
        ) from error

    def release() -> None:
        with _owned_guard:
            owned = _owned[key]
            owned.owners -= 1
            if owned.owners:
                return
            del _owned[key]
            with suppress(OSError):  # a full disk; the next owner takes more care then than it needs
                if not owned.distrusted:
                    os.ftruncate(owned.descriptor, 0)
            os.close(owned.descriptor)

    return release


def owners(folder: Path) -> int:
    """How many times over this process owns a folder."""
    with _owned_guard:
        owned = _owned.get((os.getpid(), folder.resolve()))
        return 0 if owned is None else owned.owners


def distrust(folder: Path) -> None:
    """Have the next owner of a folder called as if it had been left, for something went wrong in it."""
    with _owned_guard:
        owned = _owned.get((os.getpid(), folder.resolve()))
        if owned is not None:
            owned.distrusted = True


@dataclass
class _Ownership:
    descriptor: int
    owners: int = 0
    distrusted: bool = False


def _lock(folder: Path, left: Callable[[int], object]) -> int:
    """Lock a folder; its file says who owns it and since when, and is empty when that one has given it back."""
    path = folder / LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock_descriptor(descriptor)
    except (BlockingIOError, PermissionError):  # POSIX, Windows
        os.close(descriptor)
        owner, _ = _read(path)
        raise StoreLockedError(
            f"{folder}: process {owner} owns this store; close it there, or let both use a Chroma server (http://host:port)"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    try:
        if os.fstat(descriptor).st_size:
            left(_read(path)[1])
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} {time.time_ns()}\n".encode("ascii"))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read(path: Path) -> tuple[str, int]:
    """The owner, and since when; 0 where that is not known."""
    said = path.read_text(encoding="ascii", errors="replace").split()
    return said[0] if said else "unknown", int(said[1]) if len(said) > 1 and said[1].isdigit() else 0


def _lock_descriptor(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        # Windows lets nobody else read a locked region, so it lies far behind the process id that others are to read.
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
