"""Shapes from outside the world that teach the model what it does not know: nonsense first of all, then real things."""

import numpy as np
from numpy.typing import NDArray

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
    loft,
    merge,
    mirrored,
    torus,
    tube,
)
from ibllm_tools.mini.world.shapes.variation import Variation

_ACCENT_LIMIT = 0.4


def accented(v: Variation, parts: list[Mesh]) -> Mesh:
    """The parts as one mesh, with some of the smaller ones dark or light, never more than 40 % of the surface."""
    areas = [float(part.areas().sum()) for part in parts]
    left = _ACCENT_LIMIT * sum(areas)
    painted = []
    for part, area in zip(parts, areas, strict=True):
        accent = area < left and v.maybe(0.4)
        left -= area if accent else 0.0
        painted.append(part.paint(DARK if v.maybe() else LIGHT) if accent else part)
    return merge(*painted)


def _primitive(v: Variation) -> Mesh:
    a, b, c = (v.between(0.18, 0.6) for _ in range(3))
    match v.count(0, 8):
        case 0:
            return box(2 * a, 2 * b, 2 * c, taper=v.between(0.3, 1.3))
        case 1:
            return cylinder(a, 2.5 * b, segments=v.count(3, 10))
        case 2:
            return cone(a, 2.5 * b, segments=v.count(3, 10))
        case 3:
            return ellipsoid(a, b, c, rings=5, segments=8)
        case 4:
            return torus(a, 0.35 * b, segments=10, sides=5)
        case 5:
            return torus(a, 0.3 * b, span=(0, v.between(120, 300)), segments=9, sides=5)
        case 6:
            return extrude(_star_outline(v.count(3, 7), a, a * v.between(0.3, 0.9)), 0.5 * b)
        case 7:
            return box(0.16, 3 * a, 0.16)
        case _:
            return frustum(a, b, c, segments=v.count(4, 10))


def _star_outline(points: int, outer: float, inner: float) -> NDArray[np.float64]:
    angle = np.arange(2 * points) * np.pi / points + np.pi / 2
    radius = np.where(np.arange(2 * points) % 2 == 0, outer, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _tumble(v: Variation, mesh: Mesh) -> Mesh:
    return mesh.rotate("x", v.between(0, 360)).rotate("y", v.between(0, 360)).rotate("z", v.between(0, 360))


def _height(mesh: Mesh) -> tuple[float, float]:
    return float(mesh.vertices[:, 1].min()), float(mesh.vertices[:, 1].max())


def stack(v: Variation) -> Mesh:
    """Primitives piled on each other."""
    parts, top = [], 0.0
    for _ in range(v.count(2, 5)):
        part = _primitive(v)
        if v.maybe(0.3):
            part = part.rotate("z" if v.maybe() else "x", 90)
        low, high = _height(part)
        parts.append(part.translate(v.between(-0.15, 0.15), top - low - 0.03, v.between(-0.15, 0.15)))
        top += high - low
    return accented(v, parts)


def assembly(v: Variation) -> Mesh:
    """Primitives at all angles, each stuck to one of those before it."""
    parts = [_tumble(v, _primitive(v))]
    for _ in range(v.count(2, 6)):
        host = parts[v.count(0, len(parts) - 1)]
        spot = host.vertices[v.count(0, len(host.vertices) - 1)]
        parts.append(_tumble(v, _primitive(v)).translate(*spot.tolist()))
    return accented(v, parts)


def symmetric_assembly(v: Variation) -> Mesh:
    """Primitives stuck together, with left and right alike, as in things that somebody designed."""
    parts = [_primitive(v)]
    for _ in range(v.count(1, 4)):
        host = parts[v.count(0, len(parts) - 1)]
        spot = host.vertices[v.count(0, len(host.vertices) - 1)]
        part = _primitive(v)
        part = _tumble(v, part) if v.maybe() else part.rotate("xyz"[v.count(0, 2)], 90)
        parts.append(part.scale(0.8).translate(*spot.tolist()))
    return accented(v, [mirrored(part, "x") for part in parts])


def radial_assembly(v: Variation) -> Mesh:
    """A core with the same limb repeated around it."""
    core, limb = _primitive(v), _primitive(v).scale(0.7)
    limb = limb.rotate("z", v.between(0, 180)).translate(v.between(0.4, 0.8), v.between(-0.4, 0.4))
    limbs = v.count(3, 7)
    whole = accented(v, [core, *[limb.rotate("y", 360 * k / limbs) for k in range(limbs)]])
    return whole.rotate("x", 90) if v.maybe() else whole


def block_pile(v: Variation) -> Mesh:
    """Cubes of one size grown into a clump on a grid."""
    cells = [(0, 0, 0)]
    while len(cells) < v.count(5, 12):
        x, y, z = cells[v.count(0, len(cells) - 1)]
        step = [0, 0, 0]
        step[v.count(0, 2)] = 1 if v.maybe() else -1
        cell = (x + step[0], y + step[1], z + step[2])
        if cell not in cells:
            cells.append(cell)
    gap = v.between(0.8, 1.0)
    return accented(v, [box(gap, gap, gap).translate(x, y, z) for x, y, z in cells])


def twisted_prism(v: Variation) -> Mesh:
    """A prism with a polygon or star for its base, twisted and tapered on the way up."""
    points = v.count(2, 5)
    outline = _star_outline(points, 0.5, v.between(0.2, 0.5)) * (v.between(0.5, 1.0), 1.0)
    levels = np.linspace(0, 1, 9)
    angle = levels * v.between(0.6, 4.0) * (1 if v.maybe() else -1)
    size = 1 + (v.between(0.3, 1.4) - 1) * levels
    x, z = outline[:, 0], -outline[:, 1]
    rings = np.stack(
        [
            size[:, None] * (np.cos(angle)[:, None] * x + np.sin(angle)[:, None] * z),
            np.broadcast_to(levels[:, None] * v.between(0.8, 2.2), (9, len(x))),
            size[:, None] * (np.cos(angle)[:, None] * z - np.sin(angle)[:, None] * x),
        ],
        axis=-1,
    )  # (9, S, 3)
    roles = [v.count(0, 2) if v.maybe(0.2) else BODY for _ in range(8)]
    return loft(rings, roles if roles.count(BODY) > 4 else BODY)


def spiky_blob(v: Variation) -> Mesh:
    """A lump with spikes in all directions."""
    core = ellipsoid(v.between(0.3, 0.6), v.between(0.3, 0.6), v.between(0.3, 0.6), rings=5, segments=8)
    spikes = []
    reach = v.between(0.3, 0.8)
    for _ in range(v.count(7, 18)):
        spike = cone(v.between(0.08, 0.2), v(reach, 0.3), segments=5).translate(0, 0.35 + reach / 2)
        spikes.append(_tumble(v, spike))
    return accented(v, [core, *spikes])


def bumpy_blob(v: Variation) -> Mesh:
    """A lump with waves all over it."""
    sphere = ellipsoid(1, 1, 1, rings=10, segments=14)
    waves = v.rng.normal(0, 2.2, (4, 3))
    bulge = 1 + v.between(0.15, 0.32) * np.sin(sphere.vertices @ waves.T).sum(axis=1)
    lump = Mesh((sphere.vertices * bulge[:, None]).astype(np.float32), sphere.faces, sphere.roles)
    return _tumble(v, lump.scale(1, v.between(0.4, 1), v.between(0.4, 1)))


def knot(v: Variation) -> Mesh:
    """A torus knot or a wavy ring."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    p, q = ((2, 3), (3, 2), (2, 5), (1, 4), (1, 3), (3, 4))[v.count(0, 5)]
    radius = 1 + v.between(0.3, 0.5) * np.cos(q * turn)
    line = np.stack([radius * np.cos(p * turn), radius * np.sin(p * turn), 0.5 * np.sin(q * turn)], axis=1)
    return _tumble(v, tube(line, v.between(0.08, 0.2), sides=5, closed=True))


def tangle(v: Variation) -> Mesh:
    """A wire bent at random, with or without a bead at each end."""
    steps = v.rng.normal(0, 0.5, (v.count(4, 9), 3))
    steps[:, v.count(0, 2)] *= v.between(0.1, 1.0)
    line = np.cumsum(steps, axis=0)
    parts = [tube(line, v.between(0.06, 0.18), sides=5)]
    if v.maybe():
        bead = ellipsoid(0.25, 0.25, 0.25, rings=4, segments=7)
        parts += [bead.translate(*line[0].tolist()), bead.translate(*line[-1].tolist())]
    return accented(v, parts)


def spiral(v: Variation) -> Mesh:
    """A coil spring, a flat spiral, or a snail's shell."""
    turn = np.linspace(0, v.between(2, 4) * 2 * np.pi, 34)
    grow = np.linspace(1, v.between(0.1, 1.0), 34)
    line = np.stack([grow * np.cos(turn), turn * v.between(0.0, 0.14), grow * np.sin(turn)], axis=1) * (0.6, 1, 0.6)
    coil = tube(line, (v.between(0.07, 0.16) * grow).tolist(), sides=5)
    return coil.rotate("x", 90) if v.maybe() else coil


def random_lathe(v: Variation) -> Mesh:
    """A turned thing with a random profile: a vase, a chess piece, a spinning top."""
    count = v.count(4, 9)
    profile = np.stack([v.rng.uniform(0.08, 0.7, count), np.linspace(0, v.between(0.6, 2.0), count)], axis=1)
    roles = [v.count(1, 2) if v.maybe(0.2) else BODY for _ in range(count - 1)]
    turned = lathe(profile, roles if roles.count(BODY) * 2 > count else BODY, v.count(4, 14))
    return turned.rotate("z", 90) if v.maybe(0.2) else turned


def random_plate(v: Variation) -> Mesh:
    """A flat cut-out with a random outline, sometimes several of them in a row."""
    count = v.count(5, 12)
    angle = np.arange(count) * 2 * np.pi / count
    radius = v.rng.uniform(0.3, 1.0, count)
    outline = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    plate = extrude(outline, v.between(0.1, 0.5))
    layers = v.count(1, 3)
    return accented(v, [plate.scale(1 - 0.2 * k).translate(0, 0, 0.4 * k) for k in range(layers)])


def chair(v: Variation) -> Mesh:
    """A chair or stool."""
    width, depth, tall, thick = v(0.45), v(0.45), v(0.8, 0.3), v(0.06)
    leg = box(2 * thick, tall, 2 * thick)
    legs = [leg.translate(sx * (width - thick), -tall / 2, sz * (depth - thick)) for sx in (-1, 1) for sz in (-1, 1)]
    back = v(0.9)
    rails = [box(2 * width, back * 0.14, 0.08).translate(0, back * y, -depth) for y in (0.5, 0.75, 1.0)]
    posts = [box(2 * thick, back, 0.08).translate(s * (width - thick), back / 2, -depth) for s in (-1, 1)]
    seat = box(2 * width, 0.12, 2 * depth)
    return accented(v, [seat, *legs, *([*rails, *posts] if v.maybe(0.75) else [])]).rotate("y", v.between(-40, 40))


def table(v: Variation) -> Mesh:
    """A table: square or round, on four legs or on one."""
    top = box(v(1.7), 0.12, v(1.1)) if v.maybe() else cylinder(v(0.8), 0.12)
    tall = v(0.8, 0.3)
    if v.maybe(0.4):
        return accented(v, [top, cylinder(0.1, tall).translate(0, -tall / 2), cylinder(0.4, 0.08).translate(0, -tall)])
    leg = cylinder(v(0.07), tall, segments=6).translate(0, -tall / 2)
    return accented(v, [top, *[leg.translate(sx * 0.5, 0, sz * 0.35) for sx in (-1, 1) for sz in (-1, 1)]])


def ladder(v: Variation) -> Mesh:
    """A ladder, a shelf or a fence: two posts and what is between them."""
    tall, width, rungs = v(2.0), v(0.7, 0.4), v.count(3, 7)
    depth = 0.1 if v.maybe() else v(0.5)
    rung = box(width, 0.09, depth)
    levels = [rung.translate(0, tall * (k / (rungs - 1) - 0.5) * 0.85) for k in range(rungs)]
    post = box(0.12, tall, max(0.12, depth)).translate(width / 2)
    whole = accented(v, [mirrored(post, "x"), *levels])
    return whole.rotate("z", 90) if v.maybe(0.3) else whole


def mushroom(v: Variation) -> Mesh:
    """A mushroom, a lamp or a parasol: a cap on a stem."""
    cap_radius, cap_height, tall = v(0.7, 0.3), v(0.45, 0.5), v(1.0, 0.5)
    cap = lathe(
        [(cap_radius, 0), (cap_radius * v.between(0.4, 0.95), cap_height * 0.6), (v.between(0, 0.3), cap_height)]
    )
    stem = frustum(v.between(0.05, 0.3), v.between(0.05, 0.2), tall, segments=8).translate(0, -tall / 2)
    parts = [cap, stem]
    if v.maybe():
        parts.append(cylinder(v.between(0.3, 0.5), 0.1).translate(0, -tall))
    return accented(v, parts)


def dumbbell(v: Variation) -> Mesh:
    """Two equal ends on a bar."""
    reach = v(0.75)
    end = _primitive(v)
    bar = cylinder(v.between(0.05, 0.2), 2 * reach, segments=6).rotate("z", 90)
    return accented(v, [bar, mirrored(end.translate(reach), "x")]).rotate("z", v.between(0, 180))


def cactus(v: Variation) -> Mesh:
    """An upright stem with bent arms."""
    tall, thick = v(1.6), v(0.2)
    parts = [tube([(0, 0, 0), (0, tall, 0)], thick, sides=7), frustum(0.25, 0.4, 0.35).translate(0, -0.1)]
    for _ in range(v.count(1, 4)):
        y, out, up = tall * v.between(0.25, 0.6), v(0.5), v(0.5)
        arm = tube([(0, y, 0), (out, y + 0.05, 0), (out, y + up, 0)], thick * 0.7, sides=6)
        parts.append(arm.rotate("y", v.between(0, 360)))
    return accented(v, parts)
