import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from fractions import Fraction
from functools import cache
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from safetensors.numpy import load_file

from ibllm_tools.errors import (
    AttachmentError,
    CorruptMediaError,
    InvalidRequestError,
    LimitExceededError,
    UnsupportedMediaError,
)
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.video import probe_video, read_clips

OneLineError = Callable[[type[Exception]], AbstractContextManager[None]]


WIDTH, HEIGHT = 64, 48


@cache
def filmed(
    stamps: tuple[float, ...],
    *,
    kind: str = "mp4",
    codec: str = "libx264",
    rotation: int = 0,
    file: BytesIO | None = None,
    **options: str,
) -> bytes:
    """Frames whose grey value is their number, at the given times in seconds; the top half of each is darker."""
    file = file or BytesIO()
    with av.open(file, "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=25, options={"g": "25"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        container.start_encoding()
        for index, stamp in enumerate(stamps):
            pixels = np.full((HEIGHT, WIDTH, 3), (7 * index) % 200 + 50, np.uint8)
            pixels[: HEIGHT // 2] = 0
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = round(1000 * stamp), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def steady(seconds: float) -> tuple[float, ...]:
    return tuple(index / 25 for index in range(round(25 * seconds)))


def span(start: float, end: float) -> tuple[Fraction, Fraction]:
    return Fraction(start), Fraction(end)


@pytest.mark.parametrize("name", ["clip_6s.mp4", "clip_short.mp4"])
def test_picks_the_frames_of_the_research_code(reference: Path, name: str) -> None:
    golden = json.loads((reference / "preproc" / "fixture.json").read_text())["video"][name]
    path = reference / "media" / name
    assert probe_video(path, official=True).seconds == Fraction(golden["duration"])
    spans = [(Fraction(clip["start"]), Fraction(clip["end"])) for clip in golden["clips"]]
    clips = read_clips(path, spans, official=True)
    assert [list(clip.times) for clip in clips] == [clip["picked_sec"] for clip in golden["clips"]]


def test_pixels_equal_those_of_the_research_code(reference: Path) -> None:
    golden = load_file(reference / "preproc" / "video.safetensors")
    (clip,) = read_clips(reference / "media" / "clip_6s.mp4", [span(0, 2)], official=True)
    for index in range(2):
        expected = golden[f"clip_6s.mp4.clip0.frame{index}_rgb_u8"].transpose(1, 2, 0)
        assert np.array_equal(clip.frames[index], expected)


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("mp4", "libx264"), ("mov", "libx264"), ("matroska", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")],
)
def test_reads_each_container(kind: str, codec: str) -> None:
    data = filmed(steady(3), kind=kind, codec=codec)
    info = probe_video(data)
    assert (info.width, info.height, info.has_audio) == (WIDTH, HEIGHT, False)
    assert float(info.seconds) == pytest.approx(3, abs=0.05)
    (clip,) = read_clips(data, [span(1, 2)])
    assert clip.frames.shape == (2, HEIGHT, WIDTH, 3)
    assert clip.times == pytest.approx((1.0, 1.96), abs=0.002)


def test_frames_belong_to_their_times() -> None:
    (clip,) = read_clips(filmed(steady(3)), [span(1, 2)], frames_per_clip=5)
    shown = clip.frames[:, HEIGHT - 1, 0, 0].astype(int)
    numbers = np.rint(np.array(clip.times) * 25).astype(int)
    assert numbers.tolist() == [25, 31, 37, 43, 49]
    assert np.abs(shown - ((7 * numbers) % 200 + 50)).max() <= 3


def test_a_recording_without_duration_and_index_is_read() -> None:
    class Pipe(BytesIO):
        def seekable(self) -> bool:
            return False

    data = filmed(steady(3), kind="webm", codec="libvpx", file=Pipe(), live="1")
    assert float(probe_video(data).seconds) == pytest.approx(3, abs=0.05)
    assert read_clips(data, [span(2, 3)])[0].times == pytest.approx((2.0, 2.96), abs=0.002)


def test_variable_frame_rate_goes_by_time() -> None:
    data = filmed((0, 0.1, 0.2, 3.0, 3.5, 5.0))
    (clip,) = read_clips(data, [span(0, 4)], frames_per_clip=3)
    assert clip.times == pytest.approx((0, 0.2, 3.5))


def test_a_still_scene_shows_the_frame_before_it() -> None:
    (clip,) = read_clips(filmed((0, 0.1, 0.2, 5.0)), [span(2, 4)])
    assert clip.times == pytest.approx((0.2, 0.2))


def test_applies_the_rotation_unless_official() -> None:
    data = filmed(steady(1), rotation=90)
    (upright,), (stored,) = read_clips(data, [span(0, 1)]), read_clips(data, [span(0, 1)], official=True)
    assert probe_video(data).rotation == 90
    assert upright.frames.shape[1:3] == (WIDTH, HEIGHT)
    assert np.array_equal(upright.frames[0], np.rot90(stored.frames[0]))


def test_decodes_a_bounded_number_of_frames_of_a_long_video(decoded: Callable[[], int]) -> None:
    data = filmed(steady(60))
    read_clips(data, [span(40, 42)])
    assert decoded() <= 50 + 2 * 25 + 1


def test_equal_spans_are_decoded_once(decoded: Callable[[], int]) -> None:
    clips = read_clips(filmed(steady(1)), [span(0, 2)] * 5)
    assert len(clips) == 5
    assert decoded() <= 25


def test_limits_hold_before_decoding(decoded: Callable[[], int]) -> None:
    data = filmed(steady(1))
    with pytest.raises(LimitExceededError, match=r"frames of 64 x 48 pixels, the limit is 1,000"):
        read_clips(data, [span(0, 1)], limits=Limits(max_pixels=1000))
    assert decoded() == 0
    with pytest.raises(LimitExceededError, match=r"s of video, the limit is 1 s.*Limits\.max_seconds"):
        probe_video(filmed(steady(2)), limits=Limits(max_seconds=1))


def test_refuses_a_video_without_frames() -> None:
    with pytest.raises(AttachmentError, match=r"no frames|not a readable video \(End of file\)"):
        probe_video(filmed((), kind="matroska"))


@pytest.mark.parametrize("kind", ["mp4", "matroska", "webm", "avi"])
@pytest.mark.parametrize("share", [0.005, 0.1, 0.5, 0.9])
def test_a_cut_file_is_shorter_or_refused(kind: str, share: float, one_line_error: OneLineError) -> None:
    data = filmed(steady(4), kind=kind, codec={"webm": "libvpx", "avi": "mpeg4"}.get(kind, "libx264"))
    with one_line_error(AttachmentError):
        info = probe_video(data[: int(len(data) * share)])
        read_clips(data[: int(len(data) * share)], [(Fraction(0), info.seconds)])


def test_a_span_behind_the_end_of_a_cut_file_is_refused() -> None:
    data = filmed(steady(8), movflags="frag_keyframe+empty_moov")
    cut = data[: len(data) * 6 // 10]
    with pytest.raises(CorruptMediaError, match="truncated"):
        read_clips(cut, [span(6, 8)])


def test_refuses_text_and_empty_spans(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("words")
    with pytest.raises(UnsupportedMediaError, match=r"notes\.mp4: holds text, expected a video by its name"):
        probe_video(path)
    with pytest.raises(InvalidRequestError, match="expected 0 <= start < end"):
        read_clips(path, [span(2, 2)])
