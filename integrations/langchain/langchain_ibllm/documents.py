"""Entries and hits of a library as LangChain's documents, and what documents say of themselves as a library's metadata.

**A user's key** may be called like one of an entry's own: loaders write ``source`` and ``title``. In the library such a
key gets a prefix, which nobody sees: documents have it without, and filters are translated.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from langchain_core.documents import Document

from ibllm_tools.attachments import AttachmentStore
from ibllm_tools.errors import AttachmentNotFoundError, InvalidRequestError, one_line
from ibllm_tools.library import Entry, Hit
from ibllm_tools.library.entry import NAMED_TEXT, OWN_KEYS
from ibllm_tools.library.filtering import NEGATED

PREFIX = "document."
CITED = ("source", "title", "tags", "modality", "mime", "sha256", "start", "end", "duration", "char_start", "char_end")
"""Of what an entry says of itself, that which its document does."""


def as_document(entry: Entry, store: AttachmentStore | None) -> Document:
    """An entry as a document: its text or caption, and in its metadata where it is; what is unknown is left out.

    Args:
        entry: of a library; a hit has scores as well.
        store: the library's, which knows where thumbnails lie.
    """
    own = {key: value for key, value in entry.model_dump(include=set(CITED)).items() if value is not None}
    own["tags"] = list(entry.tags)
    if not entry.tags:
        del own["tags"]
    found: dict[str, Any] = {"handle": entry.handle, "citation": entry.citation}
    if isinstance(entry, Hit):
        found["score"] = entry.score
        if entry.similarity is not None:
            found["similarity"] = entry.similarity
    if entry.thumbnail is not None and store is not None:
        with suppress(AttachmentNotFoundError):  # drawn once and removed since
            found["thumbnail"] = str(store.path(entry.thumbnail))
    return Document(id=document_id(entry), page_content=entry.readable, metadata=own | user_metadata(entry) | found)


def document_id(entry: Entry) -> str:
    """The name of a text that has one, which is what a vector store was given as its id; otherwise the entry's id."""
    return entry.source.removeprefix(NAMED_TEXT) if entry.source.startswith(NAMED_TEXT) else entry.id


def user_metadata(entry: Entry) -> dict[str, Any]:
    """What the user said of an entry, under the user's keys; in alphabetical order, for Chroma keeps none."""
    return dict(sorted((key.removeprefix(PREFIX), value) for key, value in entry.metadata.items()))


def stored_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A document's metadata, under keys that a library takes; what its values may be is the library's to say.

    Raises:
        InvalidRequestError: no mapping.
    """
    if not isinstance(metadata, Mapping):
        raise InvalidRequestError(f"metadata of type {type(metadata).__name__}, expected a mapping for each text")
    return {PREFIX + key if _is_taken(key) else key: value for key, value in metadata.items()}


def translated(where: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A filter of documents' metadata as one of a library's: a key that both have may be either's.

    Raises:
        InvalidRequestError: no filter.
    """
    if where is None:
        return None
    if not isinstance(where, Mapping) or not where:
        raise InvalidRequestError(f'filter {one_line(where)}, expected one like {{"year": {{"$gte": 2020}}}}')
    parts = [part for key, condition in where.items() for part in _translated(key, condition)]
    return parts[0] if len(parts) == 1 else {"$and": parts}


def _translated(key: Any, condition: Any) -> list[dict[str, Any]]:
    if key in ("$and", "$or") and isinstance(condition, list | tuple):
        return [{key: [translated(part) for part in condition]}]
    if not isinstance(key, str) or not _is_taken(key):
        return [{key: condition}]
    conditions = condition if isinstance(condition, Mapping) else {"$eq": condition}
    return [
        # Negated ones keep what lacks the key, so both must hold.
        {"$and" if operator in NEGATED else "$or": [{key: {operator: value}}, {PREFIX + key: {operator: value}}]}
        for operator, value in conditions.items()
    ]


def _is_taken(key: object) -> bool:
    return isinstance(key, str) and (key in OWN_KEYS or key.startswith(PREFIX))
