import base64
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from sample_files import png

from ibllm_tools.attachments import Attachment, AttachmentStore, common_roots
from ibllm_tools.errors import (
    AttachmentAccessError,
    AttachmentNotFoundError,
    CorruptMediaError,
    InvalidRequestError,
    LimitExceededError,
    UnsupportedMediaError,
)
from ibllm_tools.media.audio import read_audio
from ibllm_tools.media.depth import decode_depth
from ibllm_tools.media.image import decode_image
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.mesh import decode_points
from ibllm_tools.media.text import decode_text

PIXELS = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)


def test_a_path_becomes_an_attachment(picture: Path) -> None:
    attachment = Attachment(str(picture))
    assert attachment.model_dump() == {
        "modality": "image",
        "mime": "image/png",
        "sha256": hashlib.sha256(png()).hexdigest(),
        "name": "cat.png",
        "size": len(png()),
    }
    assert attachment.source == picture
    assert attachment.read_bytes() == png()
    assert attachment.handle == f"att://{attachment.sha256}"


def test_the_same_bytes_are_the_same_thing(picture: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    assert Attachment(picture).sha256 == Attachment(png()).sha256 == Attachment(uri).sha256
    assert Attachment(png()).name.endswith(".png")


def test_is_immutable(picture: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Attachment(picture).name = "dog.png"


def test_of_leaves_an_attachment_alone(picture: Path) -> None:
    attachment = Attachment(picture)
    assert Attachment.of(attachment) is attachment
    assert Attachment.of(picture, name="x.png").name == "x.png"


def test_an_attachment_can_be_announced_anew(picture: Path) -> None:
    assert Attachment(Attachment(picture), modality="depth").modality == "depth"


def test_literal_text() -> None:
    attachment = Attachment.from_text("a ringing bell")
    assert (attachment.modality, decode_text(attachment.source)) == ("text", "a ringing bell")
    with pytest.raises(InvalidRequestError, match="blank text"):
        Attachment.from_text("  \0")


def test_an_image_array_and_a_pillow_image_keep_their_pixels() -> None:
    assert np.array_equal(decode_image(Attachment(PIXELS, modality="image").source), PIXELS)
    assert np.array_equal(decode_image(Attachment(Image.fromarray(PIXELS)).source), PIXELS)


def test_a_sound_array_keeps_its_samples() -> None:
    samples = np.linspace(-1, 1, 200, dtype=np.float32).reshape(2, 100)
    wave = read_audio(Attachment(samples, modality="audio", sample_rate=8000).source)
    assert np.array_equal(wave.samples, samples)
    assert wave.sample_rate == 8000


@pytest.mark.parametrize(("modality", "shape"), [("depth", (5, 3)), ("point", (7, 3)), ("imu", (6, 9))])
def test_other_arrays_keep_their_values(modality: str, shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).random(shape)
    attachment = Attachment(values, modality=modality)
    assert attachment.modality == modality
    if modality == "depth":
        assert np.array_equal(decode_depth(attachment.source), values.astype(np.float32))
    if modality == "point":
        assert len(decode_points(attachment.source)) == 7


@pytest.mark.parametrize(
    ("array", "settings", "message"),
    [
        (PIXELS, {}, "pass modality="),
        (PIXELS / 255, {"modality": "image"}, "scale floats by 255"),
        (PIXELS.transpose(2, 0, 1), {"modality": "image"}, "channels last"),
        (np.zeros(9), {"modality": "audio"}, "pass sample_rate="),
        (np.full(9, 3e4), {"modality": "audio", "sample_rate": 8000}, "scale it"),
        (np.zeros((90, 2)), {"modality": "audio", "sample_rate": 8000}, "transpose it"),
        (np.array([[object()]]), {"modality": "depth"}, "expected real numbers"),
        (PIXELS, {"modality": "smell"}, "modality 'smell', expected one of image, video"),
    ],
)
def test_an_array_that_does_not_fit_says_what_would(
    array: np.ndarray, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Attachment(array, **settings)


def test_the_announced_modality_must_agree_with_the_content(picture: Path) -> None:
    with pytest.raises(UnsupportedMediaError, match=r"cat\.png: announced as audio, but its content is image/png"):
        Attachment(picture, modality="audio")
    with pytest.raises(UnsupportedMediaError, match="announced as image, but its content is text/plain"):
        Attachment(b"words", modality="image")


@pytest.mark.parametrize(
    "text",
    ["<svg width='1'/>", "v 0 0 0\nf 1 1 1", "OFF is a switch", "%PDF in words", "RIFF and WAVE", "a\0b\x01"],
)
def test_text_given_literally_is_text_whatever_it_looks_like(text: str, tmp_path: Path) -> None:
    opened = Attachment.from_text(text)
    assert (opened.modality, opened.mime) == ("text", "text/plain")
    store = AttachmentStore(tmp_path)
    assert Attachment(store.put(opened), store=store).model_dump() == opened.model_dump()


def test_a_picture_is_not_text_though_it_is_announced_as_text(picture: Path) -> None:
    with pytest.raises(UnsupportedMediaError, match="announced as text, but its content is image/png"):
        Attachment(picture, modality="text")


def test_depth_is_announced_or_named() -> None:
    assert Attachment(png("I;16")).modality == "image"
    assert Attachment(png("I;16"), modality="depth").modality == "depth"
    assert Attachment(png("I;16"), name="room_depth.png").modality == "depth"


def test_a_video_can_be_taken_as_its_sound(reference: Path) -> None:
    assert Attachment(reference / "media" / "clip_6s.mp4", modality="audio").modality == "audio"


def test_paths_stay_below_the_allowed_folders(picture: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.png").symlink_to(picture)
    assert Attachment(picture, roots=[tmp_path]).name == "cat.png"
    for path in (picture, inside / ".." / "cat.png", inside / "link.png", "/etc/hostname"):
        with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
            Attachment(path, roots=[inside])


def test_bad_paths_have_their_own_errors(tmp_path: Path) -> None:
    with pytest.raises(AttachmentNotFoundError, match=r"gone\.png: no such file"):
        Attachment(tmp_path / "gone.png")
    with pytest.raises(AttachmentAccessError, match="a folder"):
        Attachment(tmp_path)
    with pytest.raises(AttachmentAccessError):
        Attachment("nul\x00byte.png")
    with pytest.raises(AttachmentAccessError, match="cannot be opened"):
        Attachment("x" * 5000)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(CorruptMediaError, match=r"empty\.wav: empty"):
        Attachment(tmp_path / "empty.wav")


def test_the_size_is_checked_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "huge.mp4"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LimitExceededError, match=r"huge\.mp4: 1,099,511,627,776 bytes"):
        Attachment(path)
    with pytest.raises(LimitExceededError, match="characters, the limit is 10 bytes"):
        Attachment("data:," + "a" * 100, limits=Limits(max_bytes=10))


@pytest.mark.parametrize(("uri", "message"), [("data:image/png;base64", "no comma"), ("data:;base64,@@@@", "base64")])
def test_a_malformed_data_uri_is_corrupt(uri: str, message: str) -> None:
    with pytest.raises(CorruptMediaError, match=message):
        Attachment(uri)


def test_fetching_is_off_unless_asked_for() -> None:
    with pytest.raises(AttachmentAccessError, match="allow_fetch=True, --allow-fetch"):
        Attachment("https://example.com/bell.wav")
    with pytest.raises(AttachmentAccessError, match="inside the own network"):
        Attachment("http://127.0.0.1:9/bell.wav", allow_fetch=True)
    with pytest.raises(InvalidRequestError, match="unknown scheme"):
        Attachment("ftp://example.com/bell.wav")


def test_a_file_url_is_its_path_and_bound_by_the_same_roots(picture: Path, tmp_path: Path) -> None:
    spaced = picture.rename(tmp_path / "a cat.png")
    for url in (spaced.as_uri(), spaced.as_uri().replace("file://", "FILE://localhost")):
        attachment = Attachment(url, roots=tmp_path)
        assert (attachment.name, attachment.source) == ("a cat.png", spaced)
        with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
            Attachment(url, roots=tmp_path / "elsewhere")
    with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
        Attachment(f"{tmp_path.as_uri()}/inner/%2e%2e/%2E%2E/cat.png", roots=tmp_path)
    for elsewhere in ("file://server/share/cat.png", "file://", "file://[/cat.png"):
        with pytest.raises(InvalidRequestError, match="pass the path"):
            Attachment(elsewhere)


def test_refuses_what_is_no_attachment() -> None:
    with pytest.raises(InvalidRequestError, match="attachment of type int"):
        Attachment(7)
    with pytest.raises(InvalidRequestError, match="sample_rate"):
        Attachment(b"words", sample_rate=8000)
    with pytest.raises(InvalidRequestError, match="7 of type int, expected text"):
        Attachment.from_text(7)  # type: ignore[arg-type]


def test_names_are_one_line_and_no_path() -> None:
    assert Attachment(b"words", name="../../a\nb.txt").name == "a b.txt"


def test_a_name_that_is_no_unicode_can_be_written_all_the_same(tmp_path: Path) -> None:
    attachment = Attachment(b"words", name="\ud800a.txt")
    assert attachment.name == "a.txt"
    assert AttachmentStore(tmp_path).put(attachment) == attachment.handle


def test_a_root_below_the_home_folder_may_be_written_short(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Attachment(picture, roots="~").name == picture.name
    assert common_roots(["~"], [tmp_path / "inside"]) == [tmp_path / "inside"]
    with pytest.raises(AttachmentAccessError, match="outside the allowed folders, expected a file below ~/inside"):
        Attachment(picture, roots="~/inside")
    with pytest.raises(AttachmentAccessError, match="not a usable path"):
        Attachment(picture, roots="~nobody-of-this-name/media")


@pytest.mark.parametrize("kind", [str, Path])
def test_one_folder_as_roots_is_one_root_and_not_its_letters(tmp_path: Path, kind: type) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside.txt"
    inside.mkdir()
    for file in (inside / "note.txt", outside):
        file.write_text("a bell")
    assert Attachment(inside / "note.txt", roots=kind(inside)).modality == "text"
    with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
        Attachment(outside, roots=kind(inside))
