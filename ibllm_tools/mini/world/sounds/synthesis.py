"""What every voice is made of: oscillators, envelopes, noise, filters and ways to place events in time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Samples per second of every sound of the world."""

NYQUIST = SAMPLE_RATE / 2

Samples = NDArray[np.float32]

_FFT_BLOCK = 512
_TABLE_SIZE = 2048


@dataclass(frozen=True, slots=True)
class Take:
    """One performance of a voice.

    Attributes:
        rng: where all of its randomness comes from.
        length: samples to fill.
        pitch: factor on every frequency; 1 is a thing of middling size.
        tempo: factor on every rate.
    """

    rng: np.random.Generator
    length: int
    pitch: float = 1.0
    tempo: float = 1.0

    @property
    def seconds(self) -> float:
        """How long the take lasts."""
        return self.length / SAMPLE_RATE

    def around(self, value: float, spread: float = 0.2) -> float:
        """``value`` times a random factor in about [1 - spread, 1 + spread]."""
        return value * float(np.exp(self.rng.uniform(-spread, spread)))

    def between(self, low: float, high: float) -> float:
        """A uniform draw."""
        return float(self.rng.uniform(low, high))

    def hertz(self, value: float, spread: float = 0.05) -> float:
        """A frequency near ``value`` times the pitch; the spread is narrow, so that size is audible."""
        return self.around(value * self.pitch, spread)

    def interval(self, seconds: float, spread: float = 0.25) -> float:
        """A random time span near ``seconds`` at this tempo."""
        return self.around(seconds / self.tempo, spread)

    def silence(self) -> Samples:
        """An empty track, (length,)."""
        return np.zeros(self.length, dtype=np.float32)

    def beats(self, interval: float, *, jitter: float = 0.0) -> NDArray[np.float64]:
        """Onsets in seconds, one every ``interval``, each moved by up to ``jitter`` intervals; the first comes soon."""
        onsets = np.arange(self.between(0.0, 0.4 * interval), self.seconds, interval)
        return np.maximum(onsets + self.rng.uniform(-jitter, jitter, len(onsets)) * interval, 0.0)


def count(seconds: float) -> int:
    """Samples in a time span, at least one."""
    return max(1, round(seconds * SAMPLE_RATE))


def phase(hertz: float | NDArray[np.floating], length: int) -> Samples:
    """Phase in cycles within [0, 1) of an oscillator of constant or changing frequency, (length,)."""
    # Wrapped in double precision: the sine of a large float32 is audibly wrong.
    if np.ndim(hertz) == 0:
        cycles = np.arange(length) * (float(hertz) / SAMPLE_RATE)
    else:
        cycles = np.cumsum(hertz, dtype=np.float64) / SAMPLE_RATE
    return (cycles - np.floor(cycles)).astype(np.float32)


def sine(cycles: Samples) -> Samples:
    """Sine of a phase in cycles."""
    return np.sin(np.float32(2 * np.pi) * cycles)


def tone(hertz: float | NDArray[np.floating], length: int) -> Samples:
    """A sine of constant or changing frequency, (length,)."""
    return sine(phase(hertz, length))


def harmonics(cycles: Samples, strengths: Sequence[float] | NDArray[np.floating]) -> Samples:
    """A periodic wave whose k-th harmonic has the k-th strength, read from a table at a phase in cycles."""
    spectrum = np.zeros(_TABLE_SIZE // 2 + 1, dtype=np.complex128)
    spectrum[1 : len(strengths) + 1] = -0.5j * _TABLE_SIZE * np.asarray(strengths)
    table = np.fft.irfft(spectrum).astype(np.float32)
    return table[(cycles * _TABLE_SIZE).astype(np.int32) % _TABLE_SIZE]


def rolloff(highest_hertz: float, slope: float, *, odd_only: bool = False) -> NDArray[np.float64]:
    """Strengths k ** -slope of all harmonics of a wave that reaches ``highest_hertz`` without aliasing."""
    order = np.arange(1, min(40, max(1, int(0.95 * NYQUIST / highest_hertz))) + 1, dtype=np.float64)
    strengths = order**-slope
    return np.where(order % 2 == 1, strengths, 0.0) if odd_only else strengths


def decay(length: int, time_constant: float) -> Samples:
    """exp(-t / time_constant) with t and the constant in seconds, (length,)."""
    return np.exp(np.arange(length, dtype=np.float32) * np.float32(-1.0 / (time_constant * SAMPLE_RATE)))


def swell(length: int, attack: float, release: float) -> Samples:
    """0 to 1 in ``attack`` seconds, 1 until the last ``release`` seconds, then smoothly to 0, (length,)."""
    position = np.arange(length, dtype=np.float32) / SAMPLE_RATE
    edge = np.minimum(position / attack, (length / SAMPLE_RATE - position) / release)
    edge = np.clip(edge, 0.0, 1.0)
    return (edge * edge * (3.0 - 2.0 * edge)).astype(np.float32)


def curve(length: int, *points: float) -> Samples:
    """A line through evenly spaced points, (length,)."""
    return np.interp(np.linspace(0.0, 1.0, length), np.linspace(0.0, 1.0, len(points)), points).astype(np.float32)


def wander(rng: np.random.Generator, length: int, hertz: float) -> Samples:
    """A smooth random line of unit spread that turns about ``hertz`` times a second, (length,)."""
    turns = rng.standard_normal(int(length / SAMPLE_RATE * hertz) + 3)
    return np.interp(np.arange(length) * (hertz / SAMPLE_RATE), np.arange(len(turns)), turns).astype(np.float32)


def noise(rng: np.random.Generator, length: int) -> Samples:
    """White noise of unit power, (length,)."""
    return rng.standard_normal(length, dtype=np.float32)


def bins(length: int) -> Samples:
    """Frequencies in hertz of the real spectrum of ``length`` samples; the lowest is 1 so that it can be divided by."""
    return np.maximum(np.arange(length // 2 + 1, dtype=np.float32) * np.float32(SAMPLE_RATE / length), np.float32(1.0))


def band_gain(frequencies: Samples, low: float, high: float, order: int = 2) -> Samples:
    """Gain of a Butterworth-like band pass at each frequency; 6 dB per octave and order on either side."""
    below = np.square(low / frequencies) ** order
    above = np.square(frequencies / high) ** order
    return np.reciprocal(np.sqrt((1.0 + below) * (1.0 + above)))


def formant_gain(
    frequencies: Samples, centres: Sequence[float], widths: Sequence[float], gains: Sequence[float]
) -> Samples:
    """Gain of a sum of resonances, each with a centre and a width in hertz, on a quiet floor."""
    total = np.full(len(frequencies), 0.02, dtype=np.float32)
    for centre, width, gain in zip(centres, widths, gains, strict=True):
        total += gain / (1.0 + np.square((frequencies - centre) * (2.0 / width)))
    return total


def _padded(length: int) -> int:
    return (length // _FFT_BLOCK + 1) * _FFT_BLOCK


def band(samples: Samples, low: float, high: float, order: int = 2) -> Samples:
    """``samples`` through a band pass from ``low`` to ``high`` hertz."""
    size = _padded(len(samples))
    spectrum = np.fft.rfft(samples, size) * band_gain(bins(size), low, high, order)
    return np.fft.irfft(spectrum, size)[: len(samples)].astype(np.float32)


def formants(samples: Samples, centres: Sequence[float], widths: Sequence[float], gains: Sequence[float]) -> Samples:
    """``samples`` through a bank of resonances, as in a throat or a wooden box."""
    size = _padded(len(samples))
    spectrum = np.fft.rfft(samples, size) * formant_gain(bins(size), centres, widths, gains)
    return np.fft.irfft(spectrum, size)[: len(samples)].astype(np.float32)


def convolved(samples: Samples, kernel: Samples) -> Samples:
    """Each impulse of ``samples`` replaced by ``kernel``; cut at the end of ``samples``."""
    size = _padded(len(samples) + len(kernel))
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(kernel, size)
    return np.fft.irfft(spectrum, size)[: len(samples)].astype(np.float32)


def struck(length: int, hertz: Sequence[float], strengths: Sequence[float], decays: Sequence[float]) -> Samples:
    """The ring of a struck body: modes with a frequency, a strength and a time constant in seconds each, (length,)."""
    ring = np.zeros(length, dtype=np.float32)
    for frequency, strength, time_constant in zip(hertz, strengths, decays, strict=True):
        if frequency < 0.95 * NYQUIST:
            audible = min(length, count(7.0 * time_constant))
            ring[:audible] += np.float32(strength) * tone(frequency, audible) * decay(audible, time_constant)
    return ring


def impulses(take: Take, per_second: float, heavy_tail: float = 0.6) -> Samples:
    """A track of clicks at random times with log-normal strengths, (length,)."""
    track = take.silence()
    number = max(1, int(take.rng.poisson(per_second * take.seconds)))
    strengths = np.exp(heavy_tail * take.rng.standard_normal(number)) * take.rng.choice([-1.0, 1.0], number)
    np.add.at(track, take.rng.integers(0, take.length, number), strengths.astype(np.float32))
    return track


def pulses(cycles: Samples) -> Samples:
    """A unit click wherever a phase in cycles wraps around."""
    return (np.diff(cycles, prepend=cycles[:1]) < -0.5).astype(np.float32)


def place(track: Samples, clip: Samples, onset: float, gain: float = 1.0) -> None:
    """Add ``clip`` to ``track`` at ``onset`` seconds; what would lie beyond the end is dropped."""
    start = round(onset * SAMPLE_RATE)
    room = max(0, len(track) - start)
    track[start : start + len(clip)] += np.float32(gain) * clip[:room]


def loudest_at_one(samples: Samples) -> Samples:
    """``samples`` scaled to a peak of 1; silence stays silence."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples / np.float32(peak) if peak > 0.0 else samples
