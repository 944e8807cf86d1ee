"""What lies in a Chroma folder, read without Chroma: which collections and indexes, and the log of what was written.

Chroma makes the index of a collection from its log. Where the whole log was kept, an index can be compared with it, and
made anew from it.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import StoreError
from ibllm_tools.store.hnsw_files import index_damage, remove_index

SQLITE_FILE = "chroma.sqlite3"
PAGE = 1000
CLOCK_TOLERANCE = 60_000_000_000
"""Nanoseconds by which the clocks of a machine and of the disk that it writes to may differ."""

# Of each id the last operation that decides about its vector; an update of metadata alone has none, and 3 deletes
# (chromadb/db/mixins/embeddings_queue.py).
LIVE = """
    SELECT id, seq_id FROM (
        SELECT id, operation, MAX(seq_id) AS seq_id FROM embeddings_queue
        WHERE topic LIKE '%/' || :collection AND (vector IS NOT NULL OR operation = 3) GROUP BY id
    ) WHERE operation != 3
"""


class StoredCollection(NamedTuple):
    """A collection, and the folder of its index, which is there from some 1,000 vectors on."""

    name: str
    id: str
    index_folder: Path


class DatabaseFile:
    """The tables of a Chroma folder, read only. Made by :meth:`open`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._connection = connection

    @classmethod
    @contextmanager
    def open(cls, folder: Path, *, running: bool = False) -> Iterator[Self]:
        """Open the tables of a folder that this process owns.

        Args:
            folder: where ``chroma.sqlite3`` lies.
            running: whether Chroma's engine has the folder open. It must not write meanwhile.

        Raises:
            StoreError: they cannot be read.
        """
        # Without the engine, SQLite may complete what a killed process began; beside it that would undo its work.
        mode = "ro" if running else "rw"
        try:
            with closing(
                sqlite3.connect(f"file:{quote(str(folder / SQLITE_FILE))}?mode={mode}", uri=True)
            ) as connection:
                connection.execute("PRAGMA query_only = 1")
                yield cls(folder, connection)
        except sqlite3.Error as error:
            raise StoreError(
                f"{folder / SQLITE_FILE}: cannot be read ({error}); restore it from a backup, or build it again"
            ) from error

    def collections(self) -> list[StoredCollection]:
        """All collections that have an index of their own."""
        if not {"collections", "segments"} <= self._tables():
            return []
        found = self._connection.execute(
            "SELECT collections.name, collections.id, segments.id FROM collections "
            "JOIN segments ON segments.collection = collections.id WHERE scope = 'VECTOR' ORDER BY collections.name"
        )
        return [StoredCollection(name, id_, self.folder / segment) for name, id_, segment in found]

    @property
    def keeps_log(self) -> bool:
        """Whether Chroma keeps what it has written to its indexes."""
        if "embeddings_queue_config" not in self._tables():
            return False
        stored = self._connection.execute("SELECT config_json_str FROM embeddings_queue_config").fetchone()
        return stored is not None and json.loads(stored[0]).get("automatically_purge") is False

    def is_complete(self, collection: StoredCollection) -> bool:
        """Whether the log holds the vector of everything in the collection, so that its index can be made from it."""
        (missing,) = self._connection.execute(
            "SELECT EXISTS (SELECT embedding_id FROM embeddings JOIN segments ON segments.id = embeddings.segment_id "
            f"WHERE segments.collection = :collection AND scope = 'METADATA' EXCEPT SELECT id FROM ({LIVE}))",
            {"collection": collection.id},
        ).fetchone()
        return not missing

    def vectors(self, collection: StoredCollection) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Ids and vectors (B, E) that the log says the collection has, some at a time."""
        rows = self._connection.execute(
            f"SELECT live.id, vector FROM ({LIVE}) AS live JOIN embeddings_queue USING (seq_id) "
            "WHERE encoding = 'FLOAT32'",
            {"collection": collection.id},
        )
        while page := rows.fetchmany(PAGE):
            yield [id_ for id_, _ in page], np.stack([np.frombuffer(vector, "<f4") for _, vector in page])

    def size(self, collection: StoredCollection) -> int:
        """How many vectors the log says the collection has."""
        (count,) = self._connection.execute(f"SELECT COUNT(*) FROM ({LIVE})", {"collection": collection.id}).fetchone()
        return int(count)

    def _tables(self) -> set[str]:
        """Some are missing where Chroma was killed while it made them; it completes them when it is opened again."""
        return {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master")}

    def records(self, name: str) -> int:
        """How many records there are in a collection, and in ``NAME.0001`` and so on."""
        (count,) = self._connection.execute(
            "SELECT COUNT(*) FROM embeddings JOIN segments ON segments.id = embeddings.segment_id "
            "JOIN collections ON collections.id = segments.collection WHERE scope = 'METADATA' "
            "AND (collections.name = :name OR collections.name GLOB :name || '.[0-9][0-9][0-9][0-9]')",
            {"name": name},
        ).fetchone()
        return int(count)

    def problems(self) -> list[str]:
        """What SQLite finds wrong with its own file; takes about as long as reading it."""
        found = [text for (text,) in self._connection.execute("PRAGMA quick_check(10)")]
        return [] if found == ["ok"] else found


def mend_indexes(folder: Path, *, since: int = 0) -> list[str]:
    """Remove the broken indexes of a folder that nobody has open, so that Chroma makes them anew from its log.

    Args:
        folder: where ``chroma.sqlite3`` lies.
        since: what was not written to since then, in nanoseconds, is not read: who only searched has broken nothing.

    Returns:
        The names of their collections.

    Raises:
        StoreError: one is broken, and the log of its collection was not kept.
    """
    mended = []
    if (folder / SQLITE_FILE).exists():
        with DatabaseFile.open(folder) as file:
            for collection in file.collections():
                damage = None
                if _last_written(collection.index_folder) >= since - CLOCK_TOLERANCE:
                    damage = index_damage(collection.index_folder)
                if damage is None:
                    continue
                if not file.is_complete(collection):
                    raise StoreError(
                        f"{folder}: the index of {collection.name!r} is broken ({damage}), for a process was killed "
                        "while it wrote, and what it was made from was not kept; remove the folder and build it again"
                    )
                remove_index(collection.index_folder)
                mended.append(collection.name)
    return mended


def _last_written(folder: Path) -> int:
    """When any of the files of an index was, in nanoseconds; 0 where there are none."""
    return max((path.stat().st_mtime_ns for path in folder.glob("*")), default=0)
