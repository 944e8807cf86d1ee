import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import trimesh
from PIL import Image

from ibllm_tools.errors import (
    CorruptMediaError,
    IbllmError,
    InvalidRequestError,
    LimitExceededError,
    MissingExtraError,
)
from ibllm_tools.media.audio import encode_wav
from ibllm_tools.media.draw_map import MISSING
from ibllm_tools.media.draw_shape import PAPER, draw_triangles
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.sniff import sniff
from ibllm_tools.media.thumbnails import MAX_BYTES, encode_thumbnail, thumbnail

EXAMPLES = Path(__file__).parents[2] / "examples" / "media"


def seen(data: bytes | None) -> np.ndarray:
    assert data is not None
    with Image.open(BytesIO(data)) as image:
        assert image.format == "WEBP"
        return np.asarray(image.convert("RGB")).astype(int)


def encoded(image: Image.Image, **settings: object) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", **settings)
    return file.getvalue()


def saved(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def video(path: Path, frames: list[np.ndarray]) -> Path:
    """Four frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def sound(*channels: np.ndarray, rate: int = 8000) -> bytes:
    return encode_wav(np.stack(channels).astype(np.float32), rate)


def inked(picture: np.ndarray) -> np.ndarray:
    """Where a drawing, in its whole width, differs clearly from the paper."""
    return np.abs(picture - PAPER).sum(axis=2) > 60


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_every_example_has_a_small_picture_that_is_always_the_same(path: Path) -> None:
    modality = sniff(path).modality
    data = thumbnail(path, modality)
    assert data == thumbnail(path, modality)
    assert len(data) <= MAX_BYTES
    picture = seen(data)
    assert max(picture.shape[:2]) <= 256
    assert picture.std() > 5


def test_even_noise_stays_small_and_a_small_image_is_not_enlarged() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    for pixels in (noise, noise[:256, :256], np.kron(noise[:32, :32], np.ones((8, 8, 1), np.uint8))):
        assert len(encode_thumbnail(pixels)) <= MAX_BYTES
    assert seen(encode_thumbnail(noise)).shape == (199, 256, 3)
    assert seen(encode_thumbnail(noise[:20, :10])).shape == (20, 10, 3)
    assert seen(encode_thumbnail(np.zeros((5000, 1, 3), np.uint8))).shape == (256, 1, 3)


def test_an_image_is_upright_and_over_white() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert seen(thumbnail(encoded(Image.new("RGB", (80, 40)), exif=exif), "image")).shape == (80, 40, 3)
    assert seen(thumbnail(encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 0))), "image")).min() > 250


def test_a_video_shows_the_middle_of_its_segment(tmp_path: Path) -> None:
    path = video(tmp_path / "fade.mp4", [np.full((48, 64, 3), 20 * index, np.uint8) for index in range(12)])
    assert seen(thumbnail(path, "video")).mean() == pytest.approx(20 * 6, abs=6)
    assert seen(thumbnail(path, "video", start=0, end=1)).mean() == pytest.approx(20 * 2, abs=6)
    assert seen(thumbnail(path, "video", start=2)).mean() == pytest.approx(20 * 10, abs=6)
    assert seen(thumbnail(path, "video", start=2, end=99)).mean() == pytest.approx(20 * 10, abs=6)


def test_a_blank_middle_gives_way_to_a_frame_that_shows_something(tmp_path: Path) -> None:
    black, halves = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64, 3), np.uint8)
    halves[:, 32:] = 255
    path = video(tmp_path / "cut.mp4", [black] * 5 + [halves] * 3)
    assert seen(thumbnail(path, "video")).mean() == pytest.approx(127, abs=8)


def test_a_waveform_is_high_where_the_sound_is_loud() -> None:
    time = np.arange(8000) / 8000
    tone = np.sin(2 * np.pi * 440 * time) * (time > 0.5)
    heights = inked(seen(thumbnail(sound(tone), "audio"))).sum(axis=0)
    assert heights.shape == (256,)
    assert heights[:120].max() <= 4
    assert heights[136:].min() > 100
    assert inked(seen(thumbnail(sound(tone), "audio", end=0.5))).sum(axis=0).max() <= 4


def test_a_waveform_hides_neither_channel_and_does_not_blow_up_silence() -> None:
    tone = np.sin(np.arange(8000))
    assert inked(seen(thumbnail(sound(tone, -tone), "audio"))).sum() > 20_000
    assert inked(seen(thumbnail(sound(tone * 1e-3), "audio"))).sum() < 2000


def test_a_waveform_read_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, (2, 20_011))
    at_once = thumbnail(sound(*noise), "audio", start=0.1, end=2.4)
    pieces = thumbnail(sound(*noise), "audio", start=0.1, end=2.4, limits=Limits(max_samples=778))
    assert np.abs(seen(at_once) - seen(pieces)).max() < 12


@pytest.mark.parametrize("samples", [1, 2, 300])
def test_a_very_short_sound_has_a_waveform(samples: int) -> None:
    assert seen(thumbnail(sound(np.full(samples, 0.5)), "audio")).shape == (128, 256, 3)


def test_depth_is_light_where_near_and_grey_where_missing() -> None:
    depth = np.full((30, 30), 1000, np.uint16)
    depth[:, 10:20] = 9000
    depth[:, 20:] = 0
    picture = seen(thumbnail(encoded(Image.fromarray(depth)), "depth"))
    assert picture[15, 5].sum() > picture[15, 15].sum() + 300
    assert np.abs(picture[15, 25] - MISSING).max() < 20
    assert np.abs(seen(thumbnail(saved(np.zeros((30, 30))), "depth")) - MISSING).max() < 5


def test_heat_is_light_where_hot_and_cold_is_not_missing() -> None:
    heat = np.zeros((2000, 1000))
    heat[:, 500:] = 40.0
    picture = seen(thumbnail(saved(heat), "thermal"))
    assert picture.shape == (256, 128, 3)
    assert picture[128, 100].sum() > picture[128, 30].sum() + 500
    assert seen(thumbnail(saved(np.full((9, 9), 20.0)), "thermal")).std() < 30


def test_inertial_measurements_are_two_rows_of_curves() -> None:
    still_then_turning = np.zeros((6, 400), np.float32)
    still_then_turning[3, 200:] = np.sin(np.arange(200))
    ink = inked(seen(thumbnail(saved(still_then_turning), "imu")))
    assert ink[66:, 140:].sum() > 4 * ink[:62, 140:].sum()
    assert seen(thumbnail(saved(np.zeros((6, 1))), "imu")).shape == (128, 256, 3)


def test_a_text_is_its_own_preview() -> None:
    assert thumbnail(b"a ringing bell", "text") is None


def square(z: float, size: float) -> np.ndarray:
    """Two triangles (2, 3, 3) that face +z."""
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * size + (0, 0, z)
    return corners[[[0, 1, 2], [0, 2, 3]]]


def test_what_is_near_hides_what_is_far_in_any_order() -> None:
    tilted = trimesh.creation.box((1, 1, 1)).triangles
    wall, both = square(-3, 3), np.concatenate([square(-3, 3), tilted])
    assert np.array_equal(draw_triangles(both), draw_triangles(both[::-1]))
    assert not np.array_equal(draw_triangles(both), draw_triangles(wall))
    behind = np.concatenate([wall, tilted - (0, 0, 4)])
    assert len(np.unique(draw_triangles(behind)[250:262, 250:262].reshape(-1, 3), axis=0)) == 1


def test_a_surface_is_closed_and_lit_from_above() -> None:
    ball = seen(thumbnail(trimesh.creation.icosphere(subdivisions=4).export(file_type="ply"), "point"))
    y, x = np.mgrid[:256, :256] - 127.5
    radius = np.hypot(x, y)
    assert inked(ball)[radius < 110].all()
    assert not inked(ball)[radius > 117].any()
    assert ball[60, 110].sum() > ball[190, 150].sum() + 150


def test_shape_and_size_of_a_model_do_not_depend_on_its_units() -> None:
    box = trimesh.creation.box((1, 2, 3))
    pictures = [seen(thumbnail(box.copy().apply_scale(s).export(file_type="ply"), "point")) for s in (1, 1024)]
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.1


def test_a_model_looks_the_same_from_whichever_side_its_triangles_are_meant_to_be_seen() -> None:
    box = trimesh.creation.box((1, 2, 3)).triangles
    difference = draw_triangles(box).astype(int) - draw_triangles(box[:, ::-1])
    assert np.abs(difference).mean() < 0.5


def test_up_is_up() -> None:
    cone = np.array([[0, 2, 0], [-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1.0]])
    sides = cone[[[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1]]]
    rows = np.flatnonzero(inked(draw_triangles(sides).astype(int)).any(axis=1))
    widths = inked(draw_triangles(sides).astype(int)).sum(axis=1)
    assert widths[rows[0] + 20] < widths[rows[-1] - 120] / 4


def test_stl_and_off_stand_on_z_and_the_others_on_y() -> None:
    pillar = trimesh.creation.cylinder(radius=0.2, height=3)  # along z
    lying, standing = (inked(seen(thumbnail(pillar.export(file_type=kind), "point"))) for kind in ("ply", "stl"))
    rows = [np.flatnonzero(ink.any(axis=1)) for ink in (lying, standing)]
    assert np.ptp(rows[1]) > 1.5 * np.ptp(rows[0])


def test_clouds_and_what_has_no_visible_surface_are_drawn_as_points() -> None:
    assert inked(seen(thumbnail(saved(np.array([[0, 0, 0], [1, 1, 1.0]])), "point"))).any()
    assert inked(seen(thumbnail(b"0 0 0\n1 0 0\n0 1 0\n", "point", name="cloud.xyz"))).any()
    line = b"OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n"
    assert inked(seen(thumbnail(line, "point"))).any()


def test_a_surface_that_would_take_too_long_is_drawn_as_points() -> None:
    corners = np.random.default_rng(0).normal(size=(60_000, 3))
    assert draw_triangles(corners.reshape(-1, 3, 3)) is None
    mesh = trimesh.Trimesh(corners, np.arange(60_000).reshape(-1, 3), process=False)
    assert inked(seen(thumbnail(mesh.export(file_type="ply"), "point"))).any()


def test_one_place_is_no_shape() -> None:
    with pytest.raises(CorruptMediaError, match="all points in one place"):
        thumbnail(saved(np.ones((5, 3))), "point")
    with pytest.raises(CorruptMediaError, match=r"in one place|infinite"):
        thumbnail(saved(np.array([[-1e308, 0, 0], [1e308, 0, 0]])), "point")


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (9.0, None), (-1.0, 0.5)])
def test_a_span_lies_within_the_medium(tmp_path: Path, start: float, end: float | None) -> None:
    path = video(tmp_path / "a.mp4", [np.zeros((48, 64, 3), np.uint8)] * 4)
    for source, modality in ((sound(np.zeros(8000)), "audio"), (path, "video")):
        with pytest.raises(InvalidRequestError, match=r"expected one within 0 to 1 s"):
            thumbnail(source, modality, start=start, end=end)


def test_only_sounds_and_videos_have_spans() -> None:
    with pytest.raises(InvalidRequestError, match="modality image, expected a sound or a video"):
        thumbnail(encoded(Image.new("RGB", (4, 4))), "image", end=1.0)


def test_limits_come_before_decoding() -> None:
    for source, modality, limits in (
        (encoded(Image.new("RGB", (40, 40))), "image", Limits(max_pixels=1000)),
        (sound(np.zeros(8000)), "audio", Limits(max_seconds=0.5)),
        (saved(np.ones((40, 3))), "point", Limits(max_points=30)),
    ):
        with pytest.raises(LimitExceededError):
            thumbnail(source, modality, limits=limits)


@pytest.mark.parametrize(
    ("package", "name", "modality", "extra"),
    [
        ("soundfile", "bell.wav", "audio", "audio"),
        ("av", "helicopter.mp4", "video", "video"),
        ("trimesh", "duck.glb", "point", "mesh"),
    ],
)
def test_a_missing_package_names_its_extra(
    package: str, name: str, modality: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'ibllm-tools\[{extra}\]'"):
        thumbnail(EXAMPLES / name, modality)


@pytest.mark.parametrize("name", ["bell.png", "bell.wav", "duck.glb", "helicopter.mp4", "kettle_depth.png"])
def test_broken_bytes_are_drawn_or_refused_in_one_line(
    name: str, one_line_error: Callable[[type[Exception]], AbstractContextManager[None]]
) -> None:
    whole, modality = (EXAMPLES / name).read_bytes(), sniff(EXAMPLES / name).modality
    rng = np.random.default_rng(0)
    for trial in range(8):
        data = bytearray(whole)
        for place in rng.integers(0, len(data) if trial % 2 else 256, 1 + trial):
            data[place] = rng.integers(0, 256)
        with one_line_error(IbllmError):
            thumbnail(bytes(data), modality)
