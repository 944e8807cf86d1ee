"""PyAV, opened with the one demuxer that the content calls for.

FFmpeg would otherwise choose among hundreds of formats by itself, and some of them (playlists, scripts) open further
files or the network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ibllm_tools.errors import MissingExtraError, UnsupportedMediaError
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.sniff import MediaType
from ibllm_tools.media.source import Source, decoding, open_source, source_label

if TYPE_CHECKING:
    from av.container import InputContainer

DEMUXERS = {
    "mp4": "mov",
    "quicktime": "mov",
    "webm": "matroska",
    "x-matroska": "matroska",
    "x-msvideo": "avi",
    "ogg": "ogg",
    "aac": "aac",
    "mpeg": "mp3",
    "flac": "flac",
    "wav": "wav",
    "aiff": "aiff",
    "basic": "au",
    "x-caf": "caf",
}
MICROSECOND = Fraction(1, 1_000_000)
FIRST_READ_BYTES = 1 << 16


@contextmanager
def open_container(source: Source, kind: MediaType, limits: Limits, extra: str) -> "Iterator[InputContainer]":
    """The container, read through the one demuxer of its type; decoding errors inside become CorruptMediaError.

    Raises:
        MissingExtraError: PyAV is not installed; ``extra`` is what installs it.
        CorruptMediaError: FFmpeg cannot read it.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError(f"decoding {kind.mime}", "av", extra) from None
    demuxer = DEMUXERS[kind.mime.partition("/")[2]]
    with (
        decoding(source, kind.modality),
        open_source(source, limits) as file,
        av.open(file, "r", format=demuxer, buffer_size=FIRST_READ_BYTES, metadata_errors="replace") as container,
    ):
        yield container


def first_stream(streams: tuple[Any, ...], source: Source, kind: str, remedy: str) -> Any:
    """The first of a container's streams of one type, or UnsupportedMediaError."""
    if not streams:
        raise UnsupportedMediaError(f"{source_label(source)}: has no {kind} track, expected one; {remedy}")
    return streams[0]


def container_seconds(container: "InputContainer") -> Fraction | None:
    """The duration in the container's header, where it has one."""
    return None if container.duration is None else container.duration * MICROSECOND
