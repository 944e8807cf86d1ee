"""Chroma's engine, embedded in a folder, in memory or on a server, and what it throws as errors of ours.

- Two processes that write one folder lose data without any error, so a process takes an exclusive lock on it. Within
  a process Chroma shares one engine between all clients of a folder, so there it may be opened as often as one likes.
- All in-memory clients of a process share one engine too, and refuse to start beside one with other settings. An
  in-memory database therefore gets an engine of its own, and neither disturbs nor sees anybody else's.
- An HttpClient holds a second connection that nobody can close, so a server is spoken to through its engine as well.
- A process that is killed while it writes an index, and a disk that is full then, leave one that is broken
  (`ibllm_tools.store.hnsw_files`). So a folder that was left is looked at before Chroma opens it. With the whole log
  kept, a broken index is made anew.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from ibllm_tools.errors import IbllmError, StoreError
from ibllm_tools.store.database_file import SQLITE_FILE, DatabaseFile, mend_indexes
from ibllm_tools.store.folder_lock import own_folder, owners

if TYPE_CHECKING:
    from chromadb.api import ServerAPI
    from chromadb.api.client import Client
    from chromadb.config import Settings

logger = logging.getLogger(__name__)

STATISTICS_FROM, ANALYSIS_LIMIT = 1000, 400
"""Records from which statistics of the tables are worth their time, and rows of each index that they rest on."""
BROKEN_INDEX = re.compile(r"hnsw|pickle|Error finding id|Error getting embedding|Error querying knn")
"""In what Chroma says of an index that it cannot use."""
FULL_DISK = re.compile(r"disk is full|disk I/O error|Failed to apply logs")
"""In what it says, also to readers, when it cannot write."""


class Engine(NamedTuple):
    """A running engine."""

    server: ServerAPI
    batch: int  # records that one call may write
    close: Callable[[], None]
    lock: RLock  # who restarts the engine holds it, and who is not to meet one that is stopped
    unload: Callable[[], None] = lambda: None


_locks: WeakKeyDictionary[ServerAPI, RLock] = WeakKeyDictionary()  # of engines that several databases share


def open_engine(place: str | Path | None, *, keep_log: bool) -> Engine:
    """Start an engine in a folder, on the server of a URL, or in memory, see `VectorDatabase.open`."""
    with as_store_errors("memory" if place is None else str(place), "opening"):
        if place is None:
            return _open_in_memory()
        return _open_folder(place, keep_log) if isinstance(place, Path) else _open_on_server(place)


def is_server(location: str | Path | None) -> bool:
    """Whether a location is the URL of a Chroma server."""
    return str(location).startswith(("http://", "https://"))


@contextmanager
def as_store_errors(place: str, action: str) -> Iterator[None]:
    """Turn what Chroma and its connection throw into one StoreError about what was being done."""
    import httpx
    from chromadb.errors import ChromaError

    try:
        yield
    except IbllmError:
        raise
    except (ChromaError, httpx.HTTPError, OSError, ValueError) as error:
        raise StoreError(_explained(place, action, error)) from error
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":  # a panic of Chroma's engine, which is no Exception
            raise
        raise StoreError(_explained(place, action, error, panic=True)) from error


def _explained(place: str, action: str, error: BaseException, *, panic: bool = False) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if FULL_DISK.search(reason):
        reason += "; the disk may be full: free space"
    if panic or BROKEN_INDEX.search(reason):
        reason += "; an index may be broken: `ibllm library verify --repair` makes those of a library anew"
    return f"{place}: {action} failed: {reason}"


def _open_in_memory() -> Engine:
    from chromadb.api.rust import RustBindingsAPI
    from chromadb.config import System

    with ExitStack() as opened:
        system = System(_settings())
        server = system.instance(RustBindingsAPI)
        system.start()
        opened.callback(system.stop)
        return Engine(server, server.get_max_batch_size(), opened.pop_all().close, RLock())


def _open_on_server(url: str) -> Engine:
    from chromadb.api.fastapi import FastAPI
    from chromadb.config import System

    parts = urlsplit(url)
    secure = parts.scheme == "https"
    settings = _settings(
        chroma_api_impl="chromadb.api.fastapi.FastAPI",
        chroma_server_host=parts.hostname,
        chroma_server_http_port=parts.port or (443 if secure else 8000),
        chroma_server_ssl_enabled=secure,
    )
    with ExitStack() as opened:
        system = System(settings)
        server = system.instance(FastAPI)
        opened.callback(server._session.close)  # Chroma leaves its connections to the garbage collector
        system.start()
        opened.callback(system.stop)
        return Engine(server, server.get_max_batch_size(), opened.pop_all().close, RLock())


def _open_folder(folder: Path, keep_log: bool) -> Engine:
    with ExitStack() as opened:
        opened.callback(own_folder(folder, left=lambda since: _mend(folder, since)))
        if owners(folder) == 1:
            if keep_log:
                _keep_log_from_the_start(folder)
            _take_statistics(folder)
        client = _client(folder)
        opened.callback(_close, client)
        server = client._server
        lock = _locks.setdefault(server, RLock())
        return Engine(server, client.get_max_batch_size(), opened.pop_all().close, lock, lambda: _restart(server))


def _close(client: Client) -> None:
    with suppress(AttributeError):  # an engine that did not start again has nothing to stop
        client.close()


def _restart(server: ServerAPI) -> None:
    server.stop()
    server.start()


def _client(folder: Path) -> Client:
    from chromadb import PersistentClient

    return cast("Client", PersistentClient(folder.resolve(), settings=_settings()))


def _mend(folder: Path, since: int) -> None:
    for name in mend_indexes(folder, since=since):
        logger.warning("%s: the index of %s was left broken; it is made anew from its log", folder, name)


def _keep_log_from_the_start(folder: Path) -> None:
    """Chroma reads this setting from its tables, and offers no other way to it."""
    file = folder / SQLITE_FILE
    if file.exists():
        with DatabaseFile.open(folder) as stored:
            if stored.collections() or stored.keeps_log:
                return
    _client(folder).close()  # makes the tables
    with closing(sqlite3.connect(file)) as connection, connection:
        (config,) = connection.execute("SELECT config_json_str FROM embeddings_queue_config").fetchone()
        wanted = json.dumps({**json.loads(config), "automatically_purge": False})
        connection.execute("UPDATE embeddings_queue_config SET config_json_str = ?", (wanted,))


def _take_statistics(folder: Path) -> None:
    """Have SQLite look at its tables, where they have grown much since it last did.

    Chroma never does. Without, its filters of metadata go through a whole collection where an index tells the few rows
    that pass: 22 ms in place of 9 among 36,000 entries, of which 1 % pass.
    """
    file = folder / SQLITE_FILE
    if not file.exists():
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as connection, connection:  # Chroma says what is wrong
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "embeddings" not in tables:
            return
        (rows,) = connection.execute("SELECT COALESCE(MAX(id), 0) FROM embeddings").fetchone()
        seen = 0
        if "sqlite_stat1" in tables:
            found = connection.execute("SELECT stat FROM sqlite_stat1 WHERE tbl = 'embeddings'").fetchone()
            seen = 0 if found is None else int(found[0].split()[0])
        if rows > STATISTICS_FROM and rows > 2 * seen:
            connection.execute(f"PRAGMA analysis_limit = {ANALYSIS_LIMIT}")
            connection.execute("ANALYZE")


def _settings(**options: Any) -> Settings:
    from chromadb.config import Settings

    return Settings(anonymized_telemetry=False, **options)
