"""Opening what a decoder is given, and wording what is wrong with it.

A source is a path or the bytes themselves. Every decoder opens it here, so that a missing file, a folder, a device, an
empty or an oversized file is refused in one place and in the same words.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from ibllm_tools.errors import (
    AttachmentAccessError,
    AttachmentNotFoundError,
    CorruptMediaError,
    IbllmError,
    LimitExceededError,
    one_line,
)
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits

Source = Path | bytes


def source_label(source: Source) -> str:
    """How messages call the source: the file's name, or the number of bytes."""
    return one_line(source.name) if isinstance(source, Path) else f"attachment of {len(source):,} bytes"


def source_size(source: Source) -> int:
    """The source's size in bytes.

    Raises:
        AttachmentNotFoundError: there is no such file.
        AttachmentAccessError: it is a folder, a device or a pipe, or may not be looked at.
    """
    if isinstance(source, bytes):
        return len(source)
    label = source_label(source)
    try:
        status = source.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise AttachmentNotFoundError(
            f"{label}: no such file; check the path (literal text goes through Attachment.from_text)"
        ) from None
    except (OSError, ValueError) as error:
        raise AttachmentAccessError(f"{label}: cannot be opened ({one_line(error)}); check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise AttachmentAccessError(f"{label}: a folder, expected a file; pass the files in it one by one")
    if not stat.S_ISREG(status.st_mode):
        raise AttachmentAccessError(f"{label}: a device or pipe, expected a regular file; pass its content as bytes")
    return status.st_size


def open_source(source: Source, limits: Limits = DEFAULT_LIMITS) -> BinaryIO:
    """Open the source for reading, after its size was checked.

    Raises:
        AttachmentNotFoundError, AttachmentAccessError: as in `source_size`, or the file is not readable.
        CorruptMediaError: it is empty.
        LimitExceededError: it is larger than ``limits.max_bytes``.
    """
    size, label = source_size(source), source_label(source)
    if size == 0:
        raise CorruptMediaError(f"{label}: empty, expected media; check how the file was written")
    if size > limits.max_bytes:
        raise LimitExceededError(
            f"{label}: {size:,} bytes, the limit is {limits.max_bytes:,}; pass a smaller file or raise Limits.max_bytes"
        )
    if isinstance(source, bytes):
        return BytesIO(source)
    try:
        return source.open("rb")
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise AttachmentAccessError(f"{label}: not readable ({reason}); change its permissions") from error


def read_source(source: Source, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """All bytes of the source; raises as `open_source` does."""
    with open_source(source, limits) as file:
        return source if isinstance(source, bytes) else file.read(limits.max_bytes)


@contextmanager
def decoding(source: Source, kind: str) -> Iterator[None]:
    """Turn whatever a decoding library throws into one CorruptMediaError about ``kind``.

    Libraries that meet hostile bytes raise nearly any exception (struct.error, KeyError, RecursionError, ...), so that
    a list of them would always be too short.
    """
    try:
        yield
    except IbllmError:
        raise
    except MemoryError as error:
        raise LimitExceededError(
            f"{source_label(source)}: decoding this {kind} needs more memory than there is; lower the Limits"
        ) from error
    except Exception as error:
        reason = one_line(getattr(error, "strerror", None) or error) or type(error).__name__
        raise CorruptMediaError(
            f"{source_label(source)}: not a readable {kind} ({reason}); it may be damaged or truncated, export it again"
        ) from error
