"""Vectors of one encoder in several Chroma collections, each of a size that Chroma is good at.

The first collection has the name, those after it ``NAME.0001``, ``NAME.0002``, ... A collection is filled before the
next one is made. The first ones are indexed for searching. The rest is only read out, so its index is as cheap as
Chroma lets it be: 3,900 vectors of width 1,024 go in per second and core, against 250 to 800.

Whatever is written changes a token in the first collection's metadata, before and after. Who derives something from the
vectors keeps the :attr:`Content.state` with it, and knows by that when it is stale: also after a kill in between, and
when another client of the server wrote.

Chroma reads the index of a collection into memory, a second and 430 MB for 100,000 vectors of width 1,024, as soon as
it is asked for anything but the metadata: even for its count. So the counts stand beside the token, and which ids are
in the filled collections is read once, by the first who adds.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import InvalidRequestError, StoreError
from ibllm_tools.store.chroma import DEFAULT_INDEX, HnswSettings, VectorCollection, VectorDatabase

READ_OUT_ONLY = HnswSettings(ef_construction=2, ef_search=2, max_neighbors=2)
"""The cheapest index there is: hnswlib divides by the logarithm of the number of neighbours."""

_TOKEN, _COUNTS = "content_token", "content_counts"
_UNKNOWN = -1
_PAGE = 1_000
_ID_PAGE = 50_000
_SAMPLE_PAGE = 250


class Scale(NamedTuple):
    """Where a collection ends, and where Chroma's search does."""

    collection: int = 100_000
    """Vectors in a collection at most."""
    searched: int = 200_000
    """Vectors in the collections that Chroma searches; beyond that they are read out only."""


SCALE = Scale()


@dataclass(frozen=True)
class Content:
    """What a :class:`ShardedCollection` holds at a moment.

    Attributes:
        counts: vectors per collection, in the order in which they were filled.
        state: a digest that stays as long as nobody writes.
        searchable: whether all vectors lie in collections that Chroma can search.
    """

    counts: dict[str, int]
    state: str
    searchable: bool

    def __len__(self) -> int:
        return sum(self.counts.values())


class ShardedCollection:
    """Unit vectors under string ids, in one or more collections of a database.

    Several threads may use it, and several of them in one folder: each call holds the database's lock, for the engine
    stands still whenever an index is unloaded.

    Args:
        database: where they lie. It stays the caller's to close, and nobody else may use it while vectors are written.
        name: of the first collection.
        fingerprint: identifies the encoder whose vectors they are.
        dimension: width E of the vectors.
        scale: the sizes of new collections.

    Raises:
        EncoderMismatchError: they are the vectors of another encoder.
        InvalidRequestError: its vectors have another width, or the scale is impossible.
        StoreError: the first collection was made by something else, or the database cannot be reached.
    """

    def __init__(
        self, database: VectorDatabase, name: str, *, fingerprint: str, dimension: int, scale: Scale = SCALE
    ) -> None:
        if scale.collection < 1 or scale.searched < scale.collection:
            raise InvalidRequestError(f"{scale}: collections of at least 1 vector, of which at least one is searched")
        self.database = database
        self.name = name
        self.fingerprint = fingerprint
        self.dimension = dimension
        self._scale = scale
        self._counts: list[int] = []
        self._token: str | None = None
        self._filled: dict[int, NDArray[np.uint64]] = {}  # digests of the ids in a filled collection, sorted
        with database.lock:
            self._collections = [self._opened(0)]
            self._look()

    @property
    def location(self) -> str:
        """The database's folder or URL."""
        return self.database.location

    def __len__(self) -> int:
        return len(self.content())

    def content(self) -> Content:
        """What there is, also of what others wrote."""
        with self.database.lock:
            self._look()
            counts = {each.name: count for each, count in zip(self._collections, self._counts, strict=True)}
            ids = [each.id for each in self._collections]
            said = json.dumps([self.fingerprint, self.dimension, list(counts.items()), ids, self._token])
        searched = self._scale.searched // self._scale.collection
        return Content(
            counts=counts,
            state=hashlib.sha256(said.encode()).hexdigest(),
            searchable=sum(counts.values()) <= self._scale.searched and len(counts) <= searched,
        )

    def upsert(self, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Store vectors (N, E) under ids that differ; one that exists, in whichever collection, gets the new vector.

        Raises:
            InvalidRequestError: a vector that is not finite.
            StoreError: they cannot be written.
        """
        place = {id_: row for row, id_ in enumerate(ids)}
        with self._writing():
            for index in range(len(self._collections) - 1):
                self._move(index, place, vectors, self._in_filled(index, list(place)))
            if len(place) > self._room():
                last = len(self._collections) - 1
                self._move(last, place, vectors, self._collections[last].known(list(place)))
            while place:
                room = self._room() or self._grow()
                self._move(len(self._collections) - 1, place, vectors, list(place)[:room])

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are stored."""
        with self.database.lock:
            self._look()
            found = self._collections[-1].known(ids)
            return found.union(*(self._in_filled(index, ids) for index in range(len(self._collections) - 1)))

    def nearest(self, queries: NDArray[np.float32], k: int) -> list[NDArray[np.float32]]:
        """The k stored vectors with the largest inner product per query (B, E), nearest first: B arrays (k, E).

        Good as long as the :meth:`content` is searchable.
        """
        with self.database.lock:
            filled = [each for each, count in zip(self._collections, self._counts, strict=True) if count]
            found = [collection.nearest(queries, k) for collection in filled]
        if len(found) == 1:
            return found[0]
        return [_best(query, np.concatenate(parts), k) for query, *parts in zip(queries, *found, strict=True)]

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """All vectors, in batches (N, E) in the order of the collections, with one index in memory at a time."""
        for collection, count in self._sized():
            for offset in range(0, count, _PAGE):
                yield self._page(collection, _PAGE, offset)
            self._unload()

    def sample(self, count: int) -> Iterator[NDArray[np.float32]]:
        """About ``count`` of the vectors, in pages spread evenly over all collections; each page (N, E)."""
        sized = self._sized()
        held = max(sum(size for _, size in sized), 1)
        for collection, size in sized:
            pages = -(-min(count, held) * size // (held * _SAMPLE_PAGE))
            step = max(size / max(pages, 1), _SAMPLE_PAGE)
            for page in range(min(pages, -(-size // _SAMPLE_PAGE))):
                yield self._page(collection, _SAMPLE_PAGE, int(page * step))
            self._unload()

    def _sized(self) -> list[tuple[VectorCollection, int]]:
        """The collections, and how many vectors each holds."""
        with self.database.lock:
            self._look()
            return list(zip(self._collections, self._counts, strict=True))

    def _page(self, collection: VectorCollection, limit: int, offset: int) -> NDArray[np.float32]:
        with self.database.lock:
            return collection.find(limit=limit, offset=offset, include=("embeddings",)).vectors

    def _move(self, index: int, place: dict[str, int], vectors: NDArray[np.float32], ids: Collection[str]) -> None:
        """Store some of those that wait for a place, which then wait no more."""
        if not ids:
            return
        collection, is_last = self._collections[index], index == len(self._collections) - 1
        collection.upsert(list(ids), vectors[[place.pop(id_) for id_ in ids]])
        if is_last:
            self._counts[index] = len(collection)
        else:
            self._unload()

    def _in_filled(self, index: int, ids: Sequence[str]) -> list[str]:
        """Those of the ids that a filled collection holds, by their digests."""
        if not ids:
            return []
        if index not in self._filled:
            self._filled[index] = self._digests(index)
            self._unload()
        digests = _digests(ids)
        held = self._filled[index]
        found = held[np.searchsorted(held, digests).clip(max=len(held) - 1)] == digests
        return [id_ for id_, is_held in zip(ids, found, strict=True) if is_held]

    def _digests(self, index: int) -> NDArray[np.uint64]:
        held = np.zeros(1, np.uint64)  # never empty, for the search
        for offset in range(0, self._counts[index], _ID_PAGE):
            page = self._collections[index].find(limit=_ID_PAGE, offset=offset)
            held = np.concatenate([held, _digests(page.ids)])
        return np.sort(held)

    def _room(self) -> int:
        return max(self._scale.collection - self._counts[-1], 0)

    def _grow(self) -> int:
        """Make the next collection, and say how many vectors it takes."""
        last = len(self._collections) - 1
        self._filled[last] = self._digests(last)
        self._collections.append(self._opened(last + 1))
        self._unload()
        self._counts.append(len(self._collections[-1]))
        return self._room() or self._grow()  # another client may have made it, and filled it

    def _unload(self) -> None:
        if len(self._collections) > 1:
            self.database.unload()

    def _opened(self, index: int) -> VectorCollection:
        searched = index < self._scale.searched // self._scale.collection
        return self.database.collection(
            f"{self.name}.{index:04d}" if index else self.name,
            fingerprint=self.fingerprint,
            dimension=self.dimension,
            index=DEFAULT_INDEX if searched else READ_OUT_ONLY,
        )

    def _look(self) -> None:
        """See what others wrote."""
        said = self.database.metadata(self.name) or {}
        if said.get(_TOKEN) != self._token or not self._counts:
            self._refresh(said)

    def _refresh(self, said: Mapping[str, Any]) -> None:
        ours = re.compile(re.escape(self.name) + r"\.\d{4}")
        further = [name for name in self.database.names(f"{self.name}.") if ours.fullmatch(name)]
        new = range(len(self._collections), len(further) + 1)
        collections = [*self._collections, *(self._opened(index) for index in new)]
        noted = [int(count) for count in str(said.get(_COUNTS, "")).split(",") if count]
        counts = []
        for collection, count in zip_longest(collections, noted[: len(collections)], fillvalue=_UNKNOWN):
            assert isinstance(collection, VectorCollection)
            if count == _UNKNOWN:
                count = len(collection)
                if len(collections) > 1:
                    self.database.unload()
            counts.append(count)
        self._filled.clear()
        self._collections, self._counts, self._token = collections, counts, said.get(_TOKEN)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Change the token before anything is written, and after: what was derived in between is stale, too."""
        with self.database.lock:
            self._look()
            self._say([*self._counts[:-1], _UNKNOWN])
            try:
                yield
            except BaseException:
                with suppress(StoreError):
                    self._say([*self._counts[:-1], _UNKNOWN])
                self._token = None  # what was stored is to be looked at
                raise
            self._say(self._counts)

    def _say(self, counts: Sequence[int]) -> None:
        token = uuid.uuid4().hex
        self._collections[0].describe({_TOKEN: token, _COUNTS: ",".join(map(str, counts))})
        self._token = token


def _digests(ids: Sequence[str]) -> NDArray[np.uint64]:
    """64 bits of each id (N,): two of three million ids share them once in four million caches."""
    digests = b"".join(hashlib.blake2b(id_.encode(), digest_size=8).digest() for id_ in ids)
    return np.frombuffer(digests, np.uint64)


def _best(query: NDArray[np.float32], rows: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    return rows[np.argsort(-(rows @ query), kind="stable")[:k]]
