"""Generated unit vectors that lie as image features do, and queries from beside them.

Image features gather in clusters of very different sizes. An embedding of another modality lies off their manifold: it
shares some of its direction with the image of the same thing, and most with everything else of its own modality (the
modality gap, arXiv 2203.02053). The shares here give cosines to the nearest features as ImageBind's have them: 0.8
within a modality, 0.4 to 0.5 across.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

WIDTH = 1024
BLOCK = 10_000
"""Rows that come from one seed; any count of vectors begins with the same rows."""

_CLUSTERS, _FACTORS = 4_000, 64
_WITHIN, _NOISE = 0.5, 0.4
"""Lengths of what tells members of a cluster apart: of few factors, and of none."""
_SHARED, _GAP, _OWN = 0.45, 0.8, 0.35
"""Lengths of the parts of a cross-modal query: the image's direction, its modality's, its own."""


class ClusteredVectors:
    """The world that vectors are drawn from."""

    def __init__(self, width: int = WIDTH) -> None:
        drawn = np.random.default_rng(0)
        self.width = width
        self._centres = unit(drawn.standard_normal((_CLUSTERS, width), np.float32))
        self._factors = unit(drawn.standard_normal((_FACTORS, width), np.float32))
        self._gap = unit(drawn.standard_normal((1, width), np.float32))
        popularity = 1 / np.arange(1, _CLUSTERS + 1) ** 0.7
        self._popularity = popularity / popularity.sum()

    def blocks(self, count: int, first: int = 0) -> Iterator[NDArray[np.float32]]:
        """The first ``count`` features, from row ``first`` (a multiple of BLOCK) on, in blocks (N, E)."""
        for start in range(first, count, BLOCK):
            yield self._drawn(np.random.default_rng((1, start // BLOCK)), BLOCK)[: count - start]

    def same_modality(self, count: int) -> NDArray[np.float32]:
        """Queries (count, E) drawn as the features are, none of which is among them."""
        return self._drawn(np.random.default_rng(2), count)

    def cross_modal(self, count: int) -> NDArray[np.float32]:
        """Queries (count, E) from across the modality gap."""
        drawn = np.random.default_rng(3)
        own = unit(drawn.standard_normal((count, self.width), np.float32))
        return unit(_SHARED * self._drawn(drawn, count) + _GAP * self._gap + _OWN * own)

    def _drawn(self, drawn: np.random.Generator, count: int) -> NDArray[np.float32]:
        cluster = drawn.choice(_CLUSTERS, count, p=self._popularity)
        factors = drawn.standard_normal((count, _FACTORS), np.float32) / np.float32(np.sqrt(_FACTORS))
        noise = drawn.standard_normal((count, self.width), np.float32) / np.float32(np.sqrt(self.width))
        return unit(self._centres[cluster] + _WITHIN * factors @ self._factors + _NOISE * noise)


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
