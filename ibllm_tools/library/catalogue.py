"""Where a library's records lie: one Chroma collection of entries per modality, and one of sources.

Chroma filters slowly (a ``where`` that keeps half of 200,000 entries takes 400 ms, an unfiltered query 2), and the
modality is the commonest filter, so it is none: every modality has a collection of its own.

**Ids** are made of the content, the encoder with its settings, the modality and the place in the source, so the same
segment has the same id wherever and whenever it is encoded: what is written twice is there once, and a source's record
alone tells the ids of its entries.

A source's record is written after its entries. So a source that is recorded is complete, and what a killed run left
behind is completed, not repeated, by the next one.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ibllm_tools.errors import EncoderMismatchError, StoreError
from ibllm_tools.library.entry import NAMED_TEXT, OWN_KEYS, Entry
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.chroma import HnswSettings, Records, VectorCollection, VectorDatabase
from ibllm_tools.store.segments import SegmentSettings

SCHEMA = 1
"""Of the records; a library with a higher one was written by a later version."""

INDEX = HnswSettings(ef_search=400)
"""Twice the ef_construction finds no more (0.9985 within and 0.9905 across modalities, 20,000 entries) and writes a
third slower; half the neighbours find 0.98 and 0.96. Chroma's threshold for writing an index stays: a higher one writes
no faster, and opening takes seconds. Recall of whole libraries is in benchmarks/RESULTS.md.
"""

SOURCES_INDEX = HnswSettings(ef_construction=10, ef_search=10, max_neighbors=4)
"""Sources are looked up and never searched; Chroma wants a vector of each all the same."""

MODALITIES: tuple[Modality, ...] = get_args(Modality)
ENTRY_ID = re.compile(rf"[0-9a-f]{{64}}-(?:[0-9a-f]{{12}}){{1,2}}-({'|'.join(MODALITIES)})-[0-9]+")
PAGE = 1000
KEY_DIGITS = 12


class SourceRecord(BaseModel):
    """What the library remembers of a file, an attachment or a text that was added."""

    model_config = ConfigDict(frozen=True)

    source: str = Field(description="Path, handle, or text: and a name.")
    sha256: str = Field(description="Of its bytes.")
    size: int = Field(description="In bytes.")
    modified: int = Field(description="Time of its last change in nanoseconds; -1 where it says nothing.")
    modality: Modality = Field(description="As a whole.")
    mime: str = Field(description="By content.")
    key: str = Field(description="Encoder and settings with which its entries were made.")
    counts: dict[Modality, int] = Field(description="Number of segments per modality.")
    failed: int = Field(default=0, description="Segments that could not be encoded.")
    labels: str = Field(default="", description="Identifies the title, tags, metadata and captions it was given.")
    complete: bool = Field(default=True, description="False when entries were found missing: it is indexed again.")
    seconds: float | None = Field(default=None, description="Length of a sound or video.")

    @property
    def content(self) -> tuple[str, str]:
        """What its entries are made of, and how: sources in which this is equal share them."""
        return self.sha256, self.key

    def ids(self) -> dict[Modality, list[str]]:
        """The ids of its entries; segments that failed have none."""
        first, found = 0, {}
        for modality, count in self.counts.items():
            found[modality] = [
                entry_id(self.sha256, self.key, modality, index) for index in range(first, first + count)
            ]
            first += count
        return found


class Catalogue:
    """The collections of one library in a database. Made by :meth:`open`."""

    def __init__(self, database: VectorDatabase, name: str, sources: VectorCollection, dimension: int) -> None:
        self.database, self.name, self.sources, self.dimension = database, name, sources, dimension
        self._entries: dict[Modality, VectorCollection] = {}

    @classmethod
    def open(
        cls,
        database: VectorDatabase,
        name: str,
        *,
        fingerprint: str | None = None,
        dimension: int | None = None,
        create: bool = True,
    ) -> Self:
        """Open a library's collections, and make them where there are none.

        Args:
            database: where they lie.
            name: the library's.
            fingerprint: the encoder's; by default that of what is there.
            dimension: width E of its vectors; by default that of what is there.
            create: whether a library is made where there is none, which takes an encoder.

        Raises:
            EncoderMismatchError: it holds the vectors of another encoder.
            StoreError: there is none, a later version has written it, or something else lies there.
        """
        place = f"{database.location}: the library {name!r}"
        stored = database.metadata(_sources_name(name))
        if stored is None and (fingerprint is None or dimension is None or not create):
            raise StoreError(f"{database.location}: no library {name!r} there; index something into it first")
        if stored is not None and stored.get("schema", SCHEMA) > SCHEMA:
            raise StoreError(
                f"{place} was written by a later version (schema {stored['schema']}, this one reads {SCHEMA}); upgrade "
                "ibllm-tools"
            )
        if fingerprint is None or dimension is None:
            fingerprint, dimension = _stored_encoder(place, stored or {})
        if stored is not None and stored.get("fingerprint", fingerprint) != fingerprint:
            raise EncoderMismatchError(
                f"{place} holds the vectors of encoder {stored['fingerprint']!r}, and this one is {fingerprint!r}; use "
                "the encoder that filled it, or another place"
            )
        sources = database.collection(
            _sources_name(name),
            fingerprint=fingerprint,
            dimension=2,
            index=SOURCES_INDEX,
            metadata={"schema": SCHEMA, "version": _token(), "width": dimension},
        )
        return cls(database, name, sources, dimension)

    @property
    def fingerprint(self) -> str:
        """Of the encoder."""
        return self.sources.fingerprint

    @property
    def version(self) -> str:
        """Changes with every change of the library, by whoever; what was derived from it is stale then."""
        stored = self.database.metadata(_sources_name(self.name)) or {}
        return str(stored.get("version"))

    def changed(self) -> None:
        """Say that the library has changed."""
        self.sources.describe({"version": _token()})

    def modalities(self) -> list[Modality]:
        """Those that have a collection."""
        names = set(self.database.names(f"{self.name}."))
        return [modality for modality in MODALITIES if _entries_name(self.name, modality) in names]

    def entries(self, modality: Modality) -> VectorCollection:
        """The collection of a modality, made where there is none."""
        if modality not in self._entries:
            self._entries[modality] = self.database.collection(
                _entries_name(self.name, modality), fingerprint=self.fingerprint, dimension=self.dimension, index=INDEX
            )
        return self._entries[modality]

    def record(self, records: Sequence[SourceRecord]) -> None:
        """Remember sources; one that is known gets the new record."""
        if records:
            self.sources.upsert(
                [source_id(record.source) for record in records],
                np.stack([_direction(record.source) for record in records]),
                metadatas=[_source_metadata(record) for record in records],
                documents=[record.source for record in records],
            )

    def forget(self, sources: Iterable[str]) -> None:
        """Remove the records of sources; their entries stay."""
        self.sources.delete([source_id(source) for source in sources])

    def recorded(self, sources: Sequence[str]) -> dict[str, SourceRecord]:
        """The records of those sources that are known."""
        found = self.sources.get([source_id(source) for source in sources], include=["metadatas"])
        return {record.source: record for record in map(_source_record, found.metadatas)}

    def with_content(self, sha256: str) -> list[SourceRecord]:
        """All sources of this content."""
        return [_source_record(item) for item in self.sources.find({"sha256": sha256}, include=["metadatas"]).metadatas]

    def all_sources(self) -> Iterator[SourceRecord]:
        """Every source, in the order in which they came; what is forgotten meanwhile is missing, and nothing else."""
        ids = self.sources.find().ids
        for start in range(0, len(ids), PAGE):
            yield from map(_source_record, self.sources.get(ids[start : start + PAGE], include=["metadatas"]).metadatas)

    def give_up(
        self,
        records: Iterable[SourceRecord],
        *,
        going: Container[str],
        coming: Mapping[tuple[str, str], SourceRecord] = MappingProxyType({}),
    ) -> None:
        """Delete the entries of records, but for those that other sources have too: these are theirs from now on.

        Args:
            records: what was recorded of some sources, and holds no more.
            going: the sources whose records, as they are stored, will be gone or others.
            coming: records that will be stored, by their content.
        """
        gone: dict[Modality, dict[str, None]] = {}
        for record in records:
            alike = self.with_content(record.sha256)
            staying = {other.content: other for other in alike if other.source not in going}
            heir = staying.get(record.content) or coming.get(record.content)
            if heir is not None:
                self._hand_over(record, heir)
            else:
                for modality, ids in record.ids().items():
                    gone.setdefault(modality, {}).update(dict.fromkeys(ids))
        for modality, of_all in gone.items():  # at once: a deletion takes 14 ms, however many it deletes
            self.entries(modality).delete(list(of_all))

    def _hand_over(self, record: SourceRecord, heir: SourceRecord) -> None:
        """Have those entries that name a source name another one, of the same content, in its place."""
        for modality, ids in record.ids().items():
            collection = self.entries(modality)
            found = collection.get(ids, include=["embeddings", "metadatas", "documents"])
            entries = entries_of(found)
            places = [place for place, entry in enumerate(entries) if entry.source == record.source]
            if places:
                renamed = [to_record(entries[place].of_source(heir.source)) for place in places]
                collection.update(
                    [found.ids[place] for place in places],
                    found.vectors[places],
                    metadatas=[metadata for metadata, _ in renamed],
                    documents=[document for _, document in renamed],
                )


def entry_id(sha256: str, key: str, modality: Modality, index: int) -> str:
    """The id of a segment."""
    return f"{sha256}-{key}-{modality}-{index}"


def modality_of(id_: str) -> Modality | None:
    """The modality in an entry's id; ``None`` if it is no such id."""
    match = ENTRY_ID.fullmatch(id_)
    return cast("Modality", match[1]) if match else None


def content_of(id_: str) -> str:
    """What in an entry's id tells the sources apart that a search finds: the sha256, and the name of a named text."""
    sha256, key, _ = id_.split("-", 2)
    return sha256 + key[KEY_DIGITS:]


def encoding_key(fingerprint: str, modality: Modality, settings: SegmentSettings, source: str = "") -> str:
    """Identifies the encoder, what a source is taken as, and those of the settings that decide about its segments.

    Copies of a file share their entries. Texts with names do not, for each has metadata of its own, so the name is in
    their key as well.
    """
    relevant = {
        "audio": ("window_seconds", "step_seconds"),
        "video": ("window_seconds", "step_seconds"),
        "text": ("chunk_chars", "overlap_chars"),
    }.get(modality, ())
    identity = json.dumps([fingerprint, modality, [getattr(settings, name) for name in relevant]])
    key = hashlib.sha256(identity.encode()).hexdigest()[:KEY_DIGITS]
    return key + source_id(source)[:KEY_DIGITS] if source.startswith(NAMED_TEXT) else key


def source_id(source: str) -> str:
    """The id of a source's record."""
    return hashlib.sha256(source.encode("utf-8", errors="surrogatepass")).hexdigest()[:32]


def to_record(entry: Entry) -> tuple[dict[str, Any], str]:
    """The metadata and the document under which an entry is stored."""
    described = "text" if entry.text is not None else "caption" if entry.caption is not None else "title"
    own = entry.model_dump(include=set(OWN_KEYS), exclude_none=True)
    own["tags"] = list(entry.tags)
    if not entry.tags:
        del own["tags"]  # Chroma takes no empty list
    document = entry.text if entry.text is not None else entry.caption if entry.caption is not None else entry.title
    return {**entry.metadata, **own, "described": described}, document


def from_record(id_: str, metadata: Mapping[str, Any], document: str) -> Entry:
    """An entry, from what is stored of it."""
    own = {key: value for key, value in metadata.items() if key in OWN_KEYS}
    described = own.pop("described", "title")
    return Entry(
        **own,
        id=id_,
        text=document if described == "text" else None,
        caption=document if described == "caption" else None,
        metadata={key: value for key, value in metadata.items() if key not in OWN_KEYS},
    )


def entries_of(records: Records) -> list[Entry]:
    """The entries in records that hold metadata and documents."""
    return [from_record(*item) for item in zip(records.ids, records.metadatas, records.documents, strict=True)]


def _sources_name(name: str) -> str:
    return f"{name}.sources"


def _entries_name(name: str, modality: Modality) -> str:
    return f"{name}.{modality}"


def _stored_encoder(place: str, stored: Mapping[str, Any]) -> tuple[str, int]:
    """Fingerprint and width of the encoder that a library says it was filled with."""
    fingerprint, width = stored.get("fingerprint"), stored.get("width")
    if not isinstance(fingerprint, str) or not isinstance(width, int) or width < 1:
        raise StoreError(f"{place} was not made by ibllm-tools; use another name or place")
    return fingerprint, width


def _token() -> str:
    return secrets.token_hex(8)


def _direction(source: str) -> NDArray[np.float32]:
    """A unit vector (2,) that differs from source to source, for an index of equal ones degenerates."""
    angle = int.from_bytes(hashlib.sha256(source.encode("utf-8", errors="surrogatepass")).digest()[:4]) / 2**32
    return np.array([np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)], np.float32)


def _source_metadata(record: SourceRecord) -> dict[str, Any]:
    # None takes away what an earlier record of the source said
    return {**record.model_dump(), "counts": json.dumps(record.counts)}


def _source_record(stored: Mapping[str, Any]) -> SourceRecord:
    return SourceRecord(**{**stored, "counts": json.loads(stored["counts"])})
