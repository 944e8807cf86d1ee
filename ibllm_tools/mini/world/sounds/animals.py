"""Voices of the animals: a source (throat, wing, reed) sent through the resonances of a mouth."""

import numpy as np

from ibllm_tools.mini.world.sounds.synthesis import (
    SAMPLE_RATE,
    Samples,
    Take,
    count,
    curve,
    decay,
    formants,
    harmonics,
    noise,
    phase,
    place,
    pulses,
    rolloff,
    sine,
    struck,
    swell,
    tone,
    wander,
)


def bird(take: Take) -> Samples:
    """Phrases of short whistled sweeps, two to five octaves above a voice."""
    track = take.silence()
    centre = take.hertz(3100)
    rise = take.between(0.75, 1.35)
    onset = take.between(0.0, 0.15)
    while onset < take.seconds:
        for _ in range(int(take.rng.integers(2, 6))):
            length = count(take.interval(0.075, 0.35))
            bend = take.around(rise, 0.12)
            sweep = centre * curve(length, 1.0, take.around(np.sqrt(bend), 0.1), bend)
            place(track, tone(sweep, length) * swell(length, 0.012, 0.03), onset, take.between(0.6, 1.0))
            onset += length / SAMPLE_RATE + take.interval(0.05, 0.35)
        onset += take.interval(0.22, 0.3)
    return track


def bee(take: Take) -> Samples:
    """A wing beat rich in harmonics whose pitch wanders as the bee flies to and fro."""
    wing = take.hertz(215) * (1.0 + 0.035 * wander(take.rng, take.length, 5.0 * take.tempo))
    source = harmonics(phase(wing, take.length), rolloff(380, take.between(0.5, 0.8)))
    flight = 0.75 + 0.25 * np.tanh(wander(take.rng, take.length, 3.0 * take.tempo))
    hum = formants(source, [take.hertz(430), take.hertz(1500), take.hertz(2900)], [300, 900, 1200], [1.0, 0.6, 0.4])
    shimmer = 1.0 + 0.3 * wander(take.rng, take.length, 45.0)
    return (hum * flight * shimmer).astype(np.float32)


def dog(take: Take) -> Samples:
    """Barks: a hoarse voice that jumps up and falls, through an opening snout."""
    track = take.silence()
    base = take.hertz(330)
    throat = [take.hertz(750), take.hertz(1350), take.hertz(2700)]
    onset = take.between(0.0, 0.2)
    while onset < take.seconds:
        for _ in range(int(take.rng.integers(1, 4))):
            length = count(take.around(0.17, 0.2))
            pitch = base * curve(length, 0.75, take.around(1.3, 0.08), 1.05, 0.6)
            voice = harmonics(phase(pitch, length), rolloff(1.4 * base, 0.7))
            hoarse = voice * (1.0 + 0.8 * noise(take.rng, length)) + 0.7 * noise(take.rng, length)
            bark = formants(hoarse, throat, [260, 350, 800], [1.0, 0.7, 0.25]) * swell(length, 0.012, 0.11)
            place(track, bark, onset, take.between(0.7, 1.0))
            onset += take.interval(0.29, 0.15)
        onset += take.interval(0.3, 0.4)
    return track


def cat(take: Take) -> Samples:
    """Meows: one long gliding voice while the mouth opens and closes (i, a, o)."""
    track = take.silence()
    onset = take.between(0.0, 0.25)
    while onset < take.seconds:
        length = count(take.interval(0.75, 0.25))
        vibrato = 1.0 + 0.012 * tone(take.around(6.0), length)
        pitch = take.hertz(520) * curve(length, 0.85, 1.15, take.around(1.3, 0.08), 1.1, 0.75) * vibrato
        voice = harmonics(phase(pitch, length), rolloff(float(pitch.max()), 0.6))
        closed = formants(voice, [take.hertz(550), take.hertz(2500)], [250, 500], [0.7, 0.6])
        wide = formants(voice, [take.hertz(1100), take.hertz(1900), take.hertz(3300)], [350, 500, 700], [1.0, 0.7, 0.3])
        rounded = formants(voice, [take.hertz(520), take.hertz(950)], [250, 300], [1.0, 0.5])
        meow = closed * curve(length, 1, 0.3, 0, 0, 0) + wide * curve(length, 0, 0.7, 1, 0.4, 0)
        meow = (meow + rounded * curve(length, 0, 0, 0, 0.6, 1)) * swell(length, 0.12, 0.25)
        place(track, meow, onset)
        onset += length / SAMPLE_RATE + take.interval(0.35, 0.4)
    return track


def duck(take: Take) -> Samples:
    """Quacks in a row: a flat reed, every second period weaker, through a nose."""
    track = take.silence()
    base = take.hertz(250)
    beak = [take.hertz(1150), take.hertz(1900), take.hertz(3100)]
    pause = take.interval(0.3, 0.15)
    for onset in take.beats(pause, jitter=0.08):
        length = count(min(take.around(0.17, 0.2), 0.8 * pause))
        pitch = base * curve(length, 1.0, 1.08, 0.95, 0.8)
        reed = harmonics(phase(pitch, length), rolloff(1.1 * base, 0.15))
        limp = 1.0 + 0.5 * sine(phase(0.5 * pitch, length))
        quack = formants(reed * limp, beak, [220, 350, 500], [1.0, 0.65, 0.2]) * swell(length, 0.015, 0.05)
        place(track, quack, onset, take.between(0.6, 1.0))
    return track


def frog(take: Take) -> Samples:
    """Croaks in two steps (rib-bit): slow separate pulses of a round throat, then faster and higher ones."""
    track = take.silence()
    throat = take.hertz(620)
    pause = take.interval(0.62, 0.2)
    for onset in take.beats(pause, jitter=0.06):
        length = count(min(take.around(0.32, 0.15), 0.8 * pause))
        rate = take.around(42, 0.15) * curve(length, 0.8, 0.8, 1.5, 1.7)
        clicks = pulses(phase(rate, length))
        loudness = curve(length, 0.7, 0.9, 0.25, 1.0, 0.9) * swell(length, 0.01, 0.04)
        croak = np.zeros(length, dtype=np.float32)
        position = np.flatnonzero(clicks)
        for start in position:
            bend = 1.0 if start < 0.5 * length else 1.3
            drop = struck(count(0.03), [throat * bend, 2.3 * throat * bend], [1.0, 0.35], [0.008, 0.005])
            place(croak, drop, start / SAMPLE_RATE, float(loudness[start]))
        croak += 0.05 * noise(take.rng, length) * loudness * decay(length, 0.1)
        place(track, croak, onset, take.between(0.7, 1.0))
    return track
