"""Vectors in ChromaDB: one collection holds the unit vectors of one encoder.

Facts about Chroma (1.5) that shape this file:

- Two processes that write one folder lose data without any error, so a process takes an exclusive lock on it. Within
  a process Chroma shares one engine between all clients of a folder, so there it may be opened as often as one likes.
- All in-memory clients of a process share one engine too, and refuse to start beside one with other settings. An
  in-memory collection therefore gets an engine of its own, and neither disturbs nor sees anybody else's.
- An HttpClient holds a second connection that nobody can close, so a server is spoken to through its engine as well.
- A stored collection can name an embedding function, which Chroma would instantiate on some accesses
  (`.configuration`, `query_texts`). Only explicit embeddings and `configuration_json` are used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import EncoderMismatchError, IbllmError, InvalidRequestError, StoreError
from ibllm_tools.store.folder_lock import own_folder

if TYPE_CHECKING:
    from chromadb.api import ServerAPI
    from chromadb.api.client import Client
    from chromadb.api.collection_configuration import CreateCollectionConfiguration
    from chromadb.api.models.Collection import Collection
    from chromadb.config import Settings


class VectorCollection:
    """The unit vectors of one encoder, under string ids, in one Chroma collection. Made by :meth:`open`."""

    def __init__(self, engine: _Engine, *, location: str, fingerprint: str, dimension: int) -> None:
        self.location = location
        self.fingerprint = fingerprint
        self.dimension = dimension
        self._engine: _Engine | None = engine

    @classmethod
    def open(cls, location: str | Path | None, *, name: str, fingerprint: str, dimension: int) -> Self:
        """Open a collection, and make it where there is none.

        Args:
            location: a folder, the URL of a Chroma server (``"http://host:port"``), or None for memory.
            name: the collection's name, 3 to 512 characters of ``[a-zA-Z0-9._-]``.
            fingerprint: identifies the encoder whose vectors it holds.
            dimension: width E of the vectors.

        Raises:
            EncoderMismatchError: it holds the vectors of another encoder.
            InvalidRequestError: its vectors have another width.
            StoreLockedError: another process owns the folder.
            StoreError: the location cannot be used.
        """
        if dimension < 1 or not fingerprint:
            raise InvalidRequestError(
                f"fingerprint {fingerprint!r}, dimension {dimension}: expected the encoder's name and a positive width"
            )
        place = "memory" if location is None else str(location)
        identity = {"fingerprint": fingerprint, "dimension": dimension}
        with _as_store_errors(place, "opening"):
            if location is None:
                engine = _open_in_memory(name, identity)
            elif place.startswith(("http://", "https://")):
                engine = _open_on_server(place, name, identity)
            else:
                engine = _open_folder(Path(place), name, identity)
        opened = cls(engine, location=place, fingerprint=fingerprint, dimension=dimension)
        try:
            _check(engine.collection, place, identity)
        except IbllmError:
            opened.close()
            raise
        return opened

    def upsert(self, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Store vectors (N, E) under their ids, in batches that Chroma accepts; an existing id gets the new vector."""
        collection, batch, _ = self._opened()
        with _as_store_errors(self.location, "writing"):
            for start in range(0, len(ids), batch):
                stop = start + batch
                collection.upsert(ids=list(ids[start:stop]), embeddings=vectors[start:stop])

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are stored."""
        collection = self._opened().collection
        with _as_store_errors(self.location, "reading"):
            return set(collection.get(ids=list(ids), include=[])["ids"]) if ids else set()

    def nearest(self, queries: NDArray[np.float32], k: int) -> list[NDArray[np.float32]]:
        """The k stored vectors with the largest inner product, per query.

        Args:
            queries: (B, E), of any length.
            k: how many; where fewer are stored, all of them come back.

        Returns:
            B arrays (min(k, N), E), nearest first.
        """
        collection = self._opened().collection
        with _as_store_errors(self.location, "searching"):
            found = collection.query(query_embeddings=queries, n_results=k, include=["embeddings"])["embeddings"]
        return [np.asarray(rows, dtype=np.float32).reshape(-1, self.dimension) for rows in found or []]

    def __len__(self) -> int:
        collection = self._opened().collection
        with _as_store_errors(self.location, "counting"):
            return collection.count()

    def close(self) -> None:
        """Release the engine and the folder's lock; what was in memory is gone. Closing twice does nothing."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _opened(self) -> _Engine:
        if self._engine is None:
            raise StoreError(f"{self.location}: the store is closed; open it again")
        return self._engine


class _Engine(NamedTuple):
    collection: Collection
    batch: int  # records that one call may write
    close: Callable[[], None]


def _open_in_memory(name: str, identity: dict[str, Any]) -> _Engine:
    from chromadb.api.rust import RustBindingsAPI
    from chromadb.config import System

    with ExitStack() as opened:
        system = System(_settings())
        server = system.instance(RustBindingsAPI)
        system.start()
        opened.callback(system.stop)
        return _Engine(_get_or_create(server, name, identity), server.get_max_batch_size(), opened.pop_all().close)


def _open_on_server(url: str, name: str, identity: dict[str, Any]) -> _Engine:
    from chromadb.api.fastapi import FastAPI
    from chromadb.config import System

    parts = urlsplit(url)
    secure = parts.scheme == "https"
    settings = _settings(
        chroma_api_impl="chromadb.api.fastapi.FastAPI",
        chroma_server_host=parts.hostname,
        chroma_server_http_port=parts.port or (443 if secure else 8000),
        chroma_server_ssl_enabled=secure,
    )
    with ExitStack() as opened:
        system = System(settings)
        server = system.instance(FastAPI)
        opened.callback(server._session.close)  # Chroma leaves its connections to the garbage collector
        system.start()
        opened.callback(system.stop)
        return _Engine(_get_or_create(server, name, identity), server.get_max_batch_size(), opened.pop_all().close)


def _open_folder(folder: Path, name: str, identity: dict[str, Any]) -> _Engine:
    from chromadb import PersistentClient
    from chromadb.errors import NotFoundError

    with ExitStack() as opened:
        opened.callback(own_folder(folder))
        client = cast("Client", PersistentClient(folder.resolve(), settings=_settings()))
        opened.callback(client.close)
        try:
            collection = client.get_collection(name, embedding_function=None)
        except NotFoundError:
            collection = client.create_collection(
                name, configuration=_index(), metadata=identity, embedding_function=None
            )
        return _Engine(collection, client.get_max_batch_size(), opened.pop_all().close)


def _get_or_create(server: ServerAPI, name: str, identity: dict[str, Any]) -> Collection:
    from chromadb.api.models.Collection import Collection
    from chromadb.errors import NotFoundError

    try:
        model = server.get_collection(name)
    except NotFoundError:
        model = server.create_collection(name, configuration=_index(), metadata=identity, get_or_create=True)
    return Collection(client=server, model=model, embedding_function=None)


def _settings(**options: Any) -> Settings:
    from chromadb.config import Settings

    return Settings(anonymized_telemetry=False, **options)


def _index() -> CreateCollectionConfiguration:
    # Measured: exact up to 10,000 clustered or random vectors, where Chroma's defaults (100, 100, 16) miss up to 7 %.
    return {"hnsw": {"space": "ip", "ef_construction": 400, "ef_search": 1000, "max_neighbors": 32}}


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


@contextmanager
def _as_store_errors(place: str, action: str) -> Iterator[None]:
    import httpx
    from chromadb.errors import ChromaError

    try:
        yield
    except IbllmError:
        raise
    except (ChromaError, httpx.HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"{place}: {action} failed: {reason}") from error
