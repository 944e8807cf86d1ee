"""Scores of different modalities on one scale: what they promise, and what they do with a modality gap."""

from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from ibllm_tools.library.calibration import Calibration
from ibllm_tools.media.sniff import Modality

WIDTH, KINDS = 192, 20
Vectors = NDArray[np.float32]


def unit(rows: Vectors) -> Vectors:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


class World:
    """Kinds of things in modalities that lie in cones: images in a wide one, sounds in a narrow one far away."""

    WEIGHTS: ClassVar[dict[Modality, float]] = {"image": 0.8, "audio": 0.4, "point": 0.6}

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.kinds = unit(self.rng.normal(size=(KINDS, WIDTH)).astype(np.float32))
        self.axes = {modality: unit(self.rng.normal(size=WIDTH)) for modality in self.WEIGHTS}

    def entries(self, modality: Modality, kinds: NDArray[np.int64]) -> Vectors:
        own = self.WEIGHTS[modality]
        noise = 0.02 * self.rng.normal(size=(len(kinds), WIDTH))
        return unit(own * (self.kinds[kinds] + noise) + np.sqrt(1 - own**2) * self.axes[modality])

    def query(self, kind: int) -> Vectors:
        """Words, which are nearer to images than to sounds; the library holds none."""
        return unit(self.kinds[kind] + self.axes["image"])


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def everything() -> NDArray[np.int64]:
    return np.tile(np.arange(KINDS), 4)


@pytest.fixture
def library(world: World, everything: NDArray[np.int64]) -> dict[Modality, Vectors]:
    return {modality: world.entries(modality, everything) for modality in world.WEIGHTS}


def best(scores: dict[Modality, Vectors], kinds: dict[Modality, NDArray[np.int64]]) -> list[tuple[Modality, int]]:
    """Modality and kind of every entry, best first."""
    rows = [
        (score, modality, int(kind))
        for modality, values in scores.items()
        for score, kind in zip(values, kinds[modality], strict=True)
    ]
    return [(modality, kind) for _, modality, kind in sorted(rows, key=lambda row: -row[0])]


def scored(library: dict[Modality, Vectors], query: Vectors) -> dict[Modality, Vectors]:
    calibration = Calibration.fit(library)
    return {modality: calibration.score(query, modality, rows @ query) for modality, rows in library.items()}


class TestRanking:
    def test_a_modality_gap_hides_sounds_from_cosine_but_not_from_scores(
        self, world: World, library: dict[Modality, Vectors], everything: NDArray[np.int64]
    ) -> None:
        kinds = dict.fromkeys(library, everything)
        for kind in range(KINDS):
            query = world.query(kind)
            raw = best({modality: rows @ query for modality, rows in library.items()}, kinds)
            assert ("audio", kind) not in raw[:12]
            relevant = [found for found in best(scored(library, query), kinds)[:12] if found[1] == kind]
            assert {modality for modality, _ in relevant} == set(library)

    def test_what_a_mix_takes_away_is_at_the_end_in_every_modality(
        self, world: World, library: dict[Modality, Vectors], everything: NDArray[np.int64]
    ) -> None:
        query = unit(world.query(0) - 0.4 * world.query(1))
        ranked = best(scored(library, query), dict.fromkeys(library, everything))
        assert {kind for _, kind in ranked[:12]} == {0}
        assert set(ranked[-12:]) == {(modality, 1) for modality in library}

    def test_the_only_modality_with_the_kind_comes_first(self, world: World, everything: NDArray[np.int64]) -> None:
        for kind in range(KINDS):
            kinds = {m: everything if m == "audio" else everything[everything != kind] for m in world.WEIGHTS}
            library = {modality: world.entries(modality, rows) for modality, rows in kinds.items()}
            assert best(scored(library, world.query(kind)), kinds)[:4] == [("audio", kind)] * 4

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_a_few_entries_of_a_modality_neither_win_nor_vanish_for_being_few(
        self, world: World, library: dict[Modality, Vectors], everything: NDArray[np.int64], count: int
    ) -> None:
        kinds = dict.fromkeys(library, everything) | {"point": np.arange(count)}
        library = {**library, "point": world.entries("point", np.arange(count))}
        for kind in (0, KINDS - 1):
            ranked = best(scored(library, world.query(kind)), kinds)
            unrelated = [place for place, (modality, of) in enumerate(ranked) if modality == "point" and of != kind]
            assert all(place >= 8 for place in unrelated)
            assert kind != 0 or ranked.index(("point", 0)) < 10

    def test_entries_that_are_all_what_is_asked_for_stay_ahead_of_unrelated_ones(
        self, world: World, library: dict[Modality, Vectors], everything: NDArray[np.int64]
    ) -> None:
        library = {**library, "point": world.entries("point", np.zeros(20, np.int64))}
        scores = scored(library, world.query(0))
        assert scores["point"].min() > scores["image"][everything != 0].max()
        assert scores["point"].min() > scores["audio"][everything != 0].max()

    def test_what_is_asked_for_scores_far_above_the_rest(
        self, world: World, library: dict[Modality, Vectors], everything: NDArray[np.int64]
    ) -> None:
        for scores in scored(library, world.query(3)).values():
            assert scores[everything == 3].min() > 0.5
            assert scores[everything != 3].max() < 0.5


class TestScale:
    def test_standard_deviations_above_the_average(self) -> None:
        """Two modalities with a standard deviation of 0.1 along the first axis, apart along the third."""
        along = np.array([-0.1, 0.1] * 100, np.float32)
        across = np.tile([0.3, 0.3, -0.3, -0.3], 50).astype(np.float32)
        sample: dict[Modality, Vectors] = {
            modality: np.pad(np.stack([along, across, np.full_like(along, height)], axis=1), ((0, 0), (0, WIDTH - 3)))
            for modality, height in (("image", 0.8), ("audio", 0.1))
        }
        calibration, query = Calibration.fit(sample), np.float32([0.8, 0, 0.6, *np.zeros(WIDTH - 3)])
        for modality, mean in (("image", 0.48), ("audio", 0.06)):
            similarities = np.float32(mean) + np.float32(0.08) * np.arange(5, dtype=np.float32)
            scores = calibration.score(query, modality, similarities)
            np.testing.assert_allclose(scores, [0.053, 0.146, 0.5, 0.854, 0.947], atol=0.005)

    def test_narrow_and_wide_modalities_are_measured_with_their_own_deviations(self) -> None:
        along = np.array([-0.1, 0.1] * 100, np.float32)
        query = np.eye(WIDTH, dtype=np.float32)[0]
        calibration = Calibration.fit({"image": along[:, None] * query, "audio": 0.4 * along[:, None] * query})
        for modality, deviation in (("image", 0.1), ("audio", 0.04)):
            scores = calibration.score(query, modality, np.float32(deviation) * np.arange(5, dtype=np.float32))
            np.testing.assert_allclose(scores, [0.053, 0.146, 0.5, 0.854, 0.947], atol=0.08)

    def test_the_order_within_a_modality_is_that_of_the_similarities(
        self, world: World, library: dict[Modality, Vectors]
    ) -> None:
        calibration = Calibration.fit(library)
        similarities = np.unique(np.random.default_rng(1).uniform(-1, 1, 5000).astype(np.float32))
        close = np.nextafter(np.float32(0.25), np.float32(1), dtype=np.float32)
        for modality in library:
            scores = calibration.score(world.query(0), modality, similarities)
            assert scores.dtype == np.float32
            assert (np.diff(scores) >= 0).all()
            assert (np.diff(scores[::50]) > 0).all()
            low, high = calibration.score(world.query(0), modality, np.array([0.25, close], np.float32))
            assert low <= high

    def test_duplicates_do_not_tie_with_what_is_merely_similar(
        self, world: World, library: dict[Modality, Vectors]
    ) -> None:
        query = library["audio"][0]
        exact, near = Calibration.fit(library).score(query, "audio", np.array([1.0, 0.999], np.float32))
        assert exact > near

    def test_entries_moved_along_a_direction_that_nothing_else_has_score_the_same(
        self, world: World, everything: NDArray[np.int64]
    ) -> None:
        """A gap across the content, however wide, drops out."""
        flat = {m: np.pad(world.entries(m, everything), ((0, 0), (0, 1))) for m in ("image", "point")}
        query = np.append(world.query(0), np.float32(0.7))
        moved = {**flat, "image": flat["image"] + np.eye(WIDTH + 1, dtype=np.float32)[-1] * np.float32(0.6)}
        before = Calibration.fit(flat).score(query, "image", flat["image"] @ query)
        after = Calibration.fit(moved).score(query, "image", moved["image"] @ query)
        np.testing.assert_allclose(after, before, atol=0.03)
        raw = np.abs((moved["image"] - flat["image"]) @ query)
        assert raw.min() > 0.4


class TestLittleToGoBy:
    @pytest.mark.parametrize(
        "held", [{}, {"image": 0}, {"image": 1}, {"image": 1, "audio": 1}, {"image": 80, "audio": 0}]
    )
    def test_scores_are_finite_and_in_range(self, world: World, held: dict[Modality, int]) -> None:
        sample = {modality: world.entries(modality, np.arange(n) % KINDS) for modality, n in held.items()}
        calibration = Calibration.fit(sample)
        for modality in ("image", "audio", "text"):
            scores = calibration.score(world.query(0), modality, np.linspace(-1, 1, 9, dtype=np.float32))
            assert np.isfinite(scores).all()
            assert ((scores >= 0) & (scores <= 1)).all()
            assert (np.diff(scores) > 0).all()

    def test_equal_entries_have_no_variance_and_finite_scores(self, world: World) -> None:
        same = np.repeat(world.entries("image", np.array([0])), 30, axis=0)
        calibration = Calibration.fit({"image": same, "audio": same})
        scores = calibration.score(world.query(0), "image", np.linspace(-1, 1, 9, dtype=np.float32))
        assert np.isfinite(scores).all()
        assert (np.diff(scores) > 0).all()

    def test_a_modality_that_the_sample_lacks_is_taken_for_an_average_one(
        self, world: World, library: dict[Modality, Vectors]
    ) -> None:
        calibration = Calibration.fit(library)
        similarities = np.array([0.0, 0.2, 0.4], np.float32)
        query = world.query(0)
        known = np.stack([calibration.score(query, modality, similarities) for modality in library])
        unknown = calibration.score(query, "thermal", similarities)
        assert (known.min(axis=0) < unknown).all()
        assert (unknown < known.max(axis=0)).all()

    def test_a_single_entry_is_judged_like_a_modality_that_the_sample_lacks(
        self, world: World, library: dict[Modality, Vectors]
    ) -> None:
        library = {**library, "depth": world.entries("image", np.array([0]))}
        calibration = Calibration.fit(library)
        similarities, query = np.array([0.1, 0.5], np.float32), world.query(0)
        np.testing.assert_allclose(
            calibration.score(query, "depth", similarities),
            calibration.score(query, "thermal", similarities),
            atol=1e-4,
        )

    def test_rows_beyond_the_sampled_ones_change_little(self, world: World) -> None:
        many = {m: world.entries(m, np.tile(np.arange(KINDS), 100)) for m in world.WEIGHTS}
        few = {modality: rows[:400] for modality, rows in many.items()}
        query, similarities = world.query(0), np.linspace(0, 0.8, 5, dtype=np.float32)
        for modality in many:
            np.testing.assert_allclose(
                Calibration.fit(many).score(query, modality, similarities),
                Calibration.fit(few).score(query, modality, similarities),
                atol=0.03,
            )
