"""Where attachments stay: files named after the sha256 of their bytes, which agents pass as ``att://<sha256>``."""

import errno
import hashlib
import math
import os
import re
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from ibllm_tools.attachments.attachment import PIECE_BYTES, Attachment
from ibllm_tools.errors import (
    AttachmentNotFoundError,
    CorruptMediaError,
    InvalidRequestError,
    LimitExceededError,
    StoreError,
    one_line,
)
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.sniff import Modality
from ibllm_tools.media.source import open_source

SHA256 = re.compile(r"[0-9a-f]{64}")
HANDLE = re.compile(r"att://([0-9a-f]{64})")
LOCK_FILE, DRAFTS = ".lock", ".drafts"
OWN_FILE = re.compile(r"\.lock|\.drafts/[^/]+|([0-9a-f]{2})/\1[0-9a-f]{62}(\.json)?")
DRAFT_SECONDS = 3600.0
TALLY_DIGITS = 20
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class AttachmentRecord(BaseModel):
    """What a store remembers beside the bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    mime: str
    modality: Modality


class StoreSize(BaseModel):
    """How much a store holds, or how much it gave up."""

    model_config = ConfigDict(frozen=True)

    attachments: int = Field(description="Number of attachments.")
    bytes: int = Field(description="Their bytes together; the records, some 100 bytes each, are not counted.")


class StoreCheck(BaseModel):
    """What `AttachmentStore.verify` found."""

    model_config = ConfigDict(frozen=True)

    checked: int = Field(description="Attachments that were read and compared with their hash.")
    damaged: tuple[str, ...] = Field(description="Handles whose bytes or records are not what was put.")
    foreign: tuple[str, ...] = Field(description="Files that the store did not write, relative to its folder.")


class AttachmentStore:
    """A folder of attachments under their sha256, so that agents can pass ``att://`` handles in place of megabytes.

    Iterating over it gives the handles. The files are the truth: ``ab/ab12...`` holds the bytes and ``ab/ab12....json``
    name and modality; when the latter was last written says when the attachment was last put or opened. Files grow in
    ``.drafts`` and are renamed into place once they are on the disk, with the modes that the umask leaves. Several
    processes may share the folder: who changes it holds ``.lock`` for the moment of the change.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int | None = None) -> None:
        """Open the folder, or create it.

        Args:
            folder: where the files lie.
            max_bytes: the most that the attachments may take together. A ``put`` beyond it is refused; nothing is
                evicted, since a handle may be in anyone's hands. Each process that puts sets it for itself.

        Raises:
            StoreError: the folder cannot be created.
            InvalidRequestError: ``max_bytes`` is not positive.
        """
        if max_bytes is not None and max_bytes <= 0:
            raise InvalidRequestError(f"max_bytes {max_bytes}, expected a positive number; leave it out for no cap")
        self.folder, self.max_bytes = Path(folder), max_bytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot hold a store ({error.strerror}); choose another folder") from error
        self._sweep_drafts()

    def put(self, source: Any, **settings: Any) -> str:
        """Keep an attachment, or whatever `Attachment` takes, and return its handle; what is there is kept once.

        The name and the modality of the latest ``put`` of the same bytes are the ones remembered.

        Raises:
            LimitExceededError: the attachments would take more than ``max_bytes``.
            CorruptMediaError: the file has changed since the attachment was made.
            StoreError: the folder cannot be written to, or its disk is full.
        """
        attachment = Attachment.of(source, **settings)
        with self._access("written"):
            place = self._place(attachment.sha256)
            place.parent.mkdir(exist_ok=True)
            # What is new and cannot be too much needs no first look: each waits for the disk.
            look = self.max_bytes is not None or _file_size(place) == attachment.size
            if not (look and self._take_in(attachment, None)):
                with self._draft() as (file, draft):
                    _copy(attachment, file)
                    _finish(file)
                    self._take_in(attachment, draft)
        return attachment.handle

    def path(self, handle: str) -> Path:
        """Where the bytes of a handle lie.

        Raises:
            InvalidRequestError: not of the form ``att://<64 hexadecimal digits>``.
            AttachmentNotFoundError: nothing is kept under it.
        """
        match = HANDLE.fullmatch(handle)
        if match is None:
            raise InvalidRequestError(
                f"handle {one_line(handle)!r}, expected att:// and 64 hexadecimal digits; copy it whole"
            )
        place = self._place(match[1])
        if not place.is_file():
            raise AttachmentNotFoundError(f"{handle}: not in the store {self.folder}; put the attachment there again")
        return place

    def meta(self, handle: str) -> AttachmentRecord:
        """Name, MIME type and modality of a handle; raises as `path` does."""
        place = self.path(handle)
        try:
            return AttachmentRecord.model_validate_json(_record(place).read_bytes())
        except (OSError, ValueError) as error:
            self.path(handle)  # unless it was deleted just now
            raise StoreError(f"{handle}: its record is missing or damaged; put the attachment there again") from error

    def touch(self, handle: str) -> None:
        """Say that a handle is in use, as ``put`` and ``Attachment(handle, store=...)`` do; raises as `path` does.

        In a folder that may not be written to it does nothing; StoreError where anything else is in the way.
        """
        with self._access("written"):
            try:
                with self._locked():
                    place = self.path(handle)
                    os.utime(_record(place) if _record(place).exists() else place)
            except OSError as error:
                if error.errno not in READ_ONLY:
                    raise
                self.path(handle)

    def delete(self, handle: str) -> None:
        """Remove an attachment, whoever refers to it; raises as `path` does, and StoreError where it cannot."""
        with self._access("written"), self._locked() as tally:
            _remove(self.path(handle), tally)

    def collect(self, keep: Iterable[str], *, older_than: timedelta = timedelta(days=1)) -> StoreSize:
        """Remove what nothing refers to, and what killed processes left behind.

        An attachment stays when it is in ``keep``, or was put, opened or touched within ``older_than``. That grace
        covers who has put something and not written the reference yet, and conversations, whose handles nobody lists.
        Whoever is about to refer to an attachment of old puts, opens or touches it first.

        Args:
            keep: handles (or bare sha256) that anything refers to; of a shared store, the references of everyone.
            older_than: the grace. Zero only when nobody else uses the store.

        Returns:
            What was removed.

        Raises:
            InvalidRequestError: something in ``keep`` is no handle, or ``older_than`` is negative. Nothing is removed.
            StoreError: the folder cannot be written to.
        """
        kept = {_kept_sha256(handle) for handle in keep}
        if older_than < timedelta(0):
            raise InvalidRequestError(f"older_than {older_than}, expected a time span; pass timedelta(days=1) or so")
        removed = []
        with self._access("written"):
            with self._locked():
                os.utime(self.folder / LOCK_FILE)  # the file system's clock, which is the one that dates the files
                now = (self.folder / LOCK_FILE).stat().st_mtime
            for place in self._places():
                if place.name not in kept:
                    removed.append(self._remove_unused(place, now - older_than.total_seconds()))
            with self._locked() as tally:
                tally.recount()
        self._sweep_drafts()
        sizes = [size for size in removed if size is not None]
        return StoreSize(attachments=len(sizes), bytes=sum(sizes))

    def size(self) -> StoreSize:
        """How many attachments it holds, and how many bytes, counted on the disk."""
        with self._access("read"):
            sizes = [size for size in map(_file_size, self._places()) if size is not None]
        return StoreSize(attachments=len(sizes), bytes=sum(sizes))

    def verify(self) -> StoreCheck:
        """Read everything and compare it with its hash; changes nothing.

        `delete` what is damaged and put it again. Raises StoreError when the folder cannot be read.
        """
        with self._access("read"):
            places = [place for place in self._places() if place.is_file()]
            damaged = [f"att://{place.name}" for place in places if _is_damaged(place)]
            foreign = sorted(path.relative_to(self.folder).as_posix() for path in self._foreign())
        return StoreCheck(checked=len(places), damaged=tuple(damaged), foreign=tuple(foreign))

    def __iter__(self) -> Iterator[str]:
        """The handles, in order."""
        with self._access("read"):
            yield from (f"att://{place.name}" for place in self._places() if place.is_file())

    def __contains__(self, handle: str) -> bool:
        """Whether anything is kept under the handle."""
        match = HANDLE.fullmatch(handle)
        return match is not None and self._place(match[1]).is_file()

    def _place(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _places(self) -> Iterator[Path]:
        """The place of everything with bytes or a record, or both, in order."""
        for shard in sorted(self.folder.glob("[0-9a-f]" * 2)):
            names = {path.name.removesuffix(".json") for path in shard.iterdir()} if shard.is_dir() else set()
            yield from (shard / name for name in sorted(names) if SHA256.fullmatch(name) and name[:2] == shard.name)

    def _foreign(self) -> Iterator[Path]:
        for path in self.folder.rglob("*"):
            ours = OWN_FILE.fullmatch(path.relative_to(self.folder).as_posix())
            if not ours and (path.is_symlink() or not path.is_dir()):
                yield path

    def _take_in(self, attachment: Attachment, content: Path | None) -> bool:
        """Give record and bytes their places; ``False`` if the bytes are neither there nor handed over."""
        record = AttachmentRecord(name=attachment.name, mime=attachment.mime, modality=attachment.modality)
        place = self._place(attachment.sha256)
        with self._draft() as (file, draft):
            file.write(record.model_dump_json().encode())
            _finish(file)
            with self._locked() as tally:
                missing = _file_size(place) != attachment.size
                if missing:
                    self._require_room(attachment, tally)
                    if content is None:
                        return False
                    tally.change(attachment.size)
                os.utime(draft)  # it may have waited for the lock
                draft.replace(_record(place))  # the record first: whoever sees the bytes finds it
                if missing and content is not None:
                    content.replace(place)
        return True

    def _require_room(self, attachment: Attachment, tally: "_Tally") -> None:
        if self.max_bytes is None or tally.bytes + attachment.size <= self.max_bytes:
            return
        tally.recount()
        if tally.bytes + attachment.size > self.max_bytes:
            raise LimitExceededError(
                f"{attachment.name}: {attachment.size:,} bytes, and the store {self.folder} holds {tally.bytes:,} of "
                f"at most {self.max_bytes:,}; collect what nothing refers to, or raise max_bytes"
            )

    def _remove_unused(self, place: Path, since: float) -> int | None:
        """Remove what was not put, opened or touched since; the bytes that it had, ``None`` if nothing was there."""
        if _last_use(place) > since:
            return None
        with self._locked() as tally:
            return None if _last_use(place) > since else _remove(place, tally)

    @contextmanager
    def _locked(self) -> "Iterator[_Tally]":
        """Hold the folder's lock, against processes and threads; a killed process lets go of it."""
        descriptor = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _lock(descriptor)
            yield _Tally(descriptor, self)
        finally:
            os.close(descriptor)

    @contextmanager
    def _draft(self) -> Iterator[tuple[BinaryIO, Path]]:
        """A new file beside the places; removed afterwards unless it was given one."""
        draft = self.folder / DRAFTS / secrets.token_hex(16)
        draft.parent.mkdir(exist_ok=True)
        try:
            with draft.open("xb") as file:
                yield file, draft
        finally:
            draft.unlink(missing_ok=True)

    def _sweep_drafts(self) -> None:
        """Remove the drafts of killed processes: those that nothing was written to for an hour."""
        with suppress(OSError):
            for draft in list((self.folder / DRAFTS).iterdir()):
                with suppress(OSError):
                    if time.time() - draft.stat().st_mtime > DRAFT_SECONDS:
                        draft.unlink()

    @contextmanager
    def _access(self, how: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot be {how} ({one_line(error.strerror or error)}); free space or permissions"
            ) from error


class _Tally:
    """The attachments' bytes, counted as they come and go, in the lock file; a cap needs no walk over all files then.

    It never says less than there is, however a process ends: what comes is counted before it is there, and what goes
    after it is gone.
    """

    def __init__(self, descriptor: int, store: AttachmentStore) -> None:
        self._descriptor, self._store = descriptor, store
        os.lseek(descriptor, 0, os.SEEK_SET)
        noted = os.read(descriptor, TALLY_DIGITS)
        if len(noted) == TALLY_DIGITS and noted.isdigit():
            self.bytes = int(noted)
        else:
            self.recount()

    def recount(self) -> None:
        self.bytes = self._store.size().bytes
        self.change(0)

    def change(self, by: int) -> None:
        self.bytes = max(self.bytes + by, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, b"%0*d" % (TALLY_DIGITS, self.bytes))


def _record(place: Path) -> Path:
    return place.with_suffix(".json")


def _kept_sha256(handle: str) -> str:
    sha256 = handle.removeprefix("att://")
    if not SHA256.fullmatch(sha256):
        raise InvalidRequestError(
            f"keep holds {one_line(handle)!r}, expected handles of the form att:// and 64 hexadecimal digits; nothing "
            "was removed, correct it"
        )
    return sha256


def _file_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _last_use(place: Path) -> float:
    """When an attachment was last put, opened or touched; bytes without a record count from when they came."""
    for path in (_record(place), place):
        with suppress(FileNotFoundError):
            return path.stat().st_mtime
    return -math.inf


def _remove(place: Path, tally: _Tally) -> int | None:
    size = _file_size(place)
    place.unlink(missing_ok=True)
    _record(place).unlink(missing_ok=True)
    tally.change(-(size or 0))
    return size


def _is_damaged(place: Path) -> bool:
    try:
        with place.open("rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest() == place.name
        AttachmentRecord.model_validate_json(_record(place).read_bytes())
    except (OSError, ValueError):
        return place.exists()  # unless it was deleted just now
    return not intact


def _copy(attachment: Attachment, file: BinaryIO) -> None:
    """The attachment's bytes into the file, as long as they are still those that it was made from."""
    digest, left = hashlib.sha256(), attachment.size
    with open_source(attachment.source, Limits(max_bytes=sys.maxsize)) as original:
        while left >= 0 and (piece := original.read(PIECE_BYTES)):
            digest.update(piece)
            file.write(piece)
            left -= len(piece)
    if digest.hexdigest() != attachment.sha256:
        raise CorruptMediaError(f"{attachment.name}: changed while it was kept; put it again when it is complete")


def _finish(file: BinaryIO) -> None:
    """Have a file on the disk, so that a power failure leaves no name without content."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _lock(descriptor: int) -> None:
    """Wait for the lock on an open file; closing the file gives it back."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
