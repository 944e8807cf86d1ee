"""The media library: mixed media that any modality can query, in ChromaDB."""

from ibllm_tools.library.entry import Entry, Hit, IndexFailure, IndexReport, LibraryStats, SegmentHit
from ibllm_tools.library.media_library import MediaLibrary, Query, Ranking

__all__ = [
    "Entry",
    "Hit",
    "IndexFailure",
    "IndexReport",
    "LibraryStats",
    "MediaLibrary",
    "Query",
    "Ranking",
    "SegmentHit",
]
