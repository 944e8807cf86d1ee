"""An exported library on disk: Parquet for what it knows, files for what it shows.

::

    manifest.json                   what there is: encoder, width, counts, and the sha256 of every table
    image-00000.parquet ...         the entries of a modality, each with its vector
    sources-00000.parquet ...       what was added: paths, handles, hashes
    attachments/                    thumbnails, attachments and, where asked for, the sources' files: an AttachmentStore

A row is an `Entry` or a `SourceRecord`: the same fields, with ``vector`` as a list of E float32, and ``metadata`` and
``counts`` as JSON. Any reader of Parquet can open it.

What is read may come from anyone. Names, sizes, hashes, schemas, row counts and every value are checked before anything
of it is used; Parquet runs no code, and what a row group announces is bounded before it is unpacked.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ibllm_tools.attachments.store import HANDLE, SHA256
from ibllm_tools.errors import IbllmError, MissingExtraError, StoreError, one_line
from ibllm_tools.library.catalogue import SourceRecord, entry_id
from ibllm_tools.library.entry import Entry, checked_metadata, checked_tags
from ibllm_tools.library.places import followed
from ibllm_tools.media.sniff import Modality

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 1
MANIFEST, ATTACHMENTS = "manifest.json", "attachments"
SOURCES: Literal["sources"] = "sources"
ROWS = 1000
"""Of a row group: what is in memory at a time."""
TABLE_ROWS = 100_000
"""Of a file."""
GROUP_BYTES = 1 << 28
"""Of a row group, unpacked, that is written; what is read may have four times as many."""
MANIFEST_BYTES = 1 << 24
DESCRIPTION_BYTES = 1 << 26
"""Of what a Parquet file says of itself."""
UNIT_TOLERANCE = 1e-3
KEY = re.compile(r"[0-9a-f]{12}([0-9a-f]{12})?")

ENTRY_COLUMNS = {
    "id": "string",
    "source": "string",
    "sha256": "string",
    "modality": "string",
    "mime": "string",
    "index": "int64",
    "start": "double",
    "end": "double",
    "duration": "double",
    "char_start": "int64",
    "char_end": "int64",
    "width": "int64",
    "height": "int64",
    "title": "string",
    "tags": "list<string>",
    "text": "string",
    "caption": "string",
    "thumbnail": "string",
    "metadata": "string",
}
SOURCE_COLUMNS = {
    "source": "string",
    "sha256": "string",
    "size": "int64",
    "modified": "int64",
    "modality": "string",
    "mime": "string",
    "key": "string",
    "counts": "string",
    "failed": "int64",
    "labels": "string",
    "complete": "bool",
    "seconds": "double",
}
COLUMNS = {"entries": {**ENTRY_COLUMNS, "vector": "list<float>"}, "sources": SOURCE_COLUMNS}
Kind = Modality | Literal["sources"]
Rows = TypeVar("Rows")


class Table(BaseModel):
    """A Parquet file of an export."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z]+-\d{5}\.parquet$", description="File name.")
    kind: Kind = Field(description="The entries of a modality, or 'sources'.")
    rows: int = Field(ge=0, description="Number of rows.")
    bytes: int = Field(ge=0, description="Size of the file.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of its bytes.")


class Manifest(BaseModel):
    """What an export holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["ibllm-library"] = Field(default="ibllm-library", description="Says that this is one.")
    schema_version: int = Field(default=SCHEMA, ge=1, le=SCHEMA, description="Of this file and the tables.")
    encoder: str = Field(min_length=1, max_length=1000, description="Fingerprint of the encoder of the vectors.")
    dimension: int = Field(ge=1, le=1 << 16, description="Width E of the vectors.")
    sources: int = Field(ge=0, description="Files, attachments and texts.")
    entries: dict[Modality, int] = Field(description="Number of entries per modality.")
    thumbnails: int = Field(ge=0, description="Entries whose thumbnail is there.")
    attachments: int = Field(ge=0, description="Sources that are no files.")
    files: int = Field(ge=0, description="Sources whose file is there.")
    root: str = Field(description="Folder that all files lie below; empty where there is none.")
    separator: Literal["/", "\\"] = Field(description="Between the folders of a path.")
    columns: dict[str, dict[str, str]] = Field(description="Types of the columns of 'entries' and 'sources'.")
    tables: tuple[Table, ...] = Field(description="The Parquet files: entries, then sources.")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write what an export holds, once it is there."""
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """What an export says that it holds.

    Raises:
        StoreError: it is no export, was written by a later version, or contradicts itself.
    """
    file = folder / MANIFEST
    with followed(folder):
        if not file.is_file() or file.is_symlink():
            raise StoreError(f"{one_line(folder)}: no exported library; expected a folder with {MANIFEST}")
        size = file.stat().st_size
    if size > MANIFEST_BYTES:
        raise StoreError(f"{file}: {size:,} bytes, the limit is {MANIFEST_BYTES:,}; export it again")
    with _refused(file):
        content = json.loads(file.read_bytes())
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > SCHEMA:
            raise StoreError(
                f"{file} was written by a later version (schema {version}, this one reads {SCHEMA}); upgrade "
                "ibllm-tools"
            )
        manifest = Manifest.model_validate(content)
        counts: Counter[str] = Counter()
        for table in manifest.tables:
            counts[table.kind] += table.rows
        said = Counter[str]({SOURCES: manifest.sources})
        said.update(dict(manifest.entries.items()))
        if counts != said:
            raise ValueError(f"its tables have {dict(counts)} rows")
        if len({table.name for table in manifest.tables}) < len(manifest.tables):
            raise ValueError("it names a table twice")
    return manifest


def write_tables(folder: Path, kind: Kind, pages: "Iterable[pa.Table]") -> Iterator[Table]:
    """Write pages of rows into files of at most `TABLE_ROWS`; what they are, each once it is complete."""
    import pyarrow.parquet as pq

    repeated = ["modality", "mime", "source", "sha256", "key", "tags.list.element"]
    number, writer, rows = 0, None, 0
    path = folder / f"{kind}-{number:05d}.parquet"
    try:
        for page in pages:
            if writer is None:
                path = folder / f"{kind}-{number:05d}.parquet"
                writer = pq.ParquetWriter(path, page.schema, compression="zstd", use_dictionary=repeated)
            writer.write_table(page, row_group_size=max(1, min(ROWS, page.num_rows * GROUP_BYTES // page.nbytes)))
            rows += page.num_rows
            if rows >= TABLE_ROWS:
                writer.close()
                yield _table(path, kind, rows)
                number, writer, rows = number + 1, None, 0
        if writer is not None:
            writer.close()
            yield _table(path, kind, rows)
    finally:
        if writer is not None:
            writer.close()


def entry_table(entries: Sequence[Entry], vectors: NDArray[np.float32]) -> "pa.Table":
    """Entries and their vectors (N, E) as rows."""
    import pyarrow as pa

    dumped = [
        {
            **entry.model_dump(),
            "metadata": json.dumps(entry.metadata, ensure_ascii=False, allow_nan=False, sort_keys=True),
        }
        for entry in entries
    ]
    schema = entry_schema(vectors.shape[1])
    columns = [pa.array([row[name] for row in dumped], schema.field(name).type) for name in ENTRY_COLUMNS]
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    flat = pa.FixedSizeListArray.from_arrays(values, type=schema.field("vector").type)
    return pa.Table.from_arrays([*columns, flat], schema=schema)


def source_table(records: Sequence[SourceRecord]) -> "pa.Table":
    """Records as rows."""
    import pyarrow as pa

    dumped = [{**record.model_dump(), "counts": json.dumps(record.counts)} for record in records]
    schema = source_schema()
    return pa.Table.from_pylist(dumped, schema=schema)


def entry_schema(dimension: int) -> "pa.Schema":
    """The schema of a table of entries."""
    import pyarrow as pa

    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), dimension)
    return pa.schema([*_fields(ENTRY_COLUMNS, Entry), pa.field("vector", vector, nullable=False)])


def source_schema() -> "pa.Schema":
    """The schema of a table of sources."""
    import pyarrow as pa

    return pa.schema(_fields(SOURCE_COLUMNS, SourceRecord))


def check_table(folder: Path, table: Table) -> None:
    """Compare a table's bytes with the manifest.

    Raises:
        StoreError: it is missing, or not the file that was written.
    """
    path = folder / table.name
    with followed(path):
        is_there = path.is_file() and not path.is_symlink() and path.stat().st_size == table.bytes
        if not is_there or _sha256(path) != table.sha256:
            raise StoreError(f"{path}: missing or not what {MANIFEST} says; copy or export the library again")


def read_entries(
    folder: Path, table: Table, modality: Modality, dimension: int
) -> Iterator[tuple[list[Entry], NDArray[np.float32]]]:
    """The entries of a table with their vectors (N, E), some at a time.

    Raises:
        StoreError: a value that no export has.
    """

    def checked(batch: "pa.RecordBatch") -> tuple[list[Entry], NDArray[np.float32]]:
        vectors = batch.column("vector").flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)  # (N, E)
        entries = [_entry(row, modality) for row in batch.drop_columns("vector").to_pylist()]
        lengths = np.linalg.norm(vectors, axis=1)
        # Written so that NaN fails.
        if len(vectors) != len(entries) or not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():
            raise ValueError("a vector that is not of length 1")
        if len({entry.id for entry in entries}) < len(entries):
            raise ValueError("an id is there twice")
        return entries, vectors

    return _read(folder / table.name, table, entry_schema(dimension), checked)


def read_sources(folder: Path, table: Table, max_segments: int) -> Iterator[list[SourceRecord]]:
    """The sources of a table, each of so many segments at most, some at a time; raises as `read_entries`."""

    def checked(batch: "pa.RecordBatch") -> list[SourceRecord]:
        records = [_source(row, max_segments) for row in batch.to_pylist()]
        if len({record.source for record in records}) < len(records):
            raise ValueError("a source is there twice")
        return records

    return _read(folder / table.name, table, source_schema(), checked)


def require_pyarrow(feature: str) -> None:
    """Raise MissingExtraError where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401 - whether it is there
    except ImportError as error:
        raise MissingExtraError(feature, "pyarrow", "parquet") from error


def _read(path: Path, table: Table, schema: "pa.Schema", checked: "Callable[[pa.RecordBatch], Rows]") -> Iterator[Rows]:
    import pyarrow.parquet as pq

    with (
        _refused(path),
        pq.ParquetFile(
            path, thrift_string_size_limit=DESCRIPTION_BYTES, thrift_container_size_limit=DESCRIPTION_BYTES
        ) as file,
    ):
        # The types are plain ones: an extension type in the file is another schema.
        if not file.schema_arrow.equals(schema, check_metadata=False):
            raise ValueError("its columns are others")
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        if file.metadata.num_rows != table.rows or any(group.num_rows > ROWS for group in groups):
            raise ValueError(f"{file.metadata.num_rows:,} rows in {len(groups):,} groups")
        if any(group.total_byte_size > 4 * GROUP_BYTES for group in groups):
            raise ValueError("a row group of more than 1 GiB")
        for batch in file.iter_batches(ROWS):
            batch.validate(full=True)
            yield checked(batch)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn what a foreign file makes fail into one StoreError."""
    try:
        yield
    except StoreError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StoreError(_no_export(path, reason)) from error
    except (IbllmError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(_no_export(path, error)) from error


def _no_export(path: Path, reason: object) -> str:
    return f"{path}: no part of an exported library ({one_line(reason, 300)}); copy or export it again"


def _table(path: Path, kind: Kind, rows: int) -> Table:
    return Table(name=path.name, kind=kind, rows=rows, bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fields(columns: dict[str, str], model: type[BaseModel]) -> "list[pa.Field]":
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "list<string>": pa.list_(pa.field("element", pa.string(), nullable=False)),
    }
    optional = {name for name, field in model.model_fields.items() if not field.is_required() and field.default is None}
    return [pa.field(name, types[kind], nullable=name in optional) for name, kind in columns.items()]


def _entry(row: dict[str, Any], modality: Modality) -> Entry:
    row["metadata"] = checked_metadata(json.loads(row["metadata"]))
    row["tags"] = checked_tags(row["tags"])
    entry = Entry(**row)
    key = entry.id.split("-")[1:2]
    if not key or not KEY.fullmatch(key[0]) or entry.modality != modality or not SHA256.fullmatch(entry.sha256):
        raise ValueError(f"the id {entry.id!r}")
    if entry.id != entry_id(entry.sha256, key[0], modality, entry.index) or entry.index < 0:
        raise ValueError(f"the id {entry.id!r}")
    if not all(math.isfinite(value) for value in (entry.start, entry.end, entry.duration) if value is not None):
        raise ValueError(f"{entry.id}: a time that is not finite")
    if entry.thumbnail is not None and not HANDLE.fullmatch(entry.thumbnail):
        raise ValueError(f"{entry.id}: the thumbnail {entry.thumbnail!r}")
    _check_source(entry.source, entry.sha256)
    return entry


def _source(row: dict[str, Any], max_segments: int) -> SourceRecord:
    record = SourceRecord(**{**row, "counts": json.loads(row["counts"])})
    if not SHA256.fullmatch(record.sha256) or not KEY.fullmatch(record.key):
        raise ValueError(f"{record.source}: sha256 or key")
    segments = sum(record.counts.values())
    if any(count < 0 for count in record.counts.values()) or not 0 <= record.failed <= segments:
        raise ValueError(f"{record.source}: {record.counts} segments, {record.failed} failed")
    if segments > max_segments:
        raise StoreError(
            f"{one_line(record.source)}: {segments:,} segments, the limit is {max_segments:,}; open the library with "
            "settings=SegmentSettings(max_segments=...)"
        )
    if record.seconds is not None and not math.isfinite(record.seconds):
        raise ValueError(f"{record.source}: a length that is not finite")
    _check_source(record.source, record.sha256)
    return record


def _check_source(source: str, sha256: str) -> None:
    if not source or "\0" in source:
        raise ValueError(f"the source {source!r}")
    if source.startswith("att://") and source != f"att://{sha256}":
        raise ValueError(f"the source {source!r} of another content")
