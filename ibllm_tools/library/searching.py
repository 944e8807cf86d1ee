"""Ranking: from a query's vector or words to sources, by their best segments.

**By similarity.** Every modality's collection is asked for its nearest entries, ids and similarities only. Similarities
of different modalities lie in different ranges (the modality gap), so they are calibrated before they are merged.
An id tells the content, so segments are grouped by source before anything else of them is read.

**By words.** Captions, texts and titles that hold the words, case apart, ranked by BM25 (Robertson and Zaragoza, 2009).

**Hybrid.** Both rankings, fused by reciprocal ranks (Cormack et al., 2009): 1 / (60 + rank) of each, scaled so that the
first of both has 1.

**Diverse.** Maximal marginal relevance (Carbonell and Goldstein, 1998): each next source is the one with the largest
``diversity`` trade-off between its score and its similarity to those that are taken.
"""

import json
import math
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.library.calibration import Calibration
from ibllm_tools.library.catalogue import Catalogue, content_of, entries_of, modality_of
from ibllm_tools.library.entry import Entry, Hit, SegmentHit
from ibllm_tools.library.filtering import matches
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.chroma import Records, VectorCollection, Where

FIRST = 100
"""Candidates that a collection is asked for at first."""
MOST = 4000
"""Candidates beyond which a filter is left to Chroma."""
EXACT = 2000
"""Entries that pass a filter up to which they are compared one by one."""
SELECTIONS = 16
"""Filters whose entries are remembered."""
RANK = 60
BM25_K, BM25_B = 1.2, 0.75
WORD_MATCHES = 5000
"""Documents that are read of those that hold a word."""
SAMPLE, SAMPLE_BLOCKS = 1000, 10
"""Entries of a modality that calibration is fitted to, and the places in the collection that they are taken from."""
GROWTH = 0.1
"""Share by which a collection may grow or shrink before calibration is fitted anew."""
WORD = re.compile(r"\w+")


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
        calibrated: whether similarities are made comparable across modalities.
    """

    k: int
    modalities: tuple[Modality, ...]
    where: Where | None = None
    min_score: float | None = None
    segments: int = 3
    diversity: float = 0.0
    calibrated: bool = True


@dataclass(frozen=True)
class _Selection:
    """The entries of a collection that pass a filter, with their vectors where they are few."""

    ids: list[str]
    vectors: NDArray[np.float32] | None


class Searcher:
    """Searches a catalogue, and remembers what it derived from it until the catalogue changes."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._lock = Lock()
        self._version = ""
        self._selections: OrderedDict[tuple[Modality, str], _Selection] = OrderedDict()
        self._calibration: tuple[dict[Modality, int], Calibration] | None = None
        self._sizes: dict[Modality, int] = {}

    def by_similarity(self, query: NDArray[np.float32], wanted: Wanted) -> list[Hit]:
        """The sources nearest to a unit vector (E,), best first."""
        sizes = self._fresh_sizes()
        targets = [modality for modality in wanted.modalities if sizes.get(modality)]
        depth = max(FIRST, 5 * wanted.k)
        while True:
            found = {modality: self._nearest(query, modality, depth, wanted.where) for modality in targets}
            candidates = [
                candidate
                for modality, records in found.items()
                for candidate in self._scored(query, modality, records, wanted.calibrated)
            ]
            groups = _grouped(candidates, wanted)
            complete = all(len(records.ids) < min(depth, sizes[modality]) for modality, records in found.items())
            if len(groups) >= wanted.k or complete or all(depth >= sizes[modality] for modality in targets):
                break
            depth *= 4
        return self._hits(groups, wanted)

    def by_words(self, words: str, wanted: Wanted) -> list[Hit]:
        """The sources whose captions, texts and titles hold the words, best first; scores are relative to the best."""
        return self._hits(_grouped(self._worded(words, wanted), wanted), wanted)

    def hybrid(self, query: NDArray[np.float32], words: str, wanted: Wanted) -> list[Hit]:
        """Both rankings, fused."""
        sizes = self._fresh_sizes()
        depth = max(FIRST, 5 * wanted.k)
        near = [
            candidate
            for modality in wanted.modalities
            if sizes.get(modality)
            for candidate in self._scored(
                query, modality, self._nearest(query, modality, depth, wanted.where), wanted.calibrated
            )
        ]
        fused = _fused([near, self._worded(words, wanted)])
        return self._hits(_grouped(fused, wanted), wanted)

    def _fresh_sizes(self) -> dict[Modality, int]:
        """Entries per modality; what was derived from an older state is forgotten."""
        version = self._catalogue.version
        with self._lock:
            if version != self._version:
                sizes = {modality: len(self._catalogue.entries(modality)) for modality in self._catalogue.modalities()}
                self._selections.clear()
                self._sizes, self._version = sizes, version
            return dict(self._sizes)

    def _scored(
        self, query: NDArray[np.float32], modality: Modality, records: Records, calibrated: bool
    ) -> list[Candidate]:
        similarities = records.scores if records.scores is not None else np.empty(0, np.float32)
        scores = similarities
        if calibrated:
            scores = self._fitted().score(query, modality, similarities)
        return [
            Candidate(id_, float(score), float(similarity))
            for id_, score, similarity in zip(records.ids, scores, similarities, strict=True)
        ]

    def _fitted(self) -> Calibration:
        with self._lock:
            sizes = self._sizes
            if self._calibration is None or _differ(self._calibration[0], sizes):
                samples = {
                    modality: _sample(self._catalogue.entries(modality), size) for modality, size in sizes.items()
                }
                self._calibration = (
                    dict(sizes),
                    Calibration.fit({key: rows for key, rows in samples.items() if len(rows)}),
                )
            return self._calibration[1]

    def _nearest(self, query: NDArray[np.float32], modality: Modality, depth: int, where: Where | None) -> Records:
        """The nearest entries of a collection that pass the filter, without their metadata."""
        collection, size = self._catalogue.entries(modality), self._sizes[modality]
        if where is None:
            return collection.query(query, min(depth, size))
        key = (modality, json.dumps(where, sort_keys=True, default=list))
        with self._lock:
            selection = self._selections.get(key)
        if selection is None:
            passed = _passing(collection.query(query, min(FIRST, size), include=["metadatas"]), where)
            if size <= FIRST or len(passed.ids) >= min(depth, FIRST) // 2:
                return passed
            selection = _select(collection, where)
            self._remember(key, selection)
        return _among(query, collection, size, selection, depth, where)

    def _remember(self, key: tuple[Modality, str], selection: _Selection) -> None:
        with self._lock:
            self._selections[key] = selection
            while len(self._selections) > SELECTIONS:
                self._selections.popitem(last=False)

    def _worded(self, words: str, wanted: Wanted) -> list[Candidate]:
        """Entries that hold any of the words, by BM25 within their collection; the best has 1."""
        terms = list(dict.fromkeys(word.lower() for word in WORD.findall(words)))
        found: dict[str, float] = {}
        sizes = self._fresh_sizes()
        for modality in wanted.modalities:
            if sizes.get(modality):
                found |= _bm25(self._catalogue.entries(modality), sizes[modality], terms, wanted.where)
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
        alike: defaultdict[Modality, list[str]] = defaultdict(list)
        for id_ in ids:
            if (modality := modality_of(id_)) is not None:
                alike[modality].append(id_)
        found: dict[str, Entry] = {}
        for modality, some in alike.items():
            records = self._catalogue.entries(modality).get(some, include=["metadatas", "documents"])
            found |= {entry.id: entry for entry in entries_of(records)}
        return found

    def _diverse(self, groups: list[list[Candidate]], wanted: Wanted) -> list[list[Candidate]]:
        """The groups in the order of maximal marginal relevance, by their best segments."""
        pool = groups[: 4 * wanted.k]
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
        alike: defaultdict[Modality, list[str]] = defaultdict(list)
        for id_ in ids:
            if (modality := modality_of(id_)) is not None:
                alike[modality].append(id_)
        for modality, some in alike.items():
            records = self._catalogue.entries(modality).get(some, include=["embeddings"])
            found |= dict(zip(records.ids, records.vectors, strict=True))
        return found


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


def _passing(records: Records, where: Where) -> Records:
    rows = [row for row, metadata in enumerate(records.metadatas) if matches(where, metadata)]
    return _rows(records, rows)


def _rows(records: Records, rows: Sequence[int]) -> Records:
    scores = None if records.scores is None else records.scores[list(rows)]
    return Records([records.ids[row] for row in rows], records.vectors, scores=scores)


def _select(collection: VectorCollection, where: Where) -> _Selection:
    ids = collection.find(where).ids
    vectors = None
    if len(ids) <= EXACT:
        records = collection.get(ids, include=["embeddings"])
        ids, vectors = records.ids, records.vectors
    return _Selection(ids, vectors)


def _among(
    query: NDArray[np.float32],
    collection: VectorCollection,
    size: int,
    selection: _Selection,
    depth: int,
    where: Where,
) -> Records:
    """The nearest of the entries that pass a filter."""
    if selection.vectors is not None:
        scores = selection.vectors @ query  # (N,)
        order = np.argsort(-scores, kind="stable")[:depth]
        return Records(
            [selection.ids[row] for row in order], np.empty((0, len(query)), np.float32), scores=scores[order]
        )
    passed = set(selection.ids)
    within = min(math.ceil(2 * depth * size / len(passed)), size)
    if within > MOST:
        return collection.query(query, depth, where=where)
    records = collection.query(query, within)
    return _rows(records, [row for row, id_ in enumerate(records.ids) if id_ in passed])


def _bm25(collection: VectorCollection, size: int, terms: Sequence[str], where: Where | None) -> dict[str, float]:
    documents: dict[str, Counter[str]] = {}
    holding: Counter[str] = Counter()
    for term in terms:
        found = collection.find(
            where,
            contains={"$regex": rf"(?i)\b{re.escape(term)}\b"},
            limit=WORD_MATCHES,
            include=["documents"],
        )
        holding[term] = len(found.ids)
        for id_, document in zip(found.ids, found.documents, strict=True):
            documents.setdefault(id_, Counter(word.lower() for word in WORD.findall(document)))
    if not documents:
        return {}
    mean = sum(sum(words.values()) for words in documents.values()) / len(documents)
    rarity = {term: math.log(1 + (size - holding[term] + 0.5) / (holding[term] + 0.5)) for term in terms}
    return {
        id_: sum(
            rarity[term]
            * words[term]
            * (BM25_K + 1)
            / (words[term] + BM25_K * (1 - BM25_B + BM25_B * sum(words.values()) / mean))
            for term in terms
        )
        for id_, words in documents.items()
    }


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
    """Vectors from places that are spread over a collection, (N, E)."""
    if size <= SAMPLE:
        return collection.find(include=["embeddings"]).vectors
    block = SAMPLE // SAMPLE_BLOCKS
    starts = [round(place * (size - block) / (SAMPLE_BLOCKS - 1)) for place in range(SAMPLE_BLOCKS)]
    return np.concatenate(
        [collection.find(limit=block, offset=start, include=["embeddings"]).vectors for start in starts]
    )


def _differ(before: Mapping[Modality, int], now: Mapping[Modality, int]) -> bool:
    return before.keys() != now.keys() or any(
        abs(now[modality] - count) > GROWTH * count for modality, count in before.items()
    )
