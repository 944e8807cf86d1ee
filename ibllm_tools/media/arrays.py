"""Arrays and Pillow images, encoded losslessly, so that they have bytes and a sha256 like everything else."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.media.audio import encode_wav

Array = np.ndarray[Any, np.dtype[Any]]
INTEGER_SOUND_PEAK = 2.0  # a float sound beyond it holds unscaled integers


def encode_array(array: Array, modality: str | None, sample_rate: int | None) -> bytes:
    """An image as PNG, a sound as float WAV, depth, thermal, inertial measurements and points as .npy.

    Args:
        array: uint8 (H, W), (H, W, 3) or (H, W, 4); samples (n,) or (channels, n); otherwise numbers of any shape.
        modality: what it holds.
        sample_rate: of a sound, in Hz.

    Raises:
        InvalidRequestError: the modality is missing or has no array form, or type or shape do not fit.
    """
    if modality == "image":
        return _encode_pixels(array)
    if modality == "audio":
        return _encode_sound(array, sample_rate)
    if modality not in ("depth", "thermal", "imu", "point"):
        raise InvalidRequestError(
            f"array of shape {array.shape} as {modality or 'no modality'}, expected image, audio, depth, thermal, "
            "imu or point; pass modality=..., and videos and texts as files"
        )
    if array.dtype.kind not in "fiub":
        raise InvalidRequestError(
            f"array of type {array.dtype}, expected real numbers; convert it with .astype('float32')"
        )
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def encode_image(image: Image.Image) -> bytes:
    """A Pillow image as PNG, its EXIF orientation kept."""
    file = BytesIO()
    try:
        image.save(file, "PNG", exif=image.getexif())
    except OSError as error:
        raise InvalidRequestError(
            f"image of mode {image.mode} has no PNG form, expected RGB; pass .convert('RGB')"
        ) from error
    return file.getvalue()


def _encode_pixels(array: Array) -> bytes:
    shape_fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shape_fits or array.size == 0:
        raise InvalidRequestError(
            f"image array of type {array.dtype} and shape {array.shape}, expected uint8 (H, W), (H, W, 3) or (H, W, "
            "4); scale floats by 255 and put the channels last"
        )
    return encode_image(Image.fromarray(array))


def _encode_sound(array: Array, sample_rate: int | None) -> bytes:
    if sample_rate is None or sample_rate <= 0:
        raise InvalidRequestError(
            f"sound array with sample_rate {sample_rate}, expected Hz; pass sample_rate=16000 or so"
        )
    samples = np.atleast_2d(array)  # (channels, n)
    if array.dtype.kind not in "fi" or samples.ndim != 2 or samples.size == 0 or len(samples) > samples.shape[1]:
        raise InvalidRequestError(
            f"sound array of type {array.dtype} and shape {array.shape}, expected (n,) or (channels, n) floats or "
            "int16; transpose it if the channels are last"
        )
    if array.dtype == np.int16:
        return encode_wav(samples.astype(np.float32) / np.float32(32768), sample_rate)
    if not np.isfinite(samples).all() or np.abs(samples).max() > INTEGER_SOUND_PEAK:
        raise InvalidRequestError("sound array with NaN, infinite or unscaled samples, expected -1 to 1; scale it")
    return encode_wav(samples.astype(np.float32), sample_rate)
