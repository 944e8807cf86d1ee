"""Sounds of nothing in the world, in families for training and other families for testing."""

from collections.abc import Callable

import numpy as np

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.mini.world.sounds.recording import check_seconds, through_microphone
from ibllm_tools.mini.world.sounds.synthesis import (
    SAMPLE_RATE,
    Samples,
    Take,
    band,
    count,
    curve,
    formants,
    harmonics,
    loudest_at_one,
    noise,
    phase,
    place,
    sine,
    swell,
    tone,
    wander,
)


def _modulated_sweep(take: Take) -> Samples:
    """Frequency modulation at audio rates whose ratio and depth drift all the time."""
    carrier = np.float32(take.between(150, 900)) * np.exp(0.6 * wander(take.rng, take.length, take.between(1, 4)))
    ratio = take.between(0.3, 3.7)
    depth = take.between(0.4, 1.6) * (1.0 + 0.6 * wander(take.rng, take.length, 3.0))
    modulator = depth * sine(phase(ratio * carrier, take.length))
    return sine((phase(carrier, take.length) + modulator).astype(np.float32))


def _noise_chord(take: Take) -> Samples:
    """Several narrow bands of noise at unrelated pitches, held."""
    track = take.silence()
    for _ in range(int(take.rng.integers(3, 6))):
        centre = np.exp(take.rng.uniform(np.log(200), np.log(5000)))
        strip: Samples = formants(noise(take.rng, take.length), [centre], [0.04 * centre], [1.0])
        track += strip / strip.std() * (0.6 + 0.4 * sine(phase(take.between(0.5, 3), take.length)))
    return track


def _glitch(take: Take) -> Samples:
    """A scrap of broken sound, stuttered, cut and quantised."""
    track = take.silence()
    onset = take.between(0.0, 0.1)
    while onset < take.seconds:
        length = count(take.between(0.012, 0.06))
        scrap = noise(take.rng, length) * tone(take.between(200, 4000), length)
        scrap = (np.round(2.0 * scrap) / 2.0).astype(np.float32)
        for _ in range(int(take.rng.integers(2, 9))):
            place(track, scrap, onset, take.between(0.4, 1.0))
            onset += length / SAMPLE_RATE
        onset += take.between(0.0, 0.15)
    return track


def _warble(take: Take) -> Samples:
    """Two tones multiplied, each trembling at its own speed."""
    first = take.between(250, 1200) * (1.0 + 0.15 * tone(take.between(6, 14), take.length))
    second = take.between(250, 1200) * (1.0 + 0.2 * tone(take.between(3, 9), take.length))
    return tone(first, take.length) * tone(second, take.length)


def _slide(take: Take) -> Samples:
    """A slide whistle: one pure breathy tone, far up and far down."""
    points = take.rng.uniform(np.log(450), np.log(2600), int(take.rng.integers(3, 7)))
    cycles = phase(np.exp(curve(take.length, *points)), take.length)
    return (sine(cycles) * (1.0 + 0.15 * noise(take.rng, take.length))).astype(np.float32)


def _morse_noise(take: Take) -> Samples:
    """Short and long dashes of one narrow band of noise."""
    gate = take.silence()
    unit = take.between(0.05, 0.09)
    onset = take.between(0.0, 0.1)
    while onset < take.seconds:
        dash = unit * (3.0 if take.rng.random() < 0.5 else 1.0)
        place(gate, swell(count(dash), 0.005, 0.005), onset)
        onset += dash + unit * (3.0 if take.rng.random() < 0.2 else 1.0)
    centre = take.between(500, 2500)
    return band(noise(take.rng, take.length), 0.85 * centre, 1.15 * centre, 4) * gate


def _grains(take: Take) -> Samples:
    """A cloud of tiny tones at random pitches, in no rhythm."""
    track = take.silence()
    middle = take.between(600, 1800)
    length = count(take.between(0.03, 0.07))
    window = swell(length, 0.012, 0.015)
    for onset in take.rng.uniform(0.0, take.seconds, round(take.seconds * take.between(25, 45))):
        place(track, tone(take.around(middle, 1.1), length) * window, float(onset), take.between(0.3, 1.0))
    return track


def _endless_stairs(take: Take) -> Samples:
    """Shepard's tones: octaves that climb or fall together and never arrive."""
    rate = take.between(0.25, 0.8) * (1.0 if take.rng.random() < 0.5 else -1.0)
    steps = np.floor(np.arange(take.length) / SAMPLE_RATE * take.between(5, 9)) / 9.0
    track = take.silence()
    start = take.rng.random()
    for octave in range(6):
        height = (octave + start + rate * steps) % 6.0
        loudness = np.exp(-0.5 * np.square((height - 3.0) / 1.1)).astype(np.float32)
        track += harmonics(phase(90.0 * 2.0**height, take.length), [1.0]) * loudness
    return track


_TRAINING: dict[str, Callable[[Take], Samples]] = {
    "modulated sweep": _modulated_sweep,
    "noise chord": _noise_chord,
    "glitch": _glitch,
    "warble": _warble,
}
_TEST: dict[str, Callable[[Take], Samples]] = {
    "slide": _slide,
    "noise in morse": _morse_noise,
    "grains": _grains,
    "endless stairs": _endless_stairs,
}
TRAINING_SOUND_FAMILIES: tuple[str, ...] = tuple(_TRAINING)
"""Families of unknown sounds that a model may be trained on."""
TEST_SOUND_FAMILIES: tuple[str, ...] = tuple(_TEST)
"""Families of unknown sounds kept for testing; none of them is a training family."""


def synthesise_unknown(rng: np.random.Generator, *, seconds: float = 2.0, family: str | None = None) -> Samples:
    """A recording of nothing in the world, picked up like any other: room, noise, band and gain are drawn.

    Args:
        rng: decides everything.
        seconds: how long, 0.25 to 60.
        family: one of the training or test families; ``None`` draws a training family.

    Returns:
        (n,) float32 at 16 kHz with a peak of at most 1.

    Raises:
        InvalidRequestError: an unknown family, or a duration out of range.
    """
    check_seconds(seconds)
    families = _TRAINING | _TEST
    name = TRAINING_SOUND_FAMILIES[int(rng.integers(len(_TRAINING)))] if family is None else family
    if name not in families:
        raise InvalidRequestError(f"no family of sounds {name!r}: expected one of {', '.join(families)}")
    return through_microphone(loudest_at_one(families[name](Take(rng, count(seconds)))), rng)
