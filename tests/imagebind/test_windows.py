"""A window of a sound or a video is prepared as if it had been cut out as a file of its own, in one pass."""

import math
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from torch import Tensor

from ibllm_tools.errors import CorruptMediaError, InvalidRequestError, UnsupportedMediaError
from ibllm_tools.imagebind import ImageBindProcessor, decoding
from ibllm_tools.media.audio import encode_wav
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.video import read_clips, stream_clips

RATE = 25
WINDOWS = [(0.0, 10.0), (5.0, 15.0), (10.0, 20.0), (12.6, 22.6)]


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(0.01, 0.1, (channels, round(seconds * rate))).astype(np.float32)


def muxed(packets: list[tuple[int, bytes]]) -> bytes:
    """Frames of Motion JPEG, each a key frame, at their number / RATE seconds."""
    file = BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream = container.add_stream("mjpeg", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuvj420p"
        stream.time_base = Fraction(1, RATE)
        container.start_encoding()
        for number, content in packets:
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, RATE)
            packet.pts = packet.dts = number
            packet.duration, packet.is_keyframe = 1, True
            container.mux(packet)
    return file.getvalue()


@pytest.fixture(scope="module")
def frames() -> list[bytes]:
    """22.6 s of different pictures, encoded."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 48, 32, "yuvj420p"
    encoder.time_base = Fraction(1, RATE)
    pictures = np.random.default_rng(0).integers(0, 256, (round(22.6 * RATE), 4, 6, 3), np.uint8)
    encoded = []
    for number, picture in enumerate(pictures.repeat(8, 1).repeat(8, 2)):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuvj420p")
        frame.pts, frame.time_base = number, Fraction(1, RATE)
        encoded += [bytes(packet) for packet in encoder.encode(frame)]
    return encoded


@pytest.fixture(scope="module")
def film(frames: list[bytes]) -> bytes:
    return muxed(list(enumerate(frames)))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The length in seconds of every stretch of sound that is read."""
    lengths: list[float] = []
    original = decoding.read_audio

    def spy(source: object, **span: Fraction) -> object:
        lengths.append(float(span["end"] - span["start"]))
        return original(source, **span)

    monkeypatch.setattr(decoding, "read_audio", spy)
    return lengths


# ---- sounds


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1)])
def test_a_window_equals_the_cut_sound(processor: ImageBindProcessor, official: bool, rate: int, channels: int) -> None:
    sound = noise(22.6, rate, channels)
    windows = processor.process_windows("audio", encode_wav(sound, rate), WINDOWS, official=official)
    cuts = [encode_wav(sound[:, round(start * rate) : round(end * rate)], rate) for start, end in WINDOWS]
    for window, cut in zip(windows, cuts, strict=True):
        assert window.equal(processor(audio=cut, official=official)["input_features"][0])


@pytest.mark.parametrize("official", [True, False])
def test_a_window_over_all_of_a_sound_equals_the_sound(processor: ImageBindProcessor, official: bool) -> None:
    sound = encode_wav(noise(7.3, 44100), 44100)
    for end in (7.3, 1000.0):
        (window,) = processor.process_windows("audio", sound, [(0.0, end)], official=official)
        assert window.equal(processor(audio=sound, official=official)["input_features"][0])


def test_decoded_sounds_have_windows_too(processor: ImageBindProcessor) -> None:
    sound = noise(22.6, 16000)
    from_array = processor.process_windows("audio", sound, WINDOWS)
    from_file = processor.process_windows("audio", encode_wav(sound, 16000), WINDOWS)
    assert all(one.equal(other) for one, other in zip(from_array, from_file, strict=True))


def test_overlapping_windows_are_read_about_once(processor: ImageBindProcessor, heard: list[float]) -> None:
    windows = [(5.0 * index, 5.0 * index + 10) for index in range(59)]  # 300 s
    list(processor.process_windows("audio", encode_wav(noise(300, 8000), 8000), windows))
    assert max(heard) <= 60
    assert sum(heard) <= 300 * 1.1


def test_of_windows_far_apart_only_the_clips_are_read(processor: ImageBindProcessor, heard: list[float]) -> None:
    windows = [(0.0, 10.0), (20.0, 30.0), (40.0, 130.0), (200.0, 300.0)]
    list(processor.process_windows("audio", encode_wav(noise(300, 8000), 8000), windows))
    assert sum(heard) < len(windows) * 3 * 2.1


def test_a_window_is_there_before_the_next_block_is_read(processor: ImageBindProcessor, heard: list[float]) -> None:
    windows = [(5.0 * index, 5.0 * index + 10) for index in range(59)]
    next(processor.process_windows("audio", encode_wav(noise(300, 8000), 8000), windows))
    assert sum(heard) <= 60


def test_damage_costs_only_the_windows_that_hear_it(processor: ImageBindProcessor) -> None:
    sound = noise(22.6, 16000)
    whole = list(processor.process_windows("audio", encode_wav(sound, 16000), WINDOWS))
    sound[0, 16000] = np.nan
    first, *others = processor.process_windows("audio", encode_wav(sound, 16000), WINDOWS)
    assert isinstance(first, CorruptMediaError)
    assert all(other.equal(window) for other, window in zip(others, whole[1:], strict=True))


def test_a_window_costs_what_its_clips_cost(processor: ImageBindProcessor) -> None:
    """A limit that forbids reading a block of windows at once does not forbid the windows."""
    sound = encode_wav(noise(22.6, 16000), 16000)
    limits = Limits(max_samples=40_000)
    windows = processor.process_windows("audio", sound, WINDOWS, limits=limits)
    assert all(isinstance(window, Tensor) for window in windows)


# ---- videos


@pytest.mark.parametrize("official", [True, False])
def test_a_window_equals_the_cut_video(
    processor: ImageBindProcessor, frames: list[bytes], film: bytes, official: bool
) -> None:
    windows = processor.process_windows("video", film, WINDOWS, official=official)
    for window, (start, end) in zip(windows, WINDOWS, strict=True):
        cut = muxed(list(enumerate(frames[round(start * RATE) : round(end * RATE)])))
        assert window.equal(processor(videos=cut, official=official)["pixel_values_videos"][0])


def test_a_window_shows_the_first_and_last_frames_of_its_clips(processor: ImageBindProcessor, film: bytes) -> None:
    *_, window = processor.process_windows("video", film, [(0.0, 10.0), (5.0, 15.0)])
    spans = [(Fraction(start), Fraction(start + 2)) for start in (5, 7, 9, 11, 13)]
    clips = read_clips(film, spans)
    assert [clip.times for clip in clips] == [(start, start + 1.96) for start in (5, 7, 9, 11, 13)]
    assert window.equal(processor(videos=clips)["pixel_values_videos"][0])


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("name", ["clip_6s.mp4", "clip_short.mp4"])
def test_a_window_over_all_of_a_video_equals_the_video(
    processor: ImageBindProcessor, reference: Path, name: str, official: bool
) -> None:
    video = reference / "media" / name
    (window,) = processor.process_windows("video", video, [(0.0, 60.0)], official=official)
    assert window.equal(processor(videos=video, official=official)["pixel_values_videos"][0])


def test_a_window_shorter_than_a_clip_shows_nothing_outside(processor: ImageBindProcessor, film: bytes) -> None:
    (window,) = processor.process_windows("video", film, [(3.0, 3.04)])
    clip = read_clips(film, [(Fraction(3), Fraction(3.04))])
    assert window.equal(processor(videos=clip * 5)["pixel_values_videos"][0])


def test_every_frame_is_decoded_once(
    processor: ImageBindProcessor, frames: list[bytes], film: bytes, decoded: Callable[[], int]
) -> None:
    list(processor.process_windows("video", film, WINDOWS))
    assert decoded() <= len(frames) + 1  # the probe looks at the first one


def test_a_window_is_there_before_the_next_one_is_decoded(
    processor: ImageBindProcessor, film: bytes, decoded: Callable[[], int]
) -> None:
    next(processor.process_windows("video", film, WINDOWS))
    assert decoded() <= 11 * RATE


def test_what_lies_between_windows_far_apart_is_not_decoded(
    processor: ImageBindProcessor, film: bytes, decoded: Callable[[], int]
) -> None:
    list(processor.process_windows("video", film, [(0.0, 2.0), (20.0, 22.0)]))
    assert decoded() <= 1 + 2 * RATE + 3 * RATE


@pytest.mark.parametrize("official", [True, False])
def test_damage_costs_only_the_windows_that_see_it(
    processor: ImageBindProcessor, frames: list[bytes], film: bytes, official: bool
) -> None:
    whole = list(processor.process_windows("video", film, WINDOWS, official=official))
    damaged = [b"\x00" * 40 if 0 <= number < 3 * RATE else frame for number, frame in enumerate(frames)]
    damaged[0] = frames[0]  # by which it is recognised
    film = muxed(list(enumerate(damaged)))
    first, *others = processor.process_windows("video", film, WINDOWS, official=official)
    assert isinstance(first, CorruptMediaError)
    assert all(other.equal(window) for other, window in zip(others, whole[1:], strict=True))


def test_clips_of_a_stream_equal_the_same_clips_alone(film: bytes) -> None:
    spans = [(Fraction(start, 3), Fraction(start, 3) + length) for start in range(0, 60, 7) for length in (1, 2)]
    for span, clip in zip(spans, stream_clips(film, spans, frames_per_clip=3), strict=True):
        (alone,) = read_clips(film, [span], frames_per_clip=3)
        assert clip.times == alone.times
        assert np.array_equal(clip.frames, alone.frames)


def test_a_clip_after_the_end_is_an_error_in_its_place(film: bytes) -> None:
    spans = [(Fraction(start), Fraction(start + 2)) for start in (19, 20, 30)]
    *clips, missing = stream_clips(film, spans)
    assert [len(clip.frames) for clip in clips] == [2, 2]
    assert isinstance(missing, CorruptMediaError)


# ---- requests


@pytest.mark.parametrize("modality", ["audio", "video"])
@pytest.mark.parametrize(
    "windows",
    [[(5.0, 5.0)], [(-1.0, 5.0)], [(5.0, 15.0), (0.0, 10.0)], [(22.7, 30.0)], [(math.nan, 1.0)]],
    ids=["empty", "negative", "not in order", "after the end", "undefined"],
)
def test_windows_that_are_none(
    processor: ImageBindProcessor, film: bytes, modality: str, windows: list[tuple[float, float]]
) -> None:
    source = film if modality == "video" else encode_wav(noise(22.6, 8000), 8000)
    with pytest.raises(InvalidRequestError, match="window from"):
        list(processor.process_windows(modality, source, windows))


def test_what_does_not_last_has_no_windows(processor: ImageBindProcessor) -> None:
    with pytest.raises(InvalidRequestError, match="windows of image; expected audio or video"):
        list(processor.process_windows("image", b"", WINDOWS))


def test_frames_without_times_have_no_windows(processor: ImageBindProcessor) -> None:
    with pytest.raises(InvalidRequestError, match="expected a path or bytes"):
        list(processor.process_windows("video", np.zeros((9, 32, 48, 3), np.uint8), WINDOWS))


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_file_of_another_kind_is_refused_as_a_whole(processor: ImageBindProcessor, modality: str) -> None:
    with pytest.raises(UnsupportedMediaError):
        next(processor.process_windows(modality, b"words", WINDOWS))


def test_no_windows_give_nothing(processor: ImageBindProcessor, film: bytes) -> None:
    assert list(processor.process_windows("audio", noise(3, 16000), [])) == []
    assert list(processor.process_windows("video", film, [])) == []
