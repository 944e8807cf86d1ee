"""Images: PNG, JPEG, WebP, GIF (its first frame), BMP and TIFF, as 8-bit RGB."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ibllm_tools.errors import LimitExceededError, UnsupportedMediaError
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import require
from ibllm_tools.media.source import Source, decoding, open_source, source_label

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
ORIENTATION = 0x0112  # EXIF tag; from 5 to 8 the image lies on its side
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


def decode_image(
    source: Source, *, limits: Limits = DEFAULT_LIMITS, official: bool = False, enough: int | None = None
) -> NDArray[np.uint8]:
    """The image as RGB, uint8 (H, W, 3).

    By default the EXIF orientation is applied, transparency is composited over white, and 16-bit greyscale is scaled to
    8 bits. With ``official`` it is Pillow's ``convert("RGB")`` alone, as in the research code: orientation ignored,
    alpha dropped, 16 bits clipped. A JPEG of which ``enough`` pixels a side do is decoded at a half, a quarter or an
    eighth of its size, in less time.

    Raises:
        UnsupportedMediaError: not an image, or one of 32 bits per channel.
        CorruptMediaError: truncated or damaged.
        LimitExceededError: more pixels than ``limits.max_pixels``.
    """
    require(source, lambda kind: kind.mime.startswith("image/"), expected="an image")
    with decoding(source, "image"), open_bounded(source, limits) as image:
        if enough is not None:
            image.draft(None, (enough, enough))
        rgb = image.convert("RGB") if official else _sane_rgb(image, source)
        return np.array(rgb, dtype=np.uint8)  # (H, W, 3)


def image_size(source: Source, *, limits: Limits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Width and height in pixels, with the EXIF orientation applied; the pixels are not decoded.

    Raises:
        UnsupportedMediaError, CorruptMediaError, LimitExceededError: as :func:`decode_image`, as far as a header tells.
    """
    require(source, lambda kind: kind.mime.startswith("image/"), expected="an image")
    with decoding(source, "image"), open_bounded(source, limits) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        return (height, width) if turned else (width, height)


@contextmanager
def open_bounded(source: Source, limits: Limits) -> Iterator[Image.Image]:
    """The image with its header read and its pixels not yet, after the number of pixels was checked."""
    label = source_label(source)
    remedy = "scale it down or raise Limits.max_pixels"
    with open_source(source, limits) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of bombs and of what it repairs; the limit below is the judge
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise LimitExceededError(f"{label}: a decompression bomb, expected a real image; {remedy}") from error
        with image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise LimitExceededError(
                    f"{label}: {width} x {height} pixels, the limit is {limits.max_pixels:,}; {remedy}"
                )
            yield image


def _sane_rgb(image: Image.Image, source: Source) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode in DEEP_MODES:
        return _eight_bits(upright, source)
    if upright.has_transparency_data:
        pixels = upright.convert("RGBA")
        white = Image.new("RGBA", pixels.size, "white")
        return Image.alpha_composite(white, pixels).convert("RGB")
    return upright.convert("RGB")


def _eight_bits(image: Image.Image, source: Source) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise UnsupportedMediaError(
            f"{source_label(source)}: 32 bits per channel, expected 8 or 16; convert it, or announce modality='depth'"
        )
    return Image.fromarray(np.rint(values / 257.0).astype(np.uint8)).convert("RGB")
