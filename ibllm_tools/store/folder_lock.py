"""One owning process per folder: two that write the same Chroma folder lose data without any error."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ibllm_tools.errors import StoreError, StoreLockedError

LOCK_FILE = ".ibllm.lock"

_owned: dict[tuple[int, Path], tuple[int, int]] = {}  # (process, folder) -> (file descriptor, number of owners)
_owned_guard = threading.Lock()


def own_folder(folder: Path) -> Callable[[], None]:
    """Make this process the only owner of a folder, which is created where it is missing.

    The same process may own it several times over; it gives it back with the last release.

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
            descriptor, owners = _owned.get(key) or (_lock(folder), 0)
            _owned[key] = (descriptor, owners + 1)
    except OSError as error:
        raise StoreError(
            f"{folder}: {error.strerror or error}; a store needs a folder that can be written to"
        ) from error

    def release() -> None:
        with _owned_guard:
            descriptor, owners = _owned.pop(key)
            if owners > 1:
                _owned[key] = (descriptor, owners - 1)
            else:
                os.close(descriptor)

    return release


def _lock(folder: Path) -> int:
    path = folder / LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock_descriptor(descriptor)
    except (BlockingIOError, PermissionError):  # POSIX, Windows
        os.close(descriptor)
        owner = path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
        raise StoreLockedError(
            f"{folder}: process {owner} owns this store; close it there, or let both use a Chroma server (http://host:port)"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode("ascii"))
    return descriptor


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
