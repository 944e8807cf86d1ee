"""Vehicles, in side view and heading for +x, except the rocket, which stands: car, train, ship, helicopter, rocket."""

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
    lathe,
    merge,
    mirrored,
    tube,
)
from ibllm_tools.mini.world.shapes.variation import Variation


def _wheel(radius: float, width: float) -> Mesh:
    tyre = cylinder(radius, width, DARK, 8).rotate("x", 90)
    hub = box(radius * 0.6, radius * 0.6, width * 1.2, LIGHT)
    return merge(tyre, hub)


def car(v: Variation) -> Mesh:
    """A cartoon car: long low body, cabin with light windows, four big wheels."""
    length, width, height = v(1.0, 0.12), v(0.42), v(0.34)
    body = box(2 * length, height, 2 * width)
    cabin_length, cabin_height = v(1.05), v(0.46)
    middle = v.between(-0.2, 0.05)
    cabin = box(cabin_length, cabin_height, 2 * width * 0.92, BODY, taper=0.72)
    pane = box(cabin_length * 0.36, cabin_height * 0.55, 0.04, LIGHT, taper=0.85)
    sides = mirrored(
        merge(*[pane.translate(s * cabin_length * 0.2, 0, width * 0.82) for s in (-1, 1)]).translate(0, -0.01, 0)
    )
    screen = box(0.04, cabin_height * 0.6, width * 1.3, LIGHT).rotate("z", 18)
    cabin = merge(cabin, sides, mirrored(screen.translate(cabin_length * 0.455), "x"))
    cabin = cabin.translate(middle, height / 2 + cabin_height / 2)
    radius = v(0.26, 0.12)
    wheels = merge(*[_wheel(radius, 0.2).translate(s * length * 0.6, -height * 0.6, width) for s in (-1, 1)])
    lamp = ellipsoid(0.06, 0.1, 0.1, LIGHT, rings=4, segments=6).translate(length, 0.04, width * 0.6)
    return merge(body, cabin, mirrored(merge(wheels, lamp)))


def train(v: Variation) -> Mesh:
    """A steam engine: round boiler, tall chimney, cab with roof behind, cow-catcher, a row of wheels."""
    length, radius = v(0.85, 0.12), v(0.32, 0.12)
    boiler = cylinder(radius, 2 * length * 0.8, BODY, 10).rotate("z", 90).translate(length * 0.25)
    front = cylinder(radius * 0.8, 0.06, DARK, 10).rotate("z", 90).translate(length * 1.07)
    chimney_height = v(0.55)
    chimney = lathe([(0.12, 0), (0.12, chimney_height * 0.6), (0.24, chimney_height)], [BODY, DARK], 8)
    chimney = chimney.translate(length * 0.78, radius * 0.8)
    dome = ellipsoid(0.18, 0.28, 0.18, LIGHT, rings=4, segments=8).translate(length * 0.2, radius * 0.9)
    cab_height = v(1.05, 0.12)
    cab = box(0.5, cab_height, 2 * radius * 1.15).translate(-length * 0.75, cab_height / 2 - radius * 1.1)
    roof = box(0.72, 0.1, 2 * radius * 1.45, DARK).translate(-length * 0.75, cab_height - radius * 1.1 + 0.04)
    pane = box(0.28, 0.26, 0.04, LIGHT).translate(-length * 0.75, cab_height * 0.75 - radius * 1.1, radius * 1.16)
    bed = box(2.1 * length, 0.14, 2 * radius).translate(0, -radius - 0.05)
    catcher = box(2 * radius, 0.3, 0.4, BODY, taper=0.3).rotate("y", 90).translate(length * 1.12, -radius - 0.22)
    big = v(0.27)
    count = v.count(3, 4)
    wheels = [
        _wheel(big if index < 2 else 0.19, 0.1).translate(
            length * (-0.75 + 1.6 * index / (count - 1)),
            -radius - 0.3 + (big if index < 2 else 0.19) - 0.25,
            radius * 0.95,
        )
        for index in range(count)
    ]
    return merge(boiler, front, chimney, dome, cab, roof, bed, catcher, mirrored(merge(pane, *wheels)))


def ship(v: Variation) -> Mesh:
    """A steamer: deep hull pointed at the bow, light deckhouse, a row of leaning funnels, mast."""
    length, depth, width = v(1.05, 0.12), v(0.5), v(0.32)
    outline = [(-length * 0.85, -depth), (length * 0.7, -depth), (length * 1.15, 0.12), (length * 0.4, 0), (-length, 0)]
    hull = extrude(outline, 2 * width)
    keel = box(1.58 * length, 0.1, 2 * width * 1.02, DARK).translate(-length * 0.07, -depth)
    bow = hull.vertices.copy()
    bow[:, 2] *= (bow[:, 0] < length * 0.6) * 0.85 + 0.15
    hull = Mesh(bow, hull.faces, hull.roles)
    house_height = v(0.24)
    house = box(length * 1.05, house_height, width * 1.3, LIGHT).translate(-length * 0.2, house_height / 2)
    count, tall, lean = v.count(2, 3), v(0.55), v(10)
    funnel = lathe([(0.15, 0), (0.14, tall * 0.7), (0.13, tall)], [BODY, DARK], 8).rotate("z", lean)
    funnels = [
        funnel.translate(length * (-0.55 + 0.7 * index / (count - 1)), house_height * 0.9) for index in range(count)
    ]
    mast = cylinder(0.04, v(0.95), DARK, 5).translate(length * 0.58, 0.45)
    yard = cylinder(0.03, 0.4, DARK, 4).rotate("x", 90).translate(length * 0.58, 0.62)
    ports = [
        cylinder(0.06, 0.04, LIGHT, 6).rotate("x", 90).translate(length * x, -depth * 0.4, width)
        for x in (-0.6, -0.2, 0.2)
    ]
    return merge(hull, keel, house, *funnels, mast, yard, mirrored(merge(*ports)))


def helicopter(v: Variation) -> Mesh:
    """A helicopter: egg-shaped cabin, thin tail boom with a small rotor, big rotor on top, skids below."""
    length, girth = v(0.55, 0.12), v(0.46, 0.12)
    cabin = ellipsoid(length, girth, girth * 0.9, rings=6, segments=10)
    glass = ellipsoid(length * 0.6, girth * 0.62, girth * 0.8, LIGHT, rings=5, segments=8)
    glass = glass.translate(length * 0.5, girth * 0.12)
    boom_length = v(0.9, 0.15)
    end = -length * 0.6 - boom_length
    boom = tube([(-length * 0.5, 0.08, 0), (end, 0.2, 0)], [0.2, 0.08], sides=6)
    fin = extrude([(-0.02, -0.1), (0.22, -0.1), (-0.08, 0.42), (-0.28, 0.42)], 0.08).translate(end, 0.2)
    tail_rotor = merge(*[box(0.05, 0.5, 0.04, DARK).rotate("z", a) for a in (30, 120)]).translate(end - 0.05, 0.32, 0.1)
    mast = cylinder(0.08, 0.3, DARK, 6).translate(0, girth + 0.1)
    reach, blades = v(1.05, 0.15), v.count(2, 4)
    blade = box(reach, 0.05, 0.16, DARK).translate(reach / 2)
    spin = v.between(-20, 20)
    rotor = merge(*[blade.rotate("y", spin + 360 * k / blades) for k in range(blades)]).translate(0, girth + 0.25)
    skid = tube(
        [(-length, -girth - 0.2, 0.3), (length, -girth - 0.2, 0.3), (length + 0.2, -girth - 0.1, 0.3)], 0.05, sides=4
    )
    struts = [tube([(x, -girth * 0.5, 0.2), (x, -girth - 0.2, 0.3)], 0.04, sides=4) for x in (-0.25, 0.25)]
    return merge(cabin, glass, boom, fin, tail_rotor, mast, rotor, mirrored(merge(skid, *struts)))


def rocket(v: Variation) -> Mesh:
    """A standing rocket: slim body, pointed nose, big swept fins, porthole, dark nozzle with a light flame."""
    radius, height = v(0.3, 0.15), v(1.3, 0.12)
    profile = [(radius * 0.7, -height / 2), (radius, -height * 0.15), (radius * 0.95, height * 0.25)]
    body = lathe([*profile, (radius * 0.6, height * 0.5), (0, height * 0.5 + v(0.4))], [BODY, BODY, BODY, BODY], 12)
    band = cylinder(radius * 1.02, 0.08, DARK, 12).translate(0, height * 0.22)
    nozzle = frustum(radius * 0.75, radius * 0.45, 0.2, DARK, 8).translate(0, -height / 2 - 0.05)
    flame = cone(radius * 0.5, v(0.4), LIGHT, 6).rotate("x", 180).translate(0, -height / 2 - 0.3)
    out, fins, turn = v(0.48), v.count(3, 4), v.between(0, 90)
    fin = extrude([(0, -0.1), (out * 0.8, -0.5), (out, -0.48), (out * 0.85, -0.1), (0, 0.32)], 0.09)
    fin = fin.translate(radius * 0.72, -height * 0.3)
    window = merge(
        cylinder(radius * 0.5, 0.08, DARK, 10).rotate("x", 90),
        cylinder(radius * 0.36, 0.12, LIGHT, 8).rotate("x", 90),
    ).translate(0, height * 0.05, radius * 0.98)
    return merge(body, band, nozzle, flame, window, *[fin.rotate("y", turn + 360 * k / fins) for k in range(fins)])
