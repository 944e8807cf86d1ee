"""The index of a large cache: what it finds, and how it notices that it is damaged or of something else."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from ibllm_tools.errors import InvalidRequestError, StoreError
from ibllm_tools.store import vector_snapshot
from ibllm_tools.store.chroma import VectorDatabase
from ibllm_tools.store.sharded_collection import Scale, ShardedCollection
from ibllm_tools.store.vector_snapshot import VectorSnapshot, build_snapshot

WIDTH, COUNT = 32, 2_000


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def clustered(count: int, seed: int) -> np.ndarray:
    centres = unit(np.random.default_rng(0).normal(size=(50, WIDTH)))
    drawn = np.random.default_rng(seed)
    return unit(centres[drawn.integers(0, 50, count)] + 0.08 * drawn.normal(size=(count, WIDTH))).astype(np.float32)


def nearest(rows: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    return rows[np.argsort(-(rows @ query))[:k]]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return clustered(COUNT, seed=1)


@pytest.fixture(scope="module")
def vectors(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardedCollection]:
    with VectorDatabase.open(tmp_path_factory.mktemp("cache")) as database:
        held = ShardedCollection(database, "rows", fingerprint="a", dimension=WIDTH, scale=Scale(900, 900))
        held.upsert([f"{row}" for row in range(COUNT)], rows)
        yield held


@pytest.fixture(scope="module")
def built(vectors: ShardedCollection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("built") / "index"
    build_snapshot(path, vectors, progress=False)
    return path


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """One that a test may damage."""
    path = tmp_path / "index"
    path.write_bytes(built.read_bytes())
    return path


class TestSearch:
    def test_all_lists_give_the_exact_neighbours(self, built: Path, rows: np.ndarray) -> None:
        index = VectorSnapshot(built)
        for query in clustered(20, seed=2):
            (found,) = index.nearest(query[None], 10, probes=index.lists)
            np.testing.assert_allclose(found @ query, nearest(rows, query, 10) @ query, rtol=0, atol=1e-3)
            assert (np.diff(found @ query) <= 1e-6).all()

    def test_a_few_lists_find_the_neighbours_of_clustered_vectors(self, built: Path, rows: np.ndarray) -> None:
        index = VectorSnapshot(built)
        queries = clustered(50, seed=3)
        for query, found in zip(queries, index.nearest(queries, 10, probes=index.lists // 4), strict=True):
            np.testing.assert_allclose(found @ query, nearest(rows, query, 10) @ query, rtol=0, atol=1e-3)

    def test_fewer_lists_find_less(self, built: Path, rows: np.ndarray) -> None:
        index = VectorSnapshot(built)
        queries = unit(np.random.default_rng(4).normal(size=(50, WIDTH))).astype(np.float32)
        means = [
            np.mean(
                [
                    (found @ query).mean()
                    for query, found in zip(queries, index.nearest(queries, 10, probes=n), strict=True)
                ]
            )
            for n in (1, 8, index.lists)
        ]
        assert means[0] < means[1] < means[2]

    def test_the_length_of_a_query_changes_nothing(self, built: Path) -> None:
        index, query = VectorSnapshot(built), clustered(1, seed=5)
        np.testing.assert_allclose(index.nearest(1e6 * query, 5)[0], index.nearest(query, 5)[0], rtol=0, atol=0)

    def test_more_neighbours_than_the_lists_hold_reads_more_lists(self, built: Path) -> None:
        index, query = VectorSnapshot(built), clustered(1, seed=5)
        assert index.nearest(query, 400, probes=1)[0].shape == (400, WIDTH)
        assert index.nearest(query, COUNT, probes=1)[0].shape == (COUNT, WIDTH)

    def test_the_lists_hold_everything_once(self, built: Path, rows: np.ndarray) -> None:
        index = VectorSnapshot(built)
        held = np.concatenate(list(index.members()))
        assert len(index) == len(held) == COUNT
        np.testing.assert_allclose(np.sort(held[:, 0]), np.sort(rows[:, 0]), rtol=0, atol=1e-3)

    def test_lists_are_divided_into_parts_that_are_read_apart(
        self, vectors: ShardedCollection, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(vector_snapshot, "_PART", 3)
        build_snapshot(tmp_path / "parted", vectors, progress=False)
        parted, queries = VectorSnapshot(tmp_path / "parted"), clustered(40, seed=6)
        parted.verify()
        assert len(parted) == sum(len(rows) for rows in parted.members()) == COUNT
        exact = VectorSnapshot(built).nearest(queries, 10, probes=parted.lists, scanned=COUNT)
        assert np.array_equal(exact, parted.nearest(queries, 10, probes=parted.lists, scanned=COUNT))
        shares = [recall(exact, parted.nearest(queries, 10, scanned=scanned)) for scanned in (1, 100, 1_000)]
        assert shares[0] < shares[1] <= shares[2] == 1  # of the first, 40 vectors are read


def recall(exact: list[np.ndarray], found: list[np.ndarray]) -> float:
    """The share of the exact neighbours that were found."""
    both = zip(exact, found, strict=True)
    return float(np.mean([len({*map(bytes, some)} & {*map(bytes, others)}) / len(some) for some, others in both]))


class TestFile:
    def test_it_is_a_safetensors_file(self, built: Path) -> None:
        with safe_open(built, "np") as file:
            assert sorted(file.keys()) == ["centroids", "offsets", "parts", "vectors"]
            assert file.get_tensor("vectors").shape == (COUNT, WIDTH)

    def test_nothing_is_left_beside_it(self, built: Path) -> None:
        assert [file.name for file in built.parent.iterdir() if not file.name.endswith(".lock")] == ["index"]

    def test_it_says_what_it_was_made_of(self, built: Path, vectors: ShardedCollection) -> None:
        assert VectorSnapshot(built).state == vectors.content().state

    def test_a_sound_one_verifies(self, built: Path) -> None:
        VectorSnapshot(built).verify()

    @pytest.mark.parametrize("kept", [0, 7, 100, -1])
    def test_a_cut_one_is_refused(self, copy: Path, kept: int) -> None:
        copy.write_bytes(copy.read_bytes()[:kept])
        with pytest.raises(StoreError, match="build it again"):
            VectorSnapshot(copy)

    def test_a_changed_head_is_refused(self, copy: Path) -> None:
        state = VectorSnapshot(copy).state.encode()
        content = copy.read_bytes()
        assert content.count(state) == 1
        copy.write_bytes(content.replace(state, b"0" * len(state)))
        with pytest.raises(StoreError, match="build it again"):
            VectorSnapshot(copy)

    @pytest.mark.parametrize("head", ["centroids", "parts", "offsets"])
    def test_a_changed_centroid_or_offset_is_refused(self, copy: Path, head: str) -> None:
        with safe_open(copy, "np") as file:
            whole = file.get_tensor(head).tobytes()
        content = bytearray(copy.read_bytes())
        content[content.index(whole)] ^= 1
        copy.write_bytes(content)
        with pytest.raises(StoreError, match="damaged"):
            VectorSnapshot(copy)

    def test_a_changed_vector_is_found_when_asked_for(self, copy: Path) -> None:
        content = bytearray(copy.read_bytes())
        content[-1] ^= 1
        copy.write_bytes(content)
        with pytest.raises(StoreError, match="damaged"):
            VectorSnapshot(copy).verify()

    @pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
    def test_vectors_of_another_length_are_never_handed_out(self, copy: Path, value: float) -> None:
        content = bytearray(copy.read_bytes())
        content[-2 * COUNT * WIDTH :] = np.full(COUNT * WIDTH, value, np.float16).tobytes()
        copy.write_bytes(content)
        with pytest.raises(StoreError, match="damaged"):
            VectorSnapshot(copy).nearest(clustered(1, seed=6), 10)

    def test_another_safetensors_file_is_refused(self, tmp_path: Path) -> None:
        from safetensors.numpy import save_file

        save_file({"vectors": np.zeros((2, 2), np.float32)}, tmp_path / "index")
        with pytest.raises(StoreError, match="build it again"):
            VectorSnapshot(tmp_path / "index")


class TestBuilding:
    def test_nothing_cannot_be_indexed(self, tmp_path: Path) -> None:
        with VectorDatabase.open(None) as database:
            empty = ShardedCollection(database, "rows", fingerprint="a", dimension=WIDTH)
            with pytest.raises(InvalidRequestError, match="nothing to index"):
                build_snapshot(tmp_path / "index", empty, progress=False)
        assert not (tmp_path / "index").exists()

    def test_a_full_disk_is_noticed_before_anything_is_written(
        self, vectors: ShardedCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import shutil

        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(StoreError, match=r"0\.0 GB are free"):
            build_snapshot(tmp_path / "index", vectors, progress=False)
        assert [file.name for file in tmp_path.iterdir() if not file.name.endswith(".lock")] == []

    def test_a_folder_that_is_a_file(self, vectors: ShardedCollection, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="needs a folder"):
            build_snapshot(tmp_path / "file" / "index", vectors, progress=False)

    def test_features_that_come_meanwhile_are_noticed(
        self, vectors: ShardedCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sample = ShardedCollection.sample

        def sample_and_add(self: ShardedCollection, count: int) -> Iterator[np.ndarray]:
            yield from sample(self, count)
            self.upsert(["0"], self.nearest(clustered(1, seed=7), 1)[0])

        monkeypatch.setattr(ShardedCollection, "sample", sample_and_add)
        with pytest.raises(StoreError, match="changed while"):
            build_snapshot(tmp_path / "index", vectors, progress=False)
        assert not (tmp_path / "index").exists()

    def test_equal_vectors_can_be_indexed(self, tmp_path: Path) -> None:
        with VectorDatabase.open(None) as database:
            held = ShardedCollection(database, "rows", fingerprint="a", dimension=4)
            held.upsert([str(row) for row in range(100)], np.tile(np.float32([0, 1, 0, 0]), (100, 1)))
            build_snapshot(tmp_path / "index", held, progress=False)
        (found,) = VectorSnapshot(tmp_path / "index").nearest(np.float32([[0, 1, 0, 0]]), 3)
        np.testing.assert_array_equal(found, np.tile(np.float32([0, 1, 0, 0]), (3, 1)))
