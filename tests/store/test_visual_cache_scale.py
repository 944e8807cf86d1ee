"""A visual cache beyond what Chroma searches: the index serves it, is never stale, and never trusted over Chroma."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ibllm_tools.errors import InvalidRequestError, StoreError
from ibllm_tools.store.cache_info import IndexState
from ibllm_tools.store.chroma import VectorDatabase
from ibllm_tools.store.sharded_collection import Scale
from ibllm_tools.store.visual_cache import VisualCache

WIDTH, SCALE = 16, Scale(collection=100, searched=200)


def random_rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def exact(features: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The formula with its defaults, in float64 and with a full sort."""
    features, enhanced = unit(features.astype(np.float64)), []
    for e in queries.astype(np.float64):
        nearest = features[np.argsort(-(features @ e))[:10]]
        weights = np.exp(20 * (nearest @ e))
        enhanced.append(unit(0.5 * e + 0.5 * unit(weights @ nearest)))
    return np.stack(enhanced)


def opened(location: str | Path | None, **options: object) -> VisualCache:
    return VisualCache.open(location, fingerprint="a", dimension=WIDTH, scale=SCALE, **options)


@pytest.fixture
def features() -> np.ndarray:
    return random_rows(250, seed=0)


@pytest.fixture
def queries() -> np.ndarray:
    return random_rows(4, seed=1)


@pytest.fixture
def cache(tmp_path: Path, features: np.ndarray) -> Iterator[VisualCache]:
    with opened(tmp_path / "cache") as cache:
        cache.add(features)
        yield cache


def index_file(cache: VisualCache) -> Path:
    path = cache.info().index.path
    assert path is not None
    return path


class TestServing:
    def test_two_collections_are_searched_by_chroma(
        self, tmp_path: Path, features: np.ndarray, queries: np.ndarray
    ) -> None:
        with opened(tmp_path) as cache:
            cache.add(features[:200])
            np.testing.assert_allclose(cache.enhance(queries), exact(features[:200], queries), rtol=0, atol=1e-6)
            assert cache.info().index.state is IndexState.NONE

    def test_three_are_served_from_the_index(
        self, cache: VisualCache, features: np.ndarray, queries: np.ndarray
    ) -> None:
        # There are fewer lists than a query reads, so the index is exact but for its half precision.
        np.testing.assert_allclose(cache.enhance(queries), exact(features, queries), rtol=0, atol=2e-3)
        assert cache.info().index.state is IndexState.FRESH
        assert (cache.info().index.features, list(cache.info().collections.values())) == (250, [100, 100, 50])

    def test_the_index_is_kept(self, cache: VisualCache, queries: np.ndarray) -> None:
        cache.build_index(progress=False)
        before = index_file(cache).stat()
        cache.build_index(progress=False)
        cache.enhance(queries)
        assert index_file(cache).stat() == before

    def test_the_next_one_to_open_the_folder_uses_it(
        self, tmp_path: Path, cache: VisualCache, queries: np.ndarray, caplog: pytest.LogCaptureFixture
    ) -> None:
        enhanced = cache.enhance(queries)
        cache.close()
        caplog.clear()
        with opened(tmp_path / "cache") as again:
            np.testing.assert_array_equal(again.enhance(queries), enhanced)
        assert not caplog.records

    def test_a_long_build_is_announced(
        self, cache: VisualCache, queries: np.ndarray, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "ibllm_tools"):
            cache.enhance(queries)
        assert "building the index of 250 features" in caplog.text

    def test_all_features_can_be_asked_for(self, cache: VisualCache, features: np.ndarray) -> None:
        mean = unit(unit(features.astype(np.float64)).mean(axis=0))
        retrieved = cache.retrieve(features[0], k=10**12, temperature=0.0)
        np.testing.assert_allclose(retrieved, mean, rtol=0, atol=2e-3)

    def test_a_folder_may_be_renamed_with_its_index(
        self, tmp_path: Path, cache: VisualCache, queries: np.ndarray
    ) -> None:
        enhanced = cache.enhance(queries)
        cache.close()
        (tmp_path / "cache").rename(tmp_path / "elsewhere")
        with opened(tmp_path / "elsewhere") as again:
            assert again.info().index.state is IndexState.FRESH
            np.testing.assert_array_equal(again.enhance(queries), enhanced)

    def test_threads_may_ask_while_one_of_them_builds_it(
        self, cache: VisualCache, features: np.ndarray, queries: np.ndarray
    ) -> None:
        with ThreadPoolExecutor(4) as threads:
            for enhanced in threads.map(lambda _: cache.enhance(queries), range(12)):
                np.testing.assert_allclose(enhanced, exact(features, queries), rtol=0, atol=2e-3)


class TestStaleness:
    def test_an_added_feature_is_found(self, cache: VisualCache, queries: np.ndarray) -> None:
        cache.enhance(queries)
        cache.add(queries[:1])
        assert cache.info().index.state is IndexState.STALE
        np.testing.assert_allclose(cache.retrieve(queries[0], k=1), unit(queries[0]), rtol=0, atol=2e-3)
        assert cache.info().index.state is IndexState.FRESH

    def test_a_replaced_feature_is_gone(self, tmp_path: Path, features: np.ndarray, queries: np.ndarray) -> None:
        with opened(tmp_path) as cache:
            ids = [str(row) for row in range(250)]
            cache.add(features, ids)
            cache.enhance(queries)
            cache.add(queries[:1], ["7"])
            changed = features.copy()
            changed[7] = queries[0]
            np.testing.assert_allclose(cache.enhance(queries), exact(changed, queries), rtol=0, atol=2e-3)
            assert len(cache) == 250

    def test_what_another_one_in_the_process_adds_is_found(
        self, tmp_path: Path, cache: VisualCache, queries: np.ndarray
    ) -> None:
        cache.enhance(queries)
        with opened(tmp_path / "cache") as other:
            other.add(queries[:1])
        np.testing.assert_allclose(cache.retrieve(queries[0], k=1), unit(queries[0]), rtol=0, atol=2e-3)

    def test_the_index_of_other_collections_is_not_used(
        self, tmp_path: Path, cache: VisualCache, queries: np.ndarray
    ) -> None:
        cache.build_index(progress=False)
        other = random_rows(250, seed=2)
        with opened(tmp_path / "other") as another:
            another.add(other)
            (tmp_path / "other" / "visual_cache.index").write_bytes(index_file(cache).read_bytes())
            np.testing.assert_allclose(another.enhance(queries), exact(other, queries), rtol=0, atol=2e-3)


class TestDamage:
    @pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 64], ids=["empty", "short", "long"])
    def test_a_broken_index_is_built_again(
        self, cache: VisualCache, features: np.ndarray, queries: np.ndarray, content: bytes
    ) -> None:
        cache.build_index(progress=False)
        path = index_file(cache)
        cache._index = None
        path.write_bytes(content)
        assert cache.info().index.state is IndexState.DAMAGED
        np.testing.assert_allclose(cache.enhance(queries), exact(features, queries), rtol=0, atol=2e-3)
        assert cache.info().index.state is IndexState.FRESH

    def test_a_changed_vector_is_found_by_verifying(self, cache: VisualCache) -> None:
        cache.build_index(progress=False)
        content = bytearray(index_file(cache).read_bytes())
        content[-1] ^= 1
        index_file(cache).write_bytes(content)
        assert cache.info().index.state is IndexState.FRESH
        assert cache.info(verify=True).index.state is IndexState.DAMAGED

    def test_a_deleted_index_is_built_again(self, tmp_path: Path, cache: VisualCache, queries: np.ndarray) -> None:
        enhanced = cache.enhance(queries)
        index_file(cache).unlink()
        cache.close()
        with opened(tmp_path / "cache") as again:
            np.testing.assert_allclose(again.enhance(queries), enhanced, rtol=0, atol=1e-6)

    def test_a_build_that_was_killed_leaves_the_index_before(
        self, tmp_path: Path, cache: VisualCache, features: np.ndarray, queries: np.ndarray
    ) -> None:
        cache.build_index(progress=False)
        before = index_file(cache).read_bytes()
        cache.add(queries[:1])
        cache.close()
        script = """if True:
            import sys, time
            import ibllm_tools.store.vector_snapshot as snapshot
            from ibllm_tools.store.sharded_collection import Scale
            from ibllm_tools.store.visual_cache import VisualCache
            written = snapshot._written
            def write_and_wait(*args):
                path = written(*args)
                print("written", flush=True)
                time.sleep(60)
                return path
            snapshot._written = write_and_wait
            cache = VisualCache.open(sys.argv[1], fingerprint="a", dimension=16, scale=Scale(100, 200))
            cache.build_index(progress=False)
        """
        command = [sys.executable, "-c", script, str(tmp_path / "cache")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as build:
            assert build.stdout is not None
            assert build.stdout.readline() == b"written\n"
            os.kill(build.pid, signal.SIGKILL)
        assert (tmp_path / "cache" / "visual_cache.index").read_bytes() == before
        with opened(tmp_path / "cache") as again:
            assert again.info().index.state is IndexState.STALE
            expected = exact(np.concatenate([features, queries[:1]]), queries)
            np.testing.assert_allclose(again.enhance(queries), expected, rtol=0, atol=2e-3)
        assert not list((tmp_path / "cache").glob(".visual_cache*"))

    def test_killed_at_any_moment_nothing_is_lost(self, tmp_path: Path) -> None:
        script = """if True:
            import sys
            import numpy as np
            from ibllm_tools.store.sharded_collection import Scale
            from ibllm_tools.store.visual_cache import VisualCache
            cache = VisualCache.open(sys.argv[1], fingerprint="a", dimension=16, scale=Scale(100, 200))
            rows = np.random.default_rng(0).normal(size=(5000, 16)).astype(np.float32)
            for start in range(0, 5000, 50):
                cache.add(rows[start:start + 50], [str(row) for row in range(start, start + 50)])
                print(start + 50, flush=True)
        """
        for wait in (0.1, 0.5):
            command = [sys.executable, "-c", script, str(tmp_path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as filling:
                assert filling.stdout is not None
                acknowledged = int(filling.stdout.readline())
                time.sleep(wait)
                filling.kill()
                acknowledged = max([acknowledged, *map(int, filling.stdout.read().split())])
            with opened(tmp_path) as cache:
                counts = cache.info().collections
                rows = random_rows(5000, seed=0)[: len(cache)]
                assert acknowledged <= len(cache) <= acknowledged + 50
                assert max(counts.values()) <= 100
                stored = np.concatenate(list(cache._features.batches()))
                np.testing.assert_allclose(stored, unit(rows), rtol=0, atol=1e-6)


class TestPlaces:
    def test_in_memory_a_large_cache_needs_a_folder(self, features: np.ndarray, queries: np.ndarray) -> None:
        with opened(None) as cache:
            cache.add(features)
            with pytest.raises(StoreError, match=r"250 features, more than Chroma searches well.*index_folder"):
                cache.enhance(queries)

    def test_a_folder_for_the_index_can_be_named(
        self, tmp_path: Path, features: np.ndarray, queries: np.ndarray
    ) -> None:
        with opened(None, index_folder=tmp_path / "indices") as cache:
            cache.add(features)
            np.testing.assert_allclose(cache.enhance(queries), exact(features, queries), rtol=0, atol=2e-3)
            assert index_file(cache) == tmp_path / "indices" / "visual_cache.index"

    def test_a_server_serves_a_large_cache_with_an_index_here(
        self, server: tuple[str, object], tmp_path: Path, features: np.ndarray, queries: np.ndarray
    ) -> None:
        with opened(server[0]) as cache:
            cache.add(features)
            with pytest.raises(StoreError, match="index_folder"):
                cache.enhance(queries)
            assert cache.info().bytes is None
        with opened(server[0], index_folder=tmp_path) as cache:
            np.testing.assert_allclose(cache.enhance(queries), exact(features, queries), rtol=0, atol=2e-3)
            with opened(server[0]) as other:
                other.add(queries[:1])
            np.testing.assert_allclose(cache.retrieve(queries[0], k=1), unit(queries[0]), rtol=0, atol=2e-3)

    def test_a_cache_of_one_collection_opens_unchanged(
        self, tmp_path: Path, features: np.ndarray, queries: np.ndarray
    ) -> None:
        """As it was made before there were several."""
        with VectorDatabase.open(tmp_path) as database:
            single = database.collection("visual_cache", fingerprint="a", dimension=WIDTH)
            single.upsert([str(row) for row in range(150)], unit(features[:150]))
        with opened(tmp_path) as cache:
            assert len(cache) == 150
            np.testing.assert_allclose(cache.enhance(queries), exact(features[:150], queries), rtol=0, atol=1e-6)
            assert list(cache.info().collections) == ["visual_cache"]


class TestBatches:
    def test_known_ids_are_passed_over(self, tmp_path: Path, features: np.ndarray) -> None:
        ids = [str(row) for row in range(250)]
        with opened(tmp_path) as cache:
            cache.add(features[:30], ids[:30])
            report = cache.add_batches(
                ((ids[start : start + 60], features[start : start + 60]) for start in range(0, 250, 60)), progress=False
            )
            assert (report.added, report.known, len(cache)) == (220, 30, 250)

    def test_without_ids_the_features_name_themselves(self, tmp_path: Path, features: np.ndarray) -> None:
        with opened(tmp_path) as cache:
            for expected in (250, 0):
                report = cache.add_batches([(None, features[:130]), (None, features)], progress=False)
                assert report.added == expected
            assert len(cache) == 250

    def test_ids_must_fit(self, tmp_path: Path, features: np.ndarray) -> None:
        with opened(tmp_path) as cache, pytest.raises(InvalidRequestError, match="1 ids for 2"):
            cache.add_batches([(["a"], features[:2])], progress=False)


class TestCondensed:
    def test_prototypes_stand_for_their_clusters(self, tmp_path: Path) -> None:
        centres = unit(random_rows(12, seed=3))
        rows = unit(np.repeat(centres, 40, axis=0) + 0.02 * random_rows(480, seed=4))
        with opened(tmp_path) as cache:
            cache.add(rows)
            with cache.condensed(60, progress=False) as small:
                assert len(small) == 60
                for centre in centres:
                    assert small.retrieve(centre, k=1) @ centre > 0.99

    def test_the_loss_shrinks_with_their_number(self, cache: VisualCache, features: np.ndarray) -> None:
        queries = random_rows(50, seed=5)
        wanted = exact(features, queries)
        loss = []
        for count in (10, 100, 240):
            with cache.condensed(count, progress=False) as small:
                assert len(small) == count
                loss.append(1 - (small.enhance(queries) * wanted).sum(axis=1).mean())
        assert loss[0] > loss[1] > loss[2]

    def test_a_small_cache_in_memory_can_be_condensed(self, features: np.ndarray) -> None:
        with (
            VisualCache.from_features(features, fingerprint="a") as cache,
            cache.condensed(20, progress=False) as small,
        ):
            assert (len(small), small.fingerprint) == (20, "a")

    def test_they_go_where_they_are_wanted(self, cache: VisualCache, tmp_path: Path) -> None:
        cache.condensed(20, tmp_path / "small", progress=False).close()
        with opened(tmp_path / "small") as small:
            assert len(small) == 20
        with pytest.raises(StoreError, match="there is a cache of 20 features"):
            cache.condensed(20, tmp_path / "small", progress=False)

    @pytest.mark.parametrize("count", [0, 250, 251])
    def test_fewer_than_there_are(self, cache: VisualCache, count: int) -> None:
        with pytest.raises(InvalidRequestError, match=f"{count} prototypes of 250 features"):
            cache.condensed(count, progress=False)


@pytest.mark.slow
def test_a_quarter_million_at_the_true_scale(tmp_path: Path) -> None:
    """Three collections, an index of two thousand lists, and no more than a gibibyte of memory."""
    script = """if True:
        import re, sys
        import numpy as np
        from ibllm_tools.store.visual_cache import VisualCache
        drawn = np.random.default_rng(0)
        centres = drawn.normal(size=(500, 64)).astype(np.float32)
        rows = centres[np.arange(250_000) % 500] + 0.6 * drawn.standard_normal((250_000, 64), np.float32)
        queries = centres[:100] + 0.6 * drawn.standard_normal((100, 64), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        with VisualCache.open(sys.argv[1], fingerprint="a", dimension=64) as cache:
            cache.add(rows)
            enhanced = cache.enhance(queries)
            info = cache.info(verify=True)
        scores = queries @ rows.T
        for query, score, found in zip(queries, scores, enhanced):
            near = rows[np.argsort(-score)[:10]]
            weights = np.exp(20 * (near @ query - 1))
            mean = weights @ near
            wanted = query + mean / np.linalg.norm(mean)
            assert found @ wanted / np.linalg.norm(wanted) > 0.9995
        assert list(info.collections.values()) == [100_000, 100_000, 50_000]
        assert info.index.state == "fresh" and info.index.lists == 2_000
        assert int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) < 2**20
    """
    subprocess.run([sys.executable, "-W", "error", "-c", script, str(tmp_path)], check=True)
