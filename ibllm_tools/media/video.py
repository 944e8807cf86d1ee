"""Videos: MP4, MOV, WebM, Matroska and AVI through PyAV, decoded only where clips are taken.

Frames are found by their time stamps and not by their number, so variable frame rates work. A clip is the frames with
``ceil(start / time_base) <= pts - stream_start < ceil(end / time_base)``, and from its n frames those at
trunc(linspace(0, n - 1, frames_per_clip)) are taken, as in the research code (ImageBind's clip sampling).
"""

import math
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import AttachmentError, CorruptMediaError, InvalidRequestError, LimitExceededError
from ibllm_tools.media.av_stream import container_seconds, first_stream, open_container
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import MediaType, require
from ibllm_tools.media.source import Source, source_label

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

Span = tuple[Fraction, Fraction]
MARGIN_SECONDS = 1  # seeking is by decoding time, which runs ahead of the time stamps when frames are reordered


class VideoInfo(NamedTuple):
    """Length in seconds, size as stored (before rotation), mean frame rate, rotation in degrees counterclockwise."""

    seconds: Fraction
    width: int
    height: int
    frame_rate: float | None
    rotation: int
    has_audio: bool


class FrameClip(NamedTuple):
    """Frames, uint8 (T, H, W, 3), their times in seconds, and the span that they were taken from."""

    frames: NDArray[np.uint8]
    times: tuple[float, ...]
    start: float
    end: float


def probe_video(source: Source, *, limits: Limits = DEFAULT_LIMITS, official: bool = False) -> VideoInfo:
    """The video's length, size and rotation; decodes its first frame only.

    With ``official`` the length is what the research code takes: the stream's start is subtracted from its duration.

    Raises:
        UnsupportedMediaError: not a video.
        CorruptMediaError: damaged, truncated or without frames.
        LimitExceededError: longer than ``limits.max_seconds`` or larger than ``limits.max_pixels``.
    """
    kind = _require_video(source)
    with _opened(source, kind, limits) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise CorruptMediaError(f"{source_label(source)}: no frames, expected a video; export it again")
        rate = float(stream.average_rate) if stream.average_rate else None
        has_audio = bool(container.streams.audio)
    seconds = _seconds(source, kind, limits, official)
    if seconds > limits.max_seconds:
        raise LimitExceededError(
            f"{source_label(source)}: {float(seconds):,.0f} s of video, the limit is {limits.max_seconds:,.0f} s; "
            "trim it or raise Limits.max_seconds"
        )
    return VideoInfo(seconds, first.width, first.height, rate, first.rotation, has_audio)


def read_clips(
    source: Source,
    spans: Sequence[Span],
    *,
    frames_per_clip: int = 2,
    limits: Limits = DEFAULT_LIMITS,
    official: bool = False,
) -> list[FrameClip]:
    """One clip of ``frames_per_clip`` frames for each span of seconds; decodes nothing outside the spans' surroundings.

    A span without a frame of its own (a still scene at a variable frame rate) shows the frame before it. The rotation
    in the metadata is applied, unless ``official``: the research code ignores it.

    Raises:
        InvalidRequestError: a span that is empty or starts before 0, or no frames per clip.
        CorruptMediaError: damaged, truncated, or the video ends before a span.
        UnsupportedMediaError, LimitExceededError: as `probe_video`.
    """
    clips: dict[Span, FrameClip] = {}
    distinct = sorted(set(spans))
    streamed = stream_clips(source, distinct, frames_per_clip=frames_per_clip, limits=limits, official=official)
    for span, clip in zip(distinct, streamed, strict=True):
        if isinstance(clip, AttachmentError):
            raise clip
        clips[span] = clip
    return [clips[span] for span in spans]


def stream_clips(
    source: Source,
    spans: Sequence[Span],
    *,
    frames_per_clip: int = 2,
    limits: Limits = DEFAULT_LIMITS,
    official: bool = False,
) -> Iterator[FrameClip | AttachmentError]:
    """The clips of `read_clips` one after the other, or in place of a clip the reason why there is none.

    Spans that lie close together are decoded in one pass, whatever their number and overlap, and only the frames of the
    clips that are not complete yet are held. After a damaged place it starts again with the next clip.

    Args:
        source: a path or the bytes.
        spans: in seconds, sorted by their start.
        frames_per_clip: evenly spaced, the first and the last of the span among them.
        limits: bounds on what is decoded.
        official: as in `read_clips`.

    Raises:
        InvalidRequestError: a span that is empty, starts before 0 or before its predecessor, or no frames per clip.
        UnsupportedMediaError: not a video.
    """
    ordered = all(before[0] <= after[0] for before, after in pairwise(spans))
    if frames_per_clip < 1 or not ordered or any(not 0 <= start < end for start, end in spans):
        raise InvalidRequestError(
            f"{source_label(source)}: spans {[(float(a), float(b)) for a, b in spans[:5]]} of {frames_per_clip} "
            "frames, expected 0 <= start < end, ascending starts and at least one frame"
        )
    kind = _require_video(source)
    for run in _runs(spans):
        yield from _run_clips(source, kind, run, frames_per_clip, limits, official)


def _runs(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Spans that overlap, or nearly, together: seeking between them would decode more than reading on."""
    run: list[Span] = []
    reach = Fraction(0)
    for span in spans:
        if run and span[0] > reach + MARGIN_SECONDS:
            yield run
            run = []
        run.append(span)
        reach = max(reach, span[1])
    if run:
        yield run


def _run_clips(
    source: Source, kind: MediaType, run: Sequence[Span], count: int, limits: Limits, official: bool
) -> Iterator[FrameClip | AttachmentError]:
    """The clips of one run; an error costs its clip, and those after it are read from a new start."""
    try:
        timeline = _timeline(source, kind, (run[0][0], max(end for _, end in run)), limits)
    except AttachmentError as error:
        if len(run) == 1:
            yield error
            return
        for span in run:  # the damage concerns those around it only
            yield from _run_clips(source, kind, [span], count, limits, official)
        return
    position = 0
    while position < len(run):
        start = position
        try:
            for clip in _decoded_clips(source, kind, run[start:], timeline, count, limits, official):
                yield clip
                position += 1
        except AttachmentError as error:
            if position == start:
                yield error
                position += 1


class _Timeline(NamedTuple):
    """The time stamps of a stretch's frames, ascending; where they end; the stream's start; seconds per unit."""

    stamps: NDArray[np.int64]
    covered: int
    origin: int
    base: Fraction

    def stamp(self, seconds: Fraction) -> int:
        return self.origin + math.ceil(seconds / self.base)


def _timeline(source: Source, kind: MediaType, span: Span, limits: Limits) -> _Timeline:
    """From packets that are read and not decoded."""
    with _opened(source, kind, limits) as (container, stream):
        origin = stream.start_time or 0
        first, stop = (origin + math.ceil(second / stream.time_base) for second in span)
        _seek(container, stream, first)
        stamps, covered = array("q"), origin
        for packet in container.demux(stream):
            stamp = _stamp(packet)
            if stamp is None or packet.is_discard:
                continue
            if first <= stamp < stop:
                stamps.append(stamp)
            covered = max(covered, stamp + (packet.duration or 0))
            if (packet.dts if packet.dts is not None else stamp) >= stop:
                break
        return _Timeline(np.sort(np.array(stamps, np.int64)), covered, origin, stream.time_base)


def _picks(timeline: _Timeline, span: Span, count: int, official: bool) -> list[int]:
    """The time stamps at which the clip's frames are taken; none where the video ends before it."""
    first, stop = map(timeline.stamp, span)
    low, high = np.searchsorted(timeline.stamps, (first, stop))
    if low < high:
        return [int(timeline.stamps[low + index]) for index in np.linspace(0, high - low - 1, count).astype(int)]
    return [] if official or timeline.covered <= first else [first] * count  # the frame that is still shown


def _decoded_clips(
    source: Source,
    kind: MediaType,
    run: Sequence[Span],
    timeline: _Timeline,
    count: int,
    limits: Limits,
    official: bool,
) -> Iterator[FrameClip | AttachmentError]:
    picks = [_picks(timeline, span, count, official) for span in run]
    with _opened(source, kind, limits) as (container, stream):
        coming = _frames_at(container, stream, sorted({pick for clip in picks for pick in clip}))
        shown: dict[int, tuple[NDArray[np.uint8], float]] = {}
        for span, wanted in zip(run, picks, strict=True):
            if not wanted:
                yield _ends_early(source, span)
                continue
            shown = {pick: held for pick, held in shown.items() if pick >= wanted[0]}
            while wanted[-1] not in shown:
                pick, frame = next(coming, (None, None))
                if pick is None or frame is None:
                    raise _ends_early(source, span)
                time = float((_stamp(frame) - timeline.origin) * timeline.base)
                shown[pick] = _rgb(frame, source, limits, official), time
            images, times = zip(*(shown[pick] for pick in wanted), strict=True)
            yield FrameClip(np.stack(images), times, float(span[0]), float(span[1]))  # (T, H, W, 3)


def _frames_at(container: "InputContainer", stream: Any, picks: Sequence[int]) -> "Iterator[tuple[int, VideoFrame]]":
    """The frame shown at each of the ascending time stamps: the last one that is not later."""
    if not picks:
        return
    _seek(container, stream, picks[0])
    position, before = 0, None
    for frame in container.decode(stream):
        stamp = _stamp(frame)
        while position < len(picks) and stamp >= picks[position]:
            yield picks[position], frame if before is None or stamp == picks[position] else before
            position += 1
        if position == len(picks):
            return
        before = frame
    if before is not None:
        for pick in picks[position:]:
            yield pick, before


@contextmanager
def _opened(source: Source, kind: MediaType, limits: Limits) -> "Iterator[tuple[InputContainer, Any]]":
    """The container and its video stream, which refuses frames beyond the pixel limit before it allocates them."""
    with open_container(source, kind, limits, extra="video") as container:
        stream = first_stream(
            container.streams.video, source, "video", "pass a video, or modality='audio' for its sound"
        )
        context = stream.codec_context
        _check_pixels(context.width, context.height, source, limits)
        context.options = {"max_pixels": str(limits.max_pixels)}
        yield container, stream


def _seek(container: "InputContainer", stream: Any, stamp: int) -> None:
    """Go to the key frame before the time stamp; from the file's start there is no need to."""
    target = stamp - int(MARGIN_SECONDS / stream.time_base)
    if target > (stream.start_time or 0):
        container.seek(target, stream=stream)


def _seconds(source: Source, kind: MediaType, limits: Limits, official: bool) -> Fraction:
    with _opened(source, kind, limits) as (container, stream):
        start, base = stream.start_time or 0, stream.time_base
        if stream.duration:
            return Fraction((stream.duration - (start if official else 0)) * base)
        header = container_seconds(container)
        if header:
            _seek(container, stream, start + int(header / base))
        # the length by reading (not decoding) the last packets, for streams whose header has none
        packets = [(_stamp(packet), packet.duration or 0) for packet in container.demux(stream)]
    ends = [stamp + (0 if official else duration) for stamp, duration in packets if stamp is not None]
    return Fraction((max(ends, default=start) - start) * base)


def _stamp(timed: Any) -> Any:
    """The presentation time; AVI knows decoding times only."""
    return timed.pts if timed.pts is not None else timed.dts


def _rgb(frame: "VideoFrame", source: Source, limits: Limits, official: bool) -> NDArray[np.uint8]:
    _check_pixels(frame.width, frame.height, source, limits)
    image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)  # (H, W, 3)
    return image if official else np.rot90(image, round(frame.rotation / 90))


def _check_pixels(width: int, height: int, source: Source, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise LimitExceededError(
            f"{source_label(source)}: frames of {width} x {height} pixels, the limit is {limits.max_pixels:,}; scale "
            "the video down or raise Limits.max_pixels"
        )


def _ends_early(source: Source, span: Span) -> CorruptMediaError:
    return CorruptMediaError(
        f"{source_label(source)}: no frame between {float(span[0]):g} and {float(span[1]):g} s; the file may be "
        "truncated, copy or export it again"
    )


def _require_video(source: Source) -> MediaType:
    return require(source, lambda kind: kind.modality == "video", expected="a video")
