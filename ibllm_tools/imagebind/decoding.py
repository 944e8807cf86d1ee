"""What a caller may hand to the processor, as arrays: a path, the bytes of a file, or something decoded already."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibllm_tools.errors import AttachmentError, CorruptMediaError, InvalidRequestError
from ibllm_tools.imagebind.clip_sampling import Span, clip_spans, frame_indices, window_clip_spans, window_of
from ibllm_tools.media.audio import Waveform, probe_audio, read_audio
from ibllm_tools.media.depth import decode_depth
from ibllm_tools.media.image import decode_image
from ibllm_tools.media.imu import decode_imu
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.mesh import decode_points
from ibllm_tools.media.source import Source
from ibllm_tools.media.text import decode_text
from ibllm_tools.media.video import FrameClip, probe_video, read_clips, stream_clips

Item: TypeAlias = Any
"""A path (also as a string), the bytes of a file, an array (NumPy or a CPU tensor), or what a decoder of
:mod:`ibllm_tools.media` returned. For text a string is the text itself."""

BLOCK_SECONDS = 60
"""Of sound that is read at once for the windows in it."""

Bounds: TypeAlias = tuple[float, float]
"""Start and end of a window in seconds."""

Values = TypeVar("Values")

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def file_source(item: Item) -> Source | None:
    """The item as the path or bytes of a file; ``None`` if it is decoded already."""
    if isinstance(item, str | Path):
        return Path(item)
    return bytes(item) if isinstance(item, bytes | bytearray | memoryview) else None


def as_array(item: Item, expected: str, fits: Callable[[NDArray[Any]], bool]) -> NDArray[Any]:
    """A decoded item as an array of finite numbers.

    Raises:
        InvalidRequestError: it is of another shape than ``expected`` says, or no array of numbers.
        CorruptMediaError: it is empty, or holds NaN or infinite values.
    """
    array = np.asarray(item)
    if array.dtype.kind not in "fiub" or not fits(array):
        raise InvalidRequestError(
            f"{type(item).__name__} of shape {array.shape} and type {array.dtype}; expected a path, bytes or {expected}"
        )
    if array.size == 0:
        raise CorruptMediaError(f"an empty array of shape {array.shape}; expected {expected}")
    if not np.isfinite(array).all():
        raise CorruptMediaError(f"NaN or infinite values; expected {expected} of finite numbers")
    return array


def image_array(item: Item, limits: Limits, *, official: bool = False) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3) of a file, a Pillow image, or an array of that form."""
    if isinstance(item, Image.Image):
        item = _png(item)
    source = file_source(item)
    if source is not None:
        return decode_image(source, limits=limits, official=official)
    return as_array(
        item,
        "a Pillow image or an RGB array (H, W, 3) of uint8",
        lambda array: array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8,
    )


def _png(image: Image.Image) -> bytes:
    """As a file, so that one decoder judges orientation and transparency of both."""
    if image.mode not in PNG_MODES:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=0, exif=image.getexif())
    return buffer.getvalue()


@dataclass(frozen=True)
class Sound:
    """A sound whose samples are read when they are needed.

    Attributes:
        frames: samples per channel.
        rate: of them in Hz.
        read: samples from the first to the last (exclusive) as float32 (C, n).
    """

    frames: int
    rate: int
    read: Callable[[int, int], NDArray[np.float32]]


def open_sound(item: Item, rate: int, limits: Limits) -> Sound:
    """A file, a :class:`~ibllm_tools.media.audio.Waveform`, or an array (n,) or (C, n) at ``rate``."""
    source = file_source(item)
    if source is not None:
        info = probe_audio(source, limits=limits)

        def read(first: int, last: int) -> NDArray[np.float32]:
            start, end = Fraction(first, info.sample_rate), Fraction(last, info.sample_rate)
            return read_audio(source, start=start, end=end, limits=limits).samples

        return Sound(info.frames, info.sample_rate, read)
    if isinstance(item, Waveform):
        item, rate = item.samples, item.sample_rate
    expected = "a sound as an array (n,) or (channels, n)"
    samples = as_array(item, expected, lambda array: array.ndim in (1, 2) and array.dtype.kind == "f")
    samples = np.atleast_2d(samples).astype(np.float32, copy=False)  # (C, n)
    return Sound(samples.shape[1], rate, lambda first, last: samples[:, first:last])


def sound_windows(sound: Sound, windows: Sequence[Bounds]) -> Iterator[Sound]:
    """Each window as a sound of its own: the samples from round(start * rate) up to round(end * rate).

    Windows that overlap are cut out of one block of up to a minute, so that an hour of them is read once. One that
    stands alone, is longer, or lies in a block that cannot be read, is read where it is listened to.

    Args:
        sound: the whole.
        windows: in seconds, sorted by their start.

    Raises:
        InvalidRequestError: a window that is empty, starts outside of the sound or before its predecessor.
    """
    ranges = [
        (round(Fraction(start) * sound.rate), min(round(Fraction(end) * sound.rate), sound.frames))
        for start, end in _ascending(windows)
    ]
    for (first, last), bounds in zip(ranges, windows, strict=True):
        if first >= last:
            raise _outside(bounds, sound.frames / sound.rate)
    position = 0
    while position < len(ranges):
        block = _block(ranges[position:], BLOCK_SECONDS * sound.rate)
        yield from _cut(sound, block)
        position += len(block)


def _block(ranges: Sequence[tuple[int, int]], longest: int) -> list[tuple[int, int]]:
    """The first of the ranges, and those after it that overlap and do not stretch it too far."""
    block = [ranges[0]]
    start, stop = ranges[0]
    for first, last in ranges[1:]:
        stop = max(stop, last)
        if first > block[-1][1] or stop - start > longest:
            break
        block.append((first, last))
    return block


def _cut(sound: Sound, block: Sequence[tuple[int, int]]) -> Iterator[Sound]:
    origin, read = 0, sound.read
    if len(block) > 1:
        start, stop = block[0][0], max(last for _, last in block)
        try:
            samples = sound.read(start, stop)  # (C, n)
        except AttachmentError:
            pass  # only some of the windows may be concerned, and each of them says so itself
        else:
            origin, read = start, lambda first, last: samples[:, first:last]
    for first, last in block:
        yield Sound(last - first, sound.rate, _shifted(read, first - origin))


def _shifted(read: Callable[[int, int], NDArray[np.float32]], offset: int) -> Callable[[int, int], NDArray[np.float32]]:
    return lambda first, last: read(offset + first, offset + last)


def video_windows(
    item: Item,
    windows: Sequence[Bounds],
    clips: int,
    clip_seconds: float,
    frames_per_clip: int,
    prepare: Callable[[NDArray[np.uint8]], Values],
    limits: Limits,
    *,
    official: bool = False,
) -> Iterator[list[Values] | AttachmentError]:
    """The prepared clips of each window of a file, or in its place the reason why there are none.

    Every clip is decoded and prepared once, and kept until no window wants it any more.

    Args:
        item: a path or the bytes of a video.
        windows: in seconds, sorted by their start.
        clips: per window, see :func:`~ibllm_tools.imagebind.clip_sampling.window_clip_spans`.
        clip_seconds: length of a clip.
        frames_per_clip: of it.
        prepare: what becomes of the frames of a clip, uint8 (T, H, W, 3).
        limits: bounds on what is decoded.
        official: as in :func:`video_frames`.

    Raises:
        InvalidRequestError: decoded frames, or windows as in :func:`sound_windows`.
        AttachmentError: the video as a whole cannot be used.
    """
    source = file_source(item)
    if source is None:
        raise InvalidRequestError(f"windows of a video of type {type(item).__name__}; expected a path or bytes")
    seconds = probe_video(source, limits=limits, official=official).seconds
    for bounds in _ascending(windows):
        if bounds[0] >= seconds:
            raise _outside(bounds, float(seconds))
    wanted = [window_clip_spans(window_of(bounds, seconds), seconds, clips, clip_seconds) for bounds in windows]
    distinct = sorted({span for spans in wanted for span in spans})
    read = stream_clips(source, distinct, frames_per_clip=frames_per_clip, limits=limits, official=official)
    coming = zip(distinct, read, strict=True)
    held: dict[Span, Values | AttachmentError] = {}
    for spans in wanted:
        held = {span: values for span, values in held.items() if span[0] >= spans[0][0]}
        while spans[-1] not in held:
            span, clip = next(coming)
            held[span] = _prepared(clip, prepare)
        yield _all_or_error([held[span] for span in spans])


def _prepared(
    clip: FrameClip | AttachmentError, prepare: Callable[[NDArray[np.uint8]], Values]
) -> Values | AttachmentError:
    if isinstance(clip, AttachmentError):
        return clip
    try:
        return prepare(clip.frames)
    except AttachmentError as error:
        return error


def _all_or_error(items: Sequence[Values | AttachmentError]) -> list[Values] | AttachmentError:
    values: list[Values] = []
    for item in items:
        if isinstance(item, AttachmentError):
            return item
        values.append(item)
    return values


def _ascending(windows: Sequence[Bounds]) -> Sequence[Bounds]:
    previous = 0.0
    for start, end in windows:
        if not previous <= start < end:
            raise InvalidRequestError(
                f"window from {start:g} to {end:g} s after one from {previous:g} s; expected 0 <= start < end, "
                "sorted by start"
            )
        previous = start
    return windows


def _outside(bounds: Bounds, seconds: float) -> InvalidRequestError:
    return InvalidRequestError(
        f"window from {bounds[0]:g} to {bounds[1]:g} s; expected one that starts before the end at {seconds:g} s"
    )


def video_frames(
    item: Item,
    clips: int,
    clip_seconds: float,
    frames_per_clip: int,
    limits: Limits,
    *,
    official: bool = False,
) -> list[NDArray[np.uint8]]:
    """The frames of each clip, uint8 (T, H, W, 3) each.

    A file is sampled in time. An array of frames (N, H, W, 3), which has no time, is sampled evenly. A sequence of
    :class:`~ibllm_tools.media.video.FrameClip` is taken as it is.
    """
    source = file_source(item)
    if source is not None:
        info = probe_video(source, limits=limits, official=official)
        spans = clip_spans(info.seconds, clips, clip_seconds)
        read = read_clips(source, spans, frames_per_clip=frames_per_clip, limits=limits, official=official)
        return [clip.frames for clip in read]
    if is_clip_sequence(item):
        return [clip.frames for clip in item]
    frames = as_array(
        item,
        "a video as an array of frames (N, H, W, 3) of uint8",
        lambda array: array.ndim == 4 and array.shape[3] == 3 and array.dtype == np.uint8,
    )
    return [frames[indices] for indices in frame_indices(len(frames), clips, frames_per_clip)]


def is_clip_sequence(item: Item) -> bool:
    """Whether this is one video, given as its clips."""
    return isinstance(item, Sequence) and len(item) > 0 and all(isinstance(clip, FrameClip) for clip in item)


def cloud_array(
    item: Item, num_points: int, limits: Limits, *, name: str | None = None, official: bool = False
) -> NDArray[np.float32]:
    """Points (N, 3) float32: of a 3D file as :func:`~ibllm_tools.media.mesh.decode_points` says, or of an array."""
    source = file_source(item)
    if source is not None:
        return decode_points(source, name=name, points=num_points, limits=limits, official=official)
    points = as_array(item, "points as an array (N, 3)", lambda array: array.ndim == 2 and array.shape[1] == 3)
    return points.astype(np.float32, copy=False)


def map_array(item: Item, limits: Limits) -> NDArray[np.float32]:
    """A depth map or thermal image (H, W) float32, of a file or an array."""
    source = file_source(item)
    if source is not None:
        return decode_depth(source, limits=limits)
    return as_array(item, "a map as an array (H, W)", lambda array: array.ndim == 2).astype(np.float32, copy=False)


def imu_array(item: Item, limits: Limits) -> NDArray[np.float32]:
    """Inertial measurements (6, n) float32, of a file or an array."""
    source = file_source(item)
    if source is not None:
        return decode_imu(source, limits=limits)
    expected = "inertial measurements as an array (6, n)"
    array = as_array(item, expected, lambda array: array.ndim == 2 and array.shape[0] == 6)
    return array.astype(np.float32, copy=False)


def text_string(item: Item, limits: Limits) -> str:
    """A text: a string as it is, a path or bytes as a text file."""
    if isinstance(item, str):
        return item
    source = file_source(item)
    if source is None:
        raise InvalidRequestError(f"text of type {type(item).__name__}; expected a string, a path or bytes")
    return decode_text(source, limits=limits)
