"""Sounds as waveforms, and inertial measurements as curves."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.media.audio import probe_audio, read_audio
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.source import Source, source_label

WIDTH, HEIGHT = 256, 128
PAPER = (248, 250, 252)
RULE = (226, 232, 240)
PEAK = (165, 180, 252)
BODY = (79, 70, 229)
AXES = ((225, 87, 89), (89, 161, 79), (78, 121, 167))  # x, y, z
FINE = 4  # drawn so much larger and scaled down, for smooth edges
HEADROOM = 0.92
QUIET = 0.1  # a sound whose peak is below it is drawn as small as it is
SAMPLES_AT_ONCE = 1 << 23


class SoundOutline(NamedTuple):
    """Least, greatest and root-mean-square sample of each column, float32 (columns,) each."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    loudness: NDArray[np.float32]


def sound_outline(
    source: Source,
    columns: int,
    *,
    start: float = 0.0,
    end: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> SoundOutline:
    """What a waveform drawing needs of a sound from ``start`` to ``end`` seconds, read piece by piece.

    The extremes are those over all channels. A sound with fewer samples than columns has one column per sample.

    Raises:
        InvalidRequestError: the span is empty, or starts after the sound's end.
        MissingExtraError, UnsupportedMediaError, CorruptMediaError, LimitExceededError: as `read_audio`.
    """
    info = probe_audio(source, limits=limits)
    first = round(Fraction(start) * info.sample_rate)
    stop = info.frames if end is None else min(round(Fraction(end) * info.sample_rate), info.frames)
    if not 0 <= first < stop:
        raise InvalidRequestError(
            f"{source_label(source)}: span {start:g} to {'end' if end is None else f'{end:g}'} s, expected one within "
            f"0 to {info.seconds:g} s; choose start < end"
        )
    edges = np.linspace(first, stop, min(columns, stop - first) + 1).astype(np.int64)
    at_once = max(min(SAMPLES_AT_ONCE, limits.max_samples) // info.channels, 1)
    outline = SoundOutline(*(np.zeros(len(edges) - 1, dtype=np.float32) for _ in range(3)))
    for begin in range(first, stop, at_once):
        until = min(begin + at_once, stop)
        rate = info.sample_rate
        wave = read_audio(source, start=Fraction(begin, rate), end=Fraction(until, rate), limits=limits)
        _add_piece(outline, wave.samples, edges, begin)
    outline.loudness[:] = np.sqrt(outline.loudness / (np.diff(edges) * info.channels))
    return outline


def _add_piece(outline: SoundOutline, samples: NDArray[np.float32], edges: NDArray[np.int64], begin: int) -> None:
    """Widen the columns that the samples (channels, n) fall into; the loudness is a sum of squares until the end."""
    inner = edges[(edges > begin) & (edges < begin + samples.shape[1])]
    cuts = np.concatenate([[0], inner - begin])
    column = np.searchsorted(edges, cuts + begin, side="right") - 1
    touched = slice(column[0], column[-1] + 1)
    low, high, loudness = (array[touched] for array in outline)
    np.minimum(low, np.minimum.reduceat(samples.min(axis=0), cuts), out=low)
    np.maximum(high, np.maximum.reduceat(samples.max(axis=0), cuts), out=high)
    loudness += np.add.reduceat(np.square(samples).sum(axis=0), cuts)


def draw_waveform(outline: SoundOutline) -> NDArray[np.uint8]:
    """The waveform as RGB (128, 256, 3): peaks in a light colour, loudness (root mean square) in a strong one.

    The highest peak fills the height; a sound that stays below a tenth of full scale is not enlarged further.
    """
    peak = max(float(-outline.low.min()), float(outline.high.max()), QUIET)
    canvas = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), PAPER)
    draw = ImageDraw.Draw(canvas)
    middle, scale = HEIGHT * FINE / 2, HEIGHT * FINE / 2 * HEADROOM / peak
    draw.line([(0, middle), (WIDTH * FINE, middle)], fill=PEAK, width=FINE)
    across = np.linspace(0, WIDTH * FINE, 2 * len(outline.low) + 1)[1::2]  # the columns' middles
    across[[0, -1]] = 0, WIDTH * FINE
    for low, high, colour in (
        (outline.low, outline.high, PEAK),
        (np.maximum(-outline.loudness, outline.low), np.minimum(outline.loudness, outline.high), BODY),
    ):
        above = zip(across, middle - high * scale, strict=True)
        below = zip(across, middle - low * scale, strict=True)
        draw.polygon([*above, *reversed(list(below))], fill=colour)
    return np.asarray(canvas.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def draw_curves(measurement: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Inertial measurements (6, n) as RGB (128, 256, 3): acceleration above, rotation below; x, y and z in colours."""
    canvas = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), PAPER)
    draw = ImageDraw.Draw(canvas)
    half = HEIGHT * FINE / 2
    columns = min(measurement.shape[1], WIDTH)
    picks = np.linspace(0, measurement.shape[1] - 1, columns).astype(np.int64)
    across = np.linspace(0, WIDTH * FINE, columns) if columns > 1 else np.array([0.0])
    for panel, group in enumerate((measurement[:3], measurement[3:])):
        middle = half * (panel + 0.5)
        reach = max(float(np.abs(group).max()), float(np.finfo(np.float32).tiny))
        draw.line([(0, middle), (WIDTH * FINE, middle)], fill=RULE, width=FINE)
        for values, colour in zip(group, AXES, strict=True):
            heights = middle - values[picks].astype(np.float64) / reach * half / 2 * HEADROOM
            draw.line(list(zip(across, heights, strict=True)), fill=colour, width=round(1.4 * FINE), joint="curve")
    return np.asarray(canvas.resize((WIDTH, HEIGHT), Image.Resampling.BOX))
