"""The media library: mixed media that any modality can query, in ChromaDB."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibllm_tools.library.compaction import Compaction
    from ibllm_tools.library.entry import Entry, Hit, IndexFailure, IndexReport, LibraryStats, Ranking, SegmentHit
    from ibllm_tools.library.exporting import ExportReport
    from ibllm_tools.library.importing import ImportReport
    from ibllm_tools.library.media_library import MediaLibrary
    from ibllm_tools.library.querying import Query
    from ibllm_tools.library.verification import LibraryCheck
    from ibllm_tools.store.index_verification import IndexDamage

_HOMES = {
    "Compaction": "library.compaction",
    "Entry": "library.entry",
    "ExportReport": "library.exporting",
    "Hit": "library.entry",
    "ImportReport": "library.importing",
    "IndexDamage": "store.index_verification",
    "IndexFailure": "library.entry",
    "IndexReport": "library.entry",
    "LibraryCheck": "library.verification",
    "LibraryStats": "library.entry",
    "MediaLibrary": "library.media_library",
    "Query": "library.querying",
    "Ranking": "library.entry",
    "SegmentHit": "library.entry",
}

__all__ = [
    "Compaction",
    "Entry",
    "ExportReport",
    "Hit",
    "ImportReport",
    "IndexDamage",
    "IndexFailure",
    "IndexReport",
    "LibraryCheck",
    "LibraryStats",
    "MediaLibrary",
    "Query",
    "Ranking",
    "SegmentHit",
]


def __getattr__(name: str) -> Any:
    """Import the file that holds a public name when it is first used; chromadb takes a second."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ibllm_tools.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
