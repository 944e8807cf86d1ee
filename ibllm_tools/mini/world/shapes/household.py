"""Things in the house: clock, phone, ball, hammer, kettle, door, fan, saw, camera, tap."""

import numpy as np

from ibllm_tools.mini.world.mesh import (
    BODY,
    DARK,
    LIGHT,
    Mesh,
    box,
    cylinder,
    ellipsoid,
    extrude,
    frustum,
    lathe,
    merge,
    mirrored,
    torus,
    tube,
)
from ibllm_tools.mini.world.shapes.variation import Variation


def clock(v: Variation) -> Mesh:
    """An alarm clock facing the viewer: round case, light dial with dark hands, two bells on top, two feet."""
    radius, depth = v(0.7, 0.1), v(0.42)
    case = cylinder(radius, depth, BODY, 18).rotate("x", 90)
    dial = cylinder(radius * 0.7, 0.04, LIGHT, 16).rotate("x", 90).translate(0, 0, depth / 2)
    front = depth / 2 + 0.04
    hands = [
        box(0.09, radius * reach, 0.05, DARK).translate(0, radius * reach / 2).rotate("z", v.between(0, 360))
        for reach in (0.62, 0.42)
    ]
    bell_size = v(0.3, 0.15)
    dome = lathe([(bell_size, 0), (bell_size * 0.85, bell_size * 0.5), (0, bell_size * 0.85)], BODY, 8)
    bells = mirrored(dome.translate(0, radius * 1.08).rotate("z", -v(32, 0.12)), "x")
    hammer = merge(
        cylinder(0.035, 0.4, DARK, 4).translate(0, radius + 0.2), box(0.18, 0.1, 0.1, DARK).translate(0, radius + 0.4)
    )
    foot = frustum(0.07, 0.12, 0.34, DARK, 6).translate(0, -radius - 0.12).rotate("z", 32)
    return merge(case, dial, *[hand.translate(0, 0, front) for hand in hands], bells, hammer, mirrored(foot, "x"))


def phone(v: Variation) -> Mesh:
    """A dial telephone: sloping base with a light dial in front, handset lying across the top, coiled cord."""
    width, height, depth = v(0.68, 0.12), v(0.55), v(0.6)
    lean = v(0.4)
    side = [(-depth, 0), (depth, 0), (depth, 0.16), (depth * (1 - 2 * lean), height), (-depth, height)]
    base = extrude(side, 2 * width).rotate("y", -90)
    slope = np.degrees(np.arctan2(height - 0.16, 2 * lean * depth))
    dial = merge(
        cylinder(0.34, 0.1, LIGHT, 12),
        cylinder(0.15, 0.16, DARK, 8),
        *[cylinder(0.05, 0.12, DARK, 4).translate(0.24).rotate("y", 40 * k) for k in range(7)],
    )
    dial = dial.rotate("x", slope).translate(0, (height + 0.16) / 2, depth * (1 - lean))
    across = v(0.85, 0.12)
    grip = tube(
        [(-across, 0, 0), (-across * 0.6, 0.2, 0), (across * 0.6, 0.2, 0), (across, 0, 0)], [0.12, 0.11, 0.11, 0.12]
    )
    cup = frustum(0.27, 0.19, 0.24, BODY, 10)
    handset = merge(grip, mirrored(cup.rotate("z", -12).translate(across, -0.06), "x"))
    handset = handset.translate(0, height + 0.26, -depth * 0.4)
    prongs = mirrored(box(0.14, 0.3, 0.3, DARK).translate(width * 0.5, height + 0.1, -depth * 0.4), "x")
    turns = np.linspace(0, 1, 12)
    cord = np.stack(
        [-width - 0.25 + 0.09 * np.cos(turns * 20), height * (1 - turns) + 0.05, -0.2 + 0.09 * np.sin(turns * 20)], 1
    )
    return merge(base, dial, handset, prongs, tube(cord, 0.04, DARK, 3))


def ball(v: Variation) -> Mesh:
    """A ball with light stripes from pole to pole and dark buttons at the poles."""
    segments = 16
    sphere = ellipsoid(1, 1, 1, rings=10, segments=segments)
    middles = sphere.vertices[sphere.faces].mean(axis=1)  # (F, 3)
    wedge = np.floor((np.arctan2(middles[:, 0], middles[:, 2]) / (2 * np.pi) % 1.0) * segments).astype(np.int64)
    period, wide = ((4, 3), (8, 5), (8, 6))[v.count(0, 2)]
    roles = np.where(wedge % period >= wide, LIGHT, BODY)
    roles[np.abs(middles[:, 1]) > 0.9] = DARK
    return Mesh(sphere.vertices, sphere.faces, roles).rotate("z", v.between(-60, 60)).rotate("x", v.between(-40, 60))


def hammer(v: Variation) -> Mesh:
    """A claw hammer, head up: long thick handle with a dark grip, striking head to the right, split claw left."""
    length, thick = v(1.5, 0.12), v(0.11)
    handle = cylinder(thick, length, BODY, 8)
    grip = frustum(thick * 1.45, thick * 1.2, length * 0.3, DARK, 8).translate(0, -length * 0.36)
    top = length / 2
    block = box(0.34, 0.32, 0.32).translate(0, top)
    neck = cylinder(0.14, 0.3, BODY, 8).rotate("z", 90).translate(0.28, top)
    face_size = v(0.24)
    face = cylinder(face_size, 0.24, BODY, 10).rotate("z", 90).translate(0.52, top)
    rim = cylinder(face_size * 0.9, 0.05, LIGHT, 10).rotate("z", 90).translate(0.66, top)
    reach = v(0.62)
    prong = tube(
        [(-0.1, top + 0.06, 0.08), (-reach * 0.6, top + 0.04, 0.11), (-reach, top - 0.26, 0.17)],
        [0.15, 0.11, 0.04],
        sides=6,
    )
    return merge(handle, grip, block, neck, face, rim, mirrored(prong)).rotate("z", v.between(-25, 25))


def kettle(v: Variation) -> Mesh:
    """A fat kettle in side view: spout to the right, high arched handle over the top, lid with a knob."""
    radius, height = v(0.66, 0.12), v(0.8, 0.15)
    profile = [(radius * 0.85, 0), (radius, height * 0.2), (radius * 0.92, height * 0.5), (radius * 0.6, height * 0.85)]
    pot = lathe([(radius * 0.85, -0.06), *profile, (radius * 0.45, height)], [DARK, BODY, BODY, BODY, LIGHT], 14)
    knob = ellipsoid(0.12, 0.12, 0.12, DARK, rings=4, segments=6).translate(0, height + 0.1)
    reach = v(0.5)
    spout = tube(
        [
            (radius * 0.75, height * 0.25, 0),
            (radius + reach * 0.5, height * 0.5, 0),
            (radius + reach * 0.75, height * 0.95, 0),
            (radius + reach, height * 1.05, 0),
        ],
        [0.22, 0.15, 0.1, 0.1],
        [BODY, BODY, DARK],
        sides=7,
    )
    handle = torus(1, 0.11, BODY, (8, 172), segments=10, sides=5).scale(radius * 0.85, v(0.72), 0.75)
    return merge(pot, knob, spout, handle.translate(0, height * 0.62))


def door(v: Variation) -> Mesh:
    """A door ajar in its frame, with two raised panels, a knob and a step."""
    width, height = v(0.98, 0.12), v(1.75, 0.1)
    post = box(0.12, height + 0.1, 0.18, DARK)
    frame = merge(
        mirrored(post.translate(width / 2 + 0.06, 0.05), "x"),
        box(width + 0.34, 0.13, 0.18, DARK).translate(0, height / 2 + 0.12),
    )
    step = box(width + 0.4, 0.1, 0.4, DARK).translate(0, -height / 2 - 0.03, 0.1)
    leaf = box(width, height, 0.1).translate(width / 2)
    panels = [
        box(width * 0.56, height * 0.3, 0.16, BODY, taper=0.9).translate(width / 2, height * y) for y in (-0.22, 0.22)
    ]
    knob = merge(
        *[
            ellipsoid(0.09, 0.09, 0.09, LIGHT, rings=4, segments=6).translate(width * 0.87, -0.02, s * 0.11)
            for s in (-1, 1)
        ]
    )
    if v.maybe():
        panels.append(box(width * 0.36, 0.14, 0.13, LIGHT).translate(width / 2, 0))
    ajar = merge(leaf, *panels, knob).rotate("y", -v.between(15, 45)).translate(-width / 2, 0, 0.08)
    whole = merge(frame, step, ajar)
    return whole.scale(-1, 1, 1) if v.maybe() else whole


def fan(v: Variation) -> Mesh:
    """A table fan facing the viewer: broad twisted blades inside dark guard rings, thin pole, round foot."""
    radius, blades = v(0.68, 0.1), v.count(3, 5)
    broad = v(0.3) * (4 / blades) ** 0.5
    petal = ellipsoid(radius * 0.42, broad, 0.05, rings=4, segments=8).rotate("x", 28).translate(radius * 0.48)
    spin = v.between(0, 120)
    rotor = merge(*[petal.rotate("z", spin + 360 * k / blades) for k in range(blades)])
    hub = cylinder(0.15, 0.26, LIGHT, 8).rotate("x", 90)
    guard = merge(*[torus(radius, 0.05, DARK, segments=14, sides=3).translate(0, 0, z) for z in (-0.13, 0.13)])
    motor = ellipsoid(0.24, 0.24, 0.32, rings=5, segments=8).translate(0, 0, -0.4)
    tall = v(1.15, 0.15)
    pole = cylinder(0.1, tall, BODY, 8).translate(0, -tall / 2 - 0.05, -0.38)
    foot = frustum(v(0.52), 0.3, 0.15, BODY, 12).translate(0, -tall - 0.05, -0.3)
    head = merge(rotor, hub, guard, motor).rotate("x", -v.between(0, 14))
    return merge(head, pole, foot)


def saw(v: Variation) -> Mesh:
    """A hand saw in side view: long blade narrowing to the right, row of teeth below, dark loop handle."""
    length, high, low = v(1.75, 0.1), v(0.58, 0.15), v(0.22)
    thick = 0.1
    blade = extrude([(0, 0), (length, 0), (length, low), (0, high)], thick)
    teeth = v.count(8, 11)
    pitch = length / teeth
    tooth = extrude([(0, 0.03), (pitch * 0.3, -v(0.16)), (pitch, 0.03)], thick)
    row = [tooth.translate(pitch * k) for k in range(teeth)]
    grip = tube(
        [(0.05, 0.03, 0), (-0.35, -0.12, 0), (-0.55, 0.15, 0), (-0.5, 0.5, 0), (-0.3, 0.66, 0), (0.05, high * 0.95, 0)],
        v(0.12),
        DARK,
        sides=6,
    )
    plate = box(0.2, high, 0.2, DARK).translate(0, high / 2)
    rivet = box(0.1, 0.1, 0.24, LIGHT).translate(0, high / 2)
    return merge(blade, *row, grip, plate, rivet).rotate("z", v.between(-10, 28))


def camera(v: Variation) -> Mesh:
    """A camera facing the viewer: broad box, big lens barrel forward, viewfinder hump, shutter button, flash."""
    width, height, depth = v(0.85, 0.1), v(0.5, 0.12), v(0.3)
    case = box(2 * width, 2 * height, 2 * depth)
    radius, barrel_length = v(0.4, 0.12), v(0.5)
    wide = lathe([(radius, 0), (radius, barrel_length * 0.6), (radius * 0.85, barrel_length * 0.62)], [BODY, DARK], 14)
    narrow = lathe(
        [(radius * 0.85, 0), (radius * 0.85, barrel_length), (radius * 0.65, barrel_length + 0.02), (0, barrel_length)],
        [BODY, DARK, LIGHT],
        14,
    )
    offset = v.between(-0.12, 0.05)
    lens = merge(wide, narrow).rotate("x", 90).translate(offset, -0.04, depth * 0.95)
    hump = box(0.6, v(0.28), depth * 1.6, BODY, taper=0.7).translate(offset, height + 0.12)
    button = cylinder(0.13, 0.14, DARK, 8).translate(width * 0.7, height + 0.05)
    flash = box(0.26, 0.2, 0.06, LIGHT).translate(-width * 0.72, height * 0.6, depth)
    strip = box(2.02 * width, 0.12, 2.03 * depth, DARK).translate(0, height * 0.72)
    parts = [case, lens, hump, button, flash]
    if v.maybe():
        parts.append(strip.translate(0, -height * 1.45))
    return merge(*parts)


def tap(v: Variation) -> Mesh:
    """A water tap in side view: upright pipe with a cross handle, high bent spout to the right, falling drop."""
    tall, reach, rise = v(1.0, 0.15), v(0.85, 0.15), v(0.3)
    pillar = lathe([(0.34, 0), (0.34, 0.12), (0.19, 0.16), (0.19, tall), (0.12, tall + 0.12)], BODY, 10)
    spout = tube(
        [
            (0, tall * 0.6, 0),
            (reach * 0.4, tall * 0.6 + rise, 0),
            (reach * 0.8, tall * 0.6 + rise, 0),
            (reach, tall * 0.6 + rise - 0.2, 0),
            (reach, tall * 0.6 - 0.12, 0),
        ],
        [0.15, 0.15, 0.15, 0.15, 0.16],
        [BODY, BODY, BODY, BODY],
        sides=8,
    )
    mouth = cylinder(0.19, 0.08, DARK, 8).translate(reach, tall * 0.6 - 0.14)
    stem = cylinder(0.08, 0.24, DARK, 6).translate(0, tall + 0.18)
    arm = v(0.42)
    bar = cylinder(0.08, 2 * arm, BODY, 6).rotate("z", 90)
    knob = mirrored(ellipsoid(0.13, 0.13, 0.13, LIGHT, rings=4, segments=6).translate(arm), "x")
    cross = merge(*[merge(bar, knob).rotate("y", a) for a in (0, 90)]).rotate("y", v.between(0, 60))
    drop = lathe([(0, -0.16), (0.11, -0.06), (0.09, 0.05), (0, 0.24)], LIGHT, 6).translate(reach, tall * 0.6 - v(0.5))
    return merge(pillar, spout, mouth, stem, cross.translate(0, tall + 0.3), drop)
