"""The visual cache at 100,000 and 300,000 features, and, where asked for, at the paper's three million.

How long a retrieval takes, what it holds in memory, how close the enhanced embedding comes to that of an exact search,
and what filling and indexing cost; FAISS beside it. Features and queries are generated, and each size goes on from the
cache of the size before. ``IBLLM_CACHES`` names a folder for the caches and what was measured, where a run that was
stopped continues; ``IBLLM_CACHE_SIZES`` other sizes:

    python benchmarks/visual_cache.py --write
    IBLLM_CACHES=DIR IBLLM_CACHE_SIZES=100000,300000,3000000 python benchmarks/visual_cache.py --write

Three million features take 35 GB of disk, 16 GiB of memory (for FAISS's flat index) and some hours.
"""

import contextlib
import json
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from clustered_vectors import BLOCK, WIDTH, ClusteredVectors, unit
from numpy.typing import NDArray
from report import machine, publish, table

QUERIES = 200
K, TEMPERATURE, WEIGHT = 10, 20.0, 0.5
PROBES = (32, 64, 128, 256)
FAISS_LISTS = (("SQfp16", 64), ("SQfp16", 128), ("SQ8", 64))
FINGERPRINT = "benchmark"


@dataclass(frozen=True)
class Served:
    """One way to answer the queries."""

    way: str
    p50: float
    """Seconds a query."""
    anonymous: float
    """Bytes of memory that belong to the process alone."""
    resident: float
    """Bytes of memory with the files that are mapped into it."""
    same: float
    """Cosine of the enhanced embedding to the exact one, mean over queries of the features' modality."""
    cross: float
    lowest: float
    """The lowest such cosine of all."""

    def row(self) -> list[str]:
        return [
            self.way,
            f"{self.p50 * 1e3:.1f} ms",
            f"{self.anonymous / 2**30:.2f} GiB",
            f"{self.resident / 2**30:.2f} GiB",
            f"{self.same:.5f}",
            f"{self.cross:.5f}",
            f"{self.lowest:.5f}",
        ]


Enhance = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From a query (E,) to what the cache makes of it (E,)."""


def queries() -> NDArray[np.float32]:
    """Of the features' modality (Q, E), then from across the gap (Q, E)."""
    world = ClusteredVectors()
    return np.concatenate([world.same_modality(QUERIES), world.cross_modal(QUERIES)])


def enhanced(query: NDArray[np.float32], neighbours: NDArray[np.float32]) -> NDArray[np.float32]:
    logits = TEMPERATURE * (neighbours @ query)
    weights = np.exp(logits - logits.max())
    retrieved = weights @ neighbours
    mixed = (1 - WEIGHT) * query + WEIGHT * retrieved / np.linalg.norm(retrieved)
    return np.asarray(mixed / np.linalg.norm(mixed))


def exact(blocks: Iterator[NDArray[np.float32]], asked: NDArray[np.float32]) -> NDArray[np.float32]:
    """The enhanced queries (Q, E) of a full search in float32."""
    scores, rows = np.full((len(asked), K), -np.inf, np.float32), np.zeros((len(asked), K, WIDTH), np.float32)
    for block in blocks:
        found = asked @ block.T
        near = np.argpartition(-found, K, axis=1)[:, :K]
        scores = np.concatenate([scores, np.take_along_axis(found, near, 1)], axis=1)
        kept = np.argsort(-scores, axis=1)[:, :K]
        rows = np.take_along_axis(np.concatenate([rows, block[near]], axis=1), kept[:, :, None], 1)
        scores = np.take_along_axis(scores, kept, 1)
    return np.stack([enhanced(query, near) for query, near in zip(asked, rows, strict=True)])


def answered(way: str, enhance: Enhance, folder: Path, step: int = 1) -> Served:
    """Ask everything, or every so many-th query, with a warm cache, and compare."""
    asked, wanted = queries()[::step], np.load(folder / "exact.npy")[::step]
    for query in asked:
        enhance(query)
    took, cosines = [], []
    for query, right in zip(asked, wanted, strict=True):
        began = time.perf_counter()
        found = enhance(query)
        took.append(time.perf_counter() - began)
        cosines.append(float(found @ right))
    seen = memory()
    half = len(asked) // 2
    same, cross = np.mean(cosines[:half]), np.mean(cosines[half:])
    return Served(way, float(np.median(took)), seen["RssAnon"], seen["VmRSS"], float(same), float(cross), min(cosines))


def memory() -> dict[str, int]:
    status = Path("/proc/self/status").read_text()
    return {
        name: int(kib) * 1024 for name, kib in re.findall(r"^(VmRSS|RssAnon|VmHWM):\s+(\d+) kB$", status, re.MULTILINE)
    }


def use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def opened(folder: Path) -> Any:
    from ibllm_tools import VisualCache

    return VisualCache.open(folder / "cache", fingerprint=FINGERPRINT, dimension=WIDTH)


def fill(folder: Path, size: int) -> dict[str, float]:
    """Fill the cache through its own door."""
    with opened(folder) as cache:
        held, began = len(cache) // BLOCK * BLOCK, time.perf_counter()
        for start, block in zip(range(held, size, BLOCK), ClusteredVectors().blocks(size, held), strict=True):
            cache.add(block, [f"row-{row:08d}" for row in range(start, start + len(block))])
        return {"features": size - held, "seconds": time.perf_counter() - began}


def index(folder: Path) -> dict[str, float]:
    """Derive the index, and watch what that takes of memory."""
    from threading import Event, Thread

    done, peak = Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, memory()["RssAnon"])

    watcher = Thread(target=watch)
    with opened(folder) as cache:
        if not cache.info().index.needed:
            return {}
        watcher.start()
        began, processor = time.perf_counter(), time.process_time()
        try:
            cache.build_index(progress=False)
        finally:
            done.set()
        took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - processor}
        watcher.join()
        info = cache.info()
        return {**took, "anonymous": peak, "index": info.index.bytes, "lists": info.index.lists, "bytes": info.bytes}


def serve_cache(folder: Path) -> Served:
    """As it is used: `VisualCache.enhance`, and everything around the search with it."""
    use_one_thread()
    with opened(folder) as cache:
        way = "`VisualCache`, " + ("index" if cache.info().index.needed else "Chroma")
        return answered(way, cache.enhance, folder)


def serve_index(folder: Path, probes: int) -> Served:
    use_one_thread()
    from ibllm_tools.store.vector_snapshot import VectorSnapshot

    found = VectorSnapshot(folder / "cache" / "visual_cache.index")
    return answered(
        f"index alone, {probes} lists looked at",
        lambda query: enhanced(query, found.nearest(query[None], K, probes=probes)[0]),
        folder,
    )


def serve_flat(folder: Path, size: int) -> Served:
    """FAISS without an approximation, and for its slowness with a tenth of the queries."""
    import faiss

    faiss.omp_set_num_threads(1)
    held = faiss.IndexFlatIP(WIDTH)
    for block in ClusteredVectors().blocks(size):
        held.add(block)
    return answered(
        f"FAISS `Flat`, {2 * QUERIES // 10} of the queries",
        lambda query: enhanced(query, held.search_and_reconstruct(query[None], K)[2][0]),
        folder,
        10,
    )


def serve_lists(folder: Path, kind: str, probes: int) -> Served:
    """FAISS's inverted lists, with the centroids and the members of ours: what is compared is the search."""
    import faiss

    from ibllm_tools.store.vector_snapshot import VectorSnapshot

    faiss.omp_set_num_threads(1)
    ours = VectorSnapshot(folder / "cache" / "visual_cache.index")
    quantizer = faiss.IndexFlatIP(WIDTH)
    quantizer.add(ours.centroids)
    codec = {"SQ8": faiss.ScalarQuantizer.QT_8bit, "SQfp16": faiss.ScalarQuantizer.QT_fp16}[kind]
    held = faiss.IndexIVFScalarQuantizer(quantizer, WIDTH, ours.lists, codec, faiss.METRIC_INNER_PRODUCT, False)
    held.train(next(ClusteredVectors().blocks(BLOCK)))
    for number, rows in enumerate(ours.members()):
        ids = np.arange(held.ntotal, held.ntotal + len(rows))
        lists = np.full(len(rows), number)
        pointers = [faiss.swig_ptr(np.ascontiguousarray(each)) for each in (rows, ids, lists)]
        held.add_core(len(rows), *pointers)
    held.nprobe, lists = probes, ours.lists
    del ours
    return answered(
        f"FAISS `IVF{lists},{kind}`, {probes} lists",
        lambda query: enhanced(query, held.search_and_reconstruct(query[None], K)[2][0]),
        folder,
    )


def lost(folder: Path, size: int) -> list[list[str]]:
    """What prototypes, and a plain sample, make of the cosine."""
    from ibllm_tools.store.prototypes import condense
    from ibllm_tools.store.vector_snapshot import VectorSnapshot

    held = VectorSnapshot(folder / "cache" / "visual_cache.index")
    asked, wanted = queries(), np.load(folder / "exact.npy")
    sample = np.concatenate([block[::100] for block in ClusteredVectors().blocks(size)])
    kept = {
        f"{size // 10:,} prototypes, 1/10": condense(held, size // 10, progress=False),
        f"{size // 100:,} prototypes, 1/100": condense(held, size // 100, progress=False),
        f"{len(sample):,} features, a plain sample of 1/100": sample,
    }
    rows = []
    for what, features in kept.items():
        found = exact((features[start : start + BLOCK] for start in range(0, len(features), BLOCK)), asked)
        rows.append([what, *_cosines(found, wanted)])
    return [*rows, ["no cache", *_cosines(unit(asked), wanted)]]


def _cosines(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> list[str]:
    cosines = (found * wanted).sum(axis=1)
    return [f"{cosines[:QUERIES].mean():.4f}", f"{cosines[QUERIES:].mean():.4f}", f"{cosines.min():.4f}"]


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process of its own, whose memory is nobody else's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def once(folder: Path, what: str, function: Callable[[], Any]) -> Any:
    """A measurement, kept in the folder; one of another machine or of other packages is made again."""
    file = folder / f"{what}.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    if kept.get("machine") != machine():
        found = function()
        kept = {"machine": machine(), "found": asdict(found) if isinstance(found, Served) else found}
        file.write_text(json.dumps(kept))
    return kept["found"]


def measured(place: Path, size: int, smaller: int | None) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """The cache's own row, the rows of all ways to search, and those of the prototypes."""
    folder = place / str(size)
    folder.mkdir(parents=True, exist_ok=True)
    if smaller and not (folder / "cache").exists():  # any number of features begins with the same ones
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(place / str(smaller) / "cache", copy, ignore=shutil.ignore_patterns("*.index"))
        copy.rename(folder / "cache")
    filled = once(folder, "filled", lambda: apart(fill, folder, size))
    if not (folder / "exact.npy").exists():
        np.save(folder / "exact.npy", exact(ClusteredVectors().blocks(size), queries()))
    built = once(folder, "indexed", lambda: apart(index, folder))
    ways: list[tuple[str, Callable[..., Served], tuple[Any, ...]]] = [
        ("cache", serve_cache, ()),
        *[(f"index-{probes}", serve_index, (probes,)) for probes in PROBES if built],
        *[(f"{kind}-{probes}", serve_lists, (kind, probes)) for kind, probes in FAISS_LISTS if built],
        ("flat", serve_flat, (size,)),
    ]
    served = [Served(**once(folder, name, lambda f=f, a=a: apart(f, folder, *a))) for name, f, a in ways]
    cost = [
        f"{size:,}",
        f"{filled['features']:,} at {filled['features'] / filled['seconds']:,.0f}/s" if filled["features"] else "",
        f"{built['seconds'] / 60:.1f} min ({built['cpu'] / 60:.1f} CPU min)" if built else "none",
        f"{built['anonymous'] / 2**30:.2f} GiB" if built else "",
        f"{(built['bytes'] - built['index']) / 1e9:.1f} GB + {built['index'] / 1e9:.1f} GB" if built else "",
        *served[0].row()[1:],
    ]
    losses = once(folder, "lost", lambda: apart(lost, folder, size)) if built else []
    return cost, [each.row() for each in served], losses


def measure() -> str:
    """The tables."""
    sizes = sorted(int(size) for size in os.environ.get("IBLLM_CACHE_SIZES", "100000,300000").split(","))
    with contextlib.ExitStack() as stack:
        place = os.environ.get("IBLLM_CACHES") or stack.enter_context(tempfile.TemporaryDirectory())
        steps = zip(sizes, [None, *sizes[:-1]], strict=True)
        found = {size: measured(Path(place), size, smaller) for size, smaller in steps}
    cosine = ["cosine, same modality", "cross-modal", "lowest"]
    memory_columns = ["private memory", "resident"]
    costs = ["features", "filling", "index built in", "private memory meanwhile", "collections + index"]
    parts = [
        table([*costs, "`enhance`, p50", *memory_columns, *cosine], [cost for cost, _, _ in found.values()]),
        f"Cosine: of the enhanced embedding to that of an exact search, mean over {QUERIES} queries each, and the "
        f"lowest of all. Features and queries: `benchmarks/clustered_vectors.py`, width {WIDTH:,}; k = {K}. One thread "
        "per search, warm; every row in a process of its own.",
    ]
    for size, (_, ways, losses) in found.items():
        parts += [f"{size:,} features:", table(["search", "p50", *memory_columns, *cosine], ways)]
        if losses:
            parts.append(table([f"in place of {size:,} features", *cosine], losses))
    return "\n\n".join(parts)


if __name__ == "__main__":
    publish("visual cache", measure)
