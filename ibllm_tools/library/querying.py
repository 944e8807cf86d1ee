"""What a query may be, and its vector."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.attachments import Attachment, AttachmentStore, Roots
from ibllm_tools.errors import AttachmentError, AttachmentNotFoundError, InvalidRequestError, StoreError, one_line
from ibllm_tools.library.catalogue import MODALITIES, Catalogue, modality_of
from ibllm_tools.library.entry import Entry, is_path
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.embedder import Embedder

Query = str | Path | Attachment | Entry | NDArray[np.float32]
"""Text, a file, an attachment, an ``att://`` handle, an entry or hit of the library, or a vector (E,)."""


class QueryEncoder:
    """Gives queries their vectors.

    Args:
        catalogue: of the library, which knows the vectors of its entries and the files of its handles.
        embedder: for everything else.
        attachments: where handles are looked up first.
        roots: folder or folders that files must lie in.
        limits: the most that a file may hold.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        embedder: Embedder,
        attachments: AttachmentStore | None,
        *,
        roots: Roots,
        limits: Limits,
    ) -> None:
        self._catalogue, self._embedder, self._attachments = catalogue, embedder, attachments
        self._roots, self._limits = roots, limits

    def mix(self, queries: Sequence[Query], weights: Sequence[float] | None) -> NDArray[np.float32]:
        """unit(sum_i w_i e_i), (E,); weights are 1 by default, and may be negative.

        Raises:
            InvalidRequestError: weights that do not fit, or cancel the queries out; a query that cannot be used.
            AttachmentError: a file that cannot be used.
        """
        factors = as_weights(weights, len(queries))
        rows = np.stack([self._vector(item) for item in queries])  # (Q, E)
        mix = np.asarray(factors, np.float32) @ rows
        length = float(np.linalg.norm(mix))
        if length < 1e-6:
            raise InvalidRequestError(
                "the queries cancel each other out, expected a mix with a direction; change weights"
            )
        return np.asarray(mix / length, np.float32)

    def _vector(self, query: Query) -> NDArray[np.float32]:
        if isinstance(query, np.ndarray):
            return _checked_vector(query, self._catalogue.dimension)
        if isinstance(query, Entry):
            modality = modality_of(query.id)
            found = self._catalogue.entries(modality or query.modality).get([query.id], include=["embeddings"])
            if not found.ids:
                raise InvalidRequestError(f"{query.citation}: no entry of this library any more; search again")
            return np.asarray(found.vectors[0])
        vector: NDArray[np.float32] = self._embedder.embed([self._attachment(query)])[0]
        return vector

    def _attachment(self, query: str | Path | Attachment) -> Attachment:
        if isinstance(query, Attachment):
            return query
        if isinstance(query, Path):
            return Attachment(query, roots=self._roots, limits=self._limits)
        if not query.startswith("att://"):
            return Attachment.from_text(query, name="query", limits=self._limits)
        return self.opened(query)

    def opened(self, handle: str) -> Attachment:
        """What a handle stands for, from the store or from a source that was indexed with this content.

        Raises:
            AttachmentNotFoundError: neither holds it any more.
        """
        for copy in self._copies(handle):
            with suppress(AttachmentError, StoreError):
                opened = Attachment(copy, store=self._attachments, roots=self._roots, limits=self._limits)
                if opened.handle == handle:
                    return opened
        raise AttachmentNotFoundError(
            f"{one_line(handle)}: neither in the attachment store nor a source of the library that can be opened and "
            "has not changed; index it again"
        )

    def _copies(self, handle: str) -> Iterator[str | Path]:
        """Where the content of a handle should be: in the store, and in the files that were indexed with it."""
        if self._attachments is not None and handle in self._attachments:
            yield handle
        for record in self._catalogue.with_content(handle.removeprefix("att://")):
            if is_path(record.source):
                yield Path(record.source)


def as_queries(query: Query | Sequence[Query]) -> list[Query]:
    """One query or several, as a list; raises InvalidRequestError for what is none."""
    queries = list(query) if isinstance(query, list | tuple) else [query]
    kinds = (str, Path, Attachment, Entry, np.ndarray)
    if not queries or not all(isinstance(item, kinds) for item in queries):
        raise InvalidRequestError(
            f"query {one_line(query)!r}, expected text, a Path, an Attachment, a handle, a hit, a vector, or several"
        )
    return queries  # type: ignore[return-value]  # checked


def as_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights of so many queries, 1 by default; raises InvalidRequestError for those that do not fit."""
    try:
        factors = [1.0] * count if weights is None else [float(weight) for weight in weights]
    except (TypeError, ValueError):
        factors = []
    if len(factors) != count or not np.isfinite(factors).all():
        raise InvalidRequestError(
            f"query_weights {one_line(weights)} for {count} queries, expected a finite one for each"
        )
    return factors


def modalities(modality: Modality | Sequence[Modality] | None) -> tuple[Modality, ...]:
    """The modalities that are meant; raises InvalidRequestError for one that is none."""
    chosen = MODALITIES if modality is None else (modality,) if isinstance(modality, str) else tuple(modality)
    unknown = [kind for kind in chosen if kind not in MODALITIES]
    if unknown or not chosen:
        raise InvalidRequestError(f"modality {one_line(modality)!r}, expected some of {', '.join(MODALITIES)}")
    return chosen


def whole(name: str, number: int, *, least: int) -> int:
    """The number, if it is a whole one of at least that; otherwise raises InvalidRequestError."""
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise InvalidRequestError(f"{name}={one_line(repr(number))}, expected a whole number of at least {least}")
    return number


def share(name: str, number: float) -> float:
    """The number, if it lies within 0 and 1; otherwise raises InvalidRequestError."""
    if not 0 <= number <= 1:
        raise InvalidRequestError(f"{name}={number}, expected a number from 0 to 1")
    return float(number)


def _checked_vector(vector: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    values = np.asarray(vector, np.float32)
    length = float(np.linalg.norm(values)) if values.shape == (dimension,) else 0.0
    if not 0 < length < np.inf:
        raise InvalidRequestError(
            f"a query of shape {values.shape} and length {length:g}, expected ({dimension},), finite and not zero"
        )
    return np.asarray(values / length)
