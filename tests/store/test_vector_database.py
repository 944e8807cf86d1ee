"""A Chroma database in a folder: it opens whatever a killed process left, and gives its folder back."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from chromadb.api.rust import RustBindingsAPI

from ibllm_tools.errors import StoreError
from ibllm_tools.store.chroma import VectorDatabase
from ibllm_tools.store.database_file import DatabaseFile
from ibllm_tools.store.folder_lock import owners


def keeps_log(folder: Path) -> bool:
    with DatabaseFile.open(folder) as file:
        return file.keeps_log


class TestOpening:
    def test_an_empty_file_that_a_kill_left_is_completed(self, tmp_path: Path) -> None:
        (tmp_path / "chroma.sqlite3").touch()
        VectorDatabase.open(tmp_path, keep_log=True).close()
        assert keeps_log(tmp_path)

    def test_tables_that_a_kill_left_half_made_are_completed(self, tmp_path: Path) -> None:
        VectorDatabase.open(tmp_path).close()
        with closing(sqlite3.connect(tmp_path / "chroma.sqlite3")) as connection, connection:
            connection.execute("DROP TABLE embeddings_queue_config")
            connection.execute("DELETE FROM migrations WHERE sql LIKE '%CREATE TABLE embeddings_queue_config%'")
        VectorDatabase.open(tmp_path, keep_log=True).close()
        assert keeps_log(tmp_path)


def take_offline(database: VectorDatabase) -> None:
    with database.offline():
        pass


class TestRestarting:
    @pytest.mark.parametrize("restart", [take_offline, VectorDatabase.unload])
    def test_an_engine_that_does_not_start_again_gives_the_folder_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: Callable[[VectorDatabase], None]
    ) -> None:
        def fail(_: RustBindingsAPI) -> None:
            raise OSError("too many open files")

        with VectorDatabase.open(tmp_path) as database:
            with monkeypatch.context() as patch:
                patch.setattr(RustBindingsAPI, "start", fail)
                with pytest.raises(StoreError, match="opening failed: too many open files"):
                    restart(database)
            assert owners(tmp_path) == 0
            with pytest.raises(StoreError, match="closed"):
                database.names()
        with VectorDatabase.open(tmp_path) as database:
            assert database.names() == []
