"""How well the embedded model retrieves across modalities, and how well their results are ranked together.

Everything is generated from the test split of its world, written as ordinary files, and embedded as a library would.
An entry is relevant when it is of the kind that the query shows.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from report import publish, table

from ibllm_tools import Attachment
from ibllm_tools.assistant.embedding import JointEmbedder
from ibllm_tools.library.calibration import Calibration
from ibllm_tools.media.sniff import Modality
from ibllm_tools.mini.dataset import words_of
from ibllm_tools.mini.world.catalog import COLOURS, KIND_NAMES
from ibllm_tools.mini.world.language import captions
from ibllm_tools.mini.world.scenes import (
    Scene,
    point_cloud,
    render_scene,
    render_video,
    sample_scene,
    write_depth_png16,
    write_mp4,
    write_png,
)
from ibllm_tools.mini.world.sounds import record, write_wav

MODALITIES: tuple[Modality, ...] = ("image", "video", "audio", "depth", "point", "text")
QUERIES, ENTRIES = 2, 8
"""Individuals of each kind that are asked with, and that a library can hold."""
EQUAL, SHARES = 4, (8, 4, 2, 1, 1)
"""Entries of each kind and modality in a library of equal and of unequal shares."""
SEED, SIZE, VIDEO_FPS, VIDEO_SECONDS = 31, 64, 4, 3
HELD_BY_ONE, SMALL, ALIKE = 8, 20, 8
DRAWS = 6
FIRST = 10

Vectors = NDArray[np.float32]
Rows = Mapping[Modality, NDArray[np.int64]]
"""The entries of a library: places in each modality's vectors; the kind is the place modulo the number of kinds."""
Library = Mapping[Modality, Vectors]
Method = Callable[[Vectors, Modality, Vectors], Vectors]
"""Scores of a query's similarities to all entries of a modality."""


def measure() -> str:
    """Both tables."""
    queries, entries = embedded(QUERIES, first=0), embedded(ENTRIES, first=QUERIES)
    recalls = [[source, *(recall(queries[source], entries[target]) for target in MODALITIES)] for source in MODALITIES]
    ranked = [[name, *ranking(draw, queries, entries)] for name, draw in LIBRARIES.items()]
    asked, held = QUERIES * len(KIND_NAMES), EQUAL * len(KIND_NAMES)
    return "\n\n".join(
        (
            f"Recall@1 of the same kind, {len(KIND_NAMES)} kinds; rows are queries ({asked} each), columns what is "
            f"searched ({held} entries each), exact search on files that were never trained on. Colours are random, "
            "and sounds, depth maps and clouds have none; where both sides have one, another thing of that colour can "
            "be nearer:",
            table(["", *MODALITIES], recalls),
            f"One ranking of all modalities but the query's. Mean average precision, and behind it the share of the "
            f"modalities with relevant entries that are among the first {FIRST} with one (fewer where fewer are "
            "relevant):",
            table(["library", *METHODS], ranked),
        )
    )


def embedded(count: int, first: int) -> Library:
    """Unit vectors of individuals, (count * kinds, E) per modality, kinds in turn."""
    embedder = JointEmbedder.load()
    found: dict[Modality, list[Vectors]] = {modality: [] for modality in MODALITIES}
    for individual in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            files = [media(Path(folder), kind, individual) for kind in range(len(KIND_NAMES))]
            for modality in MODALITIES:
                found[modality].append(embedder.embed([file[modality] for file in files]))
    return {modality: np.concatenate(rows) for modality, rows in found.items()}


def media(folder: Path, kind: int, individual: int) -> dict[Modality, Attachment]:
    """One thing in every modality; the sound is of another of its kind, as a recording from elsewhere would be."""
    rng = np.random.default_rng([SEED, kind, individual])
    colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    scene = sample_scene(rng, "test", kinds=[KIND_NAMES[kind]], colours=[colour])
    (thing,) = scene.instances
    path = folder / f"{kind}"
    rendering = render_scene(scene, size=SIZE)
    write_png(rendering.rgb, path.with_suffix(".png"))
    write_depth_png16(rendering.depth, folder / f"{kind}_depth.png")
    write_wav(path.with_suffix(".wav"), record(KIND_NAMES[kind], rng, size=thing.size))
    write_mp4(film(scene), path.with_suffix(".mp4"), fps=VIDEO_FPS)
    np.save(path.with_suffix(".npy"), point_cloud(thing, seed=individual))
    return {
        "image": Attachment(path.with_suffix(".png")),
        "depth": Attachment(folder / f"{kind}_depth.png"),
        "audio": Attachment(path.with_suffix(".wav")),
        "video": Attachment(path.with_suffix(".mp4")),
        "point": Attachment(path.with_suffix(".npy")),
        "text": Attachment.from_text(captions([words_of(thing)], rng)),
    }


def film(scene: Scene) -> NDArray[np.uint8]:
    """Its thing in motion."""
    return render_video(scene, frames=VIDEO_FPS * VIDEO_SECONDS, fps=VIDEO_FPS, size=SIZE)


def recall(queries: Vectors, entries: Vectors) -> str:
    """The share of queries whose nearest entry is of their kind."""
    nearest = (queries @ entries[: EQUAL * len(KIND_NAMES)].T).argmax(axis=1)
    return f"{np.mean(nearest % len(KIND_NAMES) == np.arange(len(queries)) % len(KIND_NAMES)):.2f}"


def places(rng: np.random.Generator, kinds: Sequence[int] | NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Some entries of each of these kinds."""
    chosen = [rng.permutation(ENTRIES)[:count] * len(KIND_NAMES) + kind for kind in kinds]
    return np.concatenate(chosen)


def equal_shares(rng: np.random.Generator, targets: Sequence[Modality]) -> tuple[Rows, NDArray[np.int64]]:
    """Every kind as often in every modality."""
    kinds = np.arange(len(KIND_NAMES))
    return {modality: places(rng, kinds, EQUAL) for modality in targets}, kinds


def unequal_shares(rng: np.random.Generator, targets: Sequence[Modality]) -> tuple[Rows, NDArray[np.int64]]:
    """Some modalities hold far more than others."""
    kinds = np.arange(len(KIND_NAMES))
    counts = rng.permutation(SHARES)
    return {modality: places(rng, kinds, count) for modality, count in zip(targets, counts, strict=True)}, kinds


def held_by_one(rng: np.random.Generator, targets: Sequence[Modality]) -> tuple[Rows, NDArray[np.int64]]:
    """What is asked for is in one modality alone."""
    kinds = rng.permutation(len(KIND_NAMES))
    holder = targets[rng.integers(len(targets))]
    rest = kinds[HELD_BY_ONE:]
    rows = {modality: places(rng, kinds if modality == holder else rest, EQUAL) for modality in targets}
    return rows, kinds[:HELD_BY_ONE]


def small(rng: np.random.Generator, targets: Sequence[Modality]) -> tuple[Rows, NDArray[np.int64]]:
    """A handful of entries, of what is asked for among others."""
    sizes = np.bincount(rng.integers(len(targets), size=SMALL), minlength=len(targets))
    drawn = {
        modality: rng.permutation(ENTRIES * len(KIND_NAMES))[:n] for modality, n in zip(targets, sizes, strict=True)
    }
    rows = {modality: chosen for modality, chosen in drawn.items() if len(chosen)}
    return rows, np.unique(np.concatenate(list(rows.values())) % len(KIND_NAMES))


def alike(rng: np.random.Generator, targets: Sequence[Modality]) -> tuple[Rows, NDArray[np.int64]]:
    """One modality holds nothing but what is asked for."""
    kinds = np.arange(len(KIND_NAMES))
    asked = rng.integers(len(KIND_NAMES), size=1)
    filled = targets[rng.integers(len(targets))]
    rows = {
        modality: places(rng, asked, ALIKE) if modality == filled else places(rng, kinds, EQUAL) for modality in targets
    }
    return rows, asked


LIBRARIES: dict[str, Callable[[np.random.Generator, Sequence[Modality]], tuple[Rows, NDArray[np.int64]]]] = {
    f"equal shares, {EQUAL} of each kind": equal_shares,
    f"unequal shares, {', '.join(map(str, SHARES))} of each kind": unequal_shares,
    "one modality alone holds the kind": held_by_one,
    f"{SMALL} entries": small,
    "one modality holds nothing but the kind": alike,
}


def cosine(library: Library) -> Method:
    """Similarities as they are."""
    return lambda query, modality, similarities: similarities


def standardised(library: Library) -> Method:
    """Minus the mean of the query's similarities to the modality, over their standard deviation."""
    return lambda query, modality, similarities: (similarities - similarities.mean()) / (similarities.std() + 0.01)


def calibrated(library: Library) -> Method:
    """As `MediaLibrary` does it."""
    return Calibration.fit(library).score


METHODS: dict[str, Callable[[Library], Method]] = {
    "cosine": cosine,
    "z-score per query and modality": standardised,
    "`Calibration`": calibrated,
}


def ranking(
    draw: Callable[[np.random.Generator, Sequence[Modality]], tuple[Rows, NDArray[np.int64]]],
    queries: Library,
    entries: Library,
) -> list[str]:
    """Both measures of each method, over all query modalities and some draws of the library."""
    measured: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    for source in MODALITIES:
        targets = [modality for modality in MODALITIES if modality != source]
        for number in range(DRAWS):
            rows, asked = draw(np.random.default_rng([SEED, MODALITIES.index(source), number]), targets)
            library = {modality: entries[modality][chosen] for modality, chosen in rows.items()}
            kinds = np.concatenate([chosen % len(KIND_NAMES) for chosen in rows.values()])
            owners = np.repeat(np.arange(len(rows)), [len(chosen) for chosen in rows.values()])
            methods = {name: fit(library) for name, fit in METHODS.items()}
            for kind in asked:
                query = queries[source][kind]
                for method, score in methods.items():
                    scores = np.concatenate(
                        [score(query, modality, rows @ query) for modality, rows in library.items()]
                    )
                    order = np.argsort(-scores, kind="stable")
                    measured[method].append(judged(kinds[order] == kind, owners[order]))
    means = [np.mean(values, axis=0) for values in measured.values()]
    return [f"{precision:.3f}, {share:.2f}" for precision, share in means]


def judged(relevant: NDArray[np.bool_], owners: NDArray[np.int64]) -> tuple[float, float]:
    """Average precision of a ranking, and the share of modalities that are found early."""
    positions = np.flatnonzero(relevant)
    precision = float(np.mean(np.arange(1, len(positions) + 1) / (positions + 1)))
    first = min(FIRST, len(positions))
    early = np.unique(owners[:first][relevant[:first]])
    return precision, len(early) / min(first, len(np.unique(owners[relevant])))


if __name__ == "__main__":
    publish("retrieval", measure)
