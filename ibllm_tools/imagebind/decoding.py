"""What a caller may hand to the processor, as arrays: a path, the bytes of a file, or something decoded already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibllm_tools.errors import CorruptMediaError, InvalidRequestError
from ibllm_tools.imagebind.clip_sampling import clip_spans, frame_indices
from ibllm_tools.media.audio import Waveform, probe_audio, read_audio
from ibllm_tools.media.depth import decode_depth
from ibllm_tools.media.image import decode_image
from ibllm_tools.media.imu import decode_imu
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.mesh import decode_points
from ibllm_tools.media.source import Source
from ibllm_tools.media.text import decode_text
from ibllm_tools.media.video import FrameClip, probe_video, read_clips

Item: TypeAlias = Any
"""A path (also as a string), the bytes of a file, an array (NumPy or a CPU tensor), or what a decoder of
:mod:`ibllm_tools.media` returned. For text a string is the text itself."""

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
