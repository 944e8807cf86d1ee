"""Spherical k-means: unit vectors in groups, each around the direction of its mean (Dhillon and Modha, 2001)."""

import numpy as np
import torch
from numpy.typing import NDArray

_BLOCK = 1024
"""Rows that are compared with all centroids at a time."""


def spherical_kmeans(rows: NDArray[np.float32], count: int, *, iterations: int = 10) -> NDArray[np.float32]:
    """The centroids (min(count, N), E) of unit vectors (N, E), as unit vectors; the same for the same rows.

    A group that lost all its members starts anew from a row that lies far from its centroid.
    """
    points, drawn = torch.from_numpy(rows), np.random.default_rng(0)
    if count >= len(rows):
        return rows.copy()
    chosen = np.sort(drawn.choice(len(rows), count, replace=False))
    centroids = points[torch.from_numpy(chosen)]  # (K, E)
    for _ in range(iterations):
        nearest, scores = Assignment(centroids).nearest(points)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        empty = torch.bincount(nearest, minlength=count) == 0
        sums[empty] = points[scores.topk(int(empty.sum()), largest=False).indices]
        lengths = sums.norm(dim=1, keepdim=True)
        centroids = torch.where(lengths > 0, sums / lengths.clamp_min(1e-12), centroids)
    return centroids.numpy()


class Assignment:
    """Says which of the centroids (K, E) a row belongs to.

    All products go through one buffer. A new one for each, of just the size that malloc still takes from its heap,
    leaves holes there that never close again: 16 KB a row, 16 GB after a million.
    """

    def __init__(self, centroids: torch.Tensor) -> None:
        self._centroids = centroids
        self._products = torch.empty(_BLOCK, len(centroids))

    def lists(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        """The index (N,) of the centroid with the largest inner product, per row (N, E)."""
        found: NDArray[np.int64] = self.nearest(torch.from_numpy(rows))[0].numpy()
        return found

    def nearest(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The index (N,) and the score (N,) of the nearest centroid."""
        indices, scores = torch.empty(len(rows), dtype=torch.int64), torch.empty(len(rows))
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            products = torch.mm(block, self._centroids.T, out=self._products[: len(block)])
            stop = start + len(block)
            torch.max(products, dim=1, out=(scores[start:stop], indices[start:stop]))
        return indices, scores
