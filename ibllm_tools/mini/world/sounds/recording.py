"""From a voice to a recording of it: room, microphone, noise and whatever else could be heard."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.mini.world.sounds import animals, elements, instruments, machines
from ibllm_tools.mini.world.sounds.synthesis import (
    SAMPLE_RATE,
    Samples,
    Take,
    band_gain,
    bins,
    count,
    decay,
    loudest_at_one,
)

VOICES: dict[str, Callable[[Take], Samples]] = {
    "bell": instruments.bell,
    "drum": instruments.drum,
    "bird": animals.bird,
    "car": machines.car,
    "clock": machines.clock,
    "phone": machines.phone,
    "siren": machines.siren,
    "bee": animals.bee,
    "guitar": instruments.guitar,
    "piano": instruments.piano,
    "rocket": machines.rocket,
    "train": machines.train,
    "helicopter": machines.helicopter,
    "ball": elements.ball,
    "hammer": elements.hammer,
    "kettle": elements.kettle,
    "door": elements.door,
    "cloud": elements.cloud,
    "whistle": instruments.whistle,
    "fan": machines.fan,
    "trumpet": instruments.trumpet,
    "dog": animals.dog,
    "cat": animals.cat,
    "duck": animals.duck,
    "frog": animals.frog,
    "ship": machines.ship,
    "saw": machines.saw,
    "camera": machines.camera,
    "robot": machines.robot,
    "fire": elements.fire,
    "tree": elements.tree,
    "rattle": instruments.rattle,
    "tap": elements.tap,
}
"""One recipe for each kind of the catalogue."""

SMALLEST, LARGEST = 0.6, 1.0
_MIDDLE = 0.5 * (SMALLEST + LARGEST)
_FFT_BLOCK = 5000
_OVERLAP_CHANCE = 0.3
_TAIL_SECONDS = 0.7
_COLORATION_DECIBELS = 5.0
_EQUALISER_HERTZ = (60.0, 150.0, 400.0, 1000.0, 2500.0, 6000.0)
# Exponents of the power spectrum 1 / f ** x; hum is made of mains harmonics.
_NOISE_TILTS = {"white": 0.0, "pink": 1.0, "brown": 2.0}
_NOISE_COLOURS = (*_NOISE_TILTS, "hum")


def _perform(kind: str, rng: np.random.Generator, size: float, length: int, detune: float, tempo: float) -> Samples:
    octaves = (_MIDDLE - size) / (LARGEST - SMALLEST)
    voice = VOICES[kind](Take(rng, length, pitch=detune * 2.0**octaves, tempo=tempo))
    return loudest_at_one(voice)


def _check(kind: str, size: float, seconds: float) -> None:
    if kind not in VOICES:
        raise InvalidRequestError(f"no sound for {kind!r}: expected one of {', '.join(VOICES)}")
    if not SMALLEST <= size <= LARGEST:
        raise InvalidRequestError(f"size {size} of {kind!r}: expected {SMALLEST} to {LARGEST}")
    check_seconds(seconds)


def check_seconds(seconds: float) -> None:
    """Refuse durations that no sound of the world fits into."""
    if not 0.25 <= seconds <= 60.0:
        raise InvalidRequestError(f"a sound of {seconds} s: expected 0.25 to 60 s")


def synthesise(kind: str, rng: np.random.Generator, *, size: float = 0.8, seconds: float = 2.0) -> Samples:
    """The clean sound of a thing.

    Args:
        kind: a name of the catalogue, e.g. ``"bell"``.
        rng: decides rhythm, timbre and the rest within the recipe.
        size: of the thing, in [0.6, 1.0]; from the largest to the smallest the pitch rises by an octave.
        seconds: how long, 0.25 to 60.

    Returns:
        (n,) float32 at 16 kHz with a peak of at most 1.

    Raises:
        InvalidRequestError: an unknown kind, or a size or duration out of range.
    """
    _check(kind, size, seconds)
    return _perform(kind, rng, size, count(seconds), detune=1.0, tempo=1.0)


def record(kind: str, rng: np.random.Generator, *, size: float = 0.8, seconds: float = 2.0) -> Samples:
    """A field recording of a thing: what :func:`synthesise` makes, harder to recognise.

    Tempo, tuning and onset vary; three in ten recordings hold a second thing, 12 to 20 dB below; a room, a
    background noise (5 to 30 dB below the sound), the band and the gain of a microphone are drawn.

    Args and errors: as :func:`synthesise`.

    Returns:
        (n,) float32 at 16 kHz with a peak of at most 1.
    """
    _check(kind, size, seconds)
    length = count(seconds)
    tempo, detune = np.exp(rng.uniform(-0.3, 0.3)), np.exp(rng.uniform(-0.03, 0.03))
    sound = _perform(kind, rng, size, length, float(detune), float(tempo))
    if rng.random() < 0.5:
        onset = int(rng.uniform(0.0, 0.2) * length)
        sound = np.concatenate([np.zeros(onset, dtype=np.float32), sound[: length - onset]])
    if rng.random() < _OVERLAP_CHANCE:
        sound = sound + _quiet_company(kind, rng, sound)
    return through_microphone(sound, rng)


def _quiet_company(kind: str, rng: np.random.Generator, sound: Samples) -> Samples:
    """Another thing, 12 to 20 dB below ``sound``."""
    others = [name for name in VOICES if name != kind]
    other = _perform(
        others[int(rng.integers(len(others)))], rng, float(rng.uniform(SMALLEST, LARGEST)), len(sound), 1.0, 1.0
    )
    ratio = np.sqrt(np.mean(np.square(sound)) / max(float(np.mean(np.square(other))), 1e-12))
    return other * np.float32(ratio * 10.0 ** (-rng.uniform(12.0, 20.0) / 20.0))


def through_microphone(sound: Samples, rng: np.random.Generator) -> Samples:
    """``sound`` as a microphone in some room picks it up: echo, background noise, limited band, any gain, (n,)."""
    length = len(sound)
    size = -(-(length + count(_TAIL_SECONDS)) // _FFT_BLOCK) * _FFT_BLOCK
    frequencies = bins(size)
    wet = np.fft.rfft(sound, size) * _room(rng, size)
    background = _background(rng, size, frequencies)
    # The sound fills `length` of the `size` samples, the background all of them.
    ratio = np.sqrt(_power(wet) / max(_power(background), 1e-12) * size / length)
    wet += background * np.float32(ratio * 10.0 ** (-rng.uniform(5.0, 30.0) / 20.0))
    picked_up = np.fft.irfft(wet * _microphone(rng, frequencies), size)[:length]
    gain = 10.0 ** (-rng.uniform(0.5, 18.0) / 20.0)
    return (loudest_at_one(picked_up.astype(np.float32)) * np.float32(gain)).astype(np.float32)


def _power(spectrum: NDArray[np.complexfloating]) -> float:
    return float(np.vdot(spectrum, spectrum).real)


def _room(rng: np.random.Generator, size: int) -> NDArray[np.complexfloating]:
    """Spectrum of an impulse response: the direct sound and a decaying diffuse tail."""
    reverberation = float(np.exp(rng.uniform(np.log(0.06), np.log(_TAIL_SECONDS))))
    tail_length = count(reverberation)
    # 60 dB within the reverberation time: exp(-6.9).
    tail = rng.standard_normal(tail_length, dtype=np.float32) * decay(tail_length, reverberation / 6.9)
    tail *= np.float32(rng.uniform(0.0, 1.2) / np.sqrt(np.sum(np.square(tail))))
    response = np.zeros(tail_length + 1, dtype=np.float32)
    response[0] = 1.0
    response[1:] += tail
    return np.fft.rfft(response, size)


def _microphone(rng: np.random.Generator, frequencies: Samples) -> Samples:
    """Gain at each frequency: a limited band with dips and bumps of several decibels."""
    low = np.exp(rng.uniform(np.log(25.0), np.log(200.0)))
    high = np.exp(rng.uniform(np.log(3400.0), np.log(9000.0)))
    knots = np.log2(_EQUALISER_HERTZ)
    decibels = np.interp(np.log2(frequencies), knots, rng.normal(0.0, _COLORATION_DECIBELS, len(knots)))
    return band_gain(frequencies, float(low), float(high)) * 10.0 ** (decibels.astype(np.float32) / 20.0)


def _background(rng: np.random.Generator, size: int, frequencies: Samples) -> NDArray[np.complexfloating]:
    """Spectrum of a background noise: white, pink, brown, or the hum of the mains over pink."""
    colour = _NOISE_COLOURS[int(rng.integers(len(_NOISE_COLOURS)))]
    parts = rng.standard_normal((2, len(frequencies)), dtype=np.float32)
    spectrum = parts[0] + np.complex64(1j) * parts[1]
    tilt = _NOISE_TILTS.get(colour, 1.0)
    spectrum *= np.maximum(frequencies, 30.0) ** (-0.5 * tilt)
    if colour == "hum":
        mains = 50.0 if rng.random() < 0.5 else 60.0
        orders = np.arange(1, 9)
        lines = np.rint(mains * orders * size / SAMPLE_RATE).astype(np.int64)
        loudness = np.sqrt(_power(spectrum)) * rng.uniform(0.2, 1.0, len(orders)) / orders
        spectrum[lines] += loudness * np.exp(2j * np.pi * rng.random(len(orders)))
    return spectrum
