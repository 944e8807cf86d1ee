"""A few prototypes in place of many vectors: k-means within each list of an index, in proportion to its size.

One k-means over millions of vectors and ten thousands of centroids would take days. The lists of the index are the
first level of a hierarchical one (Nister and Stewenius, 2006), of which only the second is left to do.
"""

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ibllm_tools.store.kmeans import spherical_kmeans
from ibllm_tools.store.vector_snapshot import VectorSnapshot


def condense(index: VectorSnapshot, count: int, *, progress: bool = True) -> NDArray[np.float32]:
    """Prototypes (count, E) of the vectors in an index, as unit vectors; fewer where many vectors are equal."""
    sizes = np.array([len(rows) for rows in index.members()])
    if count < np.count_nonzero(sizes):
        return spherical_kmeans(index.centroids[sizes > 0], count)
    parts = [
        spherical_kmeans(rows, share)
        for rows, share in tqdm(
            zip(index.members(), _shares(sizes, count), strict=True),
            total=index.lists,
            desc="condensing",
            unit="list",
            disable=None if progress else True,
        )
        if share
    ]
    return np.concatenate(parts)


def _shares(sizes: NDArray[np.int64], count: int) -> list[int]:
    """``count`` in proportion to the sizes, at least 1 for each that is not empty; ``count`` is at least that many."""
    shares = (sizes > 0).astype(np.int64)
    weights = np.maximum(sizes - 1, 0)
    exact = weights * ((count - shares.sum()) / max(weights.sum(), 1))
    shares += np.floor(exact).astype(np.int64)
    largest = np.argsort(-(exact % 1), kind="stable")[: count - shares.sum()]
    shares[largest] += 1
    return [int(share) for share in shares]
