"""Videos: MP4, MOV, WebM, Matroska and AVI through PyAV, decoded only where clips are taken.

Frames are found by their time stamps and not by their number, so variable frame rates work. A clip is the frames with
``ceil(start / time_base) <= pts - stream_start < ceil(end / time_base)``, and from its n frames those at
trunc(linspace(0, n - 1, frames_per_clip)) are taken, as in the research code (ImageBind's clip sampling).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import CorruptMediaError, InvalidRequestError, LimitExceededError
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
    if frames_per_clip < 1 or any(not 0 <= start < end for start, end in spans):
        raise InvalidRequestError(
            f"{source_label(source)}: spans {[(float(a), float(b)) for a, b in spans]} of {frames_per_clip} frames, "
            "expected 0 <= start < end and at least one frame"
        )
    kind = _require_video(source)
    clips: dict[Span, FrameClip] = {}
    for span in spans:
        if span not in clips:
            clips[span] = _read_clip(source, kind, span, frames_per_clip, limits, official)
    return [clips[span] for span in spans]


def _read_clip(source: Source, kind: MediaType, span: Span, count: int, limits: Limits, official: bool) -> FrameClip:
    stamps, origin = _clip_stamps(source, kind, span, limits, official)
    picks = [stamps[index] for index in np.linspace(0, len(stamps) - 1, count).astype(int)]
    with _opened(source, kind, limits) as (container, stream):
        frames = _frames_at(container, stream, picks)
        if not frames:
            raise _ends_early(source, span)
        images = {pick: _rgb(frame, source, limits, official) for pick, frame in frames.items()}
        times = tuple(float((_stamp(frames[pick]) - origin) * stream.time_base) for pick in picks)
    return FrameClip(np.stack([images[pick] for pick in picks]), times, float(span[0]), float(span[1]))  # (T, H, W, 3)


def _clip_stamps(source: Source, kind: MediaType, span: Span, limits: Limits, official: bool) -> tuple[list[int], int]:
    """The time stamps of the clip's frames, from packets that are read and not decoded, and the stream's start."""
    with _opened(source, kind, limits) as (container, stream):
        origin = stream.start_time or 0
        first, stop = (origin + math.ceil(second / stream.time_base) for second in span)
        _seek(container, stream, first)
        stamps, covered = [], origin
        for packet in container.demux(stream):
            stamp = _stamp(packet)
            if stamp is None or packet.is_discard:
                continue
            if first <= stamp < stop:
                stamps.append(stamp)
            covered = max(covered, stamp + (packet.duration or 0))
            if (packet.dts if packet.dts is not None else stamp) >= stop:
                break
    if stamps:
        return sorted(stamps), origin
    if official or covered <= first:
        raise _ends_early(source, span)
    return [first], origin  # the frame that is still shown


def _frames_at(container: "InputContainer", stream: Any, picks: Sequence[int]) -> "dict[int, VideoFrame]":
    """The frame shown at each time stamp: the last one that is not later. Holds one frame per pick."""
    shown: dict[int, VideoFrame] = {}
    _seek(container, stream, picks[0])
    for frame in container.decode(stream):
        stamp = _stamp(frame)
        for pick in picks:
            if pick not in shown or stamp <= pick:
                shown[pick] = frame
        if stamp >= picks[-1]:
            break
    return shown


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
