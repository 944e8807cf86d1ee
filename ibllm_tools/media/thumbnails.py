"""Small pictures of any media, to lay beside a search hit or into a notebook.

Photographs and video frames are scaled down; what cannot be seen is drawn: sounds as waveforms, depth and heat in
colour, inertial measurements as curves, 3D models and clouds from a three-quarter view. The same media give the same
bytes.
"""

from fractions import Fraction
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.media.depth import decode_depth
from ibllm_tools.media.draw_map import draw_map
from ibllm_tools.media.draw_shape import draw_points, draw_triangles
from ibllm_tools.media.draw_sound import draw_curves, draw_waveform, sound_outline
from ibllm_tools.media.image import decode_image
from ibllm_tools.media.imu import decode_imu
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import Modality
from ibllm_tools.media.source import Source, decoding, source_label
from ibllm_tools.media.upright import read_upright
from ibllm_tools.media.video import probe_video, read_clips

SIDE = 256
MAX_BYTES = 32 * 1024
QUALITIES = (85, 60, 30)  # noise of 256 x 256 pixels takes 29 KB at the last
TIMED = ("audio", "video")
MOMENT = Fraction(1, 1000)
PLACES = (Fraction(1, 2), Fraction(1, 4), Fraction(3, 4))
FLAT = 6.0  # standard deviation of 8-bit values below which a frame shows nothing, as in a fade


def thumbnail(
    source: Source,
    modality: Modality,
    *,
    start: float = 0.0,
    end: float | None = None,
    name: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> bytes | None:
    """A WebP picture of at most 256 pixels a side and 32 KiB; ``None`` for a text, which is its own preview.

    Args:
        source: a path or the bytes.
        modality: what it is to be taken as; a video as ``audio`` gives the waveform of its sound.
        start: where the segment of a sound or video begins, in seconds.
        end: where it ends; at the end of the whole by default. A video shows the frame in the middle of the segment, or
            one nearby where that one is blank.
        name: the file's name, where the content alone does not tell (``.xyz``).
        limits: checked before anything is decoded.

    Raises:
        InvalidRequestError: the segment is empty or begins after the end, or the medium has no time.
        MissingExtraError: the package that decodes it is not installed.
        UnsupportedMediaError, CorruptMediaError, LimitExceededError: as the decoders of the modality do.
    """
    if modality not in TIMED and (start != 0 or end is not None):
        raise InvalidRequestError(
            f"{source_label(source)}: span {start:g} to {end} s of modality {modality}, expected a sound or a video; "
            "leave start and end out"
        )
    if modality == "text":
        return None
    if modality == "image":
        return encode_thumbnail(decode_image(source, limits=limits, enough=2 * SIDE))
    if modality == "video":
        return encode_thumbnail(_frame(source, start, end, limits))
    if modality == "audio":
        return encode_thumbnail(draw_waveform(sound_outline(source, SIDE, start=start, end=end, limits=limits)))
    if modality == "imu":
        return encode_thumbnail(draw_curves(decode_imu(source, limits=limits)))
    if modality == "point":
        return encode_thumbnail(_shape(source, name, limits))
    return encode_thumbnail(draw_map(decode_depth(source, limits=limits), modality))


def _frame(source: Source, start: float, end: float | None, limits: Limits) -> NDArray[np.uint8]:
    seconds = probe_video(source, limits=limits).seconds
    first, stop = Fraction(start), seconds if end is None else min(Fraction(end), seconds)
    if not 0 <= first < stop:
        raise InvalidRequestError(
            f"{source_label(source)}: span {start:g} to {'end' if end is None else f'{end:g}'} s, expected one within "
            f"0 to {float(seconds):g} s; choose start < end"
        )
    frames: list[NDArray[np.uint8]] = []
    for place in PLACES:
        moment = first + (stop - first) * place
        clip = read_clips(source, [(moment, moment + MOMENT)], frames_per_clip=1, limits=limits)[0]
        frames.append(clip.frames[0])  # (H, W, 3)
        if frames[-1].std() > FLAT:
            return frames[-1]
    return frames[0]


def _shape(source: Source, name: str | None, limits: Limits) -> NDArray[np.uint8]:
    points, triangles = read_upright(source, name=name, limits=limits)
    with decoding(source, "3D model"):
        picture = draw_triangles(triangles) if len(triangles) else None
        return draw_points(points) if picture is None else picture


def encode_thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """RGB pixels (H, W, 3), decoded or drawn, as a WebP picture; smaller ones are not enlarged."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=None)
    for quality in QUALITIES:
        file = BytesIO()
        image.save(file, "WEBP", quality=quality, method=4)
        if file.tell() <= MAX_BYTES:
            break
    return file.getvalue()
