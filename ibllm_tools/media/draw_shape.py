"""3D models and point clouds, drawn from a three-quarter view with a z-buffer: NumPy alone, no GPU and no window.

The camera is orthographic, so that depth, and what lies inside a triangle, is linear in the picture's x and y. Each
covered pixel of each triangle is a fragment; one integer, depth above and the owner's number below, decides which
fragment is seen, so the picture does not depend on the order of the file.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.media.draw_map import colour_scale

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SIDE = 512  # twice the thumbnail's: scaling down smooths the edges
MARGIN = 0.06
TURN, TILT = np.radians(35), np.radians(25)
LIGHT = np.array([-0.45, 0.7, 0.56])  # from the upper left, in front
SKY, GROUND, SUN = 0.44, 0.26, 0.68
PAPER = (248, 250, 252)
CLAY = np.array([236, 163, 96], dtype=np.float64)
LOW_TO_HIGH = ((49, 46, 129), (79, 70, 229), (56, 189, 208), (134, 222, 160), (253, 224, 110))
MOST_FRAGMENTS = 30_000_000  # about two seconds
FRAGMENTS_AT_ONCE = 2_000_000
MOST_SPLATS = 30_000
NOBODY = np.iinfo(np.uint64).max


class ZBuffer:
    """The nearest fragment of each pixel, and whose it is."""

    def __init__(self) -> None:
        self._nearest = np.full(SIDE * SIDE, NOBODY, dtype=np.uint64)

    def add(self, x: Integers, y: Integers, depth: Floats, owner: Integers) -> None:
        """Fragments (n,) at pixels within the picture, with their depth from 0 (near) to 1."""
        far = (np.clip(depth, 0, 1) * 0xFFFFFFFE).astype(np.uint64) << np.uint64(32)
        np.minimum.at(self._nearest, y * SIDE + x, far | owner.astype(np.uint64))

    def seen(self) -> tuple[Integers, Integers]:
        """The pixels that anything covers, and the owner of each, (P,) both."""
        pixels = np.flatnonzero(self._nearest != NOBODY)
        return pixels, (self._nearest[pixels] & np.uint64(0xFFFFFFFF)).astype(np.int64)


def draw_triangles(triangles: Floats) -> NDArray[np.uint8] | None:
    """A surface (F, 3, 3), y up, as RGB (512, 512, 3), shaded by Lambert's law.

    ``None`` when nothing of it is seen (it is thinner than a pixel from here), or when it would take more than some
    seconds: then its points tell more.
    """
    placed = _placed(triangles.reshape(-1, 3)).reshape(-1, 3, 3)
    corner, size = _boxes(placed)
    fragments = size.prod(axis=1)
    if fragments.sum() > MOST_FRAGMENTS:
        return None
    buffer = ZBuffer()
    for chosen in _portions(fragments):
        _rasterise(placed[chosen], corner[chosen], size[chosen], chosen, buffer)
    pixels, owner = buffer.seen()
    if not len(pixels):
        return None
    normals = np.cross(placed[owner, 1] - placed[owner, 0], placed[owner, 2] - placed[owner, 0])  # (P, 3)
    picture = np.full((SIDE * SIDE, 3), PAPER, dtype=np.uint8)
    picture[pixels] = _lit(normals, np.broadcast_to(CLAY, normals.shape))
    return picture.reshape(SIDE, SIDE, 3)


def draw_points(points: Floats) -> NDArray[np.uint8]:
    """A cloud (N, 3), y up, as RGB (512, 512, 3): small balls, coloured by their height."""
    if len(points) > MOST_SPLATS:
        points = points[np.linspace(0, len(points) - 1, MOST_SPLATS).astype(np.int64)]
    placed = _placed(points)
    heights = points[:, 1] - points[:, 1].min()
    radius = float(np.clip(0.35 * SIDE / np.sqrt(len(points)), 2.5, 11))
    reach = int(radius)
    columns, rows = placed[:, :2].astype(np.int64).T
    buffer = ZBuffer()
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            bulge = radius**2 - dx**2 - dy**2
            if bulge > 0:
                x, y = columns + dx, rows + dy
                inside = np.flatnonzero((x >= 0) & (x < SIDE) & (y >= 0) & (y < SIDE))
                depth = (placed[inside, 2] - np.sqrt(bulge)) / SIDE
                buffer.add(x[inside], y[inside], depth, inside)
    pixels, owner = buffer.seen()
    dx, dy = pixels % SIDE - columns[owner], pixels // SIDE - rows[owner]
    normals = np.stack([dx, dy, -np.sqrt(radius**2 - dx**2 - dy**2)], axis=1)  # (P, 3)
    colours = colour_scale(heights[owner] / max(heights.max(), np.finfo(np.float64).tiny), LOW_TO_HIGH)
    picture = np.full((SIDE * SIDE, 3), PAPER, dtype=np.uint8)
    picture[pixels] = _lit(normals, colours)
    return picture.reshape(SIDE, SIDE, 3)


def _placed(points: Floats) -> Floats:
    """Points (N, 3) in the picture: x to the right and y down in pixels, and depth away from us on the same scale."""
    centred = points - (points.min(axis=0) + points.max(axis=0)) / 2
    turn = np.array([[np.cos(TURN), 0, np.sin(TURN)], [0, 1, 0], [-np.sin(TURN), 0, np.cos(TURN)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])
    seen = centred @ (tilt @ turn).T * (1, -1, -1)
    low, high = seen.min(axis=0), seen.max(axis=0)
    scale = SIDE * (1 - 2 * MARGIN) / max(float((high - low).max()), np.finfo(np.float64).tiny)
    placed: Floats = (seen - (low + high) / 2) * scale + SIDE / 2
    return placed


def _boxes(placed: Floats) -> tuple[Integers, Integers]:
    """The first pixel (F, 2) and the size (F, 2) of each triangle's box: the pixels with their centre within it."""
    first = np.ceil(placed[:, :, :2].min(axis=1) - 0.5).astype(np.int64)
    last = np.floor(placed[:, :, :2].max(axis=1) - 0.5).astype(np.int64)
    return first, np.maximum(last - first + 1, 0)


def _portions(fragments: Integers) -> Iterator[Integers]:
    """The triangles' numbers, in portions of bounded work, without those that cover no pixel."""
    covering = np.flatnonzero(fragments)
    portion = np.cumsum(fragments[covering]) // FRAGMENTS_AT_ONCE
    return iter(np.split(covering, np.flatnonzero(np.diff(portion)) + 1)) if len(covering) else iter(())


def _rasterise(triangles: Floats, corner: Integers, size: Integers, numbers: Integers, buffer: ZBuffer) -> None:
    """Add the pixels whose centre lies within a triangle, by the signs of its barycentric coordinates."""
    count = size.prod(axis=1)
    which = np.repeat(np.arange(len(triangles)), count)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    x = corner[which, 0] + nth % size[which, 0]
    y = corner[which, 1] + nth // size[which, 0]
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    solid = np.where(area == 0, np.inf, area)[which]
    px, py = x + 0.5 - a[which, 0], y + 0.5 - a[which, 1]
    to_b = (px * (c - a)[which, 1] - py * (c - a)[which, 0]) / solid
    to_c = (py * (b - a)[which, 0] - px * (b - a)[which, 1]) / solid
    inside = (to_b >= 0) & (to_c >= 0) & (to_b + to_c <= 1) & np.isfinite(solid)
    depth = a[which, 2] + to_b * (b - a)[which, 2] + to_c * (c - a)[which, 2]
    buffer.add(x[inside], y[inside], depth[inside] / SIDE, numbers[which[inside]])


def _lit(normals: Floats, colours: Floats) -> NDArray[np.uint8]:
    """Colours (P, 3) under the light; a surface is seen from whichever side faces us."""
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    unit = normals / np.where(length == 0, 1, length) * (1, -1, -1)  # the picture's y goes down, its depth away
    unit = np.where(unit[:, 2:] < 0, -unit, unit)
    sun = np.maximum(unit @ (LIGHT / np.linalg.norm(LIGHT)), 0)
    ambient = GROUND + (SKY - GROUND) * (unit[:, 1] + 1) / 2
    lit: NDArray[np.uint8] = np.clip(colours * (ambient + SUN * sun)[:, None], 0, 255).astype(np.uint8)
    return lit
