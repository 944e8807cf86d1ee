"""What a library indexes of an attachment: windows of a sound or a video, chunks of a text, everything else whole.

**Sounds and videos** are cut into overlapping windows, at multiples of the step. The last window ends with the
recording: a rest shorter than half a step is added to the last window, and a longer one gets a window of full length
that ends at the end. So no window is a tiny rest, no two are nearly the same, and what is less than half a step longer
than a window stays whole. A video's sound is cut at the same times as its pictures, as segments of modality audio, and
each track ends where it really ends.

**Texts** are cut at the best border that is near: a paragraph, a sentence, a line, a word. CLIP's text tower reads 75
tokens. In 240 characters there are some 50 of them in prose and 75 in technical text (measured with CLIP's vocabulary),
so that is the longest chunk by default. A model that reads fewer tokens wants shorter chunks.
"""

import math
import re
from collections.abc import Iterator
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import AttachmentError, LimitExceededError
from ibllm_tools.media.audio import probe_audio
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import Modality
from ibllm_tools.media.text import decode_text
from ibllm_tools.media.video import probe_video

MARKDOWN_SUFFIXES = (".md", ".markdown")
SHORTEST_PIECE = 3
"""A chunk is at least the longest one divided by this, where the text allows it."""
BLANK = 8
"""White space that is looked at behind the last place for a border, to tell what kind of border it is."""

HEADING = re.compile(r" {0,3}#{1,6}\s")
FENCE = re.compile(r" {0,3}(```|~~~)")
CLOSING = r"""["')\]*_\u2019\u201d\u00bb]*"""
NEAT_BORDERS = (
    re.compile(r"\n[^\S\n]*\n\s*"),  # between paragraphs
    re.compile(rf"(?<=[.!?\u2026]){CLOSING}\s+|(?<=[\u3002\uff01\uff1f])[\u300d\u300f\u201d]*"),  # between sentences
    re.compile(r"\n\s*"),  # between lines
)
NOT_BLANK = re.compile(r"\S")
WORD_BORDER = re.compile(r"\s+|(?<=[\u3040-\u30ff\u3400-\u9fff])")  # Chinese and Japanese have no spaces


class Segment(BaseModel):
    """A part of an attachment that is embedded and found on its own."""

    model_config = ConfigDict(frozen=True)

    modality: Modality = Field(description="What it is to be taken as; audio for the sound of a video.")
    index: int = Field(description="Its place among the segments of its attachment, from 0.")
    start: float | None = Field(default=None, description="Start in seconds; null for what does not last.")
    end: float | None = Field(default=None, description="End in seconds; null for what does not last.")
    char_start: int | None = Field(default=None, description="First character of a chunk of text.")
    char_end: int | None = Field(default=None, description="The character after a chunk's last one.")
    text: str | None = Field(default=None, description="The chunk of text itself.")


class SegmentSettings(BaseModel):
    """How attachments are cut into segments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_seconds: float = Field(
        default=10.0, gt=0, allow_inf_nan=False, description="Length of a window of sound or video."
    )
    step_seconds: float = Field(
        default=5.0, ge=0.001, allow_inf_nan=False, description="From the start of a window to that of the next."
    )
    chunk_chars: int = Field(default=240, ge=20, description="The most characters of a chunk of text.")
    overlap_chars: int = Field(default=40, ge=0, description="The most characters that two chunks share.")
    max_segments: PositiveInt = Field(default=10_000, description="The most segments of one attachment.")

    @model_validator(mode="after")
    def _leave_no_gaps(self) -> Self:
        if self.step_seconds > self.window_seconds:
            raise ValueError(
                f"step_seconds={self.step_seconds:g} and window_seconds={self.window_seconds:g}: what lies between "
                "the windows would not be found; choose a step of at most a window"
            )
        if self.overlap_chars > self.chunk_chars // SHORTEST_PIECE:
            raise ValueError(
                f"overlap_chars={self.overlap_chars} and chunk_chars={self.chunk_chars}: the overlap is at most a "
                "third of the chunk"
            )
        return self


DEFAULT_SETTINGS = SegmentSettings()


def segments(
    attachment: Attachment, settings: SegmentSettings = DEFAULT_SETTINGS, *, limits: Limits = DEFAULT_LIMITS
) -> list[Segment]:
    """The segments of an attachment, in the order in which they are decoded: a video's pictures, then its sound.

    Sounds and videos are probed and not decoded. Where a video's sound cannot be opened it gets the windows of the
    pictures, so that the reason comes out when these are embedded, and the pictures are not lost with it.

    Raises:
        LimitExceededError: more than ``settings.max_segments``, or longer than the limits allow.
        CorruptMediaError: damaged, or a blank text.
        AttachmentError: it cannot be read.
    """
    if attachment.modality == "text":
        return _text_segments(attachment, settings, limits)
    if attachment.modality == "audio":
        seconds = probe_audio(attachment.source, limits=limits).seconds
        return _timed_segments(attachment, {"audio": seconds}, settings)
    if attachment.modality == "video":
        return _timed_segments(attachment, _track_seconds(attachment, limits), settings)
    return [Segment(modality=attachment.modality, index=0)]


def _track_seconds(attachment: Attachment, limits: Limits) -> dict[Modality, float]:
    info = probe_video(attachment.source, limits=limits)
    seconds: dict[Modality, float] = {"video": float(info.seconds)}
    if info.has_audio:
        try:
            seconds["audio"] = probe_audio(attachment.source, limits=limits).seconds
        except AttachmentError:
            seconds["audio"] = seconds["video"]
    return seconds


def _timed_segments(attachment: Attachment, tracks: dict[Modality, float], settings: SegmentSettings) -> list[Segment]:
    """Windows of the longest track; a shorter one has those up to where less than half a step of it is left."""
    longest = max(tracks.values())
    least = math.floor((longest - settings.window_seconds) / settings.step_seconds)
    _refuse_more(attachment, least, settings, "step_seconds")  # before they are listed
    windows = _windows(longest, settings.window_seconds, settings.step_seconds)
    found: list[Segment] = []
    for modality, seconds in tracks.items():
        for start, end in windows:
            is_last = seconds - end < settings.step_seconds / 2
            found.append(Segment(modality=modality, index=len(found), start=start, end=seconds if is_last else end))
            if is_last:
                break
    _refuse_more(attachment, len(found), settings, "step_seconds")
    return found


def _windows(seconds: float, window: float, step: float) -> list[tuple[float, float]]:
    last = max(math.floor((seconds - window) / step), 0)
    starts = [round(index * step, 6) for index in range(last + 1)]
    if seconds - (starts[-1] + window) >= step / 2:
        starts.append(round(seconds - window, 6))
    return [*((start, round(start + window, 6)) for start in starts[:-1]), (starts[-1], seconds)]


def _refuse_more(attachment: Attachment, count: int, settings: SegmentSettings, remedy: str) -> None:
    if count > settings.max_segments:
        raise LimitExceededError(
            f"{attachment.name}: at least {count:,} segments, the limit is {settings.max_segments:,}; "
            f"raise {remedy} or max_segments in SegmentSettings"
        )


def _text_segments(attachment: Attachment, settings: SegmentSettings, limits: Limits) -> list[Segment]:
    text = decode_text(attachment.source, limits=limits)
    markdown = attachment.name.lower().endswith(MARKDOWN_SUFFIXES)
    found: list[Segment] = []
    for start, end in _chunks(text, settings, _sections(text) if markdown else [(0, len(text))]):
        _refuse_more(attachment, len(found) + 1, settings, "chunk_chars")
        chunk = Segment(modality="text", index=len(found), char_start=start, char_end=end, text=text[start:end])
        found.append(chunk)
    return found


def _sections(markdown: str) -> list[tuple[int, int]]:
    """The text between headings, each with the headings above it; what looks like one in a code block is none."""
    borders, position, fenced, holds_text = [0], 0, False, False
    for line in markdown.splitlines(keepends=True):
        fenced ^= FENCE.match(line) is not None
        heading = not fenced and HEADING.match(line) is not None
        if heading and holds_text:
            borders.append(position)
            holds_text = False
        holds_text |= not heading and bool(line.strip())
        position += len(line)
    return list(zip(borders, [*borders[1:], len(markdown)], strict=True))


def _chunks(text: str, settings: SegmentSettings, sections: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for first, last in sections:
        start, stop = _trimmed(text, first, last)
        while start < stop:
            border, between_paragraphs = _border(text, start, stop, settings.chunk_chars)
            yield _trimmed(text, start, border)
            shared = 0 if between_paragraphs or border == stop else settings.overlap_chars
            start = _word_from(text, _overlapping(text, border, shared), stop)


def _border(text: str, start: int, stop: int, longest: int) -> tuple[int, bool]:
    """Where the next chunk starts, and whether a paragraph does.

    The last border of the best kind behind a third of the longest chunk up to all of it.
    """
    if stop - start <= longest:
        return stop, True
    least = longest // SHORTEST_PIECE
    low, high = start + least, min(start + longest, stop - least)
    for pattern in (*NEAT_BORDERS, WORD_BORDER):
        borders = [match.end() for match in pattern.finditer(text, low, min(high + BLANK, stop))]
        near = [border for border in borders if _trimmed(text, start, border)[1] <= high]
        if near:
            return near[-1], pattern is NEAT_BORDERS[0]
    beyond = WORD_BORDER.search(text, high, stop)  # a word that is longer than a chunk
    return beyond.end() if beyond else stop, False


def _overlapping(text: str, border: int, longest: int) -> int:
    """The start of the next chunk: that of the first sentence, or else word, within the last characters before it."""
    low = border - longest
    for pattern in (NEAT_BORDERS[1], WORD_BORDER):
        starts = [match.end() for match in pattern.finditer(text, low, border) if match.end() > low]
        if starts:
            return starts[0]
    return border


def _word_from(text: str, start: int, stop: int) -> int:
    word = NOT_BLANK.search(text, start, stop)
    return word.start() if word else stop


def _trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    part = text[start:stop]
    return stop - len(part.lstrip()), start + len(part.rstrip())
