"""Things made to be heard: bell, drum, guitar, piano, trumpet, whistle, rattle, siren."""

import numpy as np

from ibllm_tools.mini.world.mesh import (
    BODY,
    DARK,
    LIGHT,
    Mesh,
    arc,
    box,
    cylinder,
    ellipsoid,
    extrude,
    lathe,
    merge,
    torus,
    tube,
)
from ibllm_tools.mini.world.shapes.variation import Variation


def bell(v: Variation) -> Mesh:
    """A hanging bell: flared skirt with a light rim, ring on top, dark clapper showing below."""
    flare, waist, height = v(0.75, 0.12), v(0.42, 0.15), v(1.15, 0.12)
    profile = [
        (flare * 0.9, 0),
        (flare, 0.06),
        (flare * 0.8, 0.2),
        (waist, height * 0.45),
        (waist * 0.92, height * 0.75),
        (waist * 0.55, height * 0.95),
        (0, height),
    ]
    skirt = lathe(profile, [LIGHT, BODY, BODY, BODY, BODY, BODY], 14)
    ring = torus(v(0.17), 0.06, BODY, segments=10, sides=5).translate(0, height + 0.12)
    clapper = ellipsoid(0.18, 0.18, 0.18, DARK, rings=5, segments=8).translate(0, -v(0.16))
    return merge(skirt, ring, clapper)


def drum(v: Variation) -> Mesh:
    """A wide drum with light hoops, zigzag cords around it, and two sticks resting on top."""
    radius, height = v(0.72, 0.12), v(0.8, 0.15)
    shell = cylinder(radius, height, BODY, 16)
    hoops = [cylinder(radius * 1.06, 0.09, LIGHT, 16).translate(0, s * height / 2) for s in (-1, 1)]
    skin = cylinder(radius * 0.9, 0.03, BODY, 14).translate(0, height / 2 + 0.06)
    zigzags = 2 * v.count(5, 7)
    angle = np.arange(zigzags) * 2 * np.pi / zigzags
    level = (np.arange(zigzags) % 2 - 0.5) * (height - 0.14)
    cord = tube(
        np.stack([radius * 1.06 * np.sin(angle), level, radius * 1.06 * np.cos(angle)], 1), 0.035, DARK, 3, closed=True
    )
    stick = merge(
        cylinder(0.05, v(1.3), DARK, 5), ellipsoid(0.1, 0.1, 0.1, LIGHT, rings=4, segments=6).translate(0, -0.6)
    )
    lift = v(62)
    sticks = [
        stick.rotate("z", s * lift).rotate("y", v.between(-25, 25)).translate(s * -0.45, height / 2 + 0.36, s * 0.12)
        for s in (-1, 1)
    ]
    return merge(shell, *hoops, skin, cord, *sticks)


def guitar(v: Variation) -> Mesh:
    """A guitar standing upright, facing the viewer: waisted body, round dark hole, long neck, head with pegs."""
    lower, upper, waist = v(0.52, 0.12), v(0.4, 0.12), v(0.28, 0.12)
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    height = 0.62 * np.sin(angle)
    bulge = np.where(height < 0, lower, upper) * np.abs(np.cos(angle)) ** 0.55 * np.sign(np.cos(angle))
    pinch = 1 - (1 - waist / lower) * np.exp(-(((height - 0.1) / 0.2) ** 2))
    body = extrude(np.stack([bulge * pinch, height], 1), v(0.24))
    hole = cylinder(0.16, 0.28, DARK, 10).rotate("x", 90).translate(0, 0.12)
    bridge = box(0.34, 0.08, 0.3, DARK).translate(0, -0.32)
    neck_length = v(1.0, 0.15)
    neck = box(0.15, neck_length, 0.1).translate(0, 0.55 + neck_length / 2, 0.08)
    board = box(0.12, neck_length + 0.3, 0.05, DARK).translate(0, 0.4 + neck_length / 2, 0.14)
    top = 0.55 + neck_length
    head = box(0.24, 0.3, 0.1, BODY, taper=1.25).translate(0, top + 0.14, 0.06)
    pegs = [box(0.12, 0.06, 0.06, LIGHT).translate(s * 0.2, top + y, 0.06) for s in (-1, 1) for y in (0.05, 0.14, 0.23)]
    return merge(body, hole, bridge, neck, board, head, *pegs).rotate("z", v.between(-18, 18))


def piano(v: Variation) -> Mesh:
    """A grand piano: curved case on three legs, raised lid, light keyboard with dark keys to the front."""
    width, length, thick = v(0.72, 0.12), v(1.3, 0.12), v(0.26)
    curve = [
        (-width, 0),
        (width, 0),
        (width, 0.35),
        (width * 0.75, 0.55),
        (width * 0.2, 0.75),
        (0, length * 0.9),
        (-width * 0.4, length),
        (-width, length * 0.95),
    ]
    case = extrude(curve, thick).rotate("x", -90)
    shelf = box(2 * width, thick * 0.5, 0.3).translate(0, -thick * 0.25, 0.15)
    keys = box(1.9 * width, 0.05, 0.24, LIGHT).translate(0, 0.03, 0.16)
    blacks = [
        box(0.06, 0.06, 0.13, DARK).translate(width * x, 0.06, 0.1) for x in np.linspace(-0.8, 0.8, v.count(6, 9))
    ]
    lid = extrude(curve, 0.05).rotate("x", -90).translate(width)
    lid = lid.rotate("z", v(38)).translate(-width, thick / 2 + 0.02)
    prop = tube([(width * 0.7, 0, -0.4), (width * 0.35, 0.85, -0.4)], 0.03, DARK, 4)
    leg_length = v(0.6)
    leg = box(0.16, leg_length, 0.16, BODY, taper=1.5).translate(0, -leg_length / 2 - thick / 2)
    spots = [(-width * 0.85, -0.05), (width * 0.85, -0.05), (-width * 0.5, -length * 0.8)]
    pedals = box(0.3, 0.06, 0.2, DARK).translate(0, -leg_length - thick / 2 + 0.08, -0.05)
    post = box(0.12, leg_length, 0.06).translate(0, -leg_length / 2 - thick / 2, -0.1)
    legs = [leg.translate(x, 0, z) for x, z in spots]
    return merge(case, shelf, keys, *blacks, lid, prop, pedals, post, *legs).translate(0, 0, length / 2)


def trumpet(v: Variation) -> Mesh:
    """A trumpet in side view: long tube, wide flared bell on the right, oval loop below, three valves."""
    length, flare = v(1.05, 0.12), v(0.48)
    profile = [(0.07, 0), (0.09, 0.25), (0.15, 0.45), (flare * 0.6, 0.58), (flare, 0.66)]
    horn = lathe([*profile, (flare * 0.85, 0.67), (0.1, 0.45)], [BODY] * 4 + [LIGHT, DARK], 12)
    horn = horn.rotate("z", -90).translate(length - 0.4)
    pipe = tube([(-length, 0, 0), (length - 0.3, 0, 0)], 0.09, sides=6)
    mouthpiece = lathe([(0.06, 0), (0.14, 0.16)], LIGHT, 8).rotate("z", 90).translate(-length)
    drop, half = v(0.42), v(0.5)
    left, right = arc(drop / 2, 90, 270, 5), arc(drop / 2, -90, 90, 5)
    loop = np.concatenate([left, right]) + np.repeat([(-half, 0, 0), (half, 0, 0)], 5, axis=0)
    loop_tube = tube(loop - (0, drop / 2, 0), 0.085, BODY, 6, closed=True)
    tall = v(0.62)
    valve = merge(
        cylinder(0.12, tall, BODY, 8).translate(0, -drop / 2),
        cylinder(0.035, 0.2, DARK, 4).translate(0, tall / 2 - drop / 2 + 0.1),
        cylinder(0.09, 0.06, LIGHT, 6).translate(0, tall / 2 - drop / 2 + 0.2),
    )
    return merge(horn, pipe, mouthpiece, loop_tube, *[valve.translate(x) for x in (-0.28, 0.0, 0.28)])


def whistle(v: Variation) -> Mesh:
    """A pea whistle in side view: short round chamber, flat mouthpiece to the left, dark slot, ring."""
    radius, width = v(0.5, 0.12), v(0.55)
    chamber = cylinder(radius, width, BODY, 16).rotate("x", 90)
    inset = cylinder(radius * 0.55, width * 1.05, LIGHT, 10).rotate("x", 90)
    length, thick = v(1.05, 0.15), v(0.3, 0.15)
    mouth = box(length, thick, width * 0.98).translate(-length / 2, radius - thick / 2)
    tip = box(0.14, thick * 0.7, width * 0.8, DARK).translate(-length - 0.05, radius - thick / 2)
    slot = box(0.24, 0.12, width * 0.8, DARK).translate(-radius * 0.62, radius - 0.01)
    ring = torus(v(0.2), 0.05, DARK, segments=10, sides=4).rotate("y", v.between(-40, 40))
    lug = box(0.2, 0.16, 0.12).translate(radius + 0.02, 0)
    return merge(chamber, inset, mouth, tip, slot, lug, ring.translate(radius + 0.25))


def rattle(v: Variation) -> Mesh:
    """A baby's rattle: big ball with a light belt and knobs on a stick, open ring at the lower end."""
    size, stick = v(0.48, 0.12), v(0.85, 0.15)
    belt = [BODY, BODY, BODY, LIGHT, BODY, BODY, BODY]
    head = ellipsoid(size, size, size, belt, rings=7, segments=12).translate(0, stick / 2 + size * 0.9)
    knobs = v.count(4, 6)
    knob = ellipsoid(0.12, 0.12, 0.12, DARK, rings=4, segments=6).translate(0, 0, size)
    dots = [knob.rotate("y", 360 * k / knobs).translate(0, stick / 2 + size * 0.9) for k in range(knobs)]
    rod = cylinder(0.1, stick, BODY, 8)
    ring_size = v(0.28)
    ring = torus(ring_size, 0.1, BODY, segments=12, sides=6).translate(0, -stick / 2 - ring_size)
    return merge(head, *dots, rod, ring).rotate("z", v.between(-30, 30))


def siren(v: Variation) -> Mesh:
    """A siren on a pole: four wide horns pointing all ways, a round warning light on top, a foot plate."""
    flare, reach = v(0.36, 0.15), v(0.72, 0.12)
    profile = [(0.1, 0.05), (0.14, reach * 0.45), (flare, reach), (flare * 0.9, reach + 0.02), (0.12, reach * 0.6)]
    horn = lathe(profile, [BODY, BODY, LIGHT, DARK], 10).rotate("x", 90)
    turn = v.between(-20, 20)
    horns = [horn.rotate("y", turn + 90 * k) for k in range(4)]
    block = box(0.36, 0.4, 0.36)
    lamp = lathe([(0.2, 0), (0.2, 0.16), (0.13, 0.3), (0, 0.34)], LIGHT, 8).translate(0, 0.2)
    tall = v(1.15, 0.15)
    pole = cylinder(0.09, tall, BODY, 6).translate(0, -tall / 2)
    foot = box(0.6, 0.12, 0.6, BODY, taper=0.7).translate(0, -tall)
    return merge(*horns, block, lamp, pole, foot)
