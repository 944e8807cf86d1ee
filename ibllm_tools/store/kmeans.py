"""Spherical k-means: unit vectors in groups, each around the direction of its mean (Dhillon and Modha, 2001)."""

import numpy as np
import torch
from numpy.typing import NDArray

_BLOCK = 4096
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
        nearest, scores = _nearest(points, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        empty = torch.bincount(nearest, minlength=count) == 0
        sums[empty] = points[scores.topk(int(empty.sum()), largest=False).indices]
        lengths = sums.norm(dim=1, keepdim=True)
        centroids = torch.where(lengths > 0, sums / lengths.clamp_min(1e-12), centroids)
    return centroids.numpy()


def nearest_centroids(rows: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """The index (N,) of the centroid with the largest inner product, per row (N, E)."""
    found: NDArray[np.int64] = _nearest(torch.from_numpy(rows), torch.from_numpy(centroids))[0].numpy()
    return found


def _nearest(rows: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found = [(rows[start : start + _BLOCK] @ centroids.T).max(dim=1) for start in range(0, len(rows), _BLOCK)]
    return torch.cat([each.indices for each in found]), torch.cat([each.values for each in found])
