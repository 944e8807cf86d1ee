"""What a visual cache says of itself."""

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

NAME = "visual_cache"
"""The first of a cache's collections."""


class IndexState(StrEnum):
    """Whether a cache's index can be used."""

    NONE = "none"
    FRESH = "fresh"
    STALE = "stale"
    DAMAGED = "damaged"


class IndexInfo(BaseModel):
    """The index that is derived from a cache's collections."""

    model_config = ConfigDict(frozen=True)

    needed: bool = Field(description="whether the cache is too large to be searched by Chroma")
    state: IndexState = Field(description="none; fresh; stale, of other features than the cache holds now; damaged")
    path: Path | None = Field(default=None, description="the file, where there is one")
    bytes: int = Field(default=0, description="its size")
    features: int = Field(default=0, description="features in it")
    lists: int = Field(default=0, description="inverted lists in it")


class CacheInfo(BaseModel):
    """A visual cache."""

    model_config = ConfigDict(frozen=True)

    location: str = Field(description="its folder, or the URL of its server")
    features: int = Field(description="image features in it")
    dimension: int = Field(description="their width E")
    fingerprint: str = Field(description="identifies the encoder that made them")
    collections: dict[str, int] = Field(description="features per Chroma collection")
    index: IndexInfo = Field(description="what serves the cache beyond Chroma's size")
    bytes: int | None = Field(description="size of the folder, index included; null on a server and in memory")
