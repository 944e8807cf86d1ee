"""A small software renderer: flat-shaded triangles in perspective over a soft backdrop, with depth.

Camera coordinates are metres: x to the right, y up, the camera at the origin looking along -z, so that depth is ``-z``.
Hidden surfaces are resolved with a z-buffer over exact scanline spans. No face is culled: meshes may be open.
"""

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import InvalidRequestError

BACKGROUND = -1
"""The instance index of a pixel that shows no thing."""

Floats = NDArray[np.floating]

_SUPERSAMPLING = 2
_NEAR = 0.05
_FACE_BITS = 20
_DEPTH_STEPS = 2.0**24
_EMPTY = np.iinfo(np.int64).max
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_MAX_FACES = 1 << _FACE_BITS


@dataclass(frozen=True, slots=True)
class Body:
    """A thing in front of the camera.

    Attributes:
        vertices: (V, 3) in camera coordinates.
        faces: (F, 3) vertex indices.
        colours: (F, 3) sRGB in [0, 1], one for each face.
    """

    vertices: Floats
    faces: NDArray[np.int64]
    colours: Floats


@dataclass(frozen=True, slots=True)
class Light:
    """A distant light: a face that looks at it has brightness ``ambient + diffuse``, one that looks away ``ambient``.

    Attributes:
        direction: (3,) unit vector towards the light.
        ambient: brightness without the light.
        diffuse: what the light adds at most.
    """

    direction: Floats
    ambient: float
    diffuse: float


@dataclass(frozen=True, slots=True)
class Ground:
    """A plane under the things, with a soft round shadow for each.

    Attributes:
        point: (3,) a point of the plane.
        normal: (3,) its unit normal, upwards.
        colour: (3,) sRGB.
        shadow_centres: (S, 3) on the plane.
        shadow_radii: (S,) metres.
        shadow_strength: share of the light that a shadow takes away in its middle.
    """

    point: Floats
    normal: Floats
    colour: Floats
    shadow_centres: Floats
    shadow_radii: Floats
    shadow_strength: float


@dataclass(frozen=True, slots=True)
class Backdrop:
    """What is behind the things.

    Attributes:
        colours: (2, 3) sRGB; a gradient runs from the first to the second.
        angle: direction of the gradient in the image, radians.
        noise: (G, G, 3) added after a bilinear enlargement to the image; zeros for a smooth backdrop.
        distance: depth of the backdrop, metres.
        ground: the plane on which the things stand, or ``None``.
    """

    colours: Floats
    angle: float
    noise: Floats
    distance: float
    ground: Ground | None = None


@dataclass(frozen=True, slots=True)
class Rendering:
    """An image and its geometry.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float32, metres along the viewing axis, finite everywhere.
        instances: (H, W) int8, the index of the body seen, ``BACKGROUND`` elsewhere.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    instances: NDArray[np.int8]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W), true where a thing is seen."""
        return self.instances != BACKGROUND


def render(
    bodies: list[Body],
    light: Light,
    backdrop: Backdrop,
    *,
    tan_half_view: float,
    size: int,
    greyscale: bool = False,
) -> Rendering:
    """Render bodies as a square image with 2x2 samples a pixel.

    Args:
        bodies: the things, at most 127 with at most 2**20 faces together.
        light: the light on the things.
        backdrop: what is behind them.
        tan_half_view: tangent of half the angle of view.
        size: height and width in pixels.
        greyscale: return the luminance in three equal channels.

    Raises:
        InvalidRequestError: no pixels, or too many faces.
    """
    if size < 1:
        raise InvalidRequestError(f"size is {size}, expected at least 1 pixel")
    triangles, colours, owners = _gather(bodies)
    samples = size * _SUPERSAMPLING
    z_buffer = _rasterise(triangles, tan_half_view, samples)
    seen = z_buffer != _EMPTY
    # The last entry of each table stands for "nothing": black without an owner.
    face = np.where(seen, z_buffer & (_MAX_FACES - 1), len(owners) - 1)
    lit = np.vstack([_shade(triangles, colours, light), np.zeros(3)])

    background, background_depth = _paint_backdrop(backdrop, tan_half_view, size)
    coverage = _pool(seen.astype(np.float64), size)
    rgb = _pool(lit[face], size) + (1 - coverage)[..., None] * background
    if greyscale:
        rgb = np.repeat((rgb @ _LUMINANCE)[..., None], 3, axis=-1)
    solid = coverage >= 0.5
    depth = np.where(seen, (z_buffer >> _FACE_BITS) / _DEPTH_STEPS, 0.0)
    depth = np.where(solid, _pool(depth, size) / np.maximum(coverage, 0.25), background_depth)
    owner = owners[face].reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING).max(axis=(1, 3))
    return Rendering(
        rgb=np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8),
        depth=depth.astype(np.float32),
        instances=np.where(solid, owner, BACKGROUND).astype(np.int8),
    )


def _gather(bodies: list[Body]) -> tuple[Floats, Floats, NDArray[np.int8]]:
    """Triangles (F, 3, 3) and colours (F, 3) of all bodies, and owners (F + 1,) closed by ``BACKGROUND``."""
    triangles = np.concatenate([np.empty((0, 3, 3)), *(body.vertices[body.faces] for body in bodies)])
    if len(triangles) >= _MAX_FACES:
        raise InvalidRequestError(f"{len(triangles)} faces to render, expected fewer than {_MAX_FACES}")
    colours = np.concatenate([np.empty((0, 3)), *(body.colours for body in bodies)])
    counts = [*(len(body.faces) for body in bodies), 1]
    owners = np.repeat([*range(len(bodies)), BACKGROUND], counts).astype(np.int8)
    return triangles, colours, owners


def _shade(triangles: Floats, colours: Floats, light: Light) -> Floats:
    """Lambert's law with flat normals that look at the camera, whichever way the face is wound."""
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    normals *= np.where((normals * triangles[:, 0]).sum(-1, keepdims=True) > 0, -1.0, 1.0)
    brightness = light.ambient + light.diffuse * np.maximum(normals @ light.direction, 0)
    return np.minimum(colours * brightness[:, None], 1.0)


def _rasterise(triangles: Floats, tan_half_view: float, samples: int) -> NDArray[np.int64]:
    """The nearest face at each sample, as ``depth << _FACE_BITS | face``, (samples, samples)."""
    z_buffer = np.full(samples * samples, _EMPTY)
    kept = np.flatnonzero((-triangles[:, :, 2] > _NEAR).all(axis=1))
    depth = -triangles[kept, :, 2]
    scale = samples / (2 * tan_half_view) / depth
    x = samples / 2 + triangles[kept, :, 0] * scale  # (F, 3)
    y = samples / 2 - triangles[kept, :, 1] * scale
    face, row, start, count = _spans(x, y, samples)
    gradient = _inverse_depth_plane(x, y, 1 / depth)  # (3, F): per column, per row, constant
    at_row = gradient[1, face] * (row + 0.5) + gradient[2, face] + gradient[0, face] * 0.5
    span, offset = _count_up(count)
    column = start[span] + offset
    fragment_depth = 1 / (at_row[span] + gradient[0, face][span] * column)
    # Beyond the triangle's own range only by rounding, near edges seen from the side.
    nearest, farthest = depth.min(axis=1)[face][span], depth.max(axis=1)[face][span]
    fragment_depth = np.clip(fragment_depth, nearest, farthest)
    key = ((fragment_depth * _DEPTH_STEPS).astype(np.int64) << _FACE_BITS) | kept[face][span]
    np.minimum.at(z_buffer, (row * samples)[span] + column, key)
    return z_buffer.reshape(samples, samples)


def _spans(x: Floats, y: Floats, samples: int) -> tuple[NDArray[np.int64], ...]:
    """The runs of sample centres inside each triangle: face, row, first column and length of each run."""
    first = np.clip(np.ceil(y.min(axis=1) - 0.5), 0, samples).astype(np.int64)
    last = np.clip(np.floor(y.max(axis=1) - 0.5), -1, samples - 1).astype(np.int64)
    face, offset = _count_up(np.maximum(last - first + 1, 0))
    row = first[face] + offset

    next_x, next_y = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    rise = next_y - y
    area = (x * next_y - next_x * y).sum(axis=1, keepdims=True)
    level = np.abs(rise) < 1e-9
    slope = np.where(level, 0, (next_x - x) / np.where(level, 1, rise))
    intercept = x - slope * y
    left = rise * area < 0  # the edge bounds the triangle from the left
    crossing = slope[face] * (row + 0.5)[:, None] + intercept[face]  # (R, 3): where the edges cross each row
    begin = np.where((left & ~level)[face], crossing, -inf).max(axis=1)
    end = np.where((~left & ~level)[face], crossing, inf).min(axis=1)
    # The slack closes cracks between neighbours whose shared edge was rounded differently.
    start = np.ceil(np.clip(begin - 0.5 - 1e-6, 0, samples)).astype(np.int64)
    stop = np.floor(np.clip(end - 0.5 + 1e-6, -1, samples - 1)).astype(np.int64)
    count = np.where((area != 0)[face, 0], np.maximum(stop - start + 1, 0), 0)
    return face, row, start, count


def _inverse_depth_plane(x: Floats, y: Floats, inverse_depth: Floats) -> Floats:
    """The plane ``a x + b y + c`` through the inverse depths, which are linear in the image; (3, F)."""
    dx1, dy1, dw1 = x[:, 1] - x[:, 0], y[:, 1] - y[:, 0], inverse_depth[:, 1] - inverse_depth[:, 0]
    dx2, dy2, dw2 = x[:, 2] - x[:, 0], y[:, 2] - y[:, 0], inverse_depth[:, 2] - inverse_depth[:, 0]
    area = dx1 * dy2 - dx2 * dy1
    area = np.where(area == 0, 1.0, area)
    a = (dw1 * dy2 - dw2 * dy1) / area
    b = (dx1 * dw2 - dx2 * dw1) / area
    return np.stack([a, b, inverse_depth[:, 0] - a * x[:, 0] - b * y[:, 0]])


def _count_up(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For counts (2, 3): owners (0, 0, 1, 1, 1) and positions (0, 1, 0, 1, 2)."""
    owner = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, position


def _pool(values: Floats, size: int) -> Floats:
    """The mean over the samples of each pixel."""
    step = _SUPERSAMPLING
    total = values[0::step, 0::step] + values[1::step, 0::step] + values[0::step, 1::step] + values[1::step, 1::step]
    return total / step**2


def _paint_backdrop(backdrop: Backdrop, tan_half_view: float, size: int) -> tuple[Floats, Floats]:
    """The image without things (H, W, 3) and its depth (H, W)."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1  # (-1, 1) from left to right and from top to bottom
    along = np.cos(backdrop.angle) * axis[None, :] + np.sin(backdrop.angle) * axis[:, None]
    share = (0.5 + along / (2 * 2**0.5))[..., None]
    image = (1 - share) * backdrop.colours[0] + share * backdrop.colours[1]
    depth: Floats = np.full((size, size), backdrop.distance)
    if backdrop.ground is not None:
        rays = np.empty((size, size, 3))
        rays[..., 0], rays[..., 1], rays[..., 2] = axis[None, :] * tan_half_view, -axis[:, None] * tan_half_view, -1
        image, depth = _lay_ground(backdrop.ground, rays, image, depth)
    enlarge = _bilinear(len(backdrop.noise), size)  # (H, G)
    noise = np.einsum("hg,gkc->hkc", enlarge, backdrop.noise)
    return image + np.einsum("wk,hkc->hwc", enlarge, noise), depth


def _lay_ground(ground: Ground, rays: Floats, image: Floats, far: Floats) -> tuple[Floats, Floats]:
    """Put the ground in front of the backdrop; it fades into it with the distance."""
    facing = rays @ ground.normal
    height = ground.point @ ground.normal  # negative with the camera above the ground
    # A ray that does not fall meets no ground, and none is seen from below.
    depth = np.where((facing < -1e-6) & (height < 0), height / np.minimum(facing, -1e-6), inf)
    depth = np.minimum(depth, far)
    places = rays * depth[..., None]
    light = np.ones_like(depth)
    for centre, radius in zip(ground.shadow_centres, ground.shadow_radii, strict=True):
        gap = ((places - centre) ** 2).sum(axis=-1)
        light -= ground.shadow_strength * np.exp(-gap / (2 * (0.55 * radius) ** 2))
    fade = np.clip((far - depth) / (0.6 * far), 0, 1)[..., None]
    lit = ground.colour * np.maximum(light, 0.3)[..., None]
    return (1 - fade) * image + fade * lit, depth


def _bilinear(source: int, target: int) -> Floats:
    """The matrix (target, source) that enlarges a line of values linearly, ends on ends."""
    position = np.linspace(0, source - 1, target)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(source)[None, :]))
