"""Voices of the instruments and of what is played or sounded by hand."""

import numpy as np

from ibllm_tools.mini.world.sounds.synthesis import (
    SAMPLE_RATE,
    Samples,
    Take,
    band,
    convolved,
    count,
    decay,
    harmonics,
    noise,
    phase,
    place,
    rolloff,
    sine,
    struck,
    swell,
    tone,
    wander,
)

_BELL_MODES = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.51, 2.66, 3.01, 4.17])
_BELL_STRENGTHS = np.array([0.3, 0.8, 0.7, 0.3, 1.0, 0.35, 0.4, 0.3, 0.25])
_DRUM_MODES = np.array([1.0, 1.59, 2.14, 2.65])
_CHORDS = ((0, 4, 7, 12), (0, 3, 7, 12), (0, 5, 9, 12), (0, 4, 7, 10))
_GUITAR_CHORDS = ((0, 7, 12, 16, 19), (0, 7, 12, 15, 19), (0, 5, 12, 17, 21))
_FANFARE = (1.0, 1.25, 1.5, 4 / 3, 0.75)
_STRING_SIZE = 20_480


def bell(take: Take) -> Samples:
    """A church bell in small: inharmonic modes that ring on, the high ones dying first."""
    track = take.silence()
    strike_tone = take.hertz(620)
    modes = strike_tone * _BELL_MODES * np.exp(take.rng.uniform(-0.01, 0.01, len(_BELL_MODES)))
    strengths = _BELL_STRENGTHS * take.rng.uniform(0.6, 1.4, len(_BELL_MODES))
    decays = take.around(0.75, 0.35) / np.sqrt(_BELL_MODES)
    stroke = struck(take.length, modes.tolist(), strengths.tolist(), decays.tolist())
    clapper = 0.5 * noise(take.rng, 160) * decay(160, 0.002)
    for onset in take.beats(take.interval(0.75, 0.35), jitter=0.03):
        gain = take.between(0.6, 1.0)
        place(track, stroke, onset, gain)
        place(track, clapper, onset, gain)
    return track


def drum(take: Take) -> Samples:
    """Booms of a big skin in a steady beat: the pitch falls after each stroke, with accents and rests."""
    track = take.silence()
    low = take.hertz(88)
    length = count(take.around(0.5, 0.2))
    ring = take.around(0.17, 0.25)
    skin = np.zeros(length, dtype=np.float32)
    sag = 1.0 + 0.7 * decay(length, 0.03)
    for mode, strength in zip(_DRUM_MODES, (1.0, 0.45, 0.3, 0.2), strict=True):
        skin += np.float32(strength) * tone(low * mode * sag, length) * decay(length, ring / mode)
    slap = 1.2 * band(noise(take.rng, length), 150, take.around(900, 0.3)) * decay(length, 0.015)
    stroke = skin + slap
    for index, onset in enumerate(take.beats(take.interval(0.3, 0.25), jitter=0.01)):
        if index == 0 or take.rng.random() > 0.2:
            place(track, stroke, onset, 1.0 if index % 4 == 0 else take.between(0.45, 0.85))
    return track


def _plucked(take: Take, hertz: float, brightness: float) -> Samples:
    """A Karplus-Strong string, its feedback loop solved in the frequency domain."""
    angle = np.arange(_STRING_SIZE // 2 + 1) * (2 * np.pi / _STRING_SIZE)
    period = SAMPLE_RATE / hertz
    keep = float(np.exp(-period / SAMPLE_RATE / 0.2))
    loop = keep * (brightness + (1 - brightness) * np.exp(-1j * angle)) * np.exp(-1j * angle * (period - 0.5))
    pluck = np.fft.rfft(noise(take.rng, round(period)), _STRING_SIZE)
    return np.fft.irfft(pluck / (1.0 - loop), _STRING_SIZE).astype(np.float32)


def guitar(take: Take) -> Samples:
    """Strums: the strings of one chord plucked one after the other, down and up."""
    track = take.silence()
    root = take.hertz(118)
    chord = _GUITAR_CHORDS[int(take.rng.integers(len(_GUITAR_CHORDS)))]
    brightness = take.between(0.5, 0.7)
    strings = [_plucked(take, root * 2 ** (step / 12), brightness) for step in chord]
    spread = take.around(0.022, 0.35)
    for index, onset in enumerate(take.beats(take.interval(0.42, 0.2), jitter=0.04)):
        order = strings if index % 2 == 0 else strings[::-1]
        for place_in_strum, string in enumerate(order):
            place(track, string, onset + place_in_strum * spread, take.between(0.6, 1.0))
    return track


def piano(take: Take) -> Samples:
    """Chords struck at once: a bright hammer, then dull harmonics that last."""
    track = take.silence()
    root = take.hertz(290)
    bright, dull = rolloff(3 * root, 1.0), rolloff(3 * root, 2.1)
    sustain = take.around(0.7, 0.25)
    pause = take.interval(0.75, 0.25)
    for onset in take.beats(pause, jitter=0.02):
        chord = _CHORDS[int(take.rng.integers(len(_CHORDS)))]
        shift = int(take.rng.integers(-3, 4))
        length = count(min(1.15 * pause, take.seconds))
        strings = np.zeros(length, dtype=np.float32)
        hammer = decay(length, 0.1)
        ring = decay(length, sustain)
        for step in chord[: int(take.rng.integers(3, 5))]:
            cycles = phase(root * 2 ** ((step + shift) / 12), length)
            strings += harmonics(cycles, bright) * hammer + harmonics(cycles, dull) * ring
        strings *= swell(length, 0.004, 0.12)
        thump = band(noise(take.rng, 800), 80, 350) * decay(800, 0.012)
        place(track, strings, onset, take.between(0.7, 1.0))
        place(track, thump, onset, 2.0)
    return track


def whistle(take: Take) -> Samples:
    """A referee's whistle: a piercing tone that the rolling pea makes flutter."""
    track = take.silence()
    onset = take.between(0.0, 0.25)
    while onset < take.seconds:
        length = count(take.interval(0.55, 0.45))
        pea = take.around(36, 0.15) * (1.0 + 0.06 * wander(take.rng, length, 8.0))
        flutter = sine(phase(pea, length))
        pitch = take.hertz(2650, 0.03) * (1.0 + 0.035 * flutter)
        cycles = phase(pitch, length)
        air = 0.25 * noise(take.rng, length) * sine(cycles)
        blast = (harmonics(cycles, [1.0, 0.12]) + air) * (1.0 + 0.6 * flutter) * swell(length, 0.03, 0.06)
        place(track, blast, onset)
        onset += length / SAMPLE_RATE + take.interval(0.18, 0.3)
    return track


def trumpet(take: Take) -> Samples:
    """A fanfare: steps of a brass chord, each note growing brighter as it is blown harder."""
    track = take.silence()
    root = take.hertz(400)
    soft, loud = rolloff(1.6 * root, 1.8), rolloff(1.6 * root, 0.45)
    onset = take.between(0.0, 0.2)
    while onset < take.seconds:
        length = count(take.interval(0.24, 0.2) * (2.0 if take.rng.random() < 0.35 else 1.0))
        step = root * _FANFARE[int(take.rng.integers(len(_FANFARE)))]
        vibrato = 1.0 + 0.008 * tone(take.around(5.5), length)
        scoop = 1.0 - 0.06 * decay(length, 0.02)
        cycles = phase(step * vibrato * scoop, length)
        press = swell(length, 0.06, 0.05)
        note = harmonics(cycles, soft) * press + 0.5 * harmonics(cycles, loud) * press * press
        place(track, note, onset, take.between(0.8, 1.0))
        onset += length / SAMPLE_RATE + take.interval(0.03, 0.5)
    return band(track, 0.8 * root, 5200.0)


def rattle(take: Take) -> Samples:
    """A baby's rattle: shakes, each a swarm of hard little beads."""
    track = take.silence()
    shell = take.hertz(4200)
    for onset in take.beats(take.interval(0.2, 0.2), jitter=0.06):
        beads = int(take.rng.integers(9, 18))
        length = count(0.14)
        swarm = np.zeros(length, dtype=np.float32)
        spots = np.clip(take.rng.gamma(2.0, 0.016, beads) * SAMPLE_RATE, 0, length - 1).astype(np.int64)
        np.add.at(swarm, spots, take.rng.uniform(0.2, 1.0, beads).astype(np.float32))
        place(track, swarm, onset, take.between(0.6, 1.0))
    bead = struck(count(0.03), [shell, 1.37 * shell, 0.62 * shell], [1.0, 0.6, 0.5], [0.0035, 0.002, 0.003])
    return convolved(track, bead)
