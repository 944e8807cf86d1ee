"""Voices of matter: blows, bounces, wood under strain, water, fire, wind and steam."""

import numpy as np

from ibllm_tools.mini.world.sounds.synthesis import (
    SAMPLE_RATE,
    Samples,
    Take,
    band,
    convolved,
    count,
    curve,
    decay,
    formants,
    impulses,
    noise,
    phase,
    place,
    pulses,
    struck,
    swell,
    tone,
    wander,
)


def ball(take: Take) -> Samples:
    """Bounces: hollow thuds that come ever faster and softer until the ball lies still."""
    track = take.silence()
    hollow = take.hertz(215)
    length = count(0.25)
    sag = 1.0 + 0.25 * decay(length, 0.02)
    thud = tone(hollow * sag, length) * decay(length, 0.04) + 0.4 * tone(2.37 * hollow * sag, length) * decay(
        length, 0.025
    )
    thud += 0.8 * band(noise(take.rng, length), 200, 2200) * decay(length, 0.005)
    onset = take.between(0.0, 0.15)
    while onset < take.seconds:
        fall, bounce, gain = take.interval(0.42, 0.2), take.between(0.7, 0.82), 1.0
        while fall > 0.03:
            place(track, thud, onset, gain)
            onset += fall
            fall *= bounce
            gain *= bounce
        onset += take.interval(0.4, 0.3)
    return track


def hammer(take: Take) -> Samples:
    """Bangs on a nail: a hard crack, a short clang of steel and a knock of wood."""
    track = take.silence()
    steel = take.hertz(1250)
    length = count(0.3)
    ring = take.around(0.055, 0.3)
    modes = [steel, 2.76 * steel, 1.63 * steel, 4.1 * steel]
    clang = struck(length, modes, [0.8, 0.6, 0.5, 0.3], [ring, 0.6 * ring, 0.8 * ring, 0.4 * ring])
    crack = 1.3 * noise(take.rng, length) * decay(length, 0.004)
    knock = 1.1 * tone(take.hertz(210), length) * decay(length, 0.03)
    for onset in take.beats(take.interval(0.36, 0.25), jitter=0.07):
        place(track, clang + crack + knock, onset, take.between(0.55, 1.0))
    return track


def kettle(take: Take) -> Samples:
    """Steam: a steady sharp hiss with a breathy resonance, bubbles underneath."""
    steam = noise(take.rng, take.length)
    spout = take.hertz(3000)
    hiss = formants(steam, [spout, take.hertz(5200)], [take.around(260, 0.3), 3000], [1.0, 0.55])
    pressure = curve(take.length, take.between(0.6, 1.0), take.between(0.7, 1.0), take.between(0.8, 1.0))
    sputter = 1.0 + 0.12 * wander(take.rng, take.length, 30.0)
    blub = tone(take.hertz(330) * curve(count(0.05), 0.8, 1.4), count(0.05)) * swell(count(0.05), 0.015, 0.03)
    bubbles = convolved(impulses(take, 14 * take.tempo, 0.4), blub)
    return (hiss * pressure * sputter + 0.12 * bubbles).astype(np.float32)


def door(take: Take) -> Samples:
    """A creak: the hinge sticks and slips, slowly, faster, slowly, and the wood answers."""
    track = take.silence()
    wood = np.array([480.0, 1080.0, 1750.0, 2600.0]) * take.hertz(1.0) * take.rng.uniform(0.93, 1.07, 4)
    answer = struck(count(0.03), wood.tolist(), [0.6, 1.0, 0.8, 0.4], [0.007, 0.006, 0.004, 0.003])
    onset = take.between(0.0, 0.25)
    while onset < take.seconds:
        length = count(take.interval(1.0, 0.3))
        glide = curve(length, take.between(22, 45), take.between(60, 95), take.between(90, 150), take.between(25, 60))
        slips = pulses(phase(glide * (1.0 + 0.08 * wander(take.rng, length, 30.0)), length))
        slips *= take.rng.uniform(0.4, 1.0, length).astype(np.float32)
        place(track, convolved(slips, answer) * swell(length, 0.1, 0.12), onset)
        onset += length / SAMPLE_RATE + take.interval(0.3, 0.4)
    return track


def cloud(take: Take) -> Samples:
    """Rain: hundreds of small drops on leaf and stone over a soft rush."""
    track = take.silence()
    density = take.around(34, 0.3) * take.tempo
    for resonance in (1300, 2100, 3300, 4800):
        drop = struck(count(0.03), [take.hertz(resonance, 0.1)], [1.0], [take.around(0.0045, 0.3)])
        track += convolved(impulses(take, density, 0.55), drop)
    rush = band(noise(take.rng, take.length), take.hertz(900), take.hertz(5000), 1)
    return track + np.float32(take.between(0.05, 0.12)) * rush


def fire(take: Take) -> Samples:
    """Crackle: single snaps of very different strength over a low, unsteady blaze."""
    blaze = band(noise(take.rng, take.length), 60, take.hertz(330))
    blaze *= 1.0 + 0.5 * np.tanh(wander(take.rng, take.length, 7.0))
    snap_length = count(0.012)
    snap = band(noise(take.rng, snap_length), take.hertz(900), take.hertz(3800)) * decay(snap_length, 0.0018)
    snaps = convolved(impulses(take, take.around(13, 0.3) * take.tempo, 0.9), snap / np.abs(snap).max())
    return np.tanh(0.8 * snaps) + np.float32(take.between(0.1, 0.22)) * blaze


def tree(take: Take) -> Samples:
    """Rustle: gusts through leaves, a grainy noise that swells and dies away."""
    gust = wander(take.rng, take.length, take.around(2.6, 0.3) * take.tempo)
    strength = np.exp(0.9 * gust)
    leaves = np.exp(0.9 * wander(take.rng, take.length, take.around(110, 0.2)))
    rustle = noise(take.rng, take.length) * leaves
    return (band(rustle, take.hertz(1500), take.hertz(4200)) * strength / (0.6 + strength)).astype(np.float32)


def tap(take: Take) -> Samples:
    """Drips: round drops that chirp upwards as their bubble closes, unhurried."""
    track = take.silence()
    pitch = take.hertz(980)
    length = count(0.14)
    for onset in take.beats(take.interval(0.42, 0.3), jitter=0.12):
        rise = take.around(1.45, 0.12)
        bubble = tone(take.around(pitch, 0.06) * curve(length, 1.0, rise, rise), length) * decay(length, 0.028)
        splash = struck(count(0.02), [3.4 * pitch], [0.35], [0.003])
        gain = take.between(0.6, 1.0)
        place(track, splash, onset, gain)
        place(track, bubble * swell(length, 0.003, 0.02), onset + 0.012, gain)
    return track
