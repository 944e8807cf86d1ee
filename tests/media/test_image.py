from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibllm_tools.errors import AttachmentError, CorruptMediaError, LimitExceededError, UnsupportedMediaError
from ibllm_tools.media.image import decode_image
from ibllm_tools.media.limits import Limits


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def red_left() -> Image.Image:
    pixels = np.full((8, 12, 3), 255, np.uint8)
    pixels[:, :6] = (255, 0, 0)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_reads_each_format_as_rgb(red_left: Image.Image, kind: str) -> None:
    pixels = decode_image(encoded(red_left, kind))
    assert pixels.shape == (8, 12, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels[4, 1].astype(int) - (255, 0, 0)).max() < 12


def test_applies_the_exif_orientation(red_left: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    data = encoded(red_left, exif=exif)
    assert decode_image(data).shape == (12, 8, 3)
    assert decode_image(data, official=True).shape == (8, 12, 3)


def test_composites_alpha_over_white_and_officially_drops_it() -> None:
    data = encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 0)))
    assert decode_image(data)[0, 0].tolist() == [255, 255, 255]
    assert decode_image(data, official=True)[0, 0].tolist() == [10, 20, 30]


def test_expands_a_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 9, 9, 9])
    assert decode_image(encoded(image, transparency=1))[0, 0].tolist() == [255, 255, 255]


def test_scales_16_bit_grey_to_8_bit() -> None:
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert decode_image(encoded(Image.fromarray(values)))[0, :, 0].tolist() == [0, 100, 255]


def test_takes_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data)[0, 0].tolist() == [255, 0, 0]


def test_a_jpeg_of_which_less_is_enough_is_decoded_smaller() -> None:
    file = encoded(Image.linear_gradient("L").convert("RGB").resize((1600, 1200)), "JPEG", quality=95)
    whole, part = decode_image(file), decode_image(file, enough=300)
    assert part.shape == (300, 400, 3)
    assert np.abs(part.astype(int) - whole[2::4, 2::4]).max() <= 4
    assert decode_image(file, enough=1201).shape == whole.shape


def test_official_pixels_are_pillows_conversion(reference: Path) -> None:
    path = reference / "media" / "portrait_alpha.png"
    with Image.open(path) as image:
        assert np.array_equal(decode_image(path, official=True), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_refuses_a_truncated_file(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(CorruptMediaError, match="truncated"):
        decode_image(data[: len(data) // 2])


def test_checks_the_pixels_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("L", (200, 100)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(LimitExceededError, match=r"200 x 100 pixels, the limit is 1,000.*Limits\.max_pixels"):
        decode_image(data, limits=Limits(max_pixels=1000))


def test_a_decompression_bomb_is_beyond_the_limit() -> None:
    data = bytearray(encoded(Image.new("L", (8, 8))))
    data[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(AttachmentError) as caught:
        decode_image(bytes(data))
    assert "\n" not in str(caught.value)


def test_refuses_text(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_text("not a picture")
    with pytest.raises(UnsupportedMediaError, match=r"cat\.png: holds text, expected an image by its name"):
        decode_image(path)


def test_reads_a_file_with_a_wrong_suffix(tmp_path: Path, red_left: Image.Image) -> None:
    path = tmp_path / "picture.mp3"
    path.write_bytes(encoded(red_left))
    assert decode_image(path).shape == (8, 12, 3)
