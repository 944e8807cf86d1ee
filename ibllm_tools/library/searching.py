"""Ranking: from a query's vector or words to sources, by their best segments.

**By similarity.** Every modality's collection is asked for its nearest entries, ids and similarities only. Similarities
of different modalities lie in different ranges (the modality gap), so they are calibrated before they are merged.
An id tells the content, so segments are grouped by source before anything else of them is read.

**By words.** Captions, texts and titles that hold the words, case apart, ranked by `ibllm_tools.library.bm25`.

**Hybrid.** Both rankings, fused by reciprocal ranks (Cormack et al., 2009): 1 / (60 + rank) of each, scaled so that the
first of both has 1.

**Diverse.** Maximal marginal relevance (Carbonell and Goldstein, 1998): each next source is the one with the largest
``diversity`` trade-off between its score and its similarity to those that are taken.
"""

import json
import math
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.library import bm25
from ibllm_tools.library.calibration import Calibration
from ibllm_tools.library.catalogue import Catalogue, content_of, entries_of, modality_of
from ibllm_tools.library.entry import Entry, Hit, SegmentHit
from ibllm_tools.library.filtering import matches
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.chroma import Records, VectorCollection, Where

FIRST, DEEPER = 50, 4
"""Nearest entries of a collection that are looked at first, and how many times more in each further round."""
PROBE, PROBED = 20, 400
"""Nearest entries whose metadata is read to filter them: at first, and at most."""
COMMON = 0.2
"""Share of them that pass from which that is quicker than looking up all entries that pass."""
READING = 5
"""Nearest entries for which it is worth to read the vector of one that passes: reading takes longer, but only once."""
REMEMBERED = 64 << 20
"""Bytes of entries that passed filters, at most; they are forgotten when the library changes."""
ID_BYTES = 200
RANK = 60
SAMPLE = 500
"""Entries of a modality that calibration is fitted to."""
GROWTH = 0.1
"""Share by which a collection may grow or shrink before calibration is fitted anew."""


class Candidate(NamedTuple):
    """An entry that may answer a query."""

    id: str
    score: float
    similarity: float | None


@dataclass(frozen=True)
class Wanted:
    """What is searched for.

    Attributes:
        k: sources, at most.
        modalities: of the entries.
        where: filter of the metadata.
        min_score: of the sources.
        segments: of each source, at most.
        diversity: 0 ranks by score alone, 1 by difference alone.
        candidates: sources among which diversity chooses; four times k by default.
        calibrated: whether similarities are made comparable across modalities.
    """

    k: int
    modalities: tuple[Modality, ...]
    where: Where | None = None
    min_score: float | None = None
    segments: int = 3
    diversity: float = 0.0
    candidates: int | None = None
    calibrated: bool = True

    @property
    def ranked(self) -> int:
        """Sources that are ranked, for that many to be chosen from."""
        if self.diversity == 0:
            return self.k
        return 4 * self.k if self.candidates is None else max(self.candidates, self.k)


@dataclass(frozen=True)
class _Selection:
    """The entries of a collection that pass a filter, with their vectors (N, E) once they are compared one by one."""

    ids: frozenset[str]
    order: tuple[str, ...] = ()
    vectors: NDArray[np.float32] | None = None

    @property
    def bytes(self) -> int:
        """What it takes."""
        return ID_BYTES * len(self.ids) + (0 if self.vectors is None else self.vectors.nbytes)


class _Derived:
    """What is known of one state of the catalogue; threads share it."""

    def __init__(self, version: str, sizes: Mapping[Modality, int]) -> None:
        self.version, self.sizes = version, sizes
        self._lock = Lock()
        self._selections: OrderedDict[tuple[Modality, str], _Selection] = OrderedDict()

    def selection(self, key: tuple[Modality, str]) -> _Selection | None:
        with self._lock:
            if key in self._selections:
                self._selections.move_to_end(key)
            return self._selections.get(key)

    def remember(self, key: tuple[Modality, str], selection: _Selection) -> None:
        with self._lock:
            self._selections[key] = selection
            while sum(kept.bytes for kept in self._selections.values()) > REMEMBERED and len(self._selections) > 1:
                self._selections.popitem(last=False)


class Searcher:
    """Searches a catalogue, and remembers what it derived from it until the catalogue changes."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._fitting = Lock()
        self._calibration: tuple[Mapping[Modality, int], Calibration] | None = None
        self._derived = _Derived("", {})

    def by_similarity(self, query: NDArray[np.float32], wanted: Wanted) -> list[Hit]:
        """The sources nearest to a unit vector (E,), best first."""
        return self._hits(_grouped(self._similar(query, wanted), wanted), wanted)

    def by_words(self, words: str, wanted: Wanted) -> list[Hit]:
        """The sources whose captions, texts and titles hold the words, best first; scores are relative to the best."""
        return self._hits(_grouped(self._worded(words, wanted), wanted), wanted)

    def hybrid(self, query: NDArray[np.float32], words: str, wanted: Wanted) -> list[Hit]:
        """Both rankings, fused."""
        fused = _fused([self._similar(query, wanted), self._worded(words, wanted)])
        return self._hits(_grouped(fused, wanted), wanted)

    def _current(self) -> _Derived:
        """What is known of the catalogue as it is now; what was derived from an older state is forgotten."""
        version, derived = self._catalogue.version, self._derived
        if version != derived.version:
            sizes = {modality: len(self._catalogue.entries(modality)) for modality in self._catalogue.modalities()}
            self._derived = derived = _Derived(version, sizes)
        return derived

    def _similar(self, query: NDArray[np.float32], wanted: Wanted) -> list[Candidate]:
        """Entries among which are the best of the wanted sources.

        A collection is looked at ever deeper while an entry below its last one could still belong to them.
        """
        derived = self._current()
        calibration = self._fitted(derived.sizes) if wanted.calibrated else None
        nearest = _Nearest(self._catalogue, derived, query, wanted, calibration)
        found: dict[Modality, _Reached] = {}
        unsettled, rounds = nearest.targets, 0
        while unsettled:
            found |= {modality: nearest.look(modality, DEEPER**rounds) for modality in unsettled}
            bar = _bar([candidate for reached in found.values() for candidate in reached.candidates], wanted)
            unsettled, rounds = [modality for modality in unsettled if found[modality].floor > bar], rounds + 1
        return [candidate for reached in found.values() for candidate in reached.candidates]

    def _fitted(self, sizes: Mapping[Modality, int]) -> Calibration:
        with self._fitting:
            if self._calibration is None or _differ(self._calibration[0], sizes):
                samples = {
                    modality: _sample(self._catalogue.entries(modality), size) for modality, size in sizes.items()
                }
                fitted = Calibration.fit({key: rows for key, rows in samples.items() if len(rows)})
                self._calibration = (sizes, fitted)
            return self._calibration[1]

    def _worded(self, words: str, wanted: Wanted) -> list[Candidate]:
        """Entries that hold any of the words, by BM25 within their collection; the best has 1."""
        terms = bm25.query_terms(words)
        found: dict[str, float] = {}
        sizes = self._current().sizes
        for modality in wanted.modalities:
            if sizes.get(modality):
                found |= bm25.scores(self._catalogue.entries(modality), sizes[modality], terms, wanted.where)
        best = max(found.values(), default=1.0)
        ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        return [Candidate(id_, score / best, None) for id_, score in ranked]

    def _hits(self, groups: list[list[Candidate]], wanted: Wanted) -> list[Hit]:
        if wanted.diversity > 0:
            groups = self._diverse(groups, wanted)
        chosen = groups[: wanted.k]
        entries = self._entries([candidate.id for group in chosen for candidate in group])
        hits = []
        for group in chosen:
            segments = tuple(
                _segment_hit(entries[candidate.id], candidate) for candidate in group if candidate.id in entries
            )
            if segments:  # unless it was deleted just now
                best = entries[segments[0].id]
                hits.append(
                    Hit(
                        **best.model_dump(),
                        score=segments[0].score,
                        similarity=segments[0].similarity,
                        segments=segments,
                    )
                )
        return hits

    def _entries(self, ids: Iterable[str]) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for modality, some in _by_modality(ids).items():
            records = self._catalogue.entries(modality).get(some, include=["metadatas", "documents"])
            found |= {entry.id: entry for entry in entries_of(records)}
        return found

    def _diverse(self, groups: list[list[Candidate]], wanted: Wanted) -> list[list[Candidate]]:
        """The groups in the order of maximal marginal relevance, by their best segments."""
        pool = groups[: wanted.ranked]
        vectors = self._vectors([group[0].id for group in pool])
        pool = [group for group in pool if group[0].id in vectors]
        if not pool:
            return []
        rows = np.stack([vectors[group[0].id] for group in pool])  # (P, E)
        scores = np.array([group[0].score for group in pool])
        taken: list[int] = []
        nearest = np.full(len(pool), -1.0)  # similarity to the nearest that is taken
        while len(taken) < min(wanted.k, len(pool)):
            worth = (1 - wanted.diversity) * scores - wanted.diversity * (nearest if taken else 0)
            worth[taken] = -math.inf
            taken.append(int(worth.argmax()))
            nearest = np.maximum(nearest, rows @ rows[taken[-1]])
        return [pool[index] for index in taken]

    def _vectors(self, ids: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        found: dict[str, NDArray[np.float32]] = {}
        for modality, some in _by_modality(ids).items():
            records = self._catalogue.entries(modality).get(some, include=["embeddings"])
            found |= dict(zip(records.ids, records.vectors, strict=True))
        return found


@dataclass(frozen=True)
class _Reached:
    """The nearest entries of a collection that pass the filter, and a score that none of the others exceeds."""

    candidates: list[Candidate]
    floor: float


class _Nearest:
    """The entries that are nearest to a query, collection by collection.

    Chroma's own filter compares the query with every entry that passes. It is quicker to find the nearest entries
    first, and then to see which pass: by their metadata where many do, otherwise by the ids of all that pass, which
    Chroma looks up in little time where they are few. Where they are so few that too many others are nearer, they are
    compared one by one.

    Args:
        catalogue: of the library.
        derived: what is known of its state.
        query: a unit vector (E,).
        wanted: what is searched for.
        calibration: makes similarities comparable, where that is wanted.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        derived: _Derived,
        query: NDArray[np.float32],
        wanted: Wanted,
        calibration: Calibration | None,
    ) -> None:
        self._catalogue, self._derived, self._query, self._wanted = catalogue, derived, query, wanted
        self._calibration = calibration
        self._rare = False
        sizes = {modality: derived.sizes.get(modality, 0) for modality in wanted.modalities}
        self.targets = sorted((modality for modality in sizes if sizes[modality]), key=sizes.__getitem__)

    def look(self, modality: Modality, deeper: int) -> _Reached:
        """The nearest entries of a collection, so many times deeper than at first."""
        collection, size, k = self._catalogue.entries(modality), self._derived.sizes[modality], self._wanted.k
        where = self._wanted.where
        if where is None:
            depth = min(max(FIRST, 5 * k) * deeper, size)
            return self._reached(modality, collection.query(self._query, depth), None, depth == size)
        key = (modality, json.dumps(where, sort_keys=True))
        selection = self._derived.selection(key)
        probed = min(max(PROBE, 2 * k) * deeper, size)
        if selection is None and not self._rare and probed <= PROBED:
            records = collection.query(self._query, probed, include=["metadatas"])
            rows = [row for row, metadata in enumerate(records.metadatas) if matches(where, metadata)]
            if len(rows) >= COMMON * probed or probed == size:
                return self._reached(modality, records, rows, probed == size)
            self._rare = True  # in the other collections too, as it seems; they are not probed
        if selection is None:
            selection = _Selection(frozenset(collection.find(where).ids))
            self._derived.remember(key, selection)
        few = math.ceil(2 * k / len(self.targets) + 2) * deeper
        depth = min(math.ceil(few * size / max(len(selection.ids), 1)), size)
        if READING * len(selection.ids) > depth and selection.vectors is None:
            records = collection.query(self._query, depth)
            rows = [row for row, id_ in enumerate(records.ids) if id_ in selection.ids]
            return self._reached(modality, records, rows, depth == size or len(rows) == len(selection.ids))
        return self._compared(modality, selection, key)

    def _compared(self, modality: Modality, selection: _Selection, key: tuple[Modality, str]) -> _Reached:
        """Every entry that passes."""
        if selection.vectors is None:
            records = self._catalogue.entries(modality).get(list(selection.ids), include=["embeddings"])
            selection = _Selection(selection.ids, tuple(records.ids), records.vectors)
            self._derived.remember(key, selection)
        assert selection.vectors is not None  # read just now
        scores = np.einsum("ne,e->n", selection.vectors, self._query)  # in this thread, as calibration does
        records = Records(list(selection.order), selection.vectors, scores=scores)
        return self._reached(modality, records, None, True)

    def _reached(self, modality: Modality, records: Records, passed: Sequence[int] | None, exhausted: bool) -> _Reached:
        similarities = np.empty(0, np.float32) if records.scores is None else records.scores
        scores = similarities
        if self._calibration is not None:
            scores = self._calibration.score(self._query, modality, similarities)
        rows = range(len(records.ids)) if passed is None else passed
        candidates = [Candidate(records.ids[row], float(scores[row]), float(similarities[row])) for row in rows]
        return _Reached(candidates, -math.inf if exhausted or not len(scores) else float(scores[-1]))


def _by_modality(ids: Iterable[str]) -> dict[Modality, list[str]]:
    alike: defaultdict[Modality, list[str]] = defaultdict(list)
    for id_ in ids:
        if (modality := modality_of(id_)) is not None:
            alike[modality].append(id_)
    return alike


def _grouped(candidates: Sequence[Candidate], wanted: Wanted) -> list[list[Candidate]]:
    """The best candidates of each source, the source with the best one first."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in sorted(candidates, key=lambda candidate: (-candidate.score, candidate.id)):
        if wanted.min_score is None or candidate.score >= wanted.min_score:
            group = groups.setdefault(content_of(candidate.id), [])
            if len(group) < wanted.segments:
                group.append(candidate)
    return list(groups.values())


def _fused(rankings: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    scores: defaultdict[str, float] = defaultdict(float)
    similarities: dict[str, float | None] = {}
    for ranking in rankings:
        ordered = sorted(ranking, key=lambda candidate: (-candidate.score, candidate.id))
        for rank, candidate in enumerate(ordered, 1):
            scores[candidate.id] += (RANK + 1) / (RANK + rank) / len(rankings)
            similarities.setdefault(candidate.id, candidate.similarity)
    return [Candidate(id_, score, similarities[id_]) for id_, score in scores.items()]


def _bar(candidates: Sequence[Candidate], wanted: Wanted) -> float:
    """The score that a further entry must exceed to be of any use."""
    groups = _grouped(candidates, wanted)
    bar = groups[wanted.ranked - 1][0].score if len(groups) >= wanted.ranked else -math.inf
    return bar if wanted.min_score is None else max(bar, wanted.min_score)


def _segment_hit(entry: Entry, candidate: Candidate) -> SegmentHit:
    return SegmentHit(
        id=entry.id,
        modality=entry.modality,
        start=entry.start,
        end=entry.end,
        char_start=entry.char_start,
        char_end=entry.char_end,
        score=candidate.score,
        similarity=candidate.similarity,
    )


def _sample(collection: VectorCollection, size: int) -> NDArray[np.float32]:
    """Vectors (N, E) of entries from all over a collection; always the same ones of the same entries.

    By their ids: Chroma passes over an offset row by row, and neighbours resemble each other.
    """
    if size <= SAMPLE:
        return collection.find(include=["embeddings"]).vectors
    ids = collection.find().ids
    chosen = np.random.default_rng(0).choice(len(ids), min(SAMPLE, len(ids)), replace=False)
    return collection.get([ids[row] for row in np.sort(chosen)], include=["embeddings"]).vectors


def _differ(before: Mapping[Modality, int], now: Mapping[Modality, int]) -> bool:
    return before.keys() != now.keys() or any(
        abs(now[modality] - count) > GROWTH * count for modality, count in before.items()
    )
