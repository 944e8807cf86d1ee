"""Triangle meshes with a colour role per face, and the primitives that things are built from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BODY, DARK, LIGHT = 0, 1, 2
"""Colour roles of a face: the thing's own colour, dark details, light details."""

_AXES = {"x": 0, "y": 1, "z": 2}
_FIT_STEPS = 24


@dataclass(frozen=True, slots=True)
class Mesh:
    """A triangle mesh; y is up, the front looks along +z.

    Attributes:
        vertices: (V, 3) float32.
        faces: (F, 3) int64, counter-clockwise seen from outside.
        roles: (F,) int64, one of ``BODY``, ``DARK``, ``LIGHT``.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int64]
    roles: NDArray[np.int64]

    def translate(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> "Mesh":
        """The mesh moved by (x, y, z)."""
        return Mesh(self.vertices + np.array((x, y, z), np.float32), self.faces, self.roles)

    def rotate(self, axis: str, degrees: float) -> "Mesh":
        """The mesh turned about the ``"x"``, ``"y"`` or ``"z"`` axis through the origin, right-handed."""
        i, j = (_AXES[axis] + 1) % 3, (_AXES[axis] + 2) % 3
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turned = self.vertices.copy()
        turned[:, i] = cos * self.vertices[:, i] - sin * self.vertices[:, j]
        turned[:, j] = sin * self.vertices[:, i] + cos * self.vertices[:, j]
        return Mesh(turned, self.faces, self.roles)

    def scale(self, x: float, y: float | None = None, z: float | None = None) -> "Mesh":
        """The mesh stretched by (x, y, z), or by ``x`` in all directions; a mirrored mesh keeps its outside outside."""
        factors = (x, x if y is None else y, x if z is None else z)
        faces = self.faces if math.prod(factors) > 0 else self.faces[:, ::-1]
        return Mesh(self.vertices * np.array(factors, np.float32), faces, self.roles)

    def paint(self, role: int) -> "Mesh":
        """The mesh with all its faces in one role."""
        return Mesh(self.vertices, self.faces, np.full_like(self.roles, role))

    def areas(self) -> NDArray[np.float32]:
        """The area of each face, (F,)."""
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))  # each (F, 3)
        doubled = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        return (doubled / 2).astype(np.float32)

    def fit(self) -> "Mesh":
        """The mesh centred on its bounding sphere and scaled to radius 1.

        The centre comes from Badoiu and Clarkson's iteration: step towards the farthest vertex with shrinking steps.
        """
        centre = (self.vertices.min(axis=0) + self.vertices.max(axis=0)) / 2
        for step in range(_FIT_STEPS):
            offsets = self.vertices - centre
            centre = centre + offsets[np.argmax((offsets**2).sum(axis=1))] / (step + 8)
        centred = self.vertices - centre
        radius = np.sqrt((centred**2).sum(axis=1).max())
        return Mesh((centred / radius).astype(np.float32), self.faces, self.roles)


def merge(*meshes: Mesh) -> Mesh:
    """One mesh with the vertices and faces of all."""
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]),
        np.concatenate([mesh.roles for mesh in meshes]),
    )


def mirrored(mesh: Mesh, axis: str = "z") -> Mesh:
    """The mesh together with its mirror image across the plane through the origin that is normal to ``axis``."""
    factors = {name: -1.0 if name == axis else 1.0 for name in _AXES}
    return merge(mesh, mesh.scale(**factors))


def loft(rings: ArrayLike, role: int | Sequence[int] = BODY, closed: bool = False) -> Mesh:
    """A skin over rings of points, the way most primitives here are made.

    Args:
        rings: (R, S, 3) points; each ring runs counter-clockwise seen from where the next rings are.
        role: one role, or one for each of the R - 1 bands between rings (R bands if closed); the caps take the
            role of their band.
        closed: whether the last ring joins the first; an open skin gets a cap at each end that is not a point.
    """
    points = np.asarray(rings, np.float32)
    count, size = points.shape[:2]
    bands = count if closed else count - 1
    band_roles = np.broadcast_to(np.asarray(role, np.int64), (bands,))
    lower = np.arange(bands)[:, None] * size + np.arange(size)  # (bands, S)
    upper = (np.arange(bands)[:, None] + 1) % count * size + np.arange(size)
    right, upper_right = np.roll(lower, -1, axis=1), np.roll(upper, -1, axis=1)
    first = np.stack([lower, right, upper_right], axis=-1)  # (bands, S, 3)
    second = np.stack([lower, upper_right, upper], axis=-1)
    faces = [np.stack([first, second], axis=2).reshape(-1, 3)]
    roles = [np.repeat(band_roles, 2 * size)]
    vertices = [points.reshape(-1, 3)]
    if not closed:
        centres = points[[0, -1]].mean(axis=1)
        vertices.append(centres)
        around = np.arange(size)
        following = np.roll(around, -1)
        last = (count - 1) * size
        start, end = np.full(size, count * size), np.full(size, count * size + 1)
        faces += [np.stack([start, following, around], 1), np.stack([end, last + around, last + following], 1)]
        roles += [np.full(size, band_roles[0]), np.full(size, band_roles[-1])]
    return _without_slivers(Mesh(np.concatenate(vertices), np.concatenate(faces), np.concatenate(roles)))


def _without_slivers(mesh: Mesh) -> Mesh:
    areas = mesh.areas()
    solid = areas > 1e-6 * areas.max()
    return Mesh(mesh.vertices, mesh.faces[solid], mesh.roles[solid])


def box(width: float, height: float, depth: float, role: int = BODY, taper: float = 1.0) -> Mesh:
    """A box around the origin, (width, height, depth) along (x, y, z); its top is ``taper`` times as large."""
    x, y, z = width / 2, height / 2, depth / 2
    corners = np.array([(-x, -z), (-x, z), (x, z), (x, -z)])
    vertices = np.empty((8, 3), np.float32)
    vertices[:4, [0, 2]], vertices[4:, [0, 2]] = corners, corners * taper
    vertices[:4, 1], vertices[4:, 1] = -y, y
    return Mesh(vertices, _BOX_FACES, np.full(len(_BOX_FACES), role, np.int64))


_BOX_FACES = np.array(
    [(0, 2, 1), (0, 3, 2), (4, 5, 6), (4, 6, 7)]
    + [face for k in range(4) for face in ((k, (k + 1) % 4, (k + 1) % 4 + 4), (k, (k + 1) % 4 + 4, k + 4))],
    np.int64,
)


def lathe(profile: ArrayLike, role: int | Sequence[int] = BODY, segments: int = 12) -> Mesh:
    """The surface of revolution about y of a profile: (N, 2) pairs (radius, y) from the bottom to the top.

    ``role`` may name one role for each of the N - 1 bands.
    """
    radius, height = np.asarray(profile, np.float32).T  # each (N,)
    angle = np.arange(segments) * (2 * np.pi / segments)
    rings = np.empty((len(radius), segments, 3), np.float32)
    rings[..., 0] = radius[:, None] * np.sin(angle)
    rings[..., 1] = height[:, None]
    rings[..., 2] = radius[:, None] * np.cos(angle)
    return loft(rings, role)


def frustum(bottom: float, top: float, height: float, role: int = BODY, segments: int = 12) -> Mesh:
    """A cut cone along y around the origin; a cylinder if both radii are equal, a cone if one is 0."""
    return lathe([(bottom, -height / 2), (top, height / 2)], role, segments)


def cylinder(radius: float, height: float, role: int = BODY, segments: int = 12) -> Mesh:
    """A cylinder along y around the origin."""
    return frustum(radius, radius, height, role, segments)


def cone(radius: float, height: float, role: int = BODY, segments: int = 12) -> Mesh:
    """A cone along y around the origin, tip up."""
    return frustum(radius, 0.0, height, role, segments)


def ellipsoid(
    x: float, y: float, z: float, role: int | Sequence[int] = BODY, rings: int = 6, segments: int = 10
) -> Mesh:
    """An ellipsoid with half-axes (x, y, z); ``role`` may name one for each of the ``rings`` bands, bottom first."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)
    profile = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    profile[[0, -1], 0] = 0.0
    return lathe(profile, role, segments).scale(x, y, z)


def tube(
    points: ArrayLike,
    radius: float | Sequence[float],
    role: int | Sequence[int] = BODY,
    sides: int = 6,
    closed: bool = False,
) -> Mesh:
    """A round tube along a polyline.

    Args:
        points: (N, 3) centre line.
        radius: one radius, or one for each point.
        role: one role, or one for each stretch between points.
        sides: how many sides the cross-section has.
        closed: whether the last point joins the first.
    """
    line = np.asarray(points, np.float64)
    ahead = np.roll(line, -1, axis=0) - np.roll(line, 1, axis=0)
    if not closed:
        ahead[0], ahead[-1] = line[1] - line[0], line[-1] - line[-2]
    tangents = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)  # (N, 3)
    normals = np.empty_like(tangents)
    normal = np.eye(3)[np.argmin(np.abs(tangents[0]))]
    for index, tangent in enumerate(tangents):
        normal = normal - tangent * (normal @ tangent)
        normal = normal / np.linalg.norm(normal)
        normals[index] = normal
    binormals = np.cross(tangents, normals)
    angle = np.arange(sides) * (2 * np.pi / sides)
    circle = normals[:, None] * np.cos(angle)[:, None] + binormals[:, None] * np.sin(angle)[:, None]  # (N, sides, 3)
    radii = np.broadcast_to(np.asarray(radius, np.float64), (len(line),))
    return loft(line[:, None] + circle * radii[:, None, None], role, closed)


def arc(radius: float, start: float, end: float, count: int = 8) -> NDArray[np.float64]:
    """``count`` points (count, 3) on a circle in the xy plane, from ``start`` to ``end`` degrees."""
    angle = np.radians(np.linspace(start, end, count))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(count)], axis=1)


def torus(
    major: float,
    minor: float,
    role: int = BODY,
    span: tuple[float, float] = (0.0, 360.0),
    segments: int = 14,
    sides: int = 6,
) -> Mesh:
    """A ring in the xy plane around the origin, or the part of it between the two angles of ``span``, in degrees."""
    if span[1] - span[0] >= 360:
        return tube(arc(major, 0, 360, segments + 1)[:-1], minor, role, sides, closed=True)
    return tube(arc(major, *span, segments), minor, role, sides)


def extrude(outline: ArrayLike, depth: float, role: int = BODY) -> Mesh:
    """A plate of the given depth along z, around z = 0.

    Args:
        outline: (N, 2) polygon in the xy plane, counter-clockwise; every corner must be visible from the mean of
            the corners.
        depth: thickness.
        role: the role of all faces.
    """
    flat = np.asarray(outline, np.float32)
    rings = np.empty((2, len(flat), 3), np.float32)
    rings[..., :2] = flat
    rings[0, :, 2], rings[1, :, 2] = -depth / 2, depth / 2
    return loft(rings, role)
