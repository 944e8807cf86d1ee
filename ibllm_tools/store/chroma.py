"""Vectors in ChromaDB: a database holds collections, and a collection the unit vectors of one encoder.

Facts about Chroma (1.5) that shape this file:

- A forked child would hang in the engine of its parent, so there every call is refused.
- A stored collection can name an embedding function, which Chroma would instantiate on some accesses
  (`.configuration`, `query_texts`). Only explicit embeddings and `configuration_json` are used here.
- `get` returns records in an order of its own, and a query for NaN finds anything.
- What was written goes through a log, of which Chroma forgets what its index on disk contains, unless all is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import EncoderMismatchError, InvalidRequestError, StoreError
from ibllm_tools.store.chroma_engine import Engine, as_store_errors, is_server, open_engine
from ibllm_tools.store.folder_lock import distrust, owners

if TYPE_CHECKING:
    from chromadb.api.collection_configuration import CreateCollectionConfiguration
    from chromadb.api.models.Collection import Collection

Metadata = Mapping[str, Any]
Where = Mapping[str, Any]
"""A filter in Chroma's language: ``{"tag": "x"}``, ``{"$and": [...]}``, ``{"year": {"$gte": 2020}}``."""


class HnswSettings(NamedTuple):
    """How a collection is indexed (arXiv 1603.09320); kept with the collection when it is made.

    Measured on 50,000 clustered vectors: what a visual cache makes of a cross-modal query has a cosine of 0.99999 to
    the exact one with the defaults, and of 0.997 with an ``ef_search`` of 400. An ``ef_construction`` of 400 gains
    nothing that shows and takes more than twice as long to write.
    """

    ef_construction: int = 100
    ef_search: int = 1000
    max_neighbors: int = 32


DEFAULT_INDEX = HnswSettings()


@dataclass(frozen=True)
class Records:
    """Some records of a collection; what was not asked for is empty."""

    ids: list[str]
    vectors: NDArray[np.float32]  # (N, E)
    metadatas: list[dict[str, Any]] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    scores: NDArray[np.float32] | None = None  # (N,) inner products with the query


class VectorDatabase:
    """A Chroma database: an embedded folder, a server, or memory. Made by :meth:`open`."""

    def __init__(self, engine: Engine, place: str | Path | None) -> None:
        self.location = "memory" if place is None else str(place)
        """The folder, the URL, or ``"memory"``; to be shown."""
        self.folder = place if isinstance(place, Path) else None
        """Where an embedded one lies; ``None`` on a server and in memory."""
        self.lock = engine.lock
        """Who calls :meth:`unload` holds it, and every other thread that uses the folder meanwhile."""
        self._engine: Engine | None = engine
        self._process = os.getpid()

    @classmethod
    def open(cls, location: str | Path | None, *, keep_log: bool = False) -> Self:
        """Open a database, and make it where there is none.

        Args:
            location: a folder, the URL of a Chroma server (``"http://host:port"``), or None for memory.
            keep_log: let a new folder keep every vector that was written to it, so that a broken index can be made
                anew; it costs the size of the vectors once more.

        Raises:
            StoreLockedError: another process owns the folder.
            StoreError: the location cannot be used.
        """
        place = location if location is None or is_server(location) else Path(location).expanduser()
        return cls(open_engine(place, keep_log=keep_log), place)

    def collection(
        self,
        name: str,
        *,
        fingerprint: str,
        dimension: int,
        index: HnswSettings = DEFAULT_INDEX,
        metadata: Metadata | None = None,
    ) -> VectorCollection:
        """Open a collection, and make it where there is none.

        Args:
            name: 3 to 512 characters of ``[a-zA-Z0-9._-]``.
            fingerprint: identifies the encoder whose vectors it holds.
            dimension: width E of the vectors.
            index: how a new one is indexed.
            metadata: what a new one says of itself beside its encoder.

        Raises:
            EncoderMismatchError: it holds the vectors of another encoder.
            InvalidRequestError: its vectors have another width.
            StoreError: it was made by something else, or the database cannot be reached.
        """
        from chromadb.api.models.Collection import Collection
        from chromadb.errors import NotFoundError

        if dimension < 1 or not fingerprint:
            raise InvalidRequestError(
                f"fingerprint {fingerprint!r}, dimension {dimension}: expected the encoder's name and a positive width"
            )
        identity = {"fingerprint": fingerprint, "dimension": dimension}
        server = self._opened().server
        with as_store_errors(self.location, f"opening {name}"):
            try:
                model = server.get_collection(name)
            except NotFoundError:
                wanted = {**(metadata or {}), **identity}
                model = server.create_collection(
                    name, configuration=_configuration(index), metadata=wanted, get_or_create=True
                )
            collection = Collection(client=server, model=model, embedding_function=None)
            _check(collection, self.location, identity)
        return VectorCollection(self, collection, fingerprint=fingerprint, dimension=dimension)

    def names(self, prefix: str = "") -> list[str]:
        """The names of the collections that begin with the prefix, sorted."""
        server, page = self._opened().server, 100
        found: list[str] = []
        with as_store_errors(self.location, "listing"):
            while models := server.list_collections(limit=page, offset=len(found)):
                found += [model.name for model in models]
        return sorted(name for name in found if name.startswith(prefix))

    def metadata(self, name: str) -> dict[str, Any] | None:
        """What a collection says of itself, before anything of it is used; ``None`` if there is none."""
        from chromadb.errors import NotFoundError

        with as_store_errors(self.location, "reading"):
            try:
                return dict(self._opened().server.get_collection(name).metadata or {})
            except NotFoundError:
                return None

    def drop(self, name: str) -> None:
        """Delete a collection with all that it holds; nothing where there is none."""
        from chromadb.errors import NotFoundError

        with as_store_errors(self.location, f"deleting {name}"):
            try:
                self._opened().server.delete_collection(name)
            except NotFoundError:
                return

    def unload(self) -> None:
        """Let go of the indexes that a folder's engine has read into memory; it reads them again when they are needed.

        Chroma keeps the index of every collection that it has touched, 4.2 KB a vector of width 1,024, and offers no
        way to drop one (`hnsw_cache_size` drops none). A thread that uses the folder meanwhile without holding the
        :attr:`lock` fails.
        """
        with self.lock, self._starting():
            self._opened().unload()

    @contextmanager
    def offline(self) -> Iterator[Path]:
        """Stop the engine of a folder for work on its files; it starts again afterwards. Nobody may use it meanwhile.

        Raises:
            StoreError: somebody else in this process has it open too, or it does not start again and is closed.
        """
        engine, folder = self._opened(), self.folder
        assert folder is not None
        if owners(folder) > 1:
            raise StoreError(f"{folder}: opened twice in this process; close the other one first")
        engine.server.stop()
        self._engine = None
        try:
            yield folder
        finally:
            self._engine = engine
            with self._starting():
                engine.server.start()

    def close(self) -> None:
        """Release the engine and the folder's lock; what was in memory is gone. Closing twice does nothing."""
        engine, self._engine = self._engine, None
        if engine is not None and self._process == os.getpid():
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def doing(self, action: str) -> Iterator[None]:
        """Turn what Chroma throws into a StoreError; a folder is looked at more closely then when it is opened again.

        A disk that is full while an index is written leaves it as broken as a kill.
        """
        try:
            with as_store_errors(self.location, action):
                yield
        except StoreError:
            if self.folder is not None:
                distrust(self.folder)
            raise

    @contextmanager
    def _starting(self) -> Iterator[None]:
        """Close the database, which gives its folder back, where its engine does not start again."""
        try:
            with as_store_errors(self.location, "opening"):
                yield
        except BaseException:
            self.close()
            raise

    def _opened(self) -> Engine:
        if self._engine is None:
            raise StoreError(f"{self.location}: the store is closed; open it again")
        if self._process != os.getpid():
            raise StoreError(
                f"{self.location}: opened by process {self._process}, of which this one is a fork; open it here, in a "
                "process that was started with 'spawn'"
            )
        return self._engine


class VectorCollection:
    """The unit vectors of one encoder, under string ids, in one Chroma collection of a :class:`VectorDatabase`."""

    def __init__(self, database: VectorDatabase, collection: Collection, *, fingerprint: str, dimension: int) -> None:
        self.database = database
        self.fingerprint = fingerprint
        self.dimension = dimension
        self._collection = collection

    @property
    def location(self) -> str:
        """The database's folder or URL."""
        return self.database.location

    @property
    def name(self) -> str:
        """The collection's."""
        return self._collection.name

    @property
    def id(self) -> str:
        """The collection's, by which Chroma's own files know it."""
        return str(self._collection.id)

    @property
    def metadata(self) -> dict[str, Any]:
        """What it said of itself when it was opened, or has been told to since."""
        return dict(self._collection.metadata or {})

    @property
    def index(self) -> HnswSettings:
        """How it is indexed."""
        stored = self._collection.configuration_json.get("hnsw") or {}
        return HnswSettings(**{key: stored[key] for key in HnswSettings._fields if key in stored})

    def describe(self, metadata: Metadata) -> None:
        """Change what it says of itself; keys that are not named stay."""
        opened, _ = self._opened()
        with self.database.doing("writing"):
            opened.modify(metadata={**self.metadata, **metadata})

    def upsert(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        *,
        metadatas: Sequence[Metadata] | None = None,
        documents: Sequence[str] | None = None,
    ) -> None:
        """Store vectors (N, E) under their ids, in batches that Chroma accepts; an existing id gets the new record.

        Raises:
            InvalidRequestError: a vector that is not finite, which Chroma would swallow.
            StoreError: it cannot be written.
        """
        opened, batch = self._opened()
        if not np.isfinite(vectors).all():
            raise InvalidRequestError(f"{self.name}: a vector with NaN or infinite values, expected finite ones")
        with self.database.doing("writing"):
            for start in range(0, len(ids), batch):
                part = slice(start, start + batch)
                opened.upsert(
                    ids=list(ids[part]),
                    embeddings=vectors[part],
                    metadatas=None if metadatas is None else [dict(item) for item in metadatas[part]],
                    documents=None if documents is None else list(documents[part]),
                )

    def update(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        *,
        metadatas: Sequence[Metadata],
        documents: Sequence[str],
    ) -> None:
        """Change what is stored beside the vectors; a key whose value is None goes, others stay.

        The vectors (N, E) are those that are there: for a document without one, Chroma would make it with an embedding
        function of its own.
        """
        opened, batch = self._opened()
        with self.database.doing("writing"):
            for start in range(0, len(ids), batch):
                part = slice(start, start + batch)
                opened.update(
                    ids=list(ids[part]),
                    embeddings=vectors[part],
                    metadatas=[dict(item) for item in metadatas[part]],
                    documents=list(documents[part]),
                )

    def delete(self, ids: Sequence[str]) -> None:
        """Remove records; ids that are not there are passed over."""
        opened, batch = self._opened()
        with self.database.doing("deleting"):
            for start in range(0, len(ids), batch):
                opened.delete(ids=list(ids[start : start + batch]))

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are stored; one may be asked for several times."""
        opened, batch = self._opened()
        found: set[str] = set()
        ids = list(dict.fromkeys(ids))  # Chroma refuses repetitions
        with self.database.doing("reading"):
            for start in range(0, len(ids), batch):
                found |= set(opened.get(ids=ids[start : start + batch], include=[])["ids"])
        return found

    def find(
        self,
        where: Where | None = None,
        *,
        contains: Where | None = None,
        limit: int | None = None,
        offset: int | None = None,
        include: Sequence[str] = (),
    ) -> Records:
        """Records by their metadata or documents, in the order in which they came.

        Args:
            where: a filter of the metadata.
            contains: a filter of the documents, ``{"$contains": "bell"}``.
            limit: how many at most.
            offset: how many are passed over.
            include: of ``"embeddings"``, ``"metadatas"`` and ``"documents"``.
        """
        opened, _ = self._opened()
        with self.database.doing("reading"):
            found = opened.get(
                where=cast("Any", where),
                where_document=cast("Any", contains),
                limit=limit,
                offset=offset,
                include=cast("Any", list(include)),
            )
        return self._records(found, found["ids"])

    def get(self, ids: Sequence[str], *, include: Sequence[str] = ()) -> Records:
        """Records by their ids, in the order of the ids; those that are not there are missing."""
        opened, batch = self._opened()
        parts = []
        with self.database.doing("reading"):
            for start in range(0, len(ids), batch):
                found = opened.get(ids=list(ids[start : start + batch]), include=cast("Any", list(include)))
                parts.append(self._records(found, found["ids"]))
        place = {id_: (part, row) for part, records in enumerate(parts) for row, id_ in enumerate(records.ids)}
        order = [place[id_] for id_ in ids if id_ in place]
        rows = [parts[part].vectors[row] for part, row in order] if "embeddings" in include else []
        return Records(
            ids=[parts[part].ids[row] for part, row in order],
            vectors=np.stack(rows) if rows else np.empty((0, self.dimension), np.float32),
            metadatas=[parts[part].metadatas[row] for part, row in order] if "metadatas" in include else [],
            documents=[parts[part].documents[row] for part, row in order] if "documents" in include else [],
        )

    def query(
        self, vector: NDArray[np.float32], k: int, *, where: Where | None = None, include: Sequence[str] = ()
    ) -> Records:
        """The k records with the largest inner product, nearest first; all of them where there are fewer.

        Args:
            vector: (E,), finite.
            k: at least 1.
            where: a filter of the metadata. Chroma applies it slowly, see docs/library.md.
            include: as in :meth:`find`.
        """
        opened, _ = self._opened()
        with self.database.doing("searching"):
            found: Any = opened.query(
                query_embeddings=vector[None],
                n_results=k,
                where=cast("Any", where),
                include=cast("Any", [*include, "distances"]),
            )
        first = {key: value[0] for key, value in found.items() if key in (*include, "distances") and value is not None}
        records = self._records(first, found["ids"][0])
        scores = 1 - np.asarray(first["distances"], np.float32)
        return Records(records.ids, records.vectors, records.metadatas, records.documents, scores)

    def nearest(self, queries: NDArray[np.float32], k: int) -> list[NDArray[np.float32]]:
        """The k stored vectors with the largest inner product, per query.

        Args:
            queries: (B, E), of any length.
            k: how many; where fewer are stored, all of them come back.

        Returns:
            B arrays (min(k, N), E), nearest first.
        """
        opened, _ = self._opened()
        with self.database.doing("searching"):
            found = opened.query(query_embeddings=queries, n_results=k, include=["embeddings"])["embeddings"]
        return [np.asarray(rows, dtype=np.float32).reshape(-1, self.dimension) for rows in found or []]

    def __len__(self) -> int:
        opened, _ = self._opened()
        with self.database.doing("counting"):
            return opened.count()

    def _records(self, found: Mapping[str, Any], ids: Sequence[str]) -> Records:
        rows = found.get("embeddings")
        return Records(
            ids=list(ids),
            vectors=np.asarray([] if rows is None else rows, np.float32).reshape(-1, self.dimension),
            metadatas=[dict(item or {}) for item in found.get("metadatas") or []],
            documents=[item or "" for item in found.get("documents") or []],
        )

    def _opened(self) -> tuple[Collection, int]:
        return self._collection, self.database._opened().batch


def _configuration(index: HnswSettings) -> CreateCollectionConfiguration:
    return {"hnsw": {"space": "ip", **index._asdict()}}  # type: ignore[typeddict-item]  # it cannot see the keys


def _check(collection: Collection, place: str, identity: dict[str, Any]) -> None:
    place = f"{place}: the collection {collection.name!r}"
    stored = collection.metadata or {}
    if "fingerprint" not in stored or "dimension" not in stored:
        raise StoreError(f"{place} was not made by ibllm-tools; use another name or place")
    if stored["fingerprint"] != identity["fingerprint"]:
        raise EncoderMismatchError(
            f"{place} holds the vectors of encoder {stored['fingerprint']!r}, and this one is "
            f"{identity['fingerprint']!r}; use the encoder that filled it, or another name or place"
        )
    if stored["dimension"] != identity["dimension"]:
        raise InvalidRequestError(
            f"{place} holds vectors of width {stored['dimension']}, not {identity['dimension']}; "
            "pass the encoder's own width"
        )
    # Chroma keeps the space a collection was made with, whatever get_or_create asks for.
    index = collection.configuration_json.get("hnsw") or collection.configuration_json.get("spann") or {}
    if index.get("space") != "ip":
        raise StoreError(f"{place} measures {index.get('space')!r} instead of the inner product; build it again")
