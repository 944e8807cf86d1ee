"""A library of generated entries, written as indexing writes them, with vectors that lie as ImageBind's do.

Sources of all modalities come in a random order, as from folders of mixed media: pictures and shapes are one entry
each, sounds, videos and texts several, whose vectors resemble each other. Each modality but the image lies beside the
images, in a cone of its own.
"""

import hashlib
import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from clustered_vectors import BLOCK, WIDTH, ClusteredVectors, unit
from numpy.typing import NDArray

from ibllm_tools import Attachment
from ibllm_tools.errors import IbllmError
from ibllm_tools.library.catalogue import Catalogue, SourceRecord, encoding_key, entry_id, to_record
from ibllm_tools.library.entry import Entry
from ibllm_tools.library.indexing import BATCH
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.segments import DEFAULT_SETTINGS, Segment

RARE, COMMON = tuple(f"rare {number}" for number in range(24)), "common"
"""Tags that 1 % of the sources have each, and one that 50 % have."""
FORMS: dict[Modality, tuple[str, int, float]] = {
    "image": ("image/jpeg", 1, 0.64),
    "audio": ("audio/wav", 4, 0.10),
    "video": ("video/mp4", 5, 0.07),
    "text": ("text/plain", 4, 0.07),
    "point": ("model/gltf-binary", 1, 0.12),
}
"""MIME type, segments of a source, and share of the sources, by modality."""
WORDS = ("red", "blue", "small", "old", "bell", "dog", "guitar", "train", "kettle", "rings", "barks", "near", "a", "of")
STEP, WINDOW = 5.0, 10.0
Drawn = tuple[SourceRecord, list[Entry], NDArray[np.float32]]
"""A source with its entries and their vectors (S, E)."""
_GAP, _APART = 0.8, 0.4
"""Lengths of what a modality has in common, and of what tells the segments of a source apart."""


class DrawnEmbedder:
    """Unit vectors drawn for the bytes of an attachment and the place of a segment, in no time."""

    dimension = WIDTH
    fingerprint = "drawn"
    modalities = tuple(FORMS)

    def embed(self, attachments: Sequence[Attachment]) -> NDArray[np.float32]:
        return np.stack([self._drawn(attachment.sha256, 0) for attachment in attachments])

    def embed_segments(
        self, parts: Iterable[tuple[Attachment, Sequence[Segment]]]
    ) -> Iterator[NDArray[np.float32] | IbllmError]:
        for attachment, segments in parts:
            for segment in segments:
                yield self._drawn(attachment.sha256, segment.index)

    def _drawn(self, sha256: str, index: int) -> NDArray[np.float32]:
        drawn = np.random.default_rng((int(sha256[:16], 16), index))
        return unit(drawn.standard_normal((1, self.dimension), np.float32))[0]


class Drawing:
    """What libraries hold: sources without end, the same ones whenever they are drawn."""

    def __init__(self) -> None:
        self._world = ClusteredVectors()
        self._key = {name: encoding_key(DrawnEmbedder.fingerprint, name, DEFAULT_SETTINGS) for name in FORMS}
        directions = unit(np.random.default_rng(4).standard_normal((len(FORMS), WIDTH), np.float32))
        self._gaps = dict(zip(FORMS, directions, strict=True))
        self._gaps["image"] = np.zeros(WIDTH, np.float32)

    def sources(self) -> Iterator[Drawn]:
        """One source after the other."""
        for first in itertools.count(0, BLOCK):
            drawn = np.random.default_rng((5, first))
            names = drawn.choice(list(FORMS), BLOCK, p=[share for _, _, share in FORMS.values()])
            counts = np.array([FORMS[name][1] for name in names])
            rows = self._segments(first, names, counts, drawn)
            words = np.array(WORDS)[drawn.integers(len(WORDS), size=(BLOCK, 9))]
            tagged = drawn.random((BLOCK, len(RARE) + 1)) < [0.01] * len(RARE) + [0.5]
            ratings = drawn.integers(1, 6, BLOCK)
            ends = counts.cumsum()
            for row, (name, caption) in enumerate(zip(names.tolist(), words, strict=True)):
                tags = tuple(itertools.compress((*RARE, COMMON), tagged[row]))
                record, entries = self._described(first + row, name, " ".join(caption), tags, int(ratings[row]))
                yield record, entries, rows[ends[row] - counts[row] : ends[row]]

    def queries(self, modality: Modality, count: int) -> NDArray[np.float32]:
        """Unit vectors (count, E) as those of a modality, none of which is in a library."""
        return unit(self._world.same_modality(count) + _GAP * self._gaps[modality])

    def shifted(self, count: int) -> NDArray[np.float32]:
        """Queries (count, E) from a modality that no library holds."""
        return self._world.cross_modal(count)

    def _segments(
        self, first: int, names: NDArray[np.str_], counts: NDArray[np.int64], drawn: np.random.Generator
    ) -> NDArray[np.float32]:
        """The vectors (S, E) of a block of sources."""
        block = next(self._world.blocks(first + BLOCK, first))
        centres = block + _GAP * np.stack([self._gaps[name] for name in names.tolist()])
        rows = np.repeat(centres, counts, axis=0)
        several = np.repeat(counts > 1, counts)
        rows[several] += _APART * unit(drawn.standard_normal((int(several.sum()), WIDTH), np.float32))
        return unit(rows)

    def _described(
        self, number: int, modality: Modality, caption: str, tags: tuple[str, ...], rating: int
    ) -> tuple[SourceRecord, list[Entry]]:
        mime, segments, _ = FORMS[modality]
        sha256 = hashlib.sha256(str(number).encode()).hexdigest()
        source = f"/media/{modality}/{number // 1000:04}/{number:08}"
        lasts, seen, written = modality in ("audio", "video"), modality in ("image", "video"), modality == "text"
        seconds = STEP * (segments - 1) + WINDOW if lasts else None
        entries = [
            Entry(
                id=entry_id(sha256, self._key[modality], modality, index),
                source=source,
                sha256=sha256,
                modality=modality,
                mime=mime,
                index=index,
                start=STEP * index if lasts else None,
                end=STEP * index + WINDOW if lasts else None,
                duration=seconds,
                char_start=200 * index if written else None,
                char_end=200 * index + 240 if written else None,
                width=640 if seen else None,
                height=480 if seen else None,
                title=f"{modality} {number}",
                tags=tags,
                text=caption if written else None,
                caption=None if written else caption,
                thumbnail=None if written else f"att://{sha256}",
                metadata={"rating": rating},
            )
            for index in range(segments)
        ]
        record = SourceRecord(
            source=source,
            sha256=sha256,
            size=100_000,
            modified=number,
            modality=modality,
            mime=mime,
            key=self._key[modality],
            counts={modality: segments},
            seconds=seconds,
        )
        return record, entries


def fill(catalogue: Catalogue, entries: int, *, already: int = 0) -> tuple[int, float]:
    """Write sources until there are so many entries, in batches like those of indexing.

    Args:
        catalogue: where to.
        entries: how many there are in the end, or a few more.
        already: how many there are; the number that was asked for when they were written.

    Returns:
        The number of entries that were written, and the seconds that it took, without the drawing.
    """
    count = written = 0
    took = 0.0
    batch: list[Drawn] = []
    for record, described, rows in Drawing().sources():
        before, count = count, count + len(rows)
        if before >= already:
            batch.append((record, described, rows))
            written += len(rows)
        if sum(len(some) for _, some, _ in batch) >= BATCH or count >= entries:
            began = time.perf_counter()
            _write(catalogue, batch)
            took += time.perf_counter() - began
            batch = []
        if count >= entries:
            return written, took
    raise AssertionError("sources have no end")


def _write(catalogue: Catalogue, batch: Sequence[Drawn]) -> None:
    if not batch:
        return
    alike: defaultdict[Modality, list[tuple[Entry, NDArray[np.float32]]]] = defaultdict(list)
    for record, entries, rows in batch:
        alike[record.modality] += zip(entries, rows, strict=True)
    for modality, items in alike.items():
        records = [to_record(entry) for entry, _ in items]
        catalogue.entries(modality).upsert(
            [entry.id for entry, _ in items],
            np.stack([row for _, row in items]),
            metadatas=[metadata for metadata, _ in records],
            documents=[document for _, document in records],
        )
    catalogue.record([record for record, _, _ in batch])
    catalogue.changed()
