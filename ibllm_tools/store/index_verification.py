"""Whether the indexes of a Chroma folder return what their log says, and how they are made anew where they do not.

A broken index can answer wrongly without an error, and end the process when it is used
(`ibllm_tools.store.hnsw_files`). So the files are looked at first, with Chroma's engine stopped, and only what can be
used without harm is asked for its vectors.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ibllm_tools.errors import StoreError, one_line
from ibllm_tools.store.chroma import VectorCollection, VectorDatabase
from ibllm_tools.store.database_file import DatabaseFile, StoredCollection
from ibllm_tools.store.hnsw_files import index_damage, remove_index

PAGE = 1000
ASKED = 200
"""Vectors per index that are searched for."""
FOUND = 0.9
"""Share of them that must find themselves; measured 0.998 and more."""
ROUNDING = 1e-5
"""In an inner product of unit vectors, which the engine sums in another order."""

Progress = Callable[[int], object]


class IndexDamage(BaseModel):
    """An index that cannot be relied on."""

    model_config = ConfigDict(frozen=True)

    collection: str = Field(description="Name of the collection in the database.")
    reason: str = Field(description="What is wrong with it.")
    mendable: bool = Field(description="Whether everything that it was made from is there.")


class IndexCheck(BaseModel):
    """What `check_indexes` found."""

    model_config = ConfigDict(frozen=True)

    indexes: int = Field(description="Indexes that were looked at.")
    vectors: int = Field(description="Vectors that were compared with the log.")
    broken: tuple[IndexDamage, ...] = Field(description="Indexes that answer wrongly or not at all.")
    problems: tuple[str, ...] = Field(description="What SQLite finds wrong with its own file.")


def check_indexes(database: VectorDatabase, progress: Progress) -> IndexCheck:
    """Compare every index of a folder with its log, whichever library it belongs to.

    Args:
        database: an embedded one.
        progress: told the number of vectors that were compared.

    Raises:
        StoreError: somebody else in this process has the folder open too, or the tables cannot be read.
    """
    with database.offline() as folder, DatabaseFile.open(folder) as file:
        problems = file.problems()
        collections = file.collections()
        mendable = {collection: file.is_complete(collection) for collection in collections}
        damages = {collection: index_damage(collection.index_folder) for collection in collections}
    vectors = 0
    for collection, damage in damages.items():
        if damage is None:
            checked, damages[collection] = _compare(database, collection, mendable[collection], progress)
            vectors += checked
    broken = [
        IndexDamage(collection=collection.name, reason=damage, mendable=mendable[collection])
        for collection, damage in damages.items()
        if damage is not None
    ]
    return IndexCheck(indexes=len(collections), vectors=vectors, broken=tuple(broken), problems=tuple(problems))


def repair_indexes(database: VectorDatabase, broken: Sequence[IndexDamage]) -> list[str]:
    """Remove broken indexes, so that Chroma makes them anew from its log; what was done."""
    names = {index.collection for index in broken if index.mendable}
    if names:
        with database.offline() as folder, DatabaseFile.open(folder) as file:
            for collection in file.collections():
                if collection.name in names:
                    remove_index(collection.index_folder)
    return [f"index of {name} made anew from its log" for name in sorted(names)]


def _compare(
    database: VectorDatabase, stored: StoredCollection, complete: bool, progress: Progress
) -> tuple[int, str | None]:
    """How many vectors of a collection were read, and what is wrong with them."""
    identity = database.metadata(stored.name) or {}
    if not {"fingerprint", "dimension"} <= identity.keys():
        return 0, None  # somebody else's
    collection = database.collection(stored.name, fingerprint=identity["fingerprint"], dimension=identity["dimension"])
    try:
        size = len(collection)  # also has the engine take in what its log is ahead, before another reader opens it
        if not complete:
            return size, _unreadable(collection, progress)
        with DatabaseFile.open(Path(database.location), running=True) as file:
            logged = file.size(stored)
            damage = _difference(collection, file.vectors(stored), progress)
            if damage is None and size != logged:
                damage = f"{size:,} vectors, and its log has {logged:,}"
        return size, damage or _lost(collection, size)
    except StoreError as error:
        return 0, one_line(error, 300)


def _unreadable(collection: VectorCollection, progress: Progress) -> str | None:
    """Without a log, all that can be found out: whether every vector can be read."""
    place = 0
    while ids := (records := collection.find(limit=PAGE, offset=place, include=["embeddings"])).ids:
        if len(records.vectors) != len(ids) or not np.isfinite(records.vectors).all():
            return "vectors that cannot be used"
        place += len(ids)
        progress(len(ids))
    return None


def _difference(
    collection: VectorCollection, logged: Iterator[tuple[list[str], NDArray[np.float32]]], progress: Progress
) -> str | None:
    missing = differing = 0
    for ids, vectors in logged:
        records = collection.get(ids, include=["embeddings"])
        rows = {id_: row for row, id_ in enumerate(ids)}
        expected = vectors[[rows[id_] for id_ in records.ids]]
        missing += len(ids) - len(records.ids)
        differing += int((records.vectors != expected).any(axis=1).sum())
        progress(len(ids))
    if missing or differing:
        return f"{missing:,} vectors of its log are missing, {differing:,} differ"
    return None


def _lost(collection: VectorCollection, size: int) -> str | None:
    """Whether a search finds what is there: links between vectors may be broken, and the vectors intact."""
    if collection.name.endswith(".sources") or size == 0:
        return None  # never searched, and indexed accordingly
    asked, found = min(size, ASKED), 0
    for place in np.linspace(0, size - 1, asked).astype(int):
        row = collection.find(limit=1, offset=int(place), include=["embeddings"]).vectors[0]
        scores = collection.query(row, 1).scores
        found += bool(scores is not None and len(scores) and scores[0] >= float(row @ row) - ROUNDING)
    return None if found >= FOUND * asked else f"a search finds {found} of {asked} vectors that are there"
