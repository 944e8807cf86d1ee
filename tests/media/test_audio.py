from collections.abc import Callable
from contextlib import AbstractContextManager
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from ibllm_tools.errors import (
    AttachmentError,
    CorruptMediaError,
    InvalidRequestError,
    LimitExceededError,
    UnsupportedMediaError,
)
from ibllm_tools.media.audio import encode_wav, probe_audio, read_audio
from ibllm_tools.media.limits import Limits

OneLineError = Callable[[type[Exception]], AbstractContextManager[None]]


RATE = 16000


def tone(seconds: float, channels: int = 1, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * 440 * (1 + channel) * time) for channel in range(channels)]).astype("f4")


def written(samples: np.ndarray, rate: int = RATE, **options: str) -> bytes:
    file = BytesIO()
    soundfile.write(file, samples.T, rate, **options)
    return file.getvalue()


def aac(samples: np.ndarray, kind: str = "mp4", rate: int = 48000) -> bytes:
    file = BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream("libopus" if kind == "webm" else "aac", rate=rate, layout="mono")
        for start in range(0, samples.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, start : start + 1024]), "fltp", "mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


FORMATS = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "flac": {"format": "FLAC"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3"},
    "aiff": {"format": "AIFF"},
}


@pytest.mark.parametrize("kind", FORMATS)
def test_reads_each_format(kind: str) -> None:
    data = written(tone(1.0, channels=2), **FORMATS[kind])
    info = probe_audio(data)
    assert info.channels == 2
    assert info.seconds == pytest.approx(1.0, abs=0.1)
    assert read_audio(data).samples.shape == (2, info.frames)


@pytest.mark.parametrize("kind", ["wav", "flac", "aiff"])
def test_a_span_has_exactly_its_samples(kind: str) -> None:
    data = written(tone(3.0), **FORMATS[kind])
    whole, span = read_audio(data), read_audio(data, start=1.25, end=Fraction(9, 4))
    assert span.start == 1.25
    assert np.array_equal(span.samples, whole.samples[:, 20000:36000])


def test_the_end_is_cut_to_the_sounds_length() -> None:
    assert read_audio(written(tone(1.0), format="WAV"), start=0.5, end=9.0).samples.shape == (1, RATE // 2)


@pytest.mark.parametrize("kind", ["mp4", "adts", "webm"])
def test_pyav_reads_spans_of_compressed_containers(kind: str) -> None:
    samples = tone(4.0, rate=48000) * np.linspace(0, 1, 4 * 48000, dtype="f4")
    data = aac(samples, kind)
    assert probe_audio(data).seconds == pytest.approx(4.0, abs=0.15)
    span = read_audio(data, start=2.0, end=3.0)
    assert span.samples.shape == (1, 48000)
    loudness = np.sqrt((span.samples**2).mean())
    assert loudness == pytest.approx(np.sqrt((samples[:, 96000:144000] ** 2).mean()), rel=0.05)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_reads_only_the_span_of_a_long_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long"
    soundfile.write(path, tone(120.0).T, RATE, format=kind)
    asked = []
    read = soundfile.SoundFile.read

    def counted(self: soundfile.SoundFile, frames: int = -1, *args: object, **options: object) -> np.ndarray:
        asked.append(frames)
        return read(self, frames, *args, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    assert read_audio(path, start=100, end=102).samples.shape == (1, 2 * RATE)
    assert asked == [2 * RATE]


def test_ten_milliseconds_and_silence_are_sounds() -> None:
    assert read_audio(written(tone(0.01), format="WAV")).samples.shape == (1, 160)
    assert not read_audio(written(np.zeros((1, RATE), "f4"), format="WAV")).samples.any()


def test_encode_wav_is_lossless_and_repeatable() -> None:
    samples = tone(0.5, channels=2)
    assert np.array_equal(read_audio(encode_wav(samples, RATE)).samples, samples)
    assert encode_wav(samples, RATE) == encode_wav(samples, RATE)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_refuses_a_truncated_file(kind: str) -> None:
    data = written(tone(2.0), **FORMATS[kind])
    with pytest.raises(CorruptMediaError, match="truncated"):
        read_audio(data[: len(data) // 2])


@pytest.mark.parametrize("kind", ["ogg", "opus", "mp3", "aiff", "mp4", "webm"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.95])
def test_a_cut_stream_is_shorter_or_refused(kind: str, share: float, one_line_error: OneLineError) -> None:
    data = written(tone(2.0), **FORMATS[kind]) if kind in FORMATS else aac(tone(2.0, rate=48000), kind)
    with one_line_error(AttachmentError):
        assert read_audio(data[: int(len(data) * share)]).samples.size > 0


def test_refuses_nan_samples() -> None:
    with pytest.raises(CorruptMediaError, match="NaN"):
        read_audio(encode_wav(np.full((1, 100), np.nan, "f4"), RATE))


def test_refuses_a_sound_without_samples() -> None:
    with pytest.raises(CorruptMediaError, match="no samples"):
        probe_audio(written(np.zeros((1, 0), "f4"), format="WAV"))


def test_limits_hold_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(tone(3.0), format="WAV")
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(LimitExceededError, match=r"3 s of audio, the limit is 1 s; .*Limits\.max_seconds"):
        read_audio(data, limits=Limits(max_seconds=1))
    with pytest.raises(LimitExceededError, match="48,000 samples at once"):
        read_audio(data, limits=Limits(max_samples=1000))


def test_refuses_a_span_outside_the_sound() -> None:
    with pytest.raises(InvalidRequestError, match="span 2 to 3 s, expected one within 0 to 1 s"):
        read_audio(written(tone(1.0), format="WAV"), start=2, end=3)


def test_a_video_without_sound_has_no_audio(reference: Path) -> None:
    with pytest.raises(UnsupportedMediaError, match=r"clip_6s\.mp4: has no sound track"):
        probe_audio(reference / "media" / "clip_6s.mp4")


def test_reads_the_reference_sounds(reference: Path) -> None:
    assert probe_audio(reference / "media" / "dog_audio.wav")[1:] == (44100, 2, 115110)
