"""What a media library knows: entries, hits, sources, and what became of what was added.

The command line, the tools and MCP share the JSON schemas of these models.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from ibllm_tools.attachments import Traceable
from ibllm_tools.attachments.citation import citation
from ibllm_tools.errors import InvalidRequestError, one_line
from ibllm_tools.media.sniff import Modality

Value = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]

Ranking = Literal["similarity", "words", "hybrid"]
"""What puts hits in order: the embeddings, the words of captions, texts and titles, or both."""

OWN_KEYS = frozenset(
    {"sha256", "source", "title", "modality", "mime", "index", "start", "end", "duration", "char_start", "char_end"}
    | {"width", "height", "tags", "described", "thumbnail"}
)
"""What an entry says of itself; other keys are the user's."""

NAMED_TEXT = "text:"
"""What the source of a text begins with that was given a name; it is replaced and deleted by that name."""

MAX_KEYS = 64
MAX_ITEMS = 64
MAX_CHARS = 4096
MAX_NAME = 1024
UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")
INT64 = 2**63


class Entry(Traceable):
    """A segment in the library: a whole image, model or map, a window of a sound or video, or a chunk of a text."""

    id: str = Field(description="Its name in the library: content, encoder, modality and place in its source.")
    source: str = Field(description="Path of its file; of no file its att:// handle, or text: and its name.")
    sha256: str = Field(description="SHA-256 of the source's bytes, hexadecimal.")
    modality: Modality = Field(description="What it is taken as; audio for the sound of a video.")
    mime: str = Field(description="MIME type of the source, by content.")
    index: int = Field(description="Its place among the segments of its source, from 0.")
    start: float | None = Field(default=None, description="Start in seconds, of sounds and videos.")
    end: float | None = Field(default=None, description="End in seconds, of sounds and videos.")
    duration: float | None = Field(default=None, description="Length of the whole source in seconds.")
    char_start: int | None = Field(default=None, description="First character of a chunk of text.")
    char_end: int | None = Field(default=None, description="The character after a chunk's last one.")
    width: int | None = Field(default=None, description="Of an image or video, in pixels.")
    height: int | None = Field(default=None, description="Of an image or video, in pixels.")
    title: str = Field(description="Given, or the file's name without its suffix.")
    tags: tuple[str, ...] = Field(default=(), description="Given by the user.")
    text: str | None = Field(default=None, description="A chunk of text itself.")
    caption: str | None = Field(default=None, description="Given, or written by the model.")
    thumbnail: str | None = Field(default=None, description="att:// handle of a small picture of it.")
    metadata: dict[str, Value] = Field(default_factory=dict, description="The user's own keys.")

    @property
    def handle(self) -> str:
        """``att://<sha256>`` of its source."""
        return f"att://{self.sha256}"

    @property
    def name(self) -> str:
        """The file's name, or the title of what is no file, for messages and citations."""
        return (Path(self.source).name or self.source) if is_path(self.source) else self.title

    @property
    def readable(self) -> str:
        """Its text or its caption; of what has neither, its title and what it is: there is always something to read."""
        return self.text or self.caption or f"{self.title} ({self.modality})"

    def of_source(self, source: str) -> Self:
        """It as an entry of another source with the same content; a title that was the file's name is the new one's."""
        named = is_path(self.source) and self.title == file_title(self.source)
        title = file_title(source) if named and is_path(source) else self.title
        return self.model_copy(update={"source": source, "title": title})

    @property
    def citation(self) -> str:
        """``bell.wav@0.0-2.0s``: where it is, in few characters."""
        return citation(self)

    def _facts(self) -> list[str]:
        return [self.modality, *self.tags]

    def _repr_html_(self) -> str:
        from ibllm_tools.notebook.cards import card

        part = (self.modality, self.start, self.end, self.char_start, self.char_end)
        return card(
            self.citation,
            self._facts(),
            caption=self.caption,
            quoted=self.text,
            medium=lambda: self.origin.medium(*part),
        )


class Hit(Entry):
    """A source that answers a query, by its best segment."""

    score: float = Field(description="0 to 1, comparable across modalities; see docs/library.md.")
    similarity: float | None = Field(default=None, description="Cosine of the angle to the query; null without one.")
    segments: tuple["SegmentHit", ...] = Field(
        default=(), description="The best segments of the source, itself included, best first."
    )

    def _facts(self) -> list[str]:
        return [*super()._facts(), f"score {self.score:.2f}"]


class SegmentHit(BaseModel):
    """One of the segments for which a source was found."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="Its name in the library.")
    modality: Modality = Field(description="What it is taken as.")
    start: float | None = Field(default=None, description="Start in seconds.")
    end: float | None = Field(default=None, description="End in seconds.")
    char_start: int | None = Field(default=None, description="First character of a chunk of text.")
    char_end: int | None = Field(default=None, description="The character after a chunk's last one.")
    score: float = Field(description="As in a hit.")
    similarity: float | None = Field(default=None, description="As in a hit.")


class IndexFailure(BaseModel):
    """Something that could not be indexed, whole or in part."""

    model_config = ConfigDict(frozen=True)

    source: str = Field(description="Its path or handle.")
    reason: str = Field(description="Why, in one line.")

    @property
    def line(self) -> str:
        """Both in one line; a reason that begins with the source says it once."""
        return self.reason if self.reason.startswith(self.source) else f"{self.source}: {self.reason}"


class IndexReport(BaseModel):
    """What became of what was added; every source is counted once."""

    model_config = ConfigDict(frozen=True)

    added: int = Field(description="Sources that are new.")
    changed: int = Field(description="Sources whose content has changed; their entries were replaced.")
    unchanged: int = Field(description="Sources that were there before, or whose content was.")
    moved: int = Field(description="Sources that have a new path; their entries stayed.")
    ignored: int = Field(description="Files in folders that are named like no kind of media.")
    entries: int = Field(description="Entries that were encoded and written.")
    seconds: float = Field(description="Wall-clock time.")
    failures: tuple[IndexFailure, ...] = Field(description="What could not be used, and why.")

    @property
    def sources(self) -> int:
        """How many sources were looked at and can be found now."""
        return self.added + self.changed + self.unchanged + self.moved

    def _repr_html_(self) -> str:
        from ibllm_tools.notebook.reports import count_report

        counts = ("added", "changed", "unchanged", "moved", "ignored", "entries")
        return count_report(
            {name: getattr(self, name) for name in counts} | {"s": f"{self.seconds:.1f}"},
            [failure.line for failure in self.failures],
        )


class LibraryStats(BaseModel):
    """How much there is."""

    model_config = ConfigDict(frozen=True)

    location: str = Field(description="Folder, URL, or 'memory'.")
    encoder: str = Field(description="Fingerprint of the encoder whose vectors it holds.")
    dimension: int = Field(description="Width of the vectors.")
    sources: int = Field(description="Files, attachments and texts.")
    entries: dict[Modality, int] = Field(description="Number of entries per modality.")
    seconds: dict[Modality, float] = Field(description="Length of all sounds and videos, by the sources' modality.")
    source_bytes: int = Field(description="Bytes of all sources.")
    database_bytes: int | None = Field(description="Bytes of the database on disk; null on a server or in memory.")
    attachments: int = Field(description="Thumbnails and attachments in the store.")
    attachment_bytes: int = Field(description="Their bytes.")


def is_path(source: str) -> bool:
    """Whether a source is a file, by its name: neither a handle nor a text with a name."""
    return not source.startswith(("att://", NAMED_TEXT))


def checked_name(name: object) -> str:
    """The name of a text; raises InvalidRequestError for one that cannot be stored."""
    usable = isinstance(name, str) and 0 < len(name) <= MAX_NAME and not UNUSABLE.search(name)
    if not usable:
        raise InvalidRequestError(
            f"name {one_line(ascii(name))} of a text, expected 1 to {MAX_NAME} characters of valid Unicode"
        )
    return str(name)


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Value]:
    """A user's metadata, as Chroma can hold it without harm.

    Raises:
        InvalidRequestError: too much, a reserved key, or a value of another kind.
    """
    if len(metadata) > MAX_KEYS - len(OWN_KEYS):
        raise InvalidRequestError(
            f"{len(metadata)} metadata keys, the limit is {MAX_KEYS - len(OWN_KEYS)}: thousands make a collection "
            "unusable; store a reference instead"
        )
    return {_checked_key(key): _checked_value(key, value) for key, value in metadata.items() if value is not None}


def checked_text(key: str, value: object) -> str:
    """A title or a caption; raises as :func:`checked_metadata`."""
    if not isinstance(value, str):
        raise InvalidRequestError(f"{key} {one_line(value)!r} of type {type(value).__name__}, expected text")
    return str(_checked_scalar(key, value))


def file_title(source: str) -> str:
    """The title of a file that was given none: its name without the suffix."""
    return Path(source).stem or source


def checked_tags(tags: object) -> tuple[str, ...]:
    """Tags without repetitions, in their order; raises as :func:`checked_metadata`."""
    if isinstance(tags, str) or not isinstance(tags, list | tuple | set | frozenset):
        raise InvalidRequestError(f"tags {one_line(tags)!r}, expected a list of texts")
    if not all(isinstance(tag, str) and tag for tag in tags):
        raise InvalidRequestError(f"tags {one_line(tags)}, expected texts that are not empty")
    unique = tuple(dict.fromkeys(tags))
    if unique:
        _checked_value("tags", list(unique))
    return unique


def _checked_key(key: object) -> str:
    if not isinstance(key, str) or not key or len(key) > 128 or key[0] in "$#" or key.startswith("chroma:"):
        raise InvalidRequestError(
            f"metadata key {one_line(key)!r}, expected 1 to 128 characters, without $ or # in front"
        )
    if key in OWN_KEYS:
        raise InvalidRequestError(f"metadata key {key!r} is one of the entry's own; choose another name")
    return key


def _checked_value(key: str, value: object) -> Value:
    if isinstance(value, list | tuple):
        kinds = {type(item) for item in value}
        if not value or len(value) > MAX_ITEMS or len(kinds) > 1:
            raise InvalidRequestError(
                f"metadata {key!r}: {len(value)} items of {len(kinds)} types, expected 1 to {MAX_ITEMS} of one type"
            )
        return [_checked_scalar(key, item) for item in value]  # type: ignore[return-value]  # of one type, see above
    return _checked_scalar(key, value)


def _checked_scalar(key: str, value: object) -> str | int | float | bool:
    if isinstance(value, str):
        if len(value) > MAX_CHARS:
            raise InvalidRequestError(f"metadata {key!r}: {len(value):,} characters, the limit is {MAX_CHARS:,}")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequestError(f"metadata {key!r}: {value!a} is no valid Unicode; write it otherwise") from error
    if isinstance(value, bool | str) or (isinstance(value, int) and -INT64 <= value < INT64):
        return value
    if isinstance(value, float) and value - value == 0:
        return value
    raise InvalidRequestError(
        f"metadata {key!r}: {one_line(value)!r} of type {type(value).__name__}, expected text, a finite number of 64 "
        "bits, true or false, or a list of these"
    )
