"""Cloud, fire and tree, and the robot."""

import numpy as np

from ibllm_tools.mini.world.mesh import (
    BODY,
    DARK,
    LIGHT,
    Mesh,
    box,
    cylinder,
    ellipsoid,
    frustum,
    lathe,
    merge,
    mirrored,
    tube,
)
from ibllm_tools.mini.world.shapes.variation import Variation


def cloud(v: Variation) -> Mesh:
    """A rain cloud: a wide row of puffs with a flat bottom, and drops falling under it."""
    spots = [(-0.72, 0.0, 0.0, 0.36), (-0.28, 0.2, 0.08, 0.48), (0.26, 0.26, -0.05, 0.5), (0.74, 0.02, 0.05, 0.36)]
    puffs = []
    for x, y, z, size in spots:
        r = v(size, 0.15)
        puffs.append(
            ellipsoid(r, r, r * 1.05, rings=6, segments=9).translate(v(x, 0.15), y, z + v.between(-0.06, 0.06))
        )
    puff = merge(*puffs, ellipsoid(0.85, 0.3, 0.42, rings=5, segments=10))
    flat = puff.vertices.copy()
    flat[:, 1] = np.maximum(flat[:, 1], -0.18)
    drop = lathe([(0, -0.12), (0.08, -0.04), (0, 0.2)], LIGHT, 5)
    count = v.count(4, 6)
    drops = [
        drop.translate(-0.65 + 1.3 * k / (count - 1), -0.42 - 0.3 * (k % 2), v.between(-0.2, 0.2)) for k in range(count)
    ]
    return merge(Mesh(flat, puff.faces, puff.roles), *drops)


def fire(v: Variation) -> Mesh:
    """A camp fire: a ring of licking pointed flames around a tall one, over crossed dark logs."""

    def flame(height: float, radius: float, sway: float) -> Mesh:
        line = [
            (0.0, 0.0, 0.0),
            (sway * 0.5, height * 0.22, 0.0),
            (-sway * 0.4, height * 0.5, 0.0),
            (sway * 0.5, height * 0.8, 0.0),
            (sway * 1.4, height, 0.0),
        ]
        return tube(line, [radius * 0.6, radius, radius * 0.7, radius * 0.3, 0.0], sides=6)

    tall = v(1.35, 0.15)
    tongues = [flame(tall, 0.36, v.between(-0.15, 0.15))]
    count, turn = v.count(4, 6), v.between(0, 90)
    for k in range(count):
        tongue = flame(tall * v.between(0.45, 0.8), v(0.24), 0.14).rotate("z", -14).translate(v(0.36))
        tongues.append(tongue.rotate("y", turn + 360 * k / count))
    log = cylinder(0.13, v(1.35), DARK, 6).rotate("z", 90)
    logs = [log.rotate("z", 8).rotate("y", a + turn).translate(0, -0.08) for a in (20, 80, 140)]
    spark = frustum(0.07, 0.0, 0.18, LIGHT, 4)
    sparks = [spark.translate(s * v(0.35), tall * v(0.85, 0.1), 0.1) for s in (-1, 1)]
    return merge(*tongues, *logs, *sparks)


def tree(v: Variation) -> Mesh:
    """A fir tree: broad skirts of branches stacked on a dark trunk."""
    tiers = v.count(3, 4)
    base, tall = v(0.75, 0.15), v(1.7, 0.12)
    parts = []
    for k in range(tiers):
        radius = base * (1 - 0.72 * k / (tiers - 1))
        height = tall / tiers * 1.55
        skirt = lathe(
            [(radius * 0.25, 0.06), (radius, 0), (radius * 0.45, height * 0.45), (radius * 0.05, height)], BODY, 11
        )
        parts.append(skirt.rotate("y", v.between(0, 30)).translate(0, k * tall / tiers * 0.92))
    trunk = frustum(0.2, 0.15, v(0.55), DARK, 7).translate(0, -0.18)
    return merge(*parts, trunk)


def robot(v: Variation) -> Mesh:
    """A robot facing the viewer: box head with light eyes and an aerial, box trunk, arms out, two thick legs."""
    head_size, width, height = v(0.56, 0.12), v(0.75, 0.12), v(0.72, 0.12)
    trunk = box(width, height, 0.5)
    panel = box(width * 0.6, height * 0.4, 0.05, DARK).translate(0, 0.05, 0.25)
    lights = [box(0.09, 0.09, 0.05, LIGHT).translate(x, 0.05, 0.29) for x in (-0.13, 0.02, 0.17)]
    neck = cylinder(0.1, 0.16, DARK, 6).translate(0, height / 2 + 0.05)
    y = height / 2 + 0.1 + head_size * 0.4
    head = box(head_size, head_size * 0.8, 0.46).translate(0, y)
    eye = cylinder(0.11, 0.08, LIGHT, 8).rotate("x", 90).translate(head_size * 0.24, y + 0.06, 0.24)
    mouth = box(head_size * 0.6, 0.07, 0.04, DARK).translate(0, y - head_size * 0.24, 0.24)
    aerial = cylinder(0.035, v(0.3), DARK, 4).translate(0, y + head_size * 0.4 + 0.12)
    bulb = ellipsoid(0.1, 0.1, 0.1, LIGHT, rings=4, segments=6).translate(0, y + head_size * 0.4 + 0.3)
    raise_by = v.between(-0.25, 0.4)
    x = width / 2
    arm = tube(
        [(x, height * 0.32, 0), (x + 0.25, height * 0.15, 0), (x + 0.35, height * 0.15 + raise_by, 0.25)], 0.1, sides=6
    )
    hand = box(0.24, 0.22, 0.24, DARK).translate(x + 0.36, height * 0.15 + raise_by, 0.32)
    leg_length = v(0.55)
    leg = box(0.22, leg_length, 0.26).translate(width * 0.27, -height / 2 - leg_length / 2)
    foot = box(0.32, 0.16, 0.46).translate(width * 0.29, -height / 2 - leg_length, 0.08)
    return merge(
        trunk, panel, *lights, neck, head, mouth, aerial, bulb, mirrored(merge(eye, arm, hand, leg, foot), "x")
    )
