"""The training-free visual cache: an embedding of any modality, drawn towards its nearest *image* features.

The language model was only ever trained on image features, so at inference an embedding e is blended with the features
p_1..p_k of the k images nearest to it (arXiv 2309.03905, "visual cache model"):

    r = unit(sum_j softmax_j(temperature * <e, p_j>) p_j),    e' = unit((1 - weight) e + weight r)

The image features are unit vectors in one Chroma collection, which is the source of truth. It finds the neighbours;
scores and sums are computed here, in float32, from the vectors that come back.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence, Sized
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

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
from ibllm_tools.store.chroma import VectorCollection, VectorDatabase
from ibllm_tools.store.embedder import Embedder

Vectors = TypeVar("Vectors", NDArray[Any], torch.Tensor)


class ImageFailure(BaseModel):
    """An image that could not be added."""

    model_config = ConfigDict(frozen=True)

    position: int = Field(description="its place among the images that were handed over, from 0")
    name: str = Field(description="its path or file name")
    reason: str = Field(description="why it could not be used, one line")


class AddReport(BaseModel):
    """What became of the images handed to :meth:`VisualCache.add_images`."""

    model_config = ConfigDict(frozen=True)

    added: int = Field(description="images embedded and stored")
    known: int = Field(description="images that were there before, or came twice; not embedded again")
    failures: tuple[ImageFailure, ...] = Field(description="images that could not be used")


class VisualCache:
    """Image features of one encoder, and the retrieval that closes the modality gap.

    Made by :meth:`open` or :meth:`from_features`; a context manager.
    """

    def __init__(self, collection: VectorCollection) -> None:
        self._collection = collection

    @classmethod
    def open(cls, location: str | Path | None, *, fingerprint: str, dimension: int, name: str = "visual_cache") -> Self:
        """Open a cache, and make an empty one where there is none.

        Args:
            location: a folder, the URL of a Chroma server (``"http://host:port"``), or None for memory. A folder
                belongs to one process at a time, until :meth:`close` or the process's end.
            fingerprint: identifies the encoder whose features it holds.
            dimension: width E of the features.
            name: the Chroma collection, 3 to 512 characters of ``[a-zA-Z0-9._-]``.

        Raises:
            EncoderMismatchError: it holds the features of another encoder.
            InvalidRequestError: its features have another width.
            StoreLockedError: another process owns the folder.
            StoreError: the location cannot be used.
        """
        database = VectorDatabase.open(location)
        try:
            return cls(database.collection(name, fingerprint=fingerprint, dimension=dimension))
        except BaseException:
            database.close()
            raise

    @classmethod
    def from_features(
        cls, features: NDArray[Any] | torch.Tensor, *, fingerprint: str, location: str | Path | None = None
    ) -> Self:
        """A cache with the given image features (N, E) of any length, added to what the location holds already."""
        rows = _as_rows(features, "features")
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
        return self._collection.dimension

    @property
    def fingerprint(self) -> str:
        """Identifies the encoder whose features the cache holds."""
        return self._collection.fingerprint

    def __len__(self) -> int:
        return len(self._collection)

    def add(self, features: NDArray[Any] | torch.Tensor, ids: Sequence[str] | None = None) -> None:
        """Store image features as unit vectors. Doing it again changes nothing.

        Args:
            features: (N, E), of any length.
            ids: one per feature; an id that exists gets the new feature. By default a hash of the feature itself.

        Raises:
            InvalidRequestError: wrong shape, an infinite, undefined or zero vector, or ids that do not fit.
        """
        rows = _unit(self._rows(features, "features"), "features")
        if ids is None:
            ids = [hashlib.sha256(row.tobytes()).hexdigest()[:32] for row in rows]
        elif len(ids) != len(rows) or len(set(ids)) != len(ids):
            raise InvalidRequestError(
                f"{len(ids)} ids, {len(set(ids))} of them different, for {len(rows)} features: one of its own each"
            )
        place = {id_: index for index, id_ in enumerate(ids)}  # equal features share an id, which Chroma refuses twice
        self._collection.upsert(list(place), rows[list(place.values())])

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
        return _like(self._retrieve(self._rows(embeddings), k, temperature), embeddings)

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
        return _like(self._enhance(self._rows(embeddings), k, temperature, weight), embeddings)

    def close(self) -> None:
        """Release the engine and the folder's lock; a cache in memory is gone. Closing twice does nothing."""
        self._collection.database.close()

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
        return _unit(np.float32(1 - weight) * rows + np.float32(weight) * retrieved)

    def _retrieve(self, rows: NDArray[np.float32], k: float, temperature: float) -> NDArray[np.float32]:
        if not 1 <= k < math.inf:
            raise InvalidRequestError(f"k={k}: at least 1 neighbour")
        if not 0 <= temperature < math.inf:
            raise InvalidRequestError(f"temperature={temperature}: at least 0, and finite")
        _unit(rows)  # a zero vector has no neighbours
        held = len(self)
        if held == 0:
            raise StoreError(
                f"{self._collection.location}: the visual cache is empty; add image features, or ask without it"
            )
        neighbours = self._collection.nearest(rows, min(int(k), held))
        return _unit(np.stack([_blend(row, near, temperature) for row, near in zip(rows, neighbours, strict=True)]))

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
        for known in self._collection.known(list(fresh)):
            del fresh[known]
        features = _embed_usable(fresh, embedder, failures)
        if features:
            self.add(np.stack(list(features.values())), list(features))
        return len(features)

    def _rows(self, vectors: NDArray[Any] | torch.Tensor, name: str = "embeddings") -> NDArray[np.float32]:
        rows = _as_rows(vectors, name)
        if rows.shape[1] != self.dimension:
            raise InvalidRequestError(
                f"{name} of width {rows.shape[1]}, and the visual cache holds features of width {self.dimension}"
            )
        return rows


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


def _as_rows(vectors: NDArray[Any] | torch.Tensor, name: str) -> NDArray[np.float32]:
    if isinstance(vectors, torch.Tensor):
        vectors = (vectors.float() if vectors.is_floating_point() else vectors).detach().cpu().numpy()
    values = np.asarray(vectors)
    if values.ndim not in (1, 2) or values.size == 0 or not np.issubdtype(values.dtype, np.floating):
        raise InvalidRequestError(
            f"{name} of shape {values.shape} and type {values.dtype}: expected floating point, (E,) or (B, E), B >= 1"
        )
    with np.errstate(over="ignore"):
        rows = np.atleast_2d(values.astype(np.float32))  # (B, E)
        if not np.isfinite(np.square(rows).sum(axis=1)).all():
            raise InvalidRequestError(f"{name} hold values that are undefined, infinite or too large for float32")
    return rows


def _unit(rows: NDArray[np.float32], name: str = "embeddings") -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise InvalidRequestError(f"{name} contain, or blend to, a zero vector, which has no direction")
    return np.asarray(rows / lengths)


def _like(rows: NDArray[np.float32], original: Vectors) -> Vectors:
    if isinstance(original, torch.Tensor):
        return torch.from_numpy(rows).reshape(original.shape).to(original)
    return rows.reshape(original.shape).astype(original.dtype)
