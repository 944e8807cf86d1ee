"""An index of millions of vectors in one file that is mapped into memory, derived from their collections.

Inverted lists (Sivic and Zisserman, 2003) on two levels: the vectors lie in half precision beside those that are
nearest to the same of some thousand centroids, and within such a list beside those that are nearest to the same of a
few centroids of its own. A query looks at all parts of the lists that are nearest to it, and reads those parts that
are. The best candidates are scored again in float32. What is read is the page cache's, which the operating system can
drop.

The file is a safetensors file: its head says what it was made of, and its checksums are in it. It is written beside its
place and renamed, so what lies in its place is whole. docs/visual-cache.md compares it with FAISS.
"""

import hashlib
import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from ibllm_tools.errors import InvalidRequestError, StoreError, one_line
from ibllm_tools.store.folder_lock import own_folder
from ibllm_tools.store.kmeans import Assignment, spherical_kmeans
from ibllm_tools.store.sharded_collection import ShardedCollection
from ibllm_tools.store.unit_vectors import unit

Item = TypeVar("Item")

PROBES = 128
"""Lists whose parts a query looks at."""
SCANNED = 8192
"""Vectors that it reads, in the nearest of these parts."""

_MOST_LISTS = 4096
_LISTS_PER_ROOT = 4  # FAISS's rule of thumb: 4 to 16 times the root of the number of vectors
_PART = 64
"""Vectors of a part, on average."""
_MOST_PARTS = 16
_SAMPLE_PER_LIST = 40
_ITERATIONS, _PART_ITERATIONS = 6, 3
_BLOCK = 16_384
_FORMAT = "ibllm-tools vector snapshot 2"
_HEAD_DIGEST, _VECTORS_DIGEST = "head_sha256", "vectors_sha256"
_LENGTH_TOLERANCE = 0.01
_HEADS = ("offsets", "centroids", "parts")
_KINDS = {np.dtype(np.int64): "I64", np.dtype(np.float16): "F16"}
_building = threading.Lock()


class VectorSnapshot:
    """An open index.

    Args:
        path: the file.

    Attributes:
        state: that of the collections it was made from, see :class:`Content`.
        lists: how many lists L there are.
        dimension: width E of the vectors.

    Raises:
        StoreError: it is missing or damaged. Of the vectors only the size is checked, see :meth:`verify`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "pt") as file:
                self._metadata: dict[str, str] = file.metadata() or {}
                heads = [file.get_tensor(name) for name in _HEADS]
                self._vectors: torch.Tensor = file.get_tensor("vectors")  # (N, E), part by part
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{path}: no usable index ({one_line(error)}); build it again") from error
        digest = _head_digest(self._metadata, [head.numpy() for head in heads], len(self._vectors))
        if self._metadata.get("format") != _FORMAT or self._metadata.get(_HEAD_DIGEST) != digest:
            raise StoreError(f"{path}: the index is damaged or of another version; build it again")
        self.state = self._metadata.get("state", "")
        offsets, self._centroids, self._parts = heads  # (L * P + 1,), (L, E), (L, P, E)
        self.lists, parts, self.dimension = self._parts.shape
        """How many lists there are; and the width E of the vectors."""
        self._starts = offsets[:-1].reshape(self.lists, parts)
        self._sizes = offsets.diff().reshape(self.lists, parts)

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def centroids(self) -> NDArray[np.float32]:
        """The unit vectors (L, E) that the lists lie around."""
        found: NDArray[np.float32] = self._centroids.float().numpy()
        return found

    def members(self) -> Iterator[NDArray[np.float32]]:
        """The vectors (N, E) of each list, which may be empty."""
        for start, size in zip(self._starts[:, 0].tolist(), self._sizes.sum(dim=1).tolist(), strict=True):
            yield self._vectors[start : start + size].float().numpy()

    def nearest(
        self, queries: NDArray[np.float32], k: int, *, probes: int = PROBES, scanned: int = SCANNED
    ) -> list[NDArray[np.float32]]:
        """The k vectors with the largest inner product, per query, among those that are read.

        Args:
            queries: (B, E), of any length but 0.
            k: how many; where fewer are held, all of them come back.
            probes: lists that are looked at, and more where these hold less than four times k vectors.
            scanned: vectors that are read in them, about; at least four times k.

        Returns:
            B arrays (min(k, N), E), nearest first.

        Raises:
            StoreError: what it holds are not the vectors that were put in.
        """
        return [self._nearest(torch.from_numpy(query), k, probes, scanned) for query in unit(queries)]

    def verify(self) -> None:
        """Read everything and compare it with the checksum, a second or two per gigabyte.

        Raises:
            StoreError: it is damaged.
        """
        digest = hashlib.sha256()
        for start in range(0, len(self), _BLOCK):
            digest.update(self._vectors[start : start + _BLOCK].numpy().tobytes())
        if digest.hexdigest() != self._metadata[_VECTORS_DIGEST]:
            raise StoreError(f"{self.path}: the index is damaged; build it again")

    def _nearest(self, query: torch.Tensor, k: int, probes: int, scanned: int) -> NDArray[np.float32]:
        half, needed = query.half(), min(4 * k, len(self))
        similarity = self._centroids @ half
        lists = similarity.topk(min(probes, self.lists)).indices
        if int(self._sizes[lists].sum()) < needed:
            order = similarity.argsort(descending=True)
            lists = order[: _reaching(self._sizes[order].sum(dim=1), needed)]
        starts, sizes = self._starts[lists].flatten(), self._sizes[lists].flatten()  # of the parts
        closeness = torch.cat([self._parts[number] @ half for number in lists.tolist()])
        nearest = closeness.masked_fill(sizes == 0, -torch.inf).argsort(descending=True)
        chosen = nearest[: _reaching(sizes[nearest], max(scanned, needed))]
        starts, sizes = starts[chosen], sizes[chosen]
        spans = zip(starts.tolist(), sizes.tolist(), strict=True)
        scores = torch.cat([self._vectors[start : start + size] @ half for start, size in spans])
        # the place of each score: that of its part, and how many of the part come before it
        before = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        places = starts.repeat_interleave(sizes) + torch.arange(len(scores)) - before
        close = scores.topk(min(2 * k, len(scores))).indices  # half precision can exchange neighbours
        rows = self._vectors[places[close]].float()  # (2k, E)
        if not ((rows.norm(dim=1) - 1).abs() <= _LENGTH_TOLERANCE).all():  # also where a length is no number
            raise StoreError(
                f"{self.path}: the index is damaged, it holds vectors of other lengths than 1; build it again"
            )
        found: NDArray[np.float32] = rows[(rows @ query).topk(min(k, len(rows))).indices].numpy()
        return found


def build_snapshot(path: Path, vectors: ShardedCollection, *, progress: bool = True) -> None:
    """Derive an index from collections, and put it in the place of the one before.

    Memory is bounded by one collection's index; disk by twice the vectors in half precision, besides the old index. A
    build that was stopped leaves what was there.

    Args:
        path: the file. Its folder is made, and belongs to this process meanwhile.
        vectors: where they come from.
        progress: draw bars, on terminals only.

    Raises:
        InvalidRequestError: there is nothing to index.
        StoreLockedError: another process owns the folder.
        StoreError: it cannot be written, or the collections changed meanwhile.
    """
    with _building:
        release = own_folder(path.parent)
        staging = path.with_name(f".{path.name}.partial")
        try:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            _build(staging, path, vectors, progress)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written ({error.strerror or error}); make room there") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            release()


def _build(staging: Path, path: Path, vectors: ShardedCollection, progress: bool) -> None:
    content = vectors.content()
    state, count = content.state, len(content)
    if count == 0:
        raise InvalidRequestError(f"{vectors.location}: there is nothing to index; add image features first")
    needed, free = 2 * 2 * count * vectors.dimension, shutil.disk_usage(staging).free
    if needed > free:
        raise StoreError(
            f"{path}: {needed / 1e9:.1f} GB will be written, {free / 1e9:.1f} GB are free there; make room or name "
            "another folder"
        )
    centroids = _trained(staging, vectors, count, progress)
    lists = _assigned(staging, vectors, centroids, count, progress)
    if vectors.content().state != state or len(lists) != count:
        raise StoreError(f"{vectors.location}: it changed while its index was built; build it when nobody adds to it")
    written = _written(staging, centroids, lists, state, progress)
    written.replace(path)
    _flush_folder(path.parent)


def _trained(staging: Path, vectors: ShardedCollection, count: int, progress: bool) -> NDArray[np.float32]:
    lists = min(_MOST_LISTS, max(1, int(_LISTS_PER_ROOT * count**0.5)))
    wanted = min(count, lists * _SAMPLE_PER_LIST)
    file, held = staging / "sample", 0
    with file.open("wb") as sample, _bar(wanted, "sampling", progress) as bar:
        for page in vectors.sample(wanted):
            sample.write(page.tobytes())
            held += len(page)
            bar.update(len(page))
    # In a file, for the operating system can drop the pages of one.
    rows = np.memmap(file, np.float32, "r+", shape=(held, vectors.dimension))
    centroids = spherical_kmeans(rows, lists, iterations=_ITERATIONS)
    del rows
    file.unlink()
    return centroids


def _assigned(
    staging: Path, vectors: ShardedCollection, centroids: NDArray[np.float32], count: int, progress: bool
) -> NDArray[np.int64]:
    """Write the vectors as they come, and return the list of each (N,)."""
    lists, assignment = [], Assignment(torch.from_numpy(centroids))
    with (staging / "rows").open("wb") as file, _bar(count, "indexing", progress) as bar:
        for batch in _one_ahead(vectors.batches()):
            lists.append(assignment.lists(batch))
            file.write(batch.astype(np.float16).tobytes())
            bar.update(len(batch))
    return np.concatenate(lists)


def _written(
    staging: Path, centroids: NDArray[np.float32], lists: NDArray[np.int64], state: str, progress: bool
) -> Path:
    """The finished file, on the disk."""
    order = np.argsort(lists, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(lists, minlength=len(centroids)))]).astype(np.int64)
    rows = np.memmap(staging / "rows", np.float16, "r", shape=(len(lists), centroids.shape[1]))
    parts_of_each = _parts(len(rows), len(centroids))
    # In a file as the rows are, for the operating system can drop the pages of one.
    parts = np.memmap(staging / "parts", np.float16, "w+", shape=(len(centroids), parts_of_each, centroids.shape[1]))
    sizes = np.zeros(parts.shape[:2], np.int64)
    metadata = {"format": _FORMAT, "state": state, _VECTORS_DIGEST: "0" * 64, _HEAD_DIGEST: "0" * 64}
    digest, target = hashlib.sha256(), staging / "index"
    with target.open("wb") as file, _bar(len(rows), "writing", progress) as bar:
        heads = _heads(sizes, centroids, parts)
        file.write(_head(metadata, heads, len(rows)))
        file.seek(sum(head.nbytes for head in heads), os.SEEK_CUR)
        for number, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
            block = rows[order[start:stop]]
            own, members = _parted(block.astype(np.float32), parts.shape[1])
            parts[number, : len(own)] = own
            sizes[number, : len(own)] = [len(each) for each in members]
            content = block[np.concatenate([*members, np.empty(0, np.int64)])].tobytes()
            digest.update(content)
            file.write(content)
            bar.update(len(block))
        heads = _heads(sizes, centroids, parts)
        metadata[_VECTORS_DIGEST] = digest.hexdigest()
        metadata[_HEAD_DIGEST] = _head_digest(metadata, heads, len(rows))
        file.seek(0)
        file.write(_head(metadata, heads, len(rows)))
        for head in heads:
            file.write(head.tobytes())
        file.flush()
        os.fsync(file.fileno())
    return target


def _parts(count: int, lists: int) -> int:
    """Into how many parts each of the lists of so many vectors is divided."""
    return max(1, min(_MOST_PARTS, round(count / lists / _PART)))


def _parted(rows: NDArray[np.float32], parts: int) -> tuple[NDArray[np.float32], list[NDArray[np.int64]]]:
    """The centroids (P, E) of parts of a list (N, E), fewer where it is short, and which rows lie around each."""
    if len(rows) == 0:
        return rows, []
    centroids = spherical_kmeans(rows, parts, iterations=_PART_ITERATIONS)
    nearest = Assignment(torch.from_numpy(centroids)).lists(rows)
    return centroids, [np.flatnonzero(nearest == part) for part in range(len(centroids))]


def _reaching(sizes: torch.Tensor, wanted: int) -> int:
    """How many of the first sizes it takes to have as much as is wanted."""
    return int((sizes.cumsum(0) < wanted).sum()) + 1


def _heads(sizes: NDArray[np.int64], centroids: NDArray[np.float32], parts: NDArray[np.float16]) -> list[NDArray[Any]]:
    """What lies before the vectors: where each part (L * P + 1,) begins, centroids (L, E), those of parts (L, P, E)."""
    offsets = np.concatenate([[0], np.cumsum(sizes.ravel())]).astype(np.int64)
    return [offsets, centroids.astype(np.float16), parts]


def _head(metadata: dict[str, str], heads: Sequence[NDArray[Any]], count: int) -> bytes:
    """The head of a safetensors file, https://github.com/huggingface/safetensors#format."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    start, width = 0, heads[-1].shape[-1]
    vectors = ("vectors", "F16", (count, width), 2 * count * width)
    for name, kind, shape, size in (
        *((name, _KINDS[head.dtype], head.shape, head.nbytes) for name, head in zip(_HEADS, heads, strict=True)),
        vectors,
    ):
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _head_digest(metadata: dict[str, str], heads: Sequence[NDArray[Any]], count: int) -> str:
    shapes = [head.shape for head in heads]
    said = [metadata.get("format"), metadata.get("state"), metadata.get(_VECTORS_DIGEST), count, shapes]
    digest = hashlib.sha256(json.dumps(said).encode())
    for head in heads:
        digest.update(head.tobytes())
    return digest.hexdigest()


def _one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each of which is made while the one before is used: reading and multiplying take turns on no core."""
    source = iter(items)
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(next, source, None)
        while (item := waiting.result()) is not None:
            waiting = reader.submit(next, source, None)
            yield item


def _bar(total: int, what: str, progress: bool) -> "tqdm[Any]":
    return tqdm(total=total, desc=what, unit="vector", disable=None if progress else True)


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
