"""The media library: mixed media that any modality can query, in ChromaDB."""

from ibllm_tools.library.compaction import Compaction
from ibllm_tools.library.entry import Entry, Hit, IndexFailure, IndexReport, LibraryStats, SegmentHit
from ibllm_tools.library.exporting import ExportReport
from ibllm_tools.library.importing import ImportReport
from ibllm_tools.library.media_library import MediaLibrary, Ranking
from ibllm_tools.library.querying import Query
from ibllm_tools.library.verification import LibraryCheck
from ibllm_tools.store.index_verification import IndexDamage

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
