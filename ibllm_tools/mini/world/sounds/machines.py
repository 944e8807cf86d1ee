"""Voices of vehicles, engines and devices."""

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


def car(take: Take) -> Samples:
    """An engine: uneven firing of four cylinders heard as a low rumble that revs up and down."""
    revs = curve(take.length, *take.rng.uniform(0.8, 1.35, 4))
    firing = take.hertz(52) * revs * (1.0 + 0.02 * wander(take.rng, take.length, 12.0))
    cycles = phase(0.25 * firing, take.length)
    cylinders = take.rng.uniform(0.6, 1.0, 4).astype(np.float32)
    bangs = pulses(phase(firing, take.length)) * cylinders[(cycles * 4).astype(np.int32) % 4]
    exhaust = struck(
        count(0.06), [take.hertz(95), take.hertz(190), take.hertz(420)], [1.0, 0.7, 0.35], [0.014, 0.01, 0.006]
    )
    road = 0.02 * band(noise(take.rng, take.length), 60, 700)
    return convolved(bangs, exhaust) + road * revs


def clock(take: Take) -> Samples:
    """Tick and tock: two light clicks of wood and brass in strict alternation."""
    track = take.silence()
    body = take.hertz(2300)
    length = count(0.06)
    ring = take.around(0.006, 0.3)
    tick = struck(length, [body, 1.74 * body, 2.43 * body], [1.0, 0.6, 0.4], [ring, 0.6 * ring, 0.4 * ring])
    tock_body = body * take.between(0.7, 0.82)
    tock = struck(length, [tock_body, 1.8 * tock_body], [1.0, 0.45], [1.3 * ring, 0.7 * ring])
    for index, onset in enumerate(take.beats(take.interval(0.32, 0.3))):
        place(track, tick if index % 2 == 0 else tock, onset)
    return track


def rocket(take: Take) -> Samples:
    """A roar: deep turbulent noise, driven until it tears, swelling after ignition."""
    ignition = swell(take.length, take.between(0.15, 0.7), 0.15)
    deep = band(noise(take.rng, take.length), 45, take.hertz(210))
    tearing = np.tanh(3.0 * deep * (1.0 + 0.7 * np.abs(wander(take.rng, take.length, take.around(24)))) / deep.std())
    return formants(tearing, [take.hertz(130), take.hertz(330)], [110, 260], [1.0, 0.6]) * ignition


def train(take: Take) -> Samples:
    """A steam engine: four chuffs to the turn of the wheel, the first the heaviest, slowly gaining speed."""
    track = take.silence()
    length = count(0.2)
    rate = take.interval(0.2, 0.2)
    accents = (1.0, 0.55, 0.75, 0.5)
    steam_low, steam_high = take.hertz(380), take.hertz(1500)
    onset, index = take.between(0.0, rate), int(take.rng.integers(4))
    gain_of_speed = take.between(0.96, 1.0)
    while onset < take.seconds:
        puff = band(noise(take.rng, length), steam_low, steam_high) * swell(length, 0.015, 0.17) * decay(length, 0.055)
        thud = 0.25 * tone(take.hertz(75), length) * decay(length, 0.04)
        place(track, puff + thud, onset, accents[index % 4] * take.between(0.85, 1.0))
        onset += rate
        rate *= gain_of_speed
        index += 1
    return track


def helicopter(take: Take) -> Samples:
    """Blades that chop the air: a fast beat of low thumps with a gust each, over a thin turbine."""
    rate = take.around(12.5, 0.15) * take.tempo * (1.0 + 0.02 * wander(take.rng, take.length, 2.0))
    cycles = phase(rate, take.length)
    thump = struck(count(0.09), [take.hertz(85), take.hertz(150)], [1.0, 0.6], [0.022, 0.014])
    chop = convolved(pulses(cycles), thump)
    gust = band(noise(take.rng, take.length), take.hertz(250), take.hertz(1300)) * np.exp(-6.0 * cycles)
    whine = tone(take.hertz(1900) * (1.0 + 0.004 * wander(take.rng, take.length, 6.0)), take.length)
    return chop + np.float32(take.between(0.5, 0.9)) * gust + np.float32(take.between(0.03, 0.08)) * whine


def fan(take: Take) -> Samples:
    """A whir: the hum of the motor and steady air that the blades cut softly."""
    motor = harmonics(phase(take.hertz(165), take.length), [1.0, 0.55, 0.5, 0.3, 0.2, 0.12])
    air = band(noise(take.rng, take.length), take.hertz(300), take.hertz(1500), 1)
    blades = 1.0 + take.between(0.25, 0.5) * tone(take.around(24, 0.2) * take.tempo, take.length)
    drift = 1.0 + 0.08 * wander(take.rng, take.length, 2.0)
    return ((air + take.between(0.25, 0.5) * motor) * blades * drift).astype(np.float32)


def ship(take: Take) -> Samples:
    """A horn: two deep pipes a rough third apart, in one or two long honks."""
    track = take.silence()
    low = take.hertz(128)
    third = low * take.between(1.18, 1.27)
    onset = take.between(0.0, 0.3)
    while onset < take.seconds:
        length = count(take.interval(0.95, 0.3))
        settle = 1.0 - 0.05 * decay(length, 0.05)
        pipes = harmonics(phase(low * settle, length), rolloff(low, 0.7))
        pipes = pipes + 0.8 * harmonics(phase(third * settle, length), rolloff(third, 0.7))
        place(track, pipes * swell(length, 0.09, 0.15), onset)
        onset += length / SAMPLE_RATE + take.interval(0.3, 0.3)
    return band(track, 90.0, take.hertz(750))


def saw(take: Take) -> Samples:
    """Strokes to and fro: teeth that rasp faster in the middle of a stroke, with the wood singing along."""
    stroke = phase(take.around(1.55, 0.2) * take.tempo, take.length) + np.float32(take.rng.random())
    swing = sine(stroke)
    speed = np.abs(swing)
    teeth = 0.5 + 0.5 * sine(phase(take.around(95, 0.15) * (0.35 + speed), take.length))
    push = np.where(swing > 0, 1.0, take.between(0.35, 0.65))
    rasp = noise(take.rng, take.length) * teeth**3
    wood = [take.hertz(850), take.hertz(1900), take.hertz(3300)]
    return (formants(rasp, wood, [400, 700, 1800], [0.6, 1.0, 0.9]) * speed * push).astype(np.float32)


def camera(take: Take) -> Samples:
    """Shutter and winder: a click, a clack soon after, then a little motor."""
    track = take.silence()
    body = take.hertz(1900)
    onset = take.between(0.05, 0.35)
    while onset < take.seconds:
        length = count(0.05)
        for delay, factor in ((0.0, 1.25), (take.around(0.085, 0.25), 0.9)):
            snap = band(noise(take.rng, length), 0.7 * body * factor, 3.2 * body) * decay(length, 0.006)
            place(track, snap, onset + delay)
        winding = count(take.around(0.3, 0.25))
        gears = harmonics(phase(take.hertz(310) * curve(winding, 0.8, 1.0, 1.1), winding), rolloff(700, 0.3))
        motor = band(gears * (1.0 + 0.5 * noise(take.rng, winding)), 900, 3600) * swell(winding, 0.03, 0.05)
        place(track, motor, onset + 0.15, take.between(0.05, 0.1))
        onset += take.interval(0.85, 0.3)
    return track


def robot(take: Take) -> Samples:
    """Bleeps: hurried electronic notes of ever new pitch, glide and timbre."""
    track = take.silence()
    centre = take.hertz(850)
    onset = take.between(0.0, 0.15)
    while onset < take.seconds:
        length = count(take.interval(0.1, 0.45))
        pitch = take.around(centre, 0.5) * curve(length, 1.0, take.around(1.0, 0.45))
        cycles = phase(pitch, length)
        timbre = int(take.rng.integers(3))
        if timbre == 0:
            note = sine(cycles + 0.4 * sine(phase(2.01 * pitch, length)))
        elif timbre == 1:
            note = 0.7 * harmonics(cycles, rolloff(float(pitch.max()), 1.0, odd_only=True))
        else:
            note = sine(cycles) * (0.6 + 0.4 * tone(take.around(45, 0.3), length))
        place(track, note * swell(length, 0.004, 0.01), onset, take.between(0.6, 1.0))
        onset += length / SAMPLE_RATE + take.interval(0.02, 0.5)
        if take.rng.random() < 0.12:
            onset += take.interval(0.15, 0.3)
    return track


def phone(take: Take) -> Samples:
    """Beeps of one square tone in groups, all of one pitch and length."""
    track = take.silence()
    pitch = take.hertz(1180)
    beep, gap, pause = take.interval(0.085, 0.2), take.interval(0.06, 0.2), take.interval(0.38, 0.3)
    group = int(take.rng.integers(2, 5))
    length = count(beep)
    upper = take.between(0.0, 0.6)
    sound = harmonics(phase(pitch, length), rolloff(pitch, take.between(1.0, 1.8), odd_only=True))
    sound = (sound + upper * tone(1.335 * pitch, length)) * swell(length, 0.004, 0.006)
    onset = take.between(0.0, 0.25)
    while onset < take.seconds:
        for _ in range(group):
            place(track, sound, onset)
            onset += beep + gap
        onset += pause
    return track


def siren(take: Take) -> Samples:
    """A wail that climbs and falls without a break."""
    cycle = take.interval(1.0, 0.35)
    turn = phase(1.0 / cycle, take.length) + np.float32(take.rng.random())
    climb = 0.5 + 0.5 * sine(turn)
    pitch = take.hertz(620) * np.float32(take.around(2.1, 0.12)) ** climb
    wail = harmonics(phase(pitch, take.length), rolloff(1700, take.between(1.0, 1.5)))
    return band(wail, 450.0, 3600.0) * (0.8 + 0.2 * curve(take.length, take.between(0, 1), take.between(0, 1)))
