from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibllm_tools.errors import CorruptMediaError, LimitExceededError, UnsupportedMediaError
from ibllm_tools.media.depth import decode_depth
from ibllm_tools.media.imu import decode_imu
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.text import decode_text


def saved(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(("dtype", "kind"), [("u1", "PNG"), ("u2", "PNG"), ("u2", "TIFF"), ("f4", "TIFF")])
def test_depth_keeps_the_stored_units(dtype: str, kind: str) -> None:
    values = np.array([[1, 2, 250]], dtype)
    depth = decode_depth(encoded(Image.fromarray(values), kind))
    assert depth.dtype == np.float32
    assert np.array_equal(depth, values)


def test_depth_reads_arrays() -> None:
    values = np.linspace(0, 9, 12).reshape(3, 4)
    assert np.array_equal(decode_depth(saved(values)), values.astype(np.float32))


def test_depth_refuses_colour_and_other_shapes() -> None:
    with pytest.raises(UnsupportedMediaError, match="image of mode RGB, expected one channel"):
        decode_depth(encoded(Image.new("RGB", (4, 4))))
    with pytest.raises(UnsupportedMediaError, match="text/plain"):
        decode_depth(b"words")


def test_depth_refuses_nan_truncated_and_oversized_maps() -> None:
    with pytest.raises(CorruptMediaError, match="NaN or infinite"):
        decode_depth(saved(np.full((4, 4), np.inf)))
    with pytest.raises(CorruptMediaError, match="announces shape"):
        decode_depth(saved(np.zeros((40, 40)))[:-100])
    with pytest.raises(LimitExceededError, match="64 values"):
        decode_depth(saved(np.zeros((8, 8))), limits=Limits(max_pixels=10))


def test_an_array_that_announces_more_than_it_holds_is_not_allocated() -> None:
    data = saved(np.zeros((4, 4))).replace(b"(4, 4), }        ", b"(4000000, 40000)}")
    with pytest.raises(CorruptMediaError, match=r"announces shape \(4000000, 40000\)"):
        decode_depth(data)


def test_an_array_of_objects_is_never_unpickled() -> None:
    file = BytesIO()
    np.save(file, np.array([[{}, {}], [{}, {}]], dtype=object), allow_pickle=True)
    with pytest.raises(UnsupportedMediaError, match="expected real numbers"):
        decode_depth(file.getvalue())


@pytest.mark.parametrize("shape", [(6, 200), (200, 6)])
def test_imu_comes_out_channels_first(shape: tuple[int, int]) -> None:
    values = np.arange(1200.0).reshape(shape)
    imu = decode_imu(saved(values))
    assert imu.shape == (6, 200)
    assert imu.dtype == np.float32
    assert imu[1, 0] == (200 if shape == (6, 200) else 1)


def test_imu_refuses_other_shapes_and_too_long_ones() -> None:
    with pytest.raises(UnsupportedMediaError, match=r"shape \(5, 9\), expected \(6, n\)"):
        decode_imu(saved(np.zeros((5, 9))))
    with pytest.raises(LimitExceededError, match="200 time steps"):
        decode_imu(saved(np.zeros((6, 200))), limits=Limits(max_imu_samples=100))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_by_its_byte_order_mark(encoding: str) -> None:
    assert decode_text("grüße, 世界".encode(encoding)) == "grüße, 世界"


def test_text_refuses_binary_blank_and_long(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"caf\xe9 au lait")
    with pytest.raises(UnsupportedMediaError, match=r"notes\.txt: not UTF-8 text \(byte 3\).*convert it to UTF-8"):
        decode_text(path)
    with pytest.raises(UnsupportedMediaError, match="binary data"):
        decode_text(b"a\x00b")
    with pytest.raises(CorruptMediaError, match="blank"):
        decode_text(b" \n")
    with pytest.raises(LimitExceededError, match=r"20 characters|20 bytes"):
        decode_text(b"a" * 20, limits=Limits(max_text_chars=10))
