"""Animals: bird, bee, dog, cat, duck, frog."""

import numpy as np

from ibllm_tools.mini.world.mesh import (
    BODY,
    DARK,
    LIGHT,
    Mesh,
    box,
    cone,
    cylinder,
    ellipsoid,
    extrude,
    frustum,
    merge,
    mirrored,
    tube,
)
from ibllm_tools.mini.world.shapes.variation import Variation


def _dot(radius: float, role: int = DARK) -> Mesh:
    return ellipsoid(radius, radius, radius, role, rings=4, segments=6)


def bird(v: Variation) -> Mesh:
    """A flying bird, seen from the front: wings spread wide and raised, fan tail behind."""
    length, girth = v(0.6), v(0.26)
    body = ellipsoid(girth, girth, length, rings=6, segments=8).rotate("x", -15)
    head = ellipsoid(0.22, 0.22, 0.22, rings=5, segments=8).translate(0, 0.3, length * 0.85)
    beak = cone(0.12, v(0.42), LIGHT, 6).rotate("x", 95).translate(0, 0.27, length * 0.85 + 0.34)
    eye = _dot(0.07).translate(0.17, 0.37, length * 0.85 + 0.1)
    span, chord = v(1.25, 0.15), v(0.5)
    outline = [
        (0, -chord / 2),
        (span * 0.45, -chord * 0.75),
        (span * 0.75, -chord * 0.7),
        (span, -chord * 0.25),
        (span * 0.7, chord * 0.35),
        (span * 0.35, chord * 0.6),
        (0, chord / 2),
    ]
    wing = extrude(outline, 0.09).rotate("x", 90).scale(1, 1, -1)
    wing = wing.rotate("z", v.between(22, 48)).translate(girth * 0.5, 0.08, 0.05)
    fan = v(0.34)
    tail = extrude([(-0.1, 0), (0.1, 0), (fan, 0.55), (0, 0.65), (-fan, 0.55)], 0.08)
    tail = tail.rotate("x", -75).translate(0, -0.12, -length * 0.8)
    return merge(body, head, beak, tail, mirrored(merge(eye, wing), "x"))


def bee(v: Variation) -> Mesh:
    """A fat striped bee in side view: sting behind, two pairs of light wings above, feelers, dangling legs."""
    length, girth = v(0.74, 0.12), v(0.52, 0.12)
    stripes = [BODY, DARK, BODY, BODY, DARK, BODY, BODY, DARK, BODY]
    body = ellipsoid(girth, length, girth, stripes, rings=9, segments=9).rotate("z", -90)
    sting = cone(0.1, v(0.35), DARK, 6).rotate("z", 90).translate(-length - 0.1)
    head = ellipsoid(0.3, 0.3, 0.32, rings=5, segments=8).translate(length + 0.08, 0.06)
    eye = _dot(0.11).translate(length + 0.22, 0.14, 0.2)
    feeler = tube(
        [(length + 0.15, 0.25, 0.1), (length + 0.25, 0.55, 0.17), (length + 0.5, 0.7, 0.25)], 0.035, DARK, sides=4
    )
    wing_length = v(0.5)
    wing = ellipsoid(0.22, wing_length, 0.04, LIGHT, rings=4, segments=6).translate(0, wing_length)
    tilt = v(35)
    wings = merge(
        wing.rotate("z", 12).rotate("x", tilt).translate(0.12, girth * 0.8, 0.08),
        wing.scale(0.75).rotate("z", 42).rotate("x", tilt).translate(-0.08, girth * 0.8, 0.08),
    )
    legs = [
        tube([(x, -girth * 0.8, 0.15), (x + 0.05, -girth - 0.25, 0.3)], 0.04, DARK, sides=3) for x in (-0.3, 0.0, 0.3)
    ]
    return merge(body, sting, head, mirrored(merge(eye, feeler, wings, *legs)))


def dog(v: Variation) -> Mesh:
    """A dog standing on four legs in side view: level body, long snout, hanging ears, tail up."""
    length, girth, leg = v(0.66, 0.12), v(0.32, 0.12), v(0.5, 0.15)
    body = ellipsoid(girth, length, girth, rings=6, segments=8).rotate("z", 90)
    legs = merge(
        *[frustum(0.12, 0.15, leg + 0.1, BODY, 6).translate(x, -leg / 2 - 0.12, girth * 0.62) for x in (-0.46, 0.46)]
    )
    neck = tube([(length * 0.6, 0.05, 0), (length + 0.1, 0.45, 0)], [0.27, 0.2], sides=7)
    x, y = length + 0.14, 0.55
    head = ellipsoid(0.32, 0.28, 0.29, rings=5, segments=8).translate(x, y)
    snout_length = v(0.5)
    snout = (
        box(0.27, snout_length, 0.27, BODY, taper=0.75).rotate("z", -96).translate(x + 0.2 + snout_length / 2, y - 0.08)
    )
    nose = _dot(0.13).translate(x + 0.22 + snout_length, y - 0.06)
    ear = ellipsoid(0.16, v(0.34), 0.07, DARK, rings=4, segments=6).rotate("x", -12)
    ear = ear.translate(x - 0.06, y - 0.12, 0.33)
    eye = _dot(0.07).translate(x + 0.24, y + 0.12, 0.16)
    rise = v(0.5)
    tail = tube(
        [(-length * 0.9, 0.1, 0), (-length - 0.2, 0.12 + rise * 0.5, 0), (-length - 0.22, 0.15 + rise, 0)],
        [0.09, 0.07, 0.03],
        sides=5,
    )
    parts = [body, neck, head, snout, nose, tail, mirrored(merge(legs, ear, eye))]
    if v.maybe():
        collar = cylinder(0.22, 0.09, LIGHT, 8).rotate("z", -30).translate(length * 0.95, 0.36)
        parts.append(collar)
    return merge(*parts)


def cat(v: Variation) -> Mesh:
    """A cat sitting upright, facing the viewer: big head, pointed ears, long tail raised beside it."""
    width, height = v(0.42, 0.15), v(0.95, 0.15)
    body = frustum(width, width * 0.5, height, BODY, 10).scale(1, 1, 1.15)
    haunch = ellipsoid(0.22, 0.26, 0.34, rings=4, segments=8).translate(width * 0.75, -height * 0.3, 0.08)
    front = cylinder(0.09, height * 0.8, BODY, 6).translate(0.14, -height * 0.1, width * 0.85)
    top, size = height / 2 + 0.22, v(0.4, 0.12)
    head = ellipsoid(size * 1.1, size * 0.9, size * 0.9, rings=6, segments=10).translate(0, top, 0.12)
    ear = cone(0.18, v(0.45), BODY, 4).rotate("z", -16).translate(size * 0.65, top + size * 0.95, 0.1)
    eye = ellipsoid(0.08, 0.1, 0.05, LIGHT, rings=4, segments=6).translate(size * 0.42, top + 0.06, size * 0.9 + 0.06)
    pupil = box(0.05, 0.15, 0.05, DARK).translate(size * 0.42, top + 0.06, size * 0.9 + 0.1)
    whiskers = box(0.5, 0.03, 0.03, DARK).rotate("z", v.between(-8, 12)).translate(size + 0.05, top - 0.12, size * 0.7)
    nose = _dot(0.06).translate(0, top - 0.08, size * 0.9 + 0.12)
    reach, rise = v(0.75), v(1.15)
    bend = np.linspace(0, 1, 8)
    line = np.stack(
        [
            width * 0.5 + reach * np.sin(bend * 2.2) - 0.1 * bend,
            -height * 0.45 + rise * bend**1.6 * 1.1,
            -width * 0.8 - 0.1 * np.sin(bend * np.pi),
        ],
        axis=1,
    )
    tail = tube(line, [0.1] * 6 + [0.1, 0.04], sides=6)
    if v.maybe():
        tail = tail.scale(-1, 1, 1)
    return merge(body, head, nose, tail, mirrored(merge(haunch, front, ear, eye, pupil, whiskers), "x"))


def duck(v: Variation) -> Mesh:
    """A bath duck in side view: boat-shaped body, pointed tail up, round head, broad flat bill."""
    length, depth, width = v(0.8, 0.12), v(0.4), v(0.48)
    body = ellipsoid(length, depth, width, rings=6, segments=12)
    tail = cone(0.28, v(0.75), BODY, 6).scale(1, 1, 1.3).rotate("z", 48).translate(-length * 0.9, depth * 0.65)
    x, y = length * 0.6, depth + v(0.26)
    neck = tube([(x - 0.05, depth * 0.2, 0), (x + 0.02, y, 0)], [0.3, 0.2], sides=8)
    size = v(0.36, 0.1)
    head = ellipsoid(size, size, size, rings=6, segments=10).translate(x, y + 0.1)
    reach = v(0.4)
    bill = ellipsoid(reach, 0.1, 0.28, LIGHT, rings=4, segments=8).rotate("z", 6)
    bill = bill.translate(x + size + reach * 0.5, y + 0.02)
    eye = _dot(0.08).translate(x + size * 0.6, y + 0.2, size * 0.72)
    wing = ellipsoid(length * 0.5, depth * 0.5, 0.12, rings=5, segments=8).rotate("z", -14)
    wing = wing.translate(-length * 0.15, depth * 0.25, width * 0.9)
    return merge(body, tail, neck, head, bill, mirrored(merge(eye, wing)))


def frog(v: Variation) -> Mesh:
    """A squatting frog facing the viewer: low and wide, bulging eyes on top, wide mouth, big folded hind legs."""
    width, height = v(0.58, 0.15), v(0.36)
    body = ellipsoid(width, height, 0.62, rings=6, segments=10).rotate("x", -14)
    mouth = ellipsoid(width * 0.86, 0.05, 0.5, DARK, rings=2, segments=10).translate(0, 0.06, 0.2)
    size = v(0.23)
    eye = ellipsoid(size, size, size, rings=4, segments=7).translate(width * 0.6, height + 0.12, 0.22)
    white = ellipsoid(size * 0.7, size * 0.7, 0.1, LIGHT, rings=4, segments=6)
    white = white.translate(width * 0.6, height + 0.15, 0.22 + size * 0.8)
    pupil = _dot(size * 0.36).translate(width * 0.6, height + 0.15, 0.3 + size * 0.85)
    thigh = ellipsoid(0.2, 0.36, 0.3, rings=4, segments=7).rotate("z", -38).translate(width + 0.2, -0.02, -0.25)
    out = v(0.4)
    shin = tube([(width + 0.35, 0.1, -0.2), (width + 0.3, -0.42, 0.05)], [0.12, 0.08], sides=5)
    foot = extrude([(0, -0.08), (0.3, -0.2), (0.36, 0), (0.3, 0.2), (0, 0.08)], 0.07).rotate("x", -90)
    feet = merge(
        foot.rotate("y", -35).translate(width + 0.2, -0.45, 0.1).translate(out * 0.2),
        foot.rotate("y", -60).translate(width * 0.5, -0.45, 0.6),
    )
    arm = tube([(width * 0.55, -0.1, 0.4), (width * 0.6, -0.42, 0.62)], [0.12, 0.07], sides=5)
    return merge(body, mouth, mirrored(merge(eye, white, pupil, thigh, shin, feet, arm), "x"))
