"""A library's database built anew without what was deleted, and put in the place of the old one.

Chroma's files never shrink, and the log that its indexes are made from keeps every vector that was ever written. The
new database grows beside the old one, as ``chroma.compacted``. Two renames swap them: the old one becomes
``chroma.previous``, and the new one gets its place. Whatever a kill leaves is one whole database, and what it leaves
of the other is removed when the library is opened again, once the one in its place is seen to hold something.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from ibllm_tools.errors import StoreError, StoreLockedError
from ibllm_tools.library.places import followed
from ibllm_tools.store.chroma import Records, VectorCollection, VectorDatabase
from ibllm_tools.store.database_file import SQLITE_FILE, DatabaseFile
from ibllm_tools.store.folder_lock import own_folder, owners
from ibllm_tools.store.hnsw_files import index_damage

COMPACTED, PREVIOUS = ".compacted", ".previous"
"""Suffixes of the database's folder."""
PAGE = 1000


class Compaction(BaseModel):
    """What `MediaLibrary.compact` did."""

    model_config = ConfigDict(frozen=True)

    bytes_before: int = Field(description="Size of the database on disk.")
    bytes_after: int = Field(description="The same, now.")
    vectors: int = Field(description="Vectors that were copied: those of all entries and sources.")
    seconds: float = Field(description="Wall-clock time.")


def compact(database: VectorDatabase, folder: Path, *, progress: bool = True) -> Compaction:
    """Build a database anew and put it in its own place. It is closed then, and to be opened again.

    Args:
        database: the only one in this process that has the folder open.
        folder: where it lies.
        progress: draw a bar where the output is a terminal.

    Raises:
        StoreLockedError: it is compacted already.
        StoreError: an index is broken, the disk is full, or somebody else in this process has it open. The old database
            stays then.
    """
    began, before = time.perf_counter(), size_on_disk(folder)
    compacted = folder.with_name(folder.name + COMPACTED)
    with _swapping(folder):
        _require_whole(database)
        try:
            with VectorDatabase.open(compacted, keep_log=True) as target:
                vectors = _copy(database, target, progress)
            _write_through(compacted)
        except BaseException:
            shutil.rmtree(compacted, ignore_errors=True)
            raise
        database.close()
        _swap(folder)
    return Compaction(
        bytes_before=before,
        bytes_after=size_on_disk(folder),
        vectors=vectors,
        seconds=time.perf_counter() - began,
    )


def complete_swap(folder: Path) -> None:
    """Finish, or take back, what a killed compaction left beside a database's folder; nothing where it left nothing.

    Raises:
        StoreLockedError: it is being compacted now.
        StoreError: it cannot be read or written.
    """
    compacted, previous = (folder.with_name(folder.name + suffix) for suffix in (COMPACTED, PREVIOUS))
    if not compacted.exists() and not previous.exists():
        return
    with _swapping(folder):
        if previous.exists() and not _holds_anything(folder):
            if folder.exists():
                shutil.rmtree(folder)
            (compacted if compacted.exists() else previous).rename(folder)
        for left in (compacted, previous):
            shutil.rmtree(left, ignore_errors=True)


def size_on_disk(folder: Path) -> int:
    """Bytes of all files below a folder; raises StoreError where they cannot be counted."""
    size = 0
    with followed(folder):
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # journals come and go
                size += path.stat().st_size if path.is_file() else 0
    return size


@contextmanager
def _swapping(folder: Path) -> Iterator[None]:
    """Own what lies beside a database, against other processes and threads; its own lock goes with its folder."""
    if owners(folder.parent):
        raise StoreLockedError(f"{folder.parent}: is being compacted in this process; wait until that is done")
    release = own_folder(folder.parent)
    try:
        yield
    except OSError as error:
        raise StoreError(f"{folder}: cannot be compacted ({error.strerror}); free space or permissions") from error
    finally:
        release()


def _require_whole(database: VectorDatabase) -> None:
    with database.offline() as folder, DatabaseFile.open(folder) as file:
        for collection in file.collections():
            if damage := index_damage(collection.index_folder):
                raise StoreError(
                    f"{folder}: the index of {collection.name!r} is broken ({damage}); run `ibllm library verify "
                    "--repair` first"
                )


def _copy(source: VectorDatabase, target: VectorDatabase, progress: bool) -> int:
    """Everything, sources after their entries; the number of vectors."""
    names = sorted(source.names(), key=lambda name: name.endswith(".sources"))
    collections = [_opened(source, name) for name in names]
    with tqdm(
        total=sum(map(len, collections)), desc="compact", unit="vector", leave=False, disable=None if progress else True
    ) as bar:
        for collection in collections:
            new = target.collection(
                collection.name,
                fingerprint=collection.fingerprint,
                dimension=collection.dimension,
                index=collection.index,
                metadata=collection.metadata,
            )
            place = 0
            while ids := (records := _page(collection, place)).ids:
                new.upsert(
                    ids,
                    records.vectors,
                    metadatas=records.metadatas if all(records.metadatas) else None,
                    documents=records.documents if any(records.documents) else None,
                )
                place += len(ids)
                bar.update(len(ids))
            if not place == len(new) == len(collection):
                raise StoreError(
                    f"{source.location}: {len(collection):,} vectors in {collection.name!r}, and {len(new):,} were "
                    "copied; run `ibllm library verify`"
                )
        return int(bar.total)


def _opened(database: VectorDatabase, name: str) -> VectorCollection:
    identity = database.metadata(name) or {}
    return database.collection(
        name, fingerprint=str(identity.get("fingerprint", "unknown")), dimension=int(identity.get("dimension", 1))
    )


def _page(collection: VectorCollection, place: int) -> Records:
    records = collection.find(limit=PAGE, offset=place, include=["embeddings", "metadatas", "documents"])
    if len(records.vectors) != len(records.ids):
        raise StoreError(f"{collection.location}: {collection.name!r} lacks vectors; run `ibllm library verify`")
    return records


def _write_through(folder: Path) -> None:
    """Have everything on the disk before it replaces anything; Chroma does so for its tables only."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_file() or hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
            _flush(path)


def _holds_anything(folder: Path) -> bool:
    """Whether a database with collections lies there."""
    if owners(folder):
        return True  # SQLite's locks would not keep it from the engine of this process
    if not (folder / SQLITE_FILE).exists():
        return False
    with DatabaseFile.open(folder) as file:
        return bool(file.collections())


def _swap(folder: Path) -> None:
    compacted, previous = (folder.with_name(folder.name + suffix) for suffix in (COMPACTED, PREVIOUS))
    try:
        folder.rename(previous)
        compacted.rename(folder)
    except BaseException:
        if previous.exists() and not folder.exists():
            previous.rename(folder)
        raise
    if hasattr(os, "O_DIRECTORY"):
        _flush(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
