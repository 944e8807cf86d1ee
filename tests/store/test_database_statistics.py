"""What SQLite knows of the tables of a Chroma folder, so that filters of metadata take its indexes."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from ibllm_tools.store.chroma import VectorDatabase


def statistics(folder: Path) -> dict[str, int]:
    """Rows of each table, as SQLite estimates them; empty where it never looked."""
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as connection:
        if not connection.execute("SELECT * FROM sqlite_master WHERE name = 'sqlite_stat1'").fetchall():
            return {}
        return {table: int(stat.split()[0]) for table, stat in connection.execute("SELECT tbl, stat FROM sqlite_stat1")}


def write(folder: Path, first: int, count: int) -> None:
    angles = np.linspace(0, 1, count)
    with VectorDatabase.open(folder) as database:
        collection = database.collection("things", fingerprint="drawn", dimension=2)
        ids = [f"{number}" for number in range(first, first + count)]
        vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        collection.upsert(ids, vectors, metadatas=[{"tags": ["a", "b"]} for _ in ids])


def test_statistics_are_taken_when_the_tables_have_grown(tmp_path: Path) -> None:
    write(tmp_path, 0, 100)
    VectorDatabase.open(tmp_path).close()
    assert statistics(tmp_path) == {}
    write(tmp_path, 100, 1500)
    with VectorDatabase.open(tmp_path) as database:
        found = database.collection("things", fingerprint="drawn", dimension=2).find({"tags": {"$contains": "a"}})
    assert len(found.ids) == 1600
    assert statistics(tmp_path)["embeddings"] > 1000
