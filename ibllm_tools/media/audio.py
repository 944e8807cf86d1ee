"""Sounds: soundfile for WAV, FLAC, Ogg, MP3 and AIFF; PyAV for M4A, the sound of videos, and whatever else it can read.

Only the requested span is decoded, so a clip out of a long recording costs what the clip costs.
"""

import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import CorruptMediaError, InvalidRequestError, LimitExceededError, MissingExtraError
from ibllm_tools.media.av_stream import container_seconds, first_stream, open_container
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import MediaType, require
from ibllm_tools.media.source import Source, decoding, open_source, source_label, source_size

if TYPE_CHECKING:
    from soundfile import SoundFile

SOUNDFILE_TYPES = ("wav", "flac", "ogg", "mpeg", "aiff", "basic", "x-caf")
UNKNOWN_RIFF_SIZES = (0, 0xFFFFFFFF)  # written by encoders that stream and cannot go back
WAV_FLOAT = 3
PREROLL_SECONDS = Fraction(1, 2)  # lossy decoders need some frames before the first exact one


class AudioInfo(NamedTuple):
    """A sound's length in seconds and in frames (samples per channel), its rate in Hz and its channels."""

    seconds: float
    sample_rate: int
    channels: int
    frames: int


class Waveform(NamedTuple):
    """Samples, float32 (channels, n), nominally within [-1, 1]; their rate in Hz; the first one's time in seconds."""

    samples: NDArray[np.float32]
    sample_rate: int
    start: float


def probe_audio(source: Source, *, limits: Limits = DEFAULT_LIMITS) -> AudioInfo:
    """The sound's length, rate and channels, without decoding it.

    Raises:
        UnsupportedMediaError: not a sound, nor a video with one.
        CorruptMediaError: damaged, truncated or without samples.
        LimitExceededError: longer than ``limits.max_seconds``.
    """
    kind = _require_sound(source)
    info = None
    if _soundfile_reads(source, kind, limits):
        with decoding(source, "sound"), open_source(source, limits) as file, _soundfile(file) as sound:
            info = _soundfile_info(sound)
    else:
        with open_container(source, kind, limits, extra="audio") as container:
            info = _av_info(container, source)
    return _within(info, source, limits)


def read_audio(
    source: Source,
    *,
    start: float | Fraction = 0.0,
    end: float | Fraction | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Waveform:
    """The samples from ``start`` to ``end`` seconds (to the end of the sound by default), and nothing else.

    The span is cut to the sound's length. Its samples are those at round(start * rate) up to round(end * rate): exact
    for what soundfile reads; for M4A and videos as exact as the container's time stamps.

    Raises:
        InvalidRequestError: the span is empty, or starts after the sound's end.
        LimitExceededError: longer than ``limits.max_seconds``, or more samples than ``limits.max_samples`` in the span.
        UnsupportedMediaError, CorruptMediaError: as `probe_audio`.
    """
    info = probe_audio(source, limits=limits)
    first = round(Fraction(start) * info.sample_rate)
    stop = info.frames if end is None else min(round(Fraction(end) * info.sample_rate), info.frames)
    if not 0 <= first < stop:
        raise InvalidRequestError(
            f"{source_label(source)}: span {float(start):g} to {'end' if end is None else f'{float(end):g}'} s, "
            f"expected one within 0 to {info.seconds:g} s; choose start < end"
        )
    wanted = (stop - first) * info.channels
    if wanted > limits.max_samples:
        raise LimitExceededError(
            f"{source_label(source)}: {wanted:,} samples at once, the limit is {limits.max_samples:,}; read a "
            "shorter span with start= and end=, or raise Limits.max_samples"
        )
    kind = _require_sound(source)
    if _soundfile_reads(source, kind, limits):
        samples = _read_with_soundfile(source, first, stop, limits)
    else:
        samples = _read_with_av(source, kind, first, stop, limits)
    return Waveform(samples, info.sample_rate, first / info.sample_rate)


def encode_wav(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    """Samples (channels, n) as a 32-bit float WAV file: lossless, and the same bytes for the same samples."""
    channels, count = samples.shape
    data = np.ascontiguousarray(samples.T, dtype="<f4").tobytes()
    form = struct.pack("<HHIIHHH", WAV_FLOAT, channels, sample_rate, sample_rate * channels * 4, channels * 4, 32, 0)
    chunks = b"".join(
        tag + struct.pack("<I", len(body)) + body
        for tag, body in ((b"fmt ", form), (b"fact", struct.pack("<I", count)), (b"data", data))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def _require_sound(source: Source) -> MediaType:
    return require(source, lambda kind: kind.modality in ("audio", "video"), expected="a sound or a video with one")


def _soundfile(file: Any) -> "SoundFile":
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: the package is there, the libsndfile library is not
        raise MissingExtraError("decoding audio", "soundfile", "audio") from None
    return soundfile.SoundFile(file)


def _soundfile_reads(source: Source, kind: MediaType, limits: Limits) -> bool:
    """Whether libsndfile knows the codec; WAV and Ogg can hold ones that only FFmpeg knows."""
    if kind.modality != "audio" or kind.mime.partition("/")[2] not in SOUNDFILE_TYPES:
        return False
    _refuse_cut_wav(source, kind, limits)
    with open_source(source, limits) as file:
        try:
            _soundfile(file).close()
        except RuntimeError:  # soundfile.LibsndfileError
            return False
    return True


def _refuse_cut_wav(source: Source, kind: MediaType, limits: Limits) -> None:
    """libsndfile reads a cut WAV file as a shorter one; its header tells that something is missing."""
    if kind.mime != "audio/wav":
        return
    with open_source(source, limits) as file:
        head = file.read(8)
    announced, present = int.from_bytes(head[4:8], "little"), source_size(source)
    if head[:4] == b"RIFF" and announced not in UNKNOWN_RIFF_SIZES and announced + 8 > present + 1:
        raise CorruptMediaError(
            f"{source_label(source)}: truncated, {present:,} of {announced + 8:,} bytes; copy or export it again"
        )


def _soundfile_info(sound: "SoundFile") -> AudioInfo:
    return AudioInfo(sound.frames / sound.samplerate, sound.samplerate, sound.channels, sound.frames)


def _av_info(container: Any, source: Source) -> AudioInfo:
    stream = first_stream(container.streams.audio, source, "sound", "pass a file with sound, or another modality")
    rate, channels = stream.rate, stream.channels
    header = stream.duration * stream.time_base if stream.duration else container_seconds(container)
    guessed = container.format.name == "aac"  # it has no header; FFmpeg guesses from the bit rate
    seconds = header if header and not guessed else _last_packet_end(container, stream)
    return AudioInfo(float(seconds), rate, channels, round(seconds * rate))


def _last_packet_end(container: Any, stream: Any) -> Fraction:
    """The length by reading (not decoding) every packet, for streams whose header has none."""
    ends = (packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None)
    return Fraction(max(ends, default=0) * stream.time_base)


def _within(info: AudioInfo, source: Source, limits: Limits) -> AudioInfo:
    label = source_label(source)
    if info.frames <= 0 or info.channels <= 0:
        raise CorruptMediaError(f"{label}: no samples, expected a sound; record or export it again")
    if info.seconds > limits.max_seconds:
        raise LimitExceededError(
            f"{label}: {info.seconds:,.0f} s of audio, the limit is {limits.max_seconds:,.0f} s; trim it or raise "
            "Limits.max_seconds"
        )
    return info


def _read_with_soundfile(source: Source, first: int, stop: int, limits: Limits) -> NDArray[np.float32]:
    with decoding(source, "sound"), open_source(source, limits) as file, _soundfile(file) as sound:
        sound.seek(first)
        samples = sound.read(stop - first, dtype="float32", always_2d=True).T  # (channels, n)
    return _checked(samples, stop - first, source)


def _read_with_av(source: Source, kind: MediaType, first: int, stop: int, limits: Limits) -> NDArray[np.float32]:
    with open_container(source, kind, limits, extra="audio") as container:
        import av

        stream = first_stream(container.streams.audio, source, "sound", "pass a file with sound, or another modality")
        rate, channels = stream.rate, stream.channels
        origin = stream.start_time or 0
        wake = Fraction(first, rate) - PREROLL_SECONDS
        if wake > 0:
            container.seek(origin + int(wake / stream.time_base), stream=stream)
        planar = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
        samples = np.zeros((channels, stop - first), dtype=np.float32)
        filled = 0
        for frame in container.decode(stream):
            position = round((frame.pts - origin) * frame.time_base * rate) if frame.pts is not None else first + filled
            for block in planar.resample(frame):
                filled = max(filled, _paste(block.to_ndarray(), position - first, samples))
            if filled == samples.shape[1]:
                break
    # a header's duration is rounded: a few milliseconds may be missing at the very end
    return _checked(samples[:, :filled], stop - first - rate // 10, source)


def _paste(block: NDArray[Any], position: int, samples: NDArray[np.float32]) -> int:
    """Copy the part of the block that falls into the samples; returns up to where they are filled."""
    begin, stop = max(position, 0), min(position + int(block.shape[1]), int(samples.shape[1]))
    if begin >= stop:
        return 0
    samples[:, begin:stop] = block[:, begin - position : stop - position]
    return stop


def _checked(samples: NDArray[np.float32], least: int, source: Source) -> NDArray[np.float32]:
    label = source_label(source)
    if samples.shape[1] < max(least, 1):
        raise CorruptMediaError(
            f"{label}: truncated, {samples.shape[1]:,} of {least:,} samples could be decoded; copy or export it again"
        )
    if not np.isfinite(samples).all():
        raise CorruptMediaError(f"{label}: NaN or infinite samples, expected finite ones; export it again")
    return np.ascontiguousarray(samples)
