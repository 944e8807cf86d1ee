"""Similarities to entries of different modalities on one scale.

A text is nearer to any image than to any sound: each modality lies in a cone of its own (the modality gap), and wide
cones spread similarities more than narrow ones. A similarity is therefore judged by what the query has in common with
entries of that modality on average, and by how far such similarities spread.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.media.sniff import Modality

Vectors = NDArray[np.float32]

SAMPLED_ROWS = 512
"""Entries, of all modalities together, that spreads are estimated from; their error is 3 %."""
SETTLED_COUNT = 10
"""Entries of a modality, beyond the first, whose own spread counts as much as that of all modalities."""
MIDPOINT = 2.0
"""Standard deviations above an average entry that score 0.5."""
LEAST_VARIANCE = 1 / 16
"""Of similarities, in units of what random directions have, 1 / E: what keeps a library of equal entries finite."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Turns similarities into scores that can be ranked across modalities.

    With z the standard deviations by which an entry exceeds what the query has in common with an average entry of its
    modality, the score is ``(1 + y / sqrt(1 + y^2)) / 2`` with ``y = z - 2``. It lies in 0..1: 0.5 is two standard
    deviations above the average, which one unrelated entry in 44 reaches by chance; 0.05 is the average, 0.85 three
    and 0.95 four standard deviations. Scores are relative to the library: where everything is about what was asked
    for, nothing stands out.

    An average tells little about a modality of few entries, or of entries that are all alike: of twenty barking dogs
    and the query "a dog". The more a modality's mean tells the other entries apart, as a single entry would, the
    more it is replaced by that of the whole library; for a single entry altogether.

    Attributes:
        baselines: per modality the vector (E,) whose similarity to a query is that of an average entry.
        relative_variances: per modality the variance of its similarities, in units of that of all modalities.
        fallback: (E,), the baseline of a modality that the sample does not hold; its relative variance is 1.
        deviations: (R, E), whose products with a query have a squared sum that is the variance of all modalities.
    """

    baselines: Mapping[Modality, Vectors]
    relative_variances: Mapping[Modality, float]
    fallback: Vectors
    deviations: Vectors

    @classmethod
    def fit(cls, vectors: Mapping[Modality, Vectors]) -> Self:
        """Estimate everything from a sample of unit vectors (N, E) per modality; some 2,000 rows each are plenty.

        Modalities count alike, however many entries they have. Without any entry, scores only map similarities.
        """
        samples = {modality: rows for modality, rows in vectors.items() if len(rows)}
        if not samples:
            return cls({}, {}, np.zeros(0, np.float32), np.zeros((0, 0), np.float32))
        centroids = {modality: rows.mean(axis=0) for modality, rows in samples.items()}
        counts = {modality: len(rows) for modality, rows in samples.items()}
        samples = {modality: _thinned(rows, SAMPLED_ROWS // len(samples)) for modality, rows in samples.items()}
        spread = {
            modality: _deviations(rows, centroids[modality], counts[modality]) for modality, rows in samples.items()
        }
        filled = [rows for rows in spread.values() if len(rows)]
        width = next(iter(centroids.values())).shape[-1]
        deviations = np.concatenate(
            [*(rows / np.float32(np.sqrt(len(filled))) for rows in filled), np.zeros((0, width), np.float32)]
        )
        middle = np.mean(list(centroids.values()), axis=0)
        reliabilities = {
            modality: _reliability(rows - middle, centroids[modality] - middle, deviations)
            for modality, rows in samples.items()
        }
        fallback = _weighted_mean(centroids, reliabilities)
        baselines: dict[Modality, Vectors] = {
            modality: fallback + np.float32(reliabilities[modality]) * (centroid - fallback)
            for modality, centroid in centroids.items()
        }
        return cls(baselines, _relative_variances(spread, deviations, counts, reliabilities), fallback, deviations)

    def score(self, query: Vectors, modality: Modality, similarities: Vectors) -> Vectors:
        """Scores in 0..1, comparable across modalities; within one they keep the order of the similarities.

        Args:
            query: a unit vector (E,), of any modality or a mix of several.
            modality: of the entries. One that the sample did not hold is taken for an average one.
            similarities: (N,), inner products of the query with the entries.
        """
        expected, variance = 0.0, 0.0
        if self.fallback.size:
            expected = float(query @ self.baselines.get(modality, self.fallback))
            # einsum stays in this thread: BLAS would wake all cores for a moment, and stall searches side by side.
            shares = np.einsum("re,e->r", self.deviations, query)
            variance = float(np.square(shares).sum()) * self.relative_variances.get(modality, 1.0)
        variance = max(variance, LEAST_VARIANCE / len(query))
        # float64, in which rounding cannot swap two similarities that differ in float32.
        y = (similarities.astype(np.float64) - expected) / np.sqrt(variance) - MIDPOINT
        # Not a logistic function: that is 1.0 in float32 for everything beyond 17, so duplicates would tie with others.
        scores: Vectors = ((1 + y / np.sqrt(1 + y * y)) / 2).astype(np.float32)
        return scores


def _thinned(rows: Vectors, most: int) -> Vectors:
    """Evenly spaced rows, at most so many."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]


def _deviations(rows: Vectors, centroid: Vectors, count: int) -> Vectors:
    """Rows whose products with a query have a squared sum that is the variance of similarities; none of one entry."""
    if count < 2:
        return rows[:0]
    return (rows - centroid) * np.float32(np.sqrt(count / (count - 1) / len(rows)))


def _reliability(rows: Vectors, centroid: Vectors, deviations: Vectors) -> float:
    """1 where a modality's centroid tells the library's entries not apart at all, 0 where it does so like an entry.

    A mean of many different things is equally similar to each of them; that of one thing is not. The ratio falls with
    the number of independent entries, so it also stands for their count.
    """
    as_centroid = float(np.square(deviations @ centroid).sum())
    as_entry = float(np.square(deviations @ rows.T).sum()) / len(rows)
    return max(1 - as_centroid / as_entry, 0.0) if as_entry > 0 else 0.0


def _weighted_mean(centroids: Mapping[Modality, Vectors], weights: Mapping[Modality, float]) -> Vectors:
    """Of the centroids; a plain one where no weight says more."""
    values = np.array([weights[modality] for modality in centroids], np.float32)
    values = values if values.sum() > 1e-3 else np.ones_like(values)
    mean: Vectors = (values / values.sum()) @ np.stack(list(centroids.values()))
    return mean


def _relative_variances(
    spread: Mapping[Modality, Vectors],
    deviations: Vectors,
    counts: Mapping[Modality, int],
    reliabilities: Mapping[Modality, float],
) -> dict[Modality, float]:
    """How far similarities to each modality spread, asked with the deviations of all.

    Not with the query: a modality without the thing asked for has narrow similarities to it, and the best of its
    unrelated entries would come out on top. A variance of few entries, or of equal ones, is drawn towards the average.
    """
    trust = {
        modality: reliabilities[modality] * (count - 1) / (count - 1 + SETTLED_COUNT)
        for modality, count in counts.items()
    }
    seen = {modality: float(np.square(deviations @ rows.T).sum()) for modality, rows in spread.items()}
    average = sum(trust[modality] * seen[modality] for modality in seen) / (sum(trust.values()) or 1.0)
    return {
        modality: 1 + trust[modality] * (seen[modality] / average - 1) if average > 0 else 1.0 for modality in spread
    }
