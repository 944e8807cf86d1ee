"""The visual cache: the research code's formula, and a store that keeps what it holds apart and safe."""

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import chromadb
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import (
    CorruptMediaError,
    EncoderMismatchError,
    InvalidRequestError,
    StoreError,
    StoreLockedError,
)
from ibllm_tools.store.sharded_collection import Scale
from ibllm_tools.store.visual_cache import VisualCache

CASES = [f"{visual}.{number}" for visual in ("image", "image+audio", "six") for number in range(5)]
WIDTH = 16


def random_rows(count: int, seed: int, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def exact(
    features: np.ndarray, e: np.ndarray, k: int = 10, temperature: float = 20.0, weight: float = 0.5
) -> np.ndarray:
    """The formula of one item, in float64 and with a full sort."""
    features, e = unit(features.astype(np.float64)), e.astype(np.float64)
    scores = features @ e
    nearest = np.argsort(-scores)[:k]
    weights = np.exp(temperature * scores[nearest])
    return unit((1 - weight) * e + weight * unit(weights @ features[nearest]))


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return random_rows(300, seed=0)


@pytest.fixture(scope="module")
def cache(features: np.ndarray) -> Iterator[VisualCache]:
    with VisualCache.from_features(features, fingerprint="encoder-a") as cache:
        yield cache


@pytest.fixture
def queries() -> np.ndarray:
    return random_rows(4, seed=1)


@pytest.fixture(scope="module")
def golden(reference: Path) -> dict[str, np.ndarray]:
    return load_file(reference / "adapter" / "visual.safetensors")


@pytest.fixture(scope="module")
def golden_cache(golden: dict[str, np.ndarray]) -> Iterator[VisualCache]:
    with VisualCache.from_features(golden["knn_prototypes"], fingerprint="research code") as cache:
        yield cache


class TestFormula:
    @pytest.mark.parametrize("case", CASES)
    def test_equals_the_research_code(
        self, case: str, reference: Path, golden: dict[str, np.ndarray], golden_cache: VisualCache
    ) -> None:
        options = json.loads((reference / "adapter" / "fixture.json").read_text())["visual_knn"][case]
        embedding = golden[f"visual.{case.rsplit('.', 1)[0]}.embed"].reshape(-1)
        enhanced = golden_cache.enhance(
            embedding, k=options["cache_size"], temperature=options["cache_t"], weight=options["cache_weight"]
        )
        np.testing.assert_allclose(enhanced, golden[f"knn.{case}.embed"].reshape(-1), rtol=0, atol=1e-6)

    def test_equals_an_exact_search(self, cache: VisualCache, features: np.ndarray, queries: np.ndarray) -> None:
        expected = np.stack([exact(features, query) for query in queries])
        np.testing.assert_allclose(cache.enhance(queries), expected, rtol=0, atol=1e-6)

    def test_clustered_features_are_searched_exactly(self) -> None:
        centres = unit(random_rows(40, seed=2, width=64))
        near = centres[np.arange(2000) % 40] + 0.05 * random_rows(2000, seed=3, width=64)
        off_manifold = random_rows(50, seed=4, width=64)
        with VisualCache.from_features(near, fingerprint="encoder-a") as cache:
            enhanced = cache.enhance(off_manifold)
        expected = np.stack([exact(near, query) for query in off_manifold])
        np.testing.assert_allclose(enhanced, expected, rtol=0, atol=2e-6)

    def test_a_batch_equals_its_items(self, cache: VisualCache, queries: np.ndarray) -> None:
        one_by_one = np.stack([cache.enhance(query) for query in queries])
        np.testing.assert_array_equal(cache.enhance(queries), one_by_one)

    def test_retrieval_gives_unit_vectors(self, cache: VisualCache, queries: np.ndarray) -> None:
        np.testing.assert_allclose(np.linalg.norm(cache.retrieve(queries), axis=1), 1, rtol=0, atol=1e-6)

    def test_one_neighbour_is_the_nearest_feature(self, cache: VisualCache, features: np.ndarray) -> None:
        retrieved = cache.retrieve(features[7], k=1)
        np.testing.assert_allclose(retrieved, unit(features[7]), rtol=0, atol=1e-6)

    def test_weight_one_is_the_retrieval_alone(self, cache: VisualCache, queries: np.ndarray) -> None:
        np.testing.assert_allclose(cache.enhance(queries, weight=1.0), cache.retrieve(queries), rtol=0, atol=1e-6)

    def test_weight_zero_only_normalises(self, cache: VisualCache, queries: np.ndarray) -> None:
        np.testing.assert_allclose(cache.enhance(queries, weight=0.0), unit(queries), rtol=0, atol=1e-6)

    def test_temperature_zero_weighs_neighbours_equally(
        self, cache: VisualCache, features: np.ndarray, queries: np.ndarray
    ) -> None:
        nearest = unit(features)[np.argsort(-(unit(features) @ queries[0]))[:5]]
        retrieved = cache.retrieve(queries[0], k=5, temperature=0.0)
        np.testing.assert_allclose(retrieved, unit(nearest.mean(axis=0)), rtol=0, atol=1e-6)

    def test_a_high_temperature_does_not_overflow(self, cache: VisualCache, queries: np.ndarray) -> None:
        assert np.isfinite(cache.enhance(queries * 100, temperature=100.0)).all()

    def test_more_neighbours_than_features_uses_all(self, cache: VisualCache, queries: np.ndarray) -> None:
        np.testing.assert_array_equal(cache.enhance(queries, k=10**12), cache.enhance(queries, k=300))

    def test_a_fractional_k_is_cut_as_in_the_research_code(self, cache: VisualCache, queries: np.ndarray) -> None:
        np.testing.assert_array_equal(cache.enhance(queries, k=7.9), cache.enhance(queries, k=7))


class TestTypes:
    def test_torch_in_torch_out(self, cache: VisualCache, queries: np.ndarray) -> None:
        enhanced = cache.enhance(torch.from_numpy(queries).requires_grad_())
        assert isinstance(enhanced, torch.Tensor)
        np.testing.assert_array_equal(enhanced.numpy(), cache.enhance(queries))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_torch_dtype_stays(self, cache: VisualCache, queries: np.ndarray, dtype: torch.dtype) -> None:
        assert cache.enhance(torch.from_numpy(queries).to(dtype)).dtype == dtype

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_numpy_dtype_stays(self, cache: VisualCache, queries: np.ndarray, dtype: type) -> None:
        assert cache.enhance(queries.astype(dtype)).dtype == dtype

    def test_a_single_vector_stays_single(self, cache: VisualCache, queries: np.ndarray) -> None:
        assert cache.enhance(queries[0]).shape == (WIDTH,)
        assert cache.retrieve(queries[0]).shape == (WIDTH,)

    def test_features_may_be_a_tensor(self, features: np.ndarray) -> None:
        with VisualCache.from_features(torch.from_numpy(features), fingerprint="encoder-a") as cache:
            assert len(cache) == 300


class TestRequests:
    @pytest.mark.parametrize(
        "options",
        [
            {"k": 0},
            {"k": -1},
            {"k": float("nan")},
            {"k": float("inf")},
            {"temperature": -1.0},
            {"temperature": float("nan")},
            {"weight": -0.1},
            {"weight": 1.1},
            {"weight": float("nan")},
        ],
        ids=str,
    )
    def test_parameters_out_of_range(self, cache: VisualCache, queries: np.ndarray, options: dict[str, float]) -> None:
        with pytest.raises(InvalidRequestError, match=next(iter(options))):
            cache.enhance(queries, **options)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
    def test_values_that_are_not_usable(self, cache: VisualCache, queries: np.ndarray, value: float) -> None:
        queries[1, 3] = value
        with pytest.raises(InvalidRequestError, match="undefined, infinite or too large"):
            cache.enhance(queries)

    def test_a_zero_vector_has_no_direction(self, cache: VisualCache) -> None:
        with pytest.raises(InvalidRequestError, match="zero vector"):
            cache.enhance(np.zeros(WIDTH, np.float32))

    def test_another_width(self, cache: VisualCache) -> None:
        with pytest.raises(InvalidRequestError, match=r"width 8, .* width 16"):
            cache.enhance(random_rows(1, seed=0, width=8))

    @pytest.mark.parametrize("shape", [(0, WIDTH), (1, 1, WIDTH), ()])
    def test_another_shape(self, cache: VisualCache, shape: tuple[int, ...]) -> None:
        with pytest.raises(InvalidRequestError, match="shape"):
            cache.enhance(np.ones(shape, np.float32))

    def test_integers_are_not_embeddings(self, cache: VisualCache) -> None:
        with pytest.raises(InvalidRequestError, match="floating point"):
            cache.enhance(torch.ones(WIDTH, dtype=torch.int64))

    def test_an_empty_cache_says_so(self, queries: np.ndarray) -> None:
        with (
            VisualCache.open(None, fingerprint="encoder-a", dimension=WIDTH) as empty,
            pytest.raises(StoreError, match="visual cache is empty"),
        ):
            empty.enhance(queries)


class TestAdding:
    def test_twice_the_same_changes_nothing(self, features: np.ndarray) -> None:
        with VisualCache.from_features(features, fingerprint="encoder-a") as cache:
            cache.add(features[:50])
            assert len(cache) == 300

    def test_equal_features_are_stored_once(self, features: np.ndarray) -> None:
        with VisualCache.from_features(np.concatenate([features, features]), fingerprint="encoder-a") as cache:
            assert len(cache) == 300

    def test_features_are_normalised(self, features: np.ndarray, queries: np.ndarray, cache: VisualCache) -> None:
        with VisualCache.from_features(features * 8, fingerprint="encoder-a") as scaled:
            np.testing.assert_allclose(scaled.enhance(queries), cache.enhance(queries), rtol=0, atol=1e-6)

    def test_a_given_id_gets_the_new_feature(self, features: np.ndarray) -> None:
        with VisualCache.open(None, fingerprint="encoder-a", dimension=WIDTH) as cache:
            cache.add(features[:1], ids=["a"])
            cache.add(features[1:2], ids=["a"])
            np.testing.assert_allclose(cache.retrieve(features[0]), unit(features[1]), rtol=0, atol=1e-6)

    def test_ids_must_fit(self, features: np.ndarray) -> None:
        with VisualCache.open(None, fingerprint="encoder-a", dimension=WIDTH) as cache:
            with pytest.raises(InvalidRequestError, match="1 ids"):
                cache.add(features[:2], ids=["a"])
            with pytest.raises(InvalidRequestError, match="1 of them different"):
                cache.add(features[:2], ids=["a", "a"])

    def test_more_than_chroma_takes_at_once(self) -> None:
        with VisualCache.from_features(random_rows(6000, seed=5, width=2), fingerprint="encoder-a") as cache:
            assert len(cache) == 6000


class TestStore:
    def test_a_folder_is_read_again_by_another_process(
        self, tmp_path: Path, features: np.ndarray, queries: np.ndarray
    ) -> None:
        with VisualCache.from_features(features, fingerprint="encoder-a", location=tmp_path / "cache") as cache:
            enhanced = cache.enhance(queries)
        np.save(tmp_path / "queries.npy", queries)
        script = """if True:
            import sys
            import numpy as np
            from ibllm_tools.store.visual_cache import VisualCache
            folder = sys.argv[1]
            with VisualCache.open(f"{folder}/cache", fingerprint="encoder-a", dimension=16) as cache:
                assert len(cache) == 300
                np.save(f"{folder}/enhanced.npy", cache.enhance(np.load(f"{folder}/queries.npy")))
        """
        subprocess.run([sys.executable, "-W", "error", "-c", script, str(tmp_path)], check=True, timeout=60)
        np.testing.assert_array_equal(np.load(tmp_path / "enhanced.npy"), enhanced)

    def test_another_process_cannot_open_it(self, tmp_path: Path) -> None:
        script = """if True:
            import sys, time, pathlib
            from ibllm_tools.store.folder_lock import own_folder
            own_folder(pathlib.Path(sys.argv[1]))
            print("owned", flush=True)
            time.sleep(60)
        """
        with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"owned\n"
            with pytest.raises(StoreLockedError, match=rf"{tmp_path}: process {owner.pid} owns"):
                VisualCache.open(tmp_path, fingerprint="encoder-a", dimension=WIDTH)
            owner.kill()
        VisualCache.open(tmp_path, fingerprint="encoder-a", dimension=WIDTH).close()

    def test_the_same_process_may_open_it_twice(self, tmp_path: Path, features: np.ndarray) -> None:
        with VisualCache.from_features(features, fingerprint="encoder-a", location=tmp_path) as first:
            VisualCache.open(tmp_path, fingerprint="encoder-a", dimension=WIDTH).close()
            assert len(first) == 300

    def test_another_encoder_is_refused(self, tmp_path: Path, features: np.ndarray) -> None:
        VisualCache.from_features(features, fingerprint="encoder-a", location=tmp_path).close()
        with pytest.raises(EncoderMismatchError, match=r"'encoder-a'.*'encoder-b'"):
            VisualCache.open(tmp_path, fingerprint="encoder-b", dimension=WIDTH)

    def test_another_width_is_refused(self, tmp_path: Path, features: np.ndarray) -> None:
        VisualCache.from_features(features, fingerprint="encoder-a", location=tmp_path).close()
        with pytest.raises(InvalidRequestError, match="width 16, not 8"):
            VisualCache.open(tmp_path, fingerprint="encoder-a", dimension=8)

    def test_a_refused_folder_is_not_kept_locked(self, tmp_path: Path, features: np.ndarray) -> None:
        VisualCache.from_features(features, fingerprint="encoder-a", location=tmp_path).close()
        with pytest.raises(EncoderMismatchError):
            VisualCache.open(tmp_path, fingerprint="encoder-b", dimension=WIDTH)
        script = """if True:
            import sys, pathlib
            from ibllm_tools.store.folder_lock import own_folder
            own_folder(pathlib.Path(sys.argv[1]))
        """
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)

    def test_somebody_elses_collection_is_refused(self, tmp_path: Path) -> None:
        with chromadb.PersistentClient(tmp_path) as client:
            client.create_collection("visual_cache", embedding_function=None)
        with pytest.raises(StoreError, match="not made by ibllm-tools"):
            VisualCache.open(tmp_path, fingerprint="encoder-a", dimension=WIDTH)

    def test_another_metric_is_refused(self, tmp_path: Path) -> None:
        with chromadb.PersistentClient(tmp_path) as client:
            client.create_collection(
                "visual_cache",
                embedding_function=None,
                metadata={"fingerprint": "encoder-a", "dimension": WIDTH},
                configuration={"hnsw": {"space": "l2"}},
            )
        with pytest.raises(StoreError, match="'l2' instead of the inner product"):
            VisualCache.open(tmp_path, fingerprint="encoder-a", dimension=WIDTH)

    def test_caches_in_memory_are_independent(self, features: np.ndarray, queries: np.ndarray) -> None:
        with (
            VisualCache.from_features(features[:100], fingerprint="encoder-a") as one,
            VisualCache.from_features(features[100:150, :8], fingerprint="encoder-b") as two,
        ):
            assert (len(one), len(two)) == (100, 50)
            two.close()
            expected = np.stack([exact(features[:100], query) for query in queries])
            np.testing.assert_allclose(one.enhance(queries), expected, rtol=0, atol=1e-6)

    def test_a_cache_in_memory_lives_beside_the_users_own_chroma(self, features: np.ndarray) -> None:
        with chromadb.EphemeralClient() as client, VisualCache.from_features(features, fingerprint="encoder-a"):
            assert client.list_collections() == []

    def test_closed_is_closed(self, features: np.ndarray, queries: np.ndarray) -> None:
        cache = VisualCache.from_features(features, fingerprint="encoder-a")
        cache.close()
        cache.close()
        with pytest.raises(StoreError, match="closed"):
            cache.enhance(queries)

    def test_a_file_is_not_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("not a folder")
        with pytest.raises(StoreError, match="needs a folder"):
            VisualCache.open(tmp_path / "cache", fingerprint="encoder-a", dimension=WIDTH)

    def test_a_broken_database_is_a_store_error(self, tmp_path: Path) -> None:
        (tmp_path / "chroma.sqlite3").write_bytes(b"not a database" * 100)
        with pytest.raises(StoreError, match="opening failed"):
            VisualCache.open(tmp_path, fingerprint="encoder-a", dimension=WIDTH)

    def test_a_server_holds_it_too(self, server: tuple[str, subprocess.Popen[bytes]], queries: np.ndarray) -> None:
        url, process = server
        features = random_rows(20, seed=6)
        with VisualCache.from_features(features, fingerprint="encoder-a", location=url) as cache:
            expected = np.stack([exact(features, query) for query in queries])
            np.testing.assert_allclose(cache.enhance(queries), expected, rtol=0, atol=1e-6)
            with pytest.raises(EncoderMismatchError):
                VisualCache.open(url, fingerprint="encoder-b", dimension=WIDTH)
            process.kill()
            process.wait()
            with pytest.raises(StoreError, match=url):
                cache.enhance(queries)

    def test_a_folder_may_be_called_memory(
        self, tmp_path: Path, features: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with VisualCache.from_features(features, fingerprint="encoder-a", location="memory") as cache:
            assert cache._features.database.folder == Path("memory")
            assert (cache.info().bytes or 0) > 0
        with VisualCache.from_features(features, fingerprint="encoder-a") as cache:
            assert (cache.info().location, cache.info().bytes) == ("memory", None)

    def test_a_place_below_the_home_folder(
        self, tmp_path: Path, features: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
        VisualCache.from_features(features, fingerprint="encoder-a", location="~/caches/one").close()
        assert (tmp_path / "home" / "caches" / "one" / "chroma.sqlite3").is_file()
        with VisualCache.open(
            None, fingerprint="encoder-a", dimension=WIDTH, scale=Scale(100, 100), index_folder="~/index"
        ) as cache:
            cache.add(features)
            cache.build_index(progress=False)
        assert (tmp_path / "home" / "index" / "visual_cache.index").is_file()
        assert not (tmp_path / "~").exists()

    def test_a_server_that_is_not_there(self) -> None:
        with pytest.raises(StoreError, match=r"http://127\.0\.0\.1:9: opening failed"):
            VisualCache.open("http://127.0.0.1:9", fingerprint="encoder-a", dimension=WIDTH)


def picture(name: str) -> Attachment:
    """A small image in a colour of its own."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), tuple(hashlib.sha256(name.encode()).digest()[:3])).save(file, "PNG")
    return Attachment(file.getvalue(), name=name)


class Encoder:
    """An embedder whose vectors follow from the bytes, and that counts what it embeds."""

    dimension = WIDTH
    fingerprint = "encoder-a"

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def embed(self, attachments: Sequence[Attachment]) -> np.ndarray:
        if any(attachment.name == "broken.png" for attachment in attachments):
            raise CorruptMediaError("broken.png: cannot be decoded")
        self.embedded += [attachment.name for attachment in attachments]
        return unit(np.concatenate([random_rows(1, seed=int(each.sha256[:8], 16)) for each in attachments]))


class TestAddingImages:
    @pytest.fixture
    def empty(self) -> Iterator[VisualCache]:
        with VisualCache.open(None, fingerprint="encoder-a", dimension=WIDTH) as cache:
            yield cache

    def test_a_bad_file_is_reported_and_the_rest_goes_in(self, empty: VisualCache) -> None:
        images = [picture("a.png"), picture("broken.png"), picture("b.png"), "missing.png", picture("c.png")]
        report = empty.add_images(images, Encoder(), batch_size=3, progress=False)
        assert (report.added, report.known, len(empty)) == (3, 0, 3)
        assert [(failure.position, failure.name) for failure in report.failures] == [
            (1, "broken.png"),
            (3, "missing.png"),
        ]
        assert report.failures[0].reason == "broken.png: cannot be decoded"

    def test_what_is_known_is_not_embedded_again(self, empty: VisualCache) -> None:
        encoder = Encoder()
        empty.add_images([picture("a.png"), picture("b.png")], encoder, progress=False)
        report = empty.add_images([picture("b.png"), picture("c.png"), picture("c.png")], encoder, progress=False)
        assert (report.added, report.known) == (1, 2)
        assert encoder.embedded == ["a.png", "b.png", "c.png"]

    def test_images_are_read_batch_by_batch(self, empty: VisualCache) -> None:
        held = []

        def images() -> Iterator[Attachment]:
            for index in range(5):
                held.append(len(empty))
                yield picture(f"{index}.png")

        assert empty.add_images(images(), Encoder(), batch_size=2, progress=False).added == 5
        assert held == [0, 0, 2, 2, 4]

    def test_only_images_go_in(self, empty: VisualCache) -> None:
        report = empty.add_images([Attachment.from_text("a bell")], Encoder(), progress=False)
        assert len(empty) == 0
        assert "text: text, and the visual cache holds images" in report.failures[0].reason

    def test_another_encoder_is_refused(self, features: np.ndarray) -> None:
        with (
            VisualCache.from_features(features, fingerprint="encoder-b") as cache,
            pytest.raises(EncoderMismatchError, match=r"'encoder-b'.*'encoder-a'"),
        ):
            cache.add_images([picture("a.png")], Encoder(), progress=False)

    def test_a_batch_holds_at_least_one(self, empty: VisualCache) -> None:
        with pytest.raises(InvalidRequestError, match="batch_size=0"):
            empty.add_images([], Encoder(), batch_size=0)
