"""Vectors over several collections: one id is one vector, and whoever derived something knows when it is stale."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from chromadb.api import ServerAPI

from ibllm_tools.errors import EncoderMismatchError, InvalidRequestError, StoreError
from ibllm_tools.store import chroma_engine
from ibllm_tools.store.chroma import VectorCollection, VectorDatabase
from ibllm_tools.store.sharded_collection import Scale, ShardedCollection

WIDTH, SCALE = 8, Scale(collection=10, searched=20)


def unit_rows(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def names(start: int, stop: int) -> list[str]:
    return [f"id-{row}" for row in range(start, stop)]


def opened(database: VectorDatabase, scale: Scale = SCALE, name: str = "rows") -> ShardedCollection:
    return ShardedCollection(database, name, fingerprint="a", dimension=WIDTH, scale=scale)


@pytest.fixture
def database() -> Iterator[VectorDatabase]:
    with VectorDatabase.open(None) as database:
        yield database


class TestWriting:
    def test_a_collection_is_filled_before_the_next_is_made(self, database: VectorDatabase) -> None:
        held = opened(database)
        held.upsert(names(0, 7), unit_rows(7))
        assert held.content().counts == {"rows": 7}
        held.upsert(names(7, 25), unit_rows(18))
        assert held.content().counts == {"rows": 10, "rows.0001": 10, "rows.0002": 5}

    def test_an_id_is_replaced_where_it_lies(self, database: VectorDatabase) -> None:
        held, rows = opened(database), unit_rows(25)
        held.upsert(names(0, 25), rows)
        other = unit_rows(3, seed=1)
        held.upsert(["id-3", "id-14", "id-24"], other)
        assert list(held.content().counts.values()) == [10, 10, 5]
        rows[[3, 14, 24]] = other
        np.testing.assert_array_equal(np.concatenate(list(held.batches())), rows)

    def test_old_and_new_ids_may_come_together(self, database: VectorDatabase) -> None:
        held = opened(database)
        held.upsert(names(0, 8), unit_rows(8))
        held.upsert(names(5, 15), unit_rows(10, seed=1))
        assert list(held.content().counts.values()) == [10, 5]
        assert held.known(names(0, 16)) == set(names(0, 15))

    def test_an_old_id_does_not_go_into_the_next_collection(self, database: VectorDatabase) -> None:
        held = opened(database)
        held.upsert(names(0, 8), unit_rows(8))
        held.upsert([*names(8, 12), "id-0"], unit_rows(5, seed=1))
        assert len(held) == 12
        assert list(held.content().counts.values()) == [10, 2]

    def test_bad_vectors_are_refused(self, database: VectorDatabase) -> None:
        with pytest.raises(InvalidRequestError, match="NaN"):
            opened(database).upsert(["id"], np.full((1, WIDTH), np.nan, np.float32))

    @pytest.mark.parametrize("scale", [Scale(0, 10), Scale(10, 9)])
    def test_an_impossible_scale_is_refused(self, database: VectorDatabase, scale: Scale) -> None:
        with pytest.raises(InvalidRequestError, match="collection"):
            opened(database, scale)


class TestReading:
    def test_the_neighbours_of_all_collections_are_merged(self, database: VectorDatabase) -> None:
        held, rows = opened(database), unit_rows(19)
        held.upsert(names(0, 19), rows)
        assert held.content().searchable
        queries = unit_rows(4, seed=2)
        for query, found in zip(queries, held.nearest(queries, 6), strict=True):
            np.testing.assert_allclose(found, rows[np.argsort(-(rows @ query))[:6]], rtol=0, atol=1e-6)

    def test_beyond_the_searched_collections_it_is_not_searchable(self, database: VectorDatabase) -> None:
        held = opened(database)
        held.upsert(names(0, 20), unit_rows(20))
        assert held.content().searchable
        held.upsert(names(20, 21), unit_rows(1))
        assert not held.content().searchable

    def test_a_sample_comes_from_every_collection(self, database: VectorDatabase) -> None:
        held, rows = opened(database, Scale(1_000, 1_000)), unit_rows(2_600)
        held.upsert(names(0, 2_600), rows)
        sample = np.concatenate(list(held.sample(1_000)))
        places = [int(np.flatnonzero((rows == row).all(axis=1))[0]) for row in sample]
        assert len(set(places)) == len(places) >= 1_000
        assert {place // 1_000 for place in places} == {0, 1, 2}

    def test_a_sample_of_more_than_there_is_holds_everything(self, database: VectorDatabase) -> None:
        held = opened(database, Scale(1_000, 1_000))
        held.upsert(names(0, 1_300), unit_rows(1_300))
        assert sum(map(len, held.sample(10**9))) == 1_300


class TestOpening:
    def test_a_folder_is_opened_again_with_all_its_collections(self, tmp_path: Path) -> None:
        rows = unit_rows(25)
        with VectorDatabase.open(tmp_path) as database:
            held = opened(database)
            held.upsert(names(0, 25), rows)
            state = held.content().state
        with VectorDatabase.open(tmp_path) as database:
            again = opened(database)
            assert (len(again), again.content().state) == (25, state)
            np.testing.assert_array_equal(np.concatenate(list(again.batches())), rows)

    def test_opening_reads_no_index_into_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with VectorDatabase.open(tmp_path) as database:
            opened(database).upsert(names(0, 25), unit_rows(25))

        def refuse(_: VectorCollection) -> int:
            raise AssertionError("a count reads the whole index")

        monkeypatch.setattr(VectorCollection, "__len__", refuse)
        with VectorDatabase.open(tmp_path) as database:
            assert list(opened(database).content().counts.values()) == [10, 10, 5]

    def test_ids_of_an_earlier_run_are_replaced_where_they_lie(self, tmp_path: Path) -> None:
        rows, other = unit_rows(25), unit_rows(4, seed=1)
        with VectorDatabase.open(tmp_path) as database:
            opened(database).upsert(names(0, 25), rows)
        with VectorDatabase.open(tmp_path) as database:
            held = opened(database)
            assert held.known([*names(0, 27)]) == set(names(0, 25))
            held.upsert(["id-3", "id-14", "id-24", "id-25"], other)
            rows[[3, 14, 24]] = other[:3]
            np.testing.assert_array_equal(np.concatenate(list(held.batches())), np.concatenate([rows, other[3:]]))

    def test_a_count_that_a_kill_left_open_is_taken(self, tmp_path: Path) -> None:
        with VectorDatabase.open(tmp_path) as database:
            held = opened(database)
            held.upsert(names(0, 12), unit_rows(12))
            held._say([10, -1])
            held._collections[1].upsert(["id-12"], unit_rows(1, seed=1))
        with VectorDatabase.open(tmp_path) as database:
            assert list(opened(database).content().counts.values()) == [10, 3]

    def test_a_single_collection_is_one_too(self, database: VectorDatabase) -> None:
        """As an earlier version left it: more in it than a collection now takes, and no token."""
        single = database.collection("rows", fingerprint="a", dimension=WIDTH)
        single.upsert(names(0, 15), unit_rows(15))
        held = opened(database)
        assert held.content().counts == {"rows": 15}
        held.upsert(names(12, 18), unit_rows(6, seed=1))
        assert held.content().counts == {"rows": 15, "rows.0001": 3}

    def test_collections_of_similar_names_are_not_its_own(self, database: VectorDatabase) -> None:
        for name in ("rows.old", "rows.00001", "rowsX0001", "arows"):
            database.collection(name, fingerprint="b", dimension=3)
        assert opened(database).content().counts == {"rows": 0}

    def test_another_encoder_in_any_collection_is_refused(self, database: VectorDatabase) -> None:
        opened(database).upsert(names(0, 5), unit_rows(5))
        database.collection("rows.0001", fingerprint="b", dimension=WIDTH)
        with pytest.raises(EncoderMismatchError):
            opened(database)


class TestState:
    def test_it_stays_while_nobody_writes(self, database: VectorDatabase) -> None:
        held = opened(database)
        held.upsert(names(0, 5), unit_rows(5))
        state = held.content().state
        held.nearest(unit_rows(1), 2)
        assert held.content().state == opened(database).content().state == state

    def test_a_new_vector_changes_it(self, database: VectorDatabase) -> None:
        held = opened(database)
        before = held.content().state
        held.upsert(names(0, 1), unit_rows(1))
        assert held.content().state != before

    def test_a_replaced_vector_changes_it(self, database: VectorDatabase) -> None:
        held = opened(database)
        held.upsert(names(0, 5), unit_rows(5))
        before = held.content().state
        held.upsert(names(0, 1), unit_rows(1, seed=1))
        assert held.content().state != before

    def test_what_another_client_writes_is_seen(self, database: VectorDatabase) -> None:
        one, two = opened(database), opened(database)
        before = one.content().state
        two.upsert(names(0, 25), unit_rows(25))
        assert one.content().counts == two.content().counts
        assert one.content().state == two.content().state != before
        assert one.known(["id-24"]) == {"id-24"}

    def test_a_write_that_failed_halfway_changes_it(
        self, database: VectorDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = opened(database)
        held.upsert(names(0, 5), unit_rows(5))
        before = held.content().state

        def fail(*_: object) -> None:
            raise StoreError("disk full")

        monkeypatch.setattr(VectorCollection, "upsert", fail)
        with pytest.raises(StoreError):
            held.upsert(names(0, 1), unit_rows(1, seed=1))
        assert held.content().state != before

    def test_the_token_is_changed_before_anything_is_written(
        self, database: VectorDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = opened(database)
        held.upsert(names(0, 5), unit_rows(5))
        before, during = held.content().state, []
        upsert = VectorCollection.upsert

        def looked_at(self: VectorCollection, *args: object) -> None:
            during.append(opened(database).content().state)
            upsert(self, *args)

        monkeypatch.setattr(VectorCollection, "upsert", looked_at)
        held.upsert(names(0, 1), unit_rows(1, seed=1))
        assert len({before, during[0], held.content().state}) == 3


class TestThreads:
    def test_all_see_what_another_client_wrote(self, database: VectorDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
        held = opened(database)
        opened(database).upsert(names(0, 25), unit_rows(25))
        listed = VectorDatabase.names

        def slowly(self: VectorDatabase, prefix: str = "") -> list[str]:
            time.sleep(0.1)
            return listed(self, prefix)

        monkeypatch.setattr(VectorDatabase, "names", slowly)
        with ThreadPoolExecutor(4) as threads:
            found = [threads.submit(held.content) for _ in range(4)]
            assert [list(each.result().counts.values()) for each in found] == [[10, 10, 5]] * 4

    @pytest.mark.parametrize("shared", [True, False], ids=["one database", "one folder"])
    def test_one_reads_while_another_unloads(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
    ) -> None:
        def restart_slowly(server: ServerAPI) -> None:
            server.stop()
            time.sleep(0.05)
            server.start()

        with VectorDatabase.open(tmp_path) as database, VectorDatabase.open(tmp_path) as other:
            held = opened(database)
            held.upsert(names(0, 25), unit_rows(25))
            reader = held if shared else opened(other)
            monkeypatch.setattr(chroma_engine, "_restart", restart_slowly)
            with ThreadPoolExecutor(1) as threads:
                read_out = threads.submit(lambda: sum(map(len, held.batches())))
                while not read_out.done():
                    assert len(reader.content()) == 25
                    assert len(reader.nearest(unit_rows(1), 3)[0]) == 3
                    assert reader.known(["id-24"]) == {"id-24"}
                assert read_out.result() == 25
