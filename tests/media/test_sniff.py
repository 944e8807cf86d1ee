from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibllm_tools.errors import (
    AttachmentAccessError,
    AttachmentNotFoundError,
    CorruptMediaError,
    LimitExceededError,
    UnsupportedMediaError,
)
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.sniff import sniff
from ibllm_tools.media.source import open_source


def saved(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def png(mode: str) -> bytes:
    file = BytesIO()
    Image.new(mode, (8, 8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "modality", "mime"),
    [
        ("dog_image.jpg", "image", "image/jpeg"),
        ("gray.png", "image", "image/png"),
        ("dog_audio.wav", "audio", "audio/wav"),
        ("clip_6s.mp4", "video", "video/mp4"),
        ("torus.obj", "point", "model/obj"),
        ("cloud_ascii.ply", "point", "model/ply"),
        ("cloud64.npy", "point", "application/x-npy"),
        ("README.md", "text", "text/plain"),
    ],
)
def test_content_tells_the_kind_without_a_name(reference: Path, name: str, modality: str, mime: str) -> None:
    assert sniff((reference / "media" / name).read_bytes()) == (modality, mime)


def test_a_wrong_name_does_not_mislead() -> None:
    assert sniff(png("RGB"), "song.mp3") == ("image", "image/png")


@pytest.mark.parametrize(
    ("mode", "name", "modality"),
    [
        ("I;16", "room_depth.png", "depth"),
        ("I;16", "scan.png", "image"),
        ("L", "depth.png", "image"),
        ("RGB", "depth.png", "image"),
    ],
)
def test_a_depth_map_is_16_bit_grey_and_called_depth(mode: str, name: str, modality: str) -> None:
    assert sniff(png(mode), name).modality == modality


@pytest.mark.parametrize(
    ("shape", "modality"), [((50, 3), "point"), ((6, 200), "imu"), ((200, 6), "imu"), ((48, 64), "depth")]
)
def test_arrays_are_told_by_their_shape(shape: tuple[int, int], modality: str) -> None:
    assert sniff(saved(np.zeros(shape))).modality == modality


def test_text_of_numbers_is_a_cloud_only_by_name() -> None:
    assert sniff(b"0 0 1\n2 3 4\n", "cloud.xyz").modality == "point"
    assert sniff(b"0 0 1\n2 3 4\n", "table.csv") == ("text", "text/csv")


def test_words_that_resemble_magic_are_text() -> None:
    for words in (b"official report\n", b"solid advice, at last", b"v for vendetta\nis a film", "grüße\n".encode()):
        assert sniff(words).modality == "text"


@pytest.mark.parametrize("data", [b"%PDF-1.7\n\xff\xfe", b"PK\x03\x04\x00\x01", b"\x00\x01\x02\x03" * 40, b"\xff\xfb"])
def test_unknown_binary_data_is_refused_with_what_is_read(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaError, match=r"expected an image \(PNG, JPEG"):
        sniff(data)


def test_random_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    starts = (b"", b"RIFF", b"\x93NUMPY", b"\x1aE\xdf\xa3", b"OggS", b"\xff\xfb", b"\x00\x00\x00\x18ftyp", b"glTF")
    for start in 20 * starts:
        with suppress(UnsupportedMediaError, CorruptMediaError):
            sniff(start + rng.bytes(100))


def test_missing_empty_folder_and_device_have_their_own_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(AttachmentNotFoundError, match=r"gone\.png: no such file"):
        sniff(tmp_path / "gone.png")
    with pytest.raises(CorruptMediaError, match=r"empty\.png: empty"):
        sniff(tmp_path / "empty.png")
    with pytest.raises(CorruptMediaError, match="empty"):
        sniff(b"")
    with pytest.raises(AttachmentAccessError, match="a folder, expected a file"):
        sniff(tmp_path)
    with pytest.raises(AttachmentAccessError, match="a device or pipe"):
        sniff(Path("/dev/zero"))


def test_an_unreadable_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(png("L"))

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so that chmod would not do
    with pytest.raises(AttachmentAccessError, match=r"locked\.png: not readable \(Permission denied\)"):
        sniff(path)


def test_a_file_beyond_the_limit_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "huge.wav"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LimitExceededError, match=r"1,099,511,627,776 bytes, the limit is 536,870,912"):
        open_source(path, Limits())


@pytest.mark.parametrize("name", ["photo.png", "sound.wav", "clip.mp4", "shape.glb"])
def test_a_text_that_is_named_like_media_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a red bell")
    with pytest.raises(UnsupportedMediaError, match=r"holds text, expected .+ by its name; rename it to \.txt"):
        sniff(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "kind"), [("%PDF-1.4\n1 0 obj", "a PDF"), ("<?xml version='1.0'?><svg/>", "an SVG")]
)
def test_documents_made_of_text_are_refused_by_name(content: str, kind: str) -> None:
    with pytest.raises(UnsupportedMediaError, match=kind):
        sniff(content.encode())
