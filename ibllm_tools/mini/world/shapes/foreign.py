"""Things from outside the world that the model meets only when it is tested on what it does not know."""

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
    loft,
    merge,
    mirrored,
    torus,
    tube,
)
from ibllm_tools.mini.world.shapes.variation import Variation


def mug(v: Variation) -> Mesh:
    """A mug with a handle at one side, open at the top."""
    radius, height = v(0.55), v(1.1)
    wall = [(radius * v.between(0.8, 1), 0), (radius, height), (radius * 0.88, height), (radius * 0.8, 0.1), (0, 0.1)]
    cup = lathe(wall, [BODY, BODY, DARK, DARK], 16)
    handle = torus(1, 0.12, BODY, (-90, 90), segments=10).scale(v(0.38), height * 0.3, 0.8)
    return merge(cup, handle.translate(radius * 0.95, height * 0.5))


def holed_pyramid(v: Variation) -> Mesh:
    """A pyramid with a triangular window in each side."""
    sides, height = v.count(3, 5), v(1.4)
    angle = np.arange(sides) * 2 * np.pi / sides
    base = np.stack([np.sin(angle), np.zeros(sides), np.cos(angle)], axis=1) * v(0.9)
    apex = np.array([0, height, 0])
    parts = [loft(np.stack([base, np.add(base, (0, 0.02, 0))]))]
    hole = v(0.5)
    for first, second in zip(base, np.roll(base, -1, axis=0), strict=True):
        outer = np.stack([first, second, apex])  # (3, 3)
        middle = outer.mean(axis=0)
        inner = middle + hole * (outer - middle)
        parts.append(loft(np.stack([outer, inner, inner - 0.3 * (middle - [0, height * 0.3, 0])]), [BODY, DARK]))
    return merge(*parts)


def star(v: Variation) -> Mesh:
    """A thick star with ridges."""
    points, waist, bulge = v.count(4, 7), v.between(0.35, 0.55), v(0.3)
    angle = np.arange(2 * points) * np.pi / points + np.pi / 2
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, waist)
    outline = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(2 * points)], axis=1)
    tip, ridge = np.array([0, 0, bulge]), np.array([0, 0, 0.06])
    rings = np.stack([outline * 0 - tip, outline - ridge, outline + ridge, outline * 0 + tip])
    return loft(rings, BODY)


def key(v: Variation) -> Mesh:
    """A key: open bow, long shank, bit with teeth."""
    bow, shank = v(0.4), v(1.2)
    ring = torus(bow, 0.12, BODY, segments=12).translate(0, shank / 2 + bow)
    rod = cylinder(0.1, shank, BODY, 8)
    teeth = [box(v(0.36, 0.4), 0.14, 0.12).translate(0.2, -shank / 2 + 0.07 + 0.24 * k) for k in range(v.count(2, 3))]
    collar = cylinder(0.17, 0.12, DARK, 8).translate(0, shank * 0.4)
    return merge(ring, rod, collar, *teeth).rotate("z", v.between(-60, 60))


def hourglass(v: Variation) -> Mesh:
    """An hourglass between two plates and three posts."""
    height, width = v(1.6), v(0.55)
    profile = [(width, -height / 2), (width * 0.9, -height * 0.25), (0.07, 0), (width * 0.9, height * 0.25)]
    glass = lathe([*profile, (width, height / 2)], [BODY, LIGHT, BODY, BODY], 12)
    plates = [cylinder(width * 1.3, 0.12, BODY, 14).translate(0, s * height / 2) for s in (-1, 1)]
    post = cylinder(0.05, height, DARK, 5).translate(width * 1.15)
    return merge(glass, *plates, *[post.rotate("y", 120 * k + 30) for k in range(3)])


def spectacles(v: Variation) -> Mesh:
    """Spectacles: two rims, a bridge, two arms going back."""
    size, arm = v(0.42), v(1.1)
    rim = torus(size, 0.09, BODY, segments=12).translate(size * 1.25)
    glass = cylinder(size * 0.9, 0.04, LIGHT, 10).rotate("x", 90).translate(size * 1.25)
    temple = tube([(size * 2.25, 0, 0), (size * 2.3, 0, -arm), (size * 2.3, -0.25, -arm - 0.2)], 0.07, sides=5)
    bridge = tube(arc(size * 0.35, 0, 180, 6), 0.07, sides=5)
    return merge(mirrored(merge(rim, glass, temple), "x"), bridge)


def anchor(v: Variation) -> Mesh:
    """An anchor: ring, stock, shank, two curved arms with flukes."""
    tall, reach = v(1.5), v(0.75)
    shank = cylinder(0.09, tall, BODY, 6)
    arms = torus(reach, 0.1, BODY, (200, 340), segments=12).translate(0, -tall / 2 + reach - 0.05)
    fluke = extrude([(-0.2, -0.05), (0.2, -0.05), (0, 0.35)], 0.12).translate(reach * 0.94, -tall / 2 + reach * 0.65)
    stock = cylinder(0.07, v(0.9), DARK, 6).rotate("z", 90).translate(0, tall * 0.36)
    ring = torus(0.2, 0.06, BODY, segments=10).translate(0, tall / 2 + 0.18)
    return merge(shank, arms, stock, ring, mirrored(fluke, "x"))


def snowman(v: Variation) -> Mesh:
    """A snowman: two or three balls on each other, hat, pointed nose."""
    sizes = [v(size, 0.12) for size in ((0.6, 0.42, 0.3) if v.maybe() else (0.6, 0.4))]
    parts, y = [], 0.0
    for size in sizes:
        parts.append(ellipsoid(size, size, size, BODY, rings=6, segments=9).translate(0, y + size * 0.8))
        y += size * 1.6
    head = sizes[-1]
    hat = merge(cylinder(head * 1.1, 0.06, DARK, 10), cylinder(head * 0.7, v(0.35), DARK, 10).translate(0, 0.18))
    nose = lathe([(0.08, 0), (0, v(0.4))], LIGHT, 5).rotate("x", 90).translate(0, y - head * 0.8, head * 0.9)
    return merge(*parts, hat.translate(0, y), nose)
