"""The media library: how long searches and filters take, what they find, how fast media are indexed, what that weighs.

Searches are measured on generated entries, filled into one folder step by step. Each measurement has a process of its
own, so that its memory is its own. The largest model that indexes here has random weights: speed does not depend on
them. The whole takes some 15 minutes and needs 6 GiB.
"""

import gc
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from filled_library import COMMON, FORMS, RARE, Drawing, DrawnEmbedder, fill
from mixed_media import write_media, write_small_images
from numpy.typing import NDArray
from random_checkpoints import random_imagebind
from report import publish, table

from ibllm_tools.assistant.embedding import JointEmbedder
from ibllm_tools.assistant.model_folder import mini_folder
from ibllm_tools.imagebind import ImageBindProcessor
from ibllm_tools.imagebind.fingerprint import PROCESSOR_FOLDER
from ibllm_tools.library import MediaLibrary
from ibllm_tools.library.calibration import Calibration
from ibllm_tools.library.catalogue import INDEX, Catalogue, content_of
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.chroma import VectorCollection

SIZES = (1_000, 10_000, 100_000)
WARM_UP, SEARCHES, RECALLED, FILTERED, THREADS = 5, 200, 60, len(RARE) // 2, 8
K = 10
MINI_MEDIA = {"images": 160, "sounds": 60, "videos": 16, "meshes": 30, "texts": 60}
HUGE_MEDIA = {"images": 16, "sounds": 8, "videos": 2, "meshes": 4, "texts": 8}
SMALL_FILES = 10_000
Kinds = Mapping[str, tuple[NDArray[np.float32], Modality | None]]
"""Queries (Q, E), and the modality that is searched, by the name of both."""


def measure() -> str:
    """All tables."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "filled"
        searched = []
        for already, size in zip((0, *SIZES), SIZES, strict=False):
            rate = alone(filling_rate, place, size, already)
            searched.append([f"{size:,}", f"{rate:.0f}", *alone(searches, place)])
        recalls = alone(recall, place)
        filters = alone(filtered, place)
        stages, crowd = alone(stage_times, place), alone(concurrent, place)
        indexed = [
            ["embedded model", *alone(indexing, Path(folder) / "mini", MINI_MEDIA, False)],
            [
                f"ImageBind at its published size, {huge_dtype()}",
                *alone(indexing, Path(folder) / "huge", HUGE_MEDIA, True),
            ],
        ]
        small = alone(small_files, Path(folder) / "small", SMALL_FILES)
    return "\n\n".join(
        (
            f"Generated entries of {len(FORMS)} modalities; searches of all modalities at once for {K} sources, "
            f"calibrated, with queries of three kinds in turn; HNSW with ef_construction {INDEX.ef_construction}, "
            f"ef_search {INDEX.ef_search}, {INDEX.max_neighbors} neighbours, {torch.get_num_threads()} threads. The "
            "first search loads the index and fits the calibration.",
            table(SEARCH_HEAD, searched),
            f"Recall@{K} of sources against an exact search, at {SIZES[-1]:,} entries, uncalibrated:",
            table(["queries", "found in", f"recall@{K}"], recalls),
            f"Filters at {SIZES[-1]:,} entries, as multiples of an unfiltered search of the same run. At first use: "
            "nothing is known of the filter; again: another search with it. Beside them Chroma's own `where` in a "
            "query per modality.",
            table(["", "at first use", "ratio", "again", "ratio", "Chroma's `where`", "ratio"], filters),
            f"Where the time of a search goes, unfiltered, at {SIZES[-1]:,} entries:",
            table(["stage", "calls", "time", "share"], stages),
            crowd,
            "Indexing a mixed folder, each file with its thumbnail:",
            table(INDEX_HEAD, indexed),
            small,
        )
    )


SEARCH_HEAD = ["entries", "written per second", "opening", "first search", "p50", "p99", "memory", "on disk"]
INDEX_HEAD = ["encoder", "files", "entries", "files per second", "time inside the model", "processor time of it all"]


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run it in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def filling_rate(place: Path, size: int, already: int) -> float:
    """Write entries until there are so many; entries per second."""
    with MediaLibrary.open(place, embedder=DrawnEmbedder()) as library:
        written, seconds = fill(library.catalogue, size, already=already)
    return written / seconds


def searches(place: Path) -> list[str]:
    """Opening, the first search, both percentiles of all others, memory and disk."""
    queries = mixed_queries(WARM_UP + SEARCHES)
    before = resident()
    opened = timed(lambda: MediaLibrary.open(place, embedder=DrawnEmbedder()))
    with opened.result as library:
        first = timed(lambda: library.search(queries[0], K))
        taken = [timed(partial(library.search, query, K)).seconds for query in queries][WARM_UP:]
        memory = resident() - before
        disk = library.stats().database_bytes or 0
    centiles = statistics.quantiles(taken, n=100, method="inclusive")
    return [
        seconds(opened.seconds),
        seconds(first.seconds),
        milliseconds(centiles[49]),
        milliseconds(centiles[98]),
        mebibytes(memory),
        mebibytes(disk),
    ]


def recall(place: Path) -> list[list[str]]:
    """How many of the sources of an exact search are found, by the kind of the query and where it is asked."""
    rows = []
    with MediaLibrary.open(place, embedder=DrawnEmbedder()) as library:
        held = {modality: loaded(library, modality) for modality in FORMS}
        for name, (queries, modality) in kinds(RECALLED).items():
            shares = []
            for query in queries:
                hits = library.search(query, K, modality=modality, calibrated=False)
                exact = best_sources([held[one] for one in held if modality in (None, one)], query)
                shares.append(len(exact & {hit.sha256 for hit in hits}) / K)
            rows.append([name, modality or "all modalities", f"{statistics.mean(shares):.4f}"])
    return rows


def filtered(place: Path) -> list[list[str]]:
    """Filters in turns with unfiltered searches; every rare tag is new when it is first asked for."""
    queries = iter(mixed_queries(20 * FILTERED))
    times: dict[str, list[float]] = {}

    def note(name: str, search: Callable[[NDArray[np.float32]], Any]) -> None:
        query = next(queries)
        times.setdefault(name, []).append(timed(lambda: search(query)).seconds)

    with MediaLibrary.open(place, embedder=DrawnEmbedder()) as library:
        for query in mixed_queries(WARM_UP):
            library.search(query, K)
        for first, second in zip(RARE[::2], RARE[1::2], strict=True):
            filters: dict[str, dict[str, Any]] = {
                "one modality": {"modality": "audio"},
                "a tag that 1 % have": {"where": tagged(first)},
                "a tag that 50 % have": {"where": tagged(COMMON)},
                "a tag that 1 % have, in one modality": {"where": tagged(second), "modality": "image"},
            }
            for name, options in filters.items():
                note("nothing", partial(library.search, k=K))
                note(name, partial(library.search, k=K, **options))
                note(f"{name}, again", partial(library.search, k=K, **options))
                if "where" in options:
                    note(f"{name}, plain", partial(plain_chroma, library, **options))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    rows = [["nothing", milliseconds(medians["nothing"]), "1.0", "", "", "", ""]]
    for name in filters:
        row = [name]
        for part in ("", ", again", ", plain"):
            taken = medians.get(name + part)
            row += ["", ""] if taken is None else [milliseconds(taken), f"{taken / medians['nothing']:.1f}"]
        rows.append(row)
    return rows


def tagged(tag: str) -> dict[str, Any]:
    """The filter for a tag."""
    return {"tags": {"$contains": tag}}


def plain_chroma(
    library: MediaLibrary, query: NDArray[np.float32], where: Mapping[str, Any], modality: Modality | None = None
) -> list[Any]:
    """Chroma's own filter: the nearest entries of each modality, with what a hit says of them."""
    catalogue = library.catalogue
    return [
        catalogue.entries(one).query(query, K, where=where, include=["metadatas", "documents"])
        for one in catalogue.modalities()
        if modality in (None, one)
    ]


def stage_times(place: Path) -> list[list[str]]:
    """Calls and seconds of a search within its parts."""
    queries = mixed_queries(WARM_UP + SEARCHES)
    with MediaLibrary.open(place, embedder=DrawnEmbedder()) as library:
        for query in queries[:WARM_UP]:
            library.search(query, K)
        with (
            watched(Catalogue, "version") as version,
            watched(VectorCollection, "query") as candidates,
            watched(Calibration, "score") as scores,
            watched(VectorCollection, "get") as records,
        ):
            whole = timed(lambda: [library.search(query, K) for query in queries[WARM_UP:]]).seconds
    parts = {
        "has the library changed": version,
        "nearest entries of each modality": candidates,
        "calibration": scores,
        "what the found entries say": records,
    }
    rest = whole - sum(watch.seconds for watch in parts.values())
    rows = [
        [name, f"{watch.calls / SEARCHES:.1f}", milliseconds(watch.seconds / SEARCHES), f"{watch.seconds / whole:.0%}"]
        for name, watch in parts.items()
    ]
    return [*rows, ["grouping, hits and the rest", "", milliseconds(rest / SEARCHES), f"{rest / whole:.0%}"]]


def concurrent(place: Path) -> str:
    """Searches from several threads at once, which find what one thread finds."""
    queries = mixed_queries(WARM_UP + SEARCHES)
    with MediaLibrary.open(place, embedder=DrawnEmbedder()) as library:
        for query in queries[:WARM_UP]:
            library.search(query, K)
        search = partial(library.search, k=K)
        lone = timed(lambda: [search(query) for query in queries])
        with ThreadPoolExecutor(THREADS) as pool:
            crowd = timed(lambda: list(pool.map(search, queries)))
    assert [[hit.id for hit in hits] for hits in crowd.result] == [[hit.id for hit in hits] for hits in lone.result]
    return (
        f"From {THREADS} threads at once {len(queries) / crowd.seconds:.0f} searches a second, from one "
        f"{len(queries) / lone.seconds:.0f}, with the same hits."
    )


def indexing(folder: Path, counts: Mapping[str, int], huge: bool) -> list[str]:
    """Files per second, and the share of the time in which the model is at work."""
    files = write_media(folder / "media", counts)
    embedder = random_embedder() if huge else JointEmbedder.load()
    with MediaLibrary.open(folder / "library", embedder=embedder) as library:
        write_media(folder / "warm", dict.fromkeys(counts, 1), seed=8)
        library.add(folder / "warm", progress=False)
        processor = time.process_time()
        with watched(embedder.model, "encode") as model:
            report = library.add(folder / "media", progress=False)
        processor = time.process_time() - processor
    assert report.added == files, report
    assert not report.failures, report
    return [
        f"{files}",
        f"{report.entries}",
        f"{files / report.seconds:.1f}",
        f"{model.seconds / report.seconds:.0%}",
        f"{processor:.1f} s in {report.seconds:.1f} s",
    ]


def random_embedder() -> JointEmbedder:
    """ImageBind as it was published, but for what it has learned."""
    processor = ImageBindProcessor(ImageBindProcessor.from_pretrained(mini_folder() / PROCESSOR_FOLDER).tokenizer)
    return JointEmbedder(random_imagebind(huge_dtype()), processor, fingerprint="random")


def huge_dtype() -> str:
    """bfloat16 takes six times as long as float32 where the processor does not know it."""
    return "bfloat16" if torch.backends.cpu.get_cpu_capability() == "AVX512" else "float32"


def small_files(folder: Path, files: int) -> str:
    """Many small files: indexed without a model, with the memory that stays, and looked at again."""
    write_small_images(folder / "media", files)
    with MediaLibrary.open(folder / "library", embedder=DrawnEmbedder()) as library:
        memory = [resident()]
        for part in sorted((folder / "media").iterdir()):
            added = library.add(part, progress=False)
            memory.append(resident())
        whole = timed(lambda: library.add(folder / "media", progress=False))
        assert whole.result.unchanged == files, whole.result
        again = min(timed(lambda: library.add(folder / "media", progress=False)).seconds for _ in range(3))
    parts, half = len(memory) - 1, len(memory) // 2
    return (
        f"{files:,} images of 16 x 16 pixels, without a model: the last of {parts} parts is indexed at "
        f"{added.added / added.seconds:.0f} files a second. The process grows by {mebibytes(memory[half] - memory[0])} "
        f"in the first half and by {mebibytes(memory[-1] - memory[half])} in the second; the vectors alone are "
        f"{mebibytes(files / 2 * DrawnEmbedder.dimension * 4)} each. Indexed again, unchanged: "
        f"{files / again:,.0f} files a second, the best of three runs."
    )


def mixed_queries(count: int) -> list[NDArray[np.float32]]:
    """Queries of every kind, in turn."""
    each = -(-count // 3)
    drawing = Drawing()
    rows = [drawing.queries("image", each), drawing.queries("audio", each), drawing.shifted(each)]
    return [row for turn in zip(*rows, strict=True) for row in turn][:count]


def kinds(count: int) -> Kinds:
    """Queries of one modality, and what is asked with them."""
    drawing = Drawing()
    images, sounds, shifted = drawing.queries("image", count), drawing.queries("audio", count), drawing.shifted(count)
    return {
        "images": (images, "image"),
        "sounds": (sounds, "audio"),
        "sounds ": (sounds, "image"),
        "images ": (images, "video"),
        "of a modality that is not there": (shifted, "image"),
        "of a modality that is not there ": (shifted, None),
    }


def loaded(library: MediaLibrary, modality: Modality) -> tuple[list[str], NDArray[np.float32]]:
    """The sources of all entries of a modality, and their vectors (N, E)."""
    batches = list(library.vectors(modality, batch=5_000))
    contents = [content_of(id_) for ids, _ in batches for id_ in ids]
    return contents, np.concatenate([rows for _, rows in batches])


def best_sources(held: Sequence[tuple[list[str], NDArray[np.float32]]], query: NDArray[np.float32]) -> set[str]:
    """The sources with the most similar entries."""
    contents = [content for some, _ in held for content in some]
    order = np.argsort(-np.concatenate([rows @ query for _, rows in held]), kind="stable")
    found: dict[str, None] = {}
    for row in order:
        found.setdefault(contents[row])
        if len(found) == K:
            break
    return set(found)


class Timed:
    """What an action gave, and the seconds that it took."""

    def __init__(self, action: Callable[[], Any]) -> None:
        began = time.perf_counter()
        self.result = action()
        self.seconds = time.perf_counter() - began


timed = Timed


class Watch:
    """Calls, and the seconds within them."""

    calls, seconds = 0, 0.0


@contextmanager
def watched(place: Any, name: str) -> Iterator[Watch]:
    """Count the calls of a method or the reading of a property while this lasts."""
    watch, original = Watch(), getattr(place, name)
    action = original.fget if isinstance(original, property) else original

    def measured(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return action(*arguments, **named)
        finally:
            watch.calls, watch.seconds = watch.calls + 1, watch.seconds + time.perf_counter() - began

    setattr(place, name, property(measured) if isinstance(original, property) else measured)
    try:
        yield watch
    finally:
        setattr(place, name, original)


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def seconds(value: float) -> str:
    """For tables."""
    return f"{value:.2f} s"


def milliseconds(value: float) -> str:
    """For tables."""
    return f"{1000 * value:.1f} ms"


def mebibytes(value: float) -> str:
    """For tables."""
    return f"{value / 2**20:.0f} MiB"


if __name__ == "__main__":
    publish("library", measure)
