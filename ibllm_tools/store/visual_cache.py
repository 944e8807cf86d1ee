"""The training-free visual cache: an embedding of any modality, drawn towards its nearest *image* features.

The language model was only ever trained on image features, so at inference an embedding e is blended with the features
p_1..p_k of the k images nearest to it (arXiv 2309.03905, "visual cache model"):

    r = unit(sum_j softmax_j(temperature * <e, p_j>) p_j),    e' = unit((1 - weight) e + weight r)

The image features are unit vectors in Chroma's collections, which are the source of truth. Up to 200,000 features,
Chroma finds the neighbours, beyond that an index that is derived from the collections; scores and sums are computed
here, in float32, from the vectors that come back.
"""

import hashlib
import logging
import math
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import (
    AttachmentError,
    EncoderMismatchError,
    InvalidRequestError,
    StoreError,
    UnsupportedMediaError,
)
from ibllm_tools.store.cache_info import NAME, CacheInfo, IndexInfo, IndexState
from ibllm_tools.store.chroma import VectorDatabase
from ibllm_tools.store.chroma_engine import is_server
from ibllm_tools.store.database_file import SQLITE_FILE
from ibllm_tools.store.embedder import Embedder
from ibllm_tools.store.prototypes import condense
from ibllm_tools.store.sharded_collection import SCALE, Content, Scale, ShardedCollection
from ibllm_tools.store.unit_vectors import Vectors, as_rows, like, unit
from ibllm_tools.store.vector_snapshot import VectorSnapshot, build_snapshot

logger = logging.getLogger(__name__)


class ImageFailure(BaseModel):
    """An image that could not be added."""

    model_config = ConfigDict(frozen=True)

    position: int = Field(description="its place among the images that were handed over, from 0")
    name: str = Field(description="its path or file name")
    reason: str = Field(description="why it could not be used, one line")


class AddReport(BaseModel):
    """What became of what was handed to :meth:`VisualCache.add_images` or :meth:`VisualCache.add_batches`."""

    model_config = ConfigDict(frozen=True)

    added: int = Field(description="features stored, of images that were embedded or as they came")
    known: int = Field(description="images or features that were there before, or came twice; left alone")
    failures: tuple[ImageFailure, ...] = Field(description="images that could not be used")


class VisualCache:
    """Image features of one encoder, and the retrieval that closes the modality gap.

    Made by :meth:`open` or :meth:`from_features`; a context manager.
    """

    def __init__(self, features: ShardedCollection, index_path: Path | None = None) -> None:
        self._features = features
        self._index_path = index_path
        self._index: VectorSnapshot | None = None
        self._index_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        location: str | Path | None,
        *,
        fingerprint: str | None = None,
        dimension: int | None = None,
        name: str = NAME,
        index_folder: str | Path | None = None,
        scale: Scale = SCALE,
        create: bool = True,
    ) -> Self:
        """Open a cache, and make an empty one where there is none.

        Args:
            location: a folder, the URL of a Chroma server (``"http://host:port"``), or None for memory. A folder
                belongs to one process at a time, until :meth:`close` or the process's end.
            fingerprint: identifies the encoder whose features it holds; by default that of what is there.
            dimension: width E of the features; by default that of what is there.
            name: the first Chroma collection, 3 to 500 characters of ``[a-zA-Z0-9._-]``; further ones add a number.
            index_folder: where the index of a large cache lies; in the location where that is a folder.
            scale: how large a collection grows, and how many features Chroma searches before an index does.
            create: whether one is made where there is none, which takes an encoder.

        Raises:
            EncoderMismatchError: it holds the features of another encoder.
            InvalidRequestError: its features have another width, or the scale is impossible.
            StoreLockedError: another process owns the folder.
            StoreError: the location cannot be used, or there is no cache and none is made.
        """
        create = create and fingerprint is not None and dimension is not None
        if not create and location is not None and not is_server(location):
            _require(location, (Path(location).expanduser() / SQLITE_FILE).is_file())
        database = VectorDatabase.open(location)
        folder = database.folder if index_folder is None else Path(index_folder).expanduser()
        try:
            if not create:
                stored = database.metadata(name) or {}
                _require(location, {"fingerprint", "dimension"} <= stored.keys())
                fingerprint, dimension = fingerprint or stored["fingerprint"], dimension or stored["dimension"]
            assert fingerprint is not None
            assert dimension is not None
            features = ShardedCollection(database, name, fingerprint=fingerprint, dimension=dimension, scale=scale)
            return cls(features, None if folder is None else folder / f"{name}.index")
        except BaseException:
            database.close()
            raise

    @classmethod
    def from_features(
        cls, features: NDArray[Any] | torch.Tensor, *, fingerprint: str, location: str | Path | None = None
    ) -> Self:
        """A cache with the given image features (N, E) of any length, added to what the location holds already."""
        rows = as_rows(features, "features")
        cache = cls.open(location, fingerprint=fingerprint, dimension=rows.shape[1])
        try:
            cache.add(rows)
        except BaseException:
            cache.close()
            raise
        return cache

    @property
    def dimension(self) -> int:
        """Width E of the features."""
        return self._features.dimension

    @property
    def fingerprint(self) -> str:
        """Identifies the encoder whose features the cache holds."""
        return self._features.fingerprint

    def __len__(self) -> int:
        return len(self._features)

    def add(self, features: NDArray[Any] | torch.Tensor, ids: Sequence[str] | None = None) -> None:
        """Store image features as unit vectors. Doing it again changes nothing.

        Args:
            features: (N, E), of any length.
            ids: one per feature; an id that exists gets the new feature. By default a hash of the feature itself.

        Raises:
            InvalidRequestError: wrong shape, an infinite, undefined or zero vector, or ids that do not fit.
        """
        rows = unit(self._rows(features, "features"), "features")
        if ids is None:
            ids = _content_ids(rows)
        elif len(ids) != len(rows) or len(set(ids)) != len(ids):
            raise InvalidRequestError(
                f"{len(ids)} ids, {len(set(ids))} of them different, for {len(rows)} features: one of its own each"
            )
        place = {id_: index for index, id_ in enumerate(ids)}  # equal features share an id, which Chroma refuses twice
        self._features.upsert(list(place), rows[list(place.values())])

    def add_batches(
        self,
        batches: Iterable[tuple[Sequence[str] | None, NDArray[Any]]],
        *,
        total: int | None = None,
        progress: bool = True,
    ) -> AddReport:
        """Store features batch by batch. What is known is passed over, so a run that was stopped resumes where it was.

        Args:
            batches: ids and features (N, E) of any length, read as they are needed. An id names its feature for good,
                as a hash does; ``None`` in place of the ids takes a hash of each feature.
            total: how many features there will be, for the bar.
            progress: draw a bar where the output is a terminal.

        Raises:
            InvalidRequestError: as in :meth:`add`. The batches before are stored.
        """
        added = seen = 0
        with tqdm(total=total, unit="feature", disable=None if progress else True) as bar:
            for ids, features in batches:
                rows = unit(self._rows(features, "features"), "features")
                names = _content_ids(rows) if ids is None else list(ids)
                if len(names) != len(rows):
                    raise InvalidRequestError(f"{len(names)} ids for {len(rows)} features: one of its own each")
                known = self._features.known(list(dict.fromkeys(names)))
                fresh = {id_: row for row, id_ in enumerate(names) if id_ not in known}
                if fresh:
                    self._features.upsert(list(fresh), rows[list(fresh.values())])
                added, seen = added + len(fresh), seen + len(rows)
                bar.update(len(rows))
        return AddReport(added=added, known=seen - added, failures=())

    def add_images(
        self,
        attachments: Iterable[Attachment | str | Path],
        embedder: Embedder,
        *,
        batch_size: int = 32,
        progress: bool = True,
    ) -> AddReport:
        """Embed images and store their features under the hash of their bytes. What is known is not embedded again.

        A file that cannot be used is reported and left out; the rest of its batch goes in. Every batch is stored before
        the next one starts, so a run that was stopped resumes where it was.

        Args:
            attachments: the images, as attachments or paths; read as they are needed.
            embedder: the cache's encoder.
            batch_size: images per call of the embedder.
            progress: draw a bar where the output is a terminal.

        Raises:
            EncoderMismatchError: the embedder is not the encoder of this cache.
        """
        if embedder.fingerprint != self.fingerprint:
            raise EncoderMismatchError(
                f"the visual cache holds the features of encoder {self.fingerprint!r}, and this embedder is "
                f"{embedder.fingerprint!r}; use the encoder that filled it, or another cache"
            )
        if batch_size < 1:
            raise InvalidRequestError(f"batch_size={batch_size}: at least 1")
        images = iter(attachments)
        total = len(attachments) if isinstance(attachments, Sized) else None
        failures: list[ImageFailure] = []
        added = seen = 0
        with tqdm(total=total, unit="image", disable=None if progress else True) as bar:
            while batch := list(islice(images, batch_size)):
                added += self._add_batch(batch, seen, embedder, failures)
                seen += len(batch)
                bar.update(len(batch))
        known = seen - added - len(failures)
        return AddReport(
            added=added, known=known, failures=tuple(sorted(failures, key=lambda failure: failure.position))
        )

    def retrieve(self, embeddings: Vectors, k: float = 10, temperature: float = 20.0) -> Vectors:
        """The weighted mean of the nearest image features: unit(sum_j softmax_j(temperature * <e, p_j>) p_j).

        Args:
            embeddings: (B, E) or (E,), of any length. The length sharpens the weights, as in the research code.
            k: how many neighbours; all features where the cache holds fewer.
            temperature: 0 weighs the neighbours equally.

        Returns:
            Unit vectors of the shape, type, dtype and device of the embeddings.

        Raises:
            InvalidRequestError: wrong shape, values that are not finite, zero vectors, k below 1, temperature below 0.
            StoreError: the cache is empty, closed or cannot be reached.
        """
        return like(self._retrieve(self._rows(embeddings), k, temperature), embeddings)

    def enhance(self, embeddings: Vectors, *, k: float = 10, temperature: float = 20.0, weight: float = 0.5) -> Vectors:
        """Draw embeddings towards the images: unit((1 - weight) e + weight r), with r of :meth:`retrieve`.

        Args:
            embeddings: (B, E) or (E,), of any length; a weighted mix of modalities is not normalised before.
            k: how many neighbours; all features where the cache holds fewer.
            temperature: of the softmax over the neighbours' scores, at least 0.
            weight: share of the images, 0 to 1. At 0 the embedding is only normalised.

        Returns:
            Unit vectors of the shape, type, dtype and device of the embeddings.

        Raises:
            InvalidRequestError: wrong shape, values that are not finite, zero vectors, or a parameter out of its range.
            StoreError: the cache is empty, closed or cannot be reached.
        """
        return like(self._enhance(self._rows(embeddings), k, temperature, weight), embeddings)

    def require_usable(self) -> None:
        """Raise now what retrieval would.

        Raises:
            StoreError: the cache is empty; or it is large, and there is no folder for its index.
        """
        content = self._usable_content()
        if not content.searchable:
            self._index_place(content)

    def build_index(self, *, progress: bool = True) -> None:
        """Derive the index that serves a large cache, unless there is one of just these features.

        Retrieval does so too, when it finds none; here one chooses the time. From then on an added feature makes it
        stale, and the next retrieval builds it again.

        Raises:
            InvalidRequestError: the cache is empty.
            StoreError: there is no folder for it, it cannot be written, or somebody added features meanwhile.
        """
        self._opened_index(self._features.content(), progress=progress)

    def condensed(self, count: int, location: str | Path | None = None, *, progress: bool = True) -> Self:
        """A small cache of prototypes: means of features that lie close together, by k-means.

        Args:
            count: how many prototypes, fewer than there are features.
            location: where the new cache lies, as in :meth:`open`; there must be none yet.
            progress: draw bars, on terminals only.

        Raises:
            InvalidRequestError: the count is not from 1 to less than the number of features.
            StoreError: there is a cache already, or one of the two cannot be used.
        """
        if not 1 <= count < len(self):
            raise InvalidRequestError(f"{count} prototypes of {len(self):,} features: at least 1, and fewer than those")
        small = type(self).open(location, fingerprint=self.fingerprint, dimension=self.dimension)
        try:
            if len(small):
                raise StoreError(f"{location}: there is a cache of {len(small):,} features already; name another place")
            with self._some_index(progress) as index:
                small.add(condense(index, count, progress=progress))
        except BaseException:
            small.close()
            raise
        return small

    def info(self, *, verify: bool = False) -> CacheInfo:
        """What the cache holds, and whether its index is fresh.

        Args:
            verify: read the whole index and compare it with its checksum, too.
        """
        content = self._features.content()
        return CacheInfo(
            location=self._features.location,
            features=len(content),
            dimension=self.dimension,
            fingerprint=self.fingerprint,
            collections=content.counts,
            index=self._index_info(content, verify),
            bytes=self._bytes(),
        )

    def close(self) -> None:
        """Release the engine and the folder's lock; a cache in memory is gone. Closing twice does nothing."""
        self._features.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _enhance(self, rows: NDArray[np.float32], k: float, temperature: float, weight: float) -> NDArray[np.float32]:
        if not 0 <= weight <= 1:
            raise InvalidRequestError(f"weight={weight}: the share of the images is between 0 and 1")
        retrieved = self._retrieve(rows, k, temperature)
        return unit(np.float32(1 - weight) * rows + np.float32(weight) * retrieved)

    def _retrieve(self, rows: NDArray[np.float32], k: float, temperature: float) -> NDArray[np.float32]:
        if not 1 <= k < math.inf:
            raise InvalidRequestError(f"k={k}: at least 1 neighbour")
        if not 0 <= temperature < math.inf:
            raise InvalidRequestError(f"temperature={temperature}: at least 0, and finite")
        unit(rows)  # a zero vector has no neighbours
        content = self._usable_content()
        wanted = min(int(k), len(content))
        if content.searchable:
            neighbours = self._features.nearest(rows, wanted)
        else:
            neighbours = self._opened_index(content).nearest(rows, wanted)
        return unit(np.stack([_blend(row, near, temperature) for row, near in zip(rows, neighbours, strict=True)]))

    def _usable_content(self) -> Content:
        content = self._features.content()
        if len(content) == 0:
            raise StoreError(
                f"{self._features.location}: the visual cache is empty; add image features, or ask without it"
            )
        return content

    def _index_place(self, content: Content) -> Path:
        if self._index_path is None:
            raise StoreError(
                f"{self._features.location}: {len(content):,} features, more than Chroma searches well; name a folder "
                "for their index (--cache-index DIR, Assistant.load(..., cache_index=...), VisualCache.open(..., "
                "index_folder=...)), or use a condensed cache (ibllm cache build --prototypes)"
            )
        return self._index_path

    def _opened_index(self, content: Content, *, progress: bool = True) -> VectorSnapshot:
        """The index of the features as they are; built where there is none, or one of other features."""
        place = self._index_place(content)
        with self._index_lock:
            if self._index is None or self._index.state != content.state:
                self._index = _read_index(place, content.state)
            if self._index is None:
                logger.warning("%s: building the index of %s features", self._features.location, f"{len(content):,}")
                build_snapshot(place, self._features, progress=progress)
                self._index = VectorSnapshot(place)
            return self._index

    @contextmanager
    def _some_index(self, progress: bool) -> Iterator[VectorSnapshot]:
        """The cache's own index, or a passing one where it has no place for one."""
        if self._index_path is not None:
            yield self._opened_index(self._features.content(), progress=progress)
            return
        with tempfile.TemporaryDirectory() as folder:
            build_snapshot(Path(folder) / "index", self._features, progress=progress)
            yield VectorSnapshot(Path(folder) / "index")

    def _index_info(self, content: Content, verify: bool) -> IndexInfo:
        needed = not content.searchable
        if self._index_path is None or not self._index_path.exists():
            return IndexInfo(needed=needed, state=IndexState.NONE)
        found = IndexInfo(
            needed=needed, state=IndexState.DAMAGED, path=self._index_path, bytes=self._index_path.stat().st_size
        )
        try:
            index = VectorSnapshot(self._index_path)
            if verify:
                index.verify()
        except StoreError:
            return found
        fresh = index.state == content.state
        return found.model_copy(
            update={
                "state": IndexState.FRESH if fresh else IndexState.STALE,
                "features": len(index),
                "lists": index.lists,
            }
        )

    def _bytes(self) -> int | None:
        folder = self._features.database.folder
        return None if folder is None else sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    def _add_batch(
        self, batch: Sequence[Attachment | str | Path], start: int, embedder: Embedder, failures: list[ImageFailure]
    ) -> int:
        fresh: dict[str, tuple[int, Attachment]] = {}
        for position, item in enumerate(batch, start):
            try:
                image = Attachment.of(item)
                if image.modality != "image":
                    raise UnsupportedMediaError(f"{image.name}: {image.modality}, and the visual cache holds images")
                fresh.setdefault(image.sha256, (position, image))
            except (AttachmentError, InvalidRequestError) as error:
                failures.append(_failure(position, item, error))
        for known in self._features.known(list(fresh)):
            del fresh[known]
        features = _embed_usable(fresh, embedder, failures)
        if features:
            self.add(np.stack(list(features.values())), list(features))
        return len(features)

    def _rows(self, vectors: NDArray[Any] | torch.Tensor, name: str = "embeddings") -> NDArray[np.float32]:
        rows = as_rows(vectors, name)
        if rows.shape[1] != self.dimension:
            raise InvalidRequestError(
                f"{name} of width {rows.shape[1]}, and the visual cache holds features of width {self.dimension}"
            )
        return rows


def _require(location: str | Path | None, is_there: bool) -> None:
    if not is_there:
        raise StoreError(
            f"{'memory' if location is None else location}: no visual cache there; make one with `ibllm cache build`, "
            "or correct the place"
        )


def _read_index(path: Path, state: str) -> VectorSnapshot | None:
    """The index of features in this state; ``None`` where there is no usable one."""
    if not path.exists():
        return None
    try:
        index = VectorSnapshot(path)
    except StoreError as error:
        logger.warning("%s", error)
        return None
    return index if index.state == state else None


def _content_ids(rows: NDArray[np.float32]) -> list[str]:
    return [hashlib.sha256(row.tobytes()).hexdigest()[:32] for row in rows]


def _embed_usable(
    images: dict[str, tuple[int, Attachment]], embedder: Embedder, failures: list[ImageFailure]
) -> dict[str, NDArray[np.float32]]:
    if not images:
        return {}
    try:
        return dict(zip(images, embedder.embed([image for _, image in images.values()]), strict=True))
    except AttachmentError:
        # Some file of the batch is broken, and only one call per file tells which.
        features: dict[str, NDArray[np.float32]] = {}
        for id_, (position, image) in images.items():
            try:
                features[id_] = embedder.embed([image])[0]
            except AttachmentError as error:
                failures.append(_failure(position, image, error))
        return features


def _failure(position: int, item: Attachment | str | Path, error: Exception) -> ImageFailure:
    name = item.name if isinstance(item, Attachment) else str(item)
    return ImageFailure(position=position, name=name, reason=str(error))


def _blend(query: NDArray[np.float32], features: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    logits = np.float32(temperature) * (features @ query)  # (k,)
    weights = np.exp(logits - logits.max())
    return np.asarray((weights / weights.sum()) @ features)  # (E,)
