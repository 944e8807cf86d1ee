"""Things and scenes drawn at random, and what a camera, a depth sensor and a laser scanner see of them.

An :class:`Instance` is one individual: its shape and its exact colour follow from it alone, so that an image, a depth
map, a video and a point cloud of the same instance belong together. A :class:`Scene` shows one or two instances; its
seed decides everything around them: pose, camera, light and backdrop. Nothing depends on Python's ``hash``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibllm_tools.errors import InvalidRequestError, MissingExtraError
from ibllm_tools.mini.world.catalog import COLOURS, KIND_NAMES
from ibllm_tools.mini.world.mesh import BODY, DARK, LIGHT, Mesh
from ibllm_tools.mini.world.render import Backdrop, Body, Floats, Ground, Light, Rendering, render
from ibllm_tools.mini.world.shapes import TEST_FAMILIES, TRAINING_FAMILIES, build_shape, build_unknown_shape

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SMALLEST, LARGEST = 0.6, 1.0
"""Limits of an instance's relative size."""

_DARK_RGB, _LIGHT_RGB = (0.17, 0.17, 0.18), (0.90, 0.90, 0.89)
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_MAX_YAW = np.deg2rad(60)
_SWING_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Instance:
    """One individual thing.

    Attributes:
        kind: name of a kind of the catalogue, or ``None`` for an unknown thing.
        colour: key of ``COLOURS``.
        size: relative size in [``SMALLEST``, ``LARGEST``].
        shape_seed: decides its shape and its exact shade; the remainder by three names its split.
        family: the family of an unknown thing's shape; ``None`` where ``kind`` is given.
    """

    kind: str | None
    colour: str
    size: float
    shape_seed: int
    family: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """One or two things, the first on the left, in surroundings that ``seed`` decides."""

    instances: tuple[Instance, ...]
    greyscale: bool
    seed: int


@dataclass(frozen=True, slots=True)
class _Pose:
    """Where a thing is: yaw in radians, its extent and middle as shares of the image, height above the ground."""

    yaw: float
    extent: float
    middle: tuple[float, float]
    hover: float


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """Everything that a scene's seed decides; angles in radians, lengths in metres."""

    pitch: float
    roll: float
    distance: float
    tan_half_view: float
    poses: tuple[_Pose, ...]
    swing: tuple[float, ...]
    drift: tuple[float, float]
    light: Light
    backdrop: Backdrop
    ground_colour: Floats | None
    shadow_strength: float


def sample_instance(
    rng: np.random.Generator,
    split: Split,
    kind: str | None = None,
    colour: str | None = None,
    unknown: bool = False,
) -> Instance:
    """Draw an individual that belongs to one split alone.

    Args:
        rng: the source of randomness.
        split: ``"train"``, ``"validation"`` or ``"test"``. Unknown things of the test split come from families of
            shapes that the other splits never show.
        kind: its kind; drawn where ``None``.
        colour: its colour; drawn where ``None``.
        unknown: draw a thing of no kind.

    Raises:
        InvalidRequestError: no such split, kind or colour, or an unknown thing that is given a kind.
    """
    for name, value, choices in (("split", split, SPLITS), ("kind", kind, KIND_NAMES), ("colour", colour, COLOURS)):
        if value is not None and value not in choices:
            raise InvalidRequestError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
    if unknown and kind is not None:
        raise InvalidRequestError(f"an unknown thing has no kind, but kind is {kind!r}: leave one of the two out")
    families = TEST_FAMILIES if split == "test" else TRAINING_FAMILIES
    drawn_kind = KIND_NAMES[rng.integers(len(KIND_NAMES))]
    drawn_family = families[rng.integers(len(families))]
    drawn_colour = list(COLOURS)[rng.integers(len(COLOURS))]
    return Instance(
        kind=None if unknown else kind or drawn_kind,
        colour=colour or drawn_colour,
        size=round(float(rng.uniform(SMALLEST, LARGEST)), 4),
        # The remainder keeps the splits apart whatever is drawn.
        shape_seed=int(rng.integers(2**48)) * len(SPLITS) + SPLITS.index(split),
        family=drawn_family if unknown else None,
    )


def sample_scene(
    rng: np.random.Generator,
    split: Split,
    *,
    things: int = 1,
    greyscale: bool = False,
    unknown: bool = False,
    kinds: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
) -> Scene:
    """Draw a scene; two things are of different kinds, and of different colours where ``colours`` allows it.

    Args:
        rng: the source of randomness.
        split: the split of the instances, see :func:`sample_instance`.
        things: 1 or 2.
        greyscale: without colour.
        unknown: show a thing of no kind; with two things, the second has a kind.
        kinds: draw from these kinds only.
        colours: draw from these colours only.

    Raises:
        InvalidRequestError: another number of things, too few kinds, or names that do not exist.
    """
    kinds, colours = tuple(kinds or KIND_NAMES), tuple(colours or COLOURS)
    if things not in (1, 2):
        raise InvalidRequestError(f"a scene of {things} things was asked for, expected 1 or 2")
    if len(set(kinds)) < things - unknown:
        raise InvalidRequestError(f"{things} things of different kinds cannot be drawn from {', '.join(kinds)}")
    drawn_kinds = rng.permutation(sorted(set(kinds))).tolist()
    drawn_colours = rng.permutation(sorted(set(colours))).tolist() * things
    instances = [
        sample_instance(
            rng,
            split,
            kind=None if unknown and index == 0 else drawn_kinds[index - unknown],
            colour=drawn_colours[index],
            unknown=unknown and index == 0,
        )
        for index in range(things)
    ]
    order = rng.permutation(things)
    return Scene(tuple(instances[index] for index in order), greyscale, seed=int(rng.integers(2**62)))


def instance_mesh(instance: Instance) -> Mesh:
    """The instance's mesh, upright and facing +z, its bounding box centred, no vertex farther than 1."""
    rng = np.random.default_rng(instance.shape_seed)
    mesh = build_unknown_shape(rng, instance.family) if instance.kind is None else build_shape(instance.kind, rng)
    vertices = mesh.vertices - (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    vertices = vertices / max(float(np.linalg.norm(vertices, axis=1).max()), 1e-9)
    return Mesh(vertices.astype(np.float32), mesh.faces, mesh.roles)


def face_colours(instance: Instance, mesh: Mesh) -> Floats:
    """The sRGB of each face, (F, 3): the instance's own shade of its colour, and neutral details."""
    rng = np.random.default_rng([instance.shape_seed, 1])
    palette = np.empty((3, 3))
    palette[BODY] = np.array(COLOURS[instance.colour]) * rng.uniform(0.92, 1.06) + rng.uniform(-0.02, 0.02, 3)
    palette[DARK] = np.array(_DARK_RGB) * rng.uniform(0.6, 1.5)
    palette[LIGHT] = np.array(_LIGHT_RGB) * rng.uniform(0.9, 1.0)
    colours: Floats = np.clip(palette, 0, 1)[mesh.roles]
    return colours


def render_scene(scene: Scene, *, size: int = 64) -> Rendering:
    """The scene as a square image with depth and instance indices."""
    return _render_frame(scene, _surroundings(scene), _appearances(scene), size, seconds=0.0)


def render_video(scene: Scene, *, frames: int, fps: float, size: int) -> NDArray[np.uint8]:
    """The scene in motion, (T, H, W, 3): things turn to and fro and drift; the first frame is the scene's image.

    Raises:
        InvalidRequestError: no frames, or a frame rate that is not positive.
    """
    if frames < 1 or fps <= 0:
        raise InvalidRequestError(f"{frames} frames at {fps} a second were asked for, expected positive numbers")
    surroundings, appearances = _surroundings(scene), _appearances(scene)
    return np.stack([_render_frame(scene, surroundings, appearances, size, t / fps).rgb for t in range(frames)])


def depth_map(scene: Scene, *, size: int = 64) -> NDArray[np.float32]:
    """What a depth sensor in the place of the camera sees: (H, W), metres."""
    return render_scene(scene, size=size).depth


def point_cloud(instance: Instance, *, points: int = 1024, seed: int, noise: float = 0.0) -> NDArray[np.float32]:
    """Points drawn evenly from the instance's surface, (N, 3), centred on their mean, the farthest at radius 1.

    Args:
        instance: the thing.
        points: how many.
        seed: decides the points, the yaw within 60 degrees, and the noise.
        noise: standard deviation of what is added to each coordinate.

    Raises:
        InvalidRequestError: no points.
    """
    if points < 1:
        raise InvalidRequestError(f"{points} points were asked for, expected at least 1")
    rng = np.random.default_rng(seed)
    mesh = instance_mesh(instance)
    corners = mesh.vertices.astype(np.float64)[mesh.faces]  # (F, 3, 3)
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    triangle = corners[rng.choice(len(areas), size=points, p=areas / areas.sum())]
    # Folding the unit square on its diagonal gives even barycentric coordinates.
    weights = rng.random((points, 2))
    weights = np.where(weights.sum(axis=1, keepdims=True) > 1, 1 - weights, weights)
    edges = triangle[:, 1:] - triangle[:, :1]
    cloud = triangle[:, 0] + (weights[:, :, None] * edges).sum(axis=1)
    cloud = cloud @ _turn("y", rng.uniform(-_MAX_YAW, _MAX_YAW)).T + rng.normal(0, noise, (points, 3))
    cloud -= cloud.mean(axis=0)
    farthest = max(float(np.linalg.norm(cloud, axis=1).max()), 1e-9)
    return (cloud / farthest).astype(np.float32)


def export_mesh(instance: Instance, path: Path | str) -> None:
    """Write the instance's mesh with colours, in the format of the suffix: ``.glb``, ``.obj`` or ``.ply``.

    Raises:
        MissingExtraError: trimesh is not installed.
        InvalidRequestError: another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in (".glb", ".obj", ".ply"):
        raise InvalidRequestError(f"cannot write a mesh as {path.name!r}, expected a name in .glb, .obj or .ply")
    try:
        import trimesh
    except ImportError as error:
        raise MissingExtraError("writing a mesh", "trimesh", "mesh") from error
    mesh = instance_mesh(instance)
    # Faces of different colours share no vertices: a vertex colour is the one that all three formats keep.
    colours = np.round(np.repeat(face_colours(instance, mesh), 3, axis=0) * 255).astype(np.uint8)
    trimesh.Trimesh(
        vertices=mesh.vertices[mesh.faces].reshape(-1, 3),  # (3F, 3)
        faces=np.arange(3 * len(mesh.faces)).reshape(-1, 3),  # (F, 3)
        vertex_colors=np.hstack([colours, np.full((len(colours), 1), 255, dtype=np.uint8)]),
        process=False,
    ).export(path)


def write_png(rgb: NDArray[np.uint8], path: Path | str) -> None:
    """Write an image (H, W, 3) as PNG."""
    Image.fromarray(rgb).save(path, format="PNG")


def write_depth_png16(depth: NDArray[np.floating], path: Path | str) -> None:
    """Write depths (H, W) in metres as a 16-bit PNG in millimetres; beyond 65.5 m they saturate."""
    millimetres = np.clip(np.round(np.asarray(depth, dtype=np.float64) * 1000), 0, 2**16 - 1)
    Image.fromarray(millimetres.astype(np.uint16)).save(path, format="PNG")


def write_mp4(video: NDArray[np.uint8], path: Path | str, *, fps: float) -> None:
    """Write frames (T, H, W, 3) of even height and width as MP4: H.264, or MPEG-4 Part 2 where PyAV lacks x264.

    Raises:
        MissingExtraError: PyAV is not installed.
        InvalidRequestError: an odd height or width.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("writing a video", "av", "video") from error
    height, width = video.shape[1:3]
    if height % 2 or width % 2:
        raise InvalidRequestError(f"frames are {width}x{height}, expected even numbers: MP4 halves the colour planes")
    h264 = "libx264" in av.codecs_available
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264" if h264 else "mpeg4", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "18"} if h264 else {"qscale": "3"}
        for image in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _appearances(scene: Scene) -> list[tuple[Mesh, Floats]]:
    meshes = [instance_mesh(instance) for instance in scene.instances]
    return [(mesh, face_colours(i, mesh)) for i, mesh in zip(scene.instances, meshes, strict=True)]


def _surroundings(scene: Scene) -> _Surroundings:
    rng = np.random.default_rng(scene.seed)
    distance = float(rng.uniform(1.5, 3.5))
    standing = rng.random() < 0.7
    poses = _sample_poses(rng, scene.instances)
    angles = rng.uniform([0.0, -np.deg2rad(10)], [np.deg2rad(35), np.deg2rad(10)])
    azimuth, elevation = rng.uniform([-1.0, 0.2], [1.0, 1.1])
    towards = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    ambient = float(rng.uniform(0.55, 0.72))
    backdrop = _sample_backdrop(rng, scene, distance)
    return _Surroundings(
        pitch=float(angles[0]),
        roll=float(angles[1]),
        distance=distance,
        tan_half_view=float(rng.uniform(0.2, 0.42)),
        poses=poses,
        # Towards the front, so that the yaw stays within its limits.
        swing=tuple(float(-np.sign(pose.yaw) * np.deg2rad(rng.uniform(35, 70))) for pose in poses),
        drift=(float(rng.uniform(-0.06, 0.06)), float(rng.uniform(-0.03, 0.03))),
        light=Light(towards, ambient, diffuse=float(rng.uniform(1.0, 1.12)) - ambient),
        backdrop=backdrop,
        ground_colour=np.clip(backdrop.colours.mean(axis=0) + rng.uniform(-0.12, 0.12), 0.05, 0.97)
        if standing
        else None,
        shadow_strength=float(rng.uniform(0.15, 0.5)),
    )


def _sample_poses(rng: np.random.Generator, instances: tuple[Instance, ...]) -> tuple[_Pose, ...]:
    poses = []
    for index, instance in enumerate(instances):
        if len(instances) == 1:
            extent = instance.size * rng.uniform(0.72, 0.95)
            room = (0.96 - extent) / 2
            middle = rng.uniform(-room, room, 2) * 0.8
        else:
            extent = 0.52 * instance.size * rng.uniform(0.95, 1.05)
            side = -1 if index == 0 else 1
            middle = np.array([side * rng.uniform(0.22, 0.25), rng.uniform(-0.12, 0.12)])
        yaw = float(rng.uniform(-_MAX_YAW, _MAX_YAW))
        hover = float(rng.uniform(0, 0.3)) if rng.random() < 0.25 else 0.0
        poses.append(_Pose(yaw, float(extent), (float(middle[0]), float(middle[1])), hover))
    return tuple(poses)


def _sample_backdrop(rng: np.random.Generator, scene: Scene, distance: float) -> Backdrop:
    """A backdrop of little saturation, in a brightness that no thing has if one can be found."""
    luminances = np.array([COLOURS[instance.colour] for instance in scene.instances]) @ _LUMINANCE
    candidates = rng.uniform(0.08, 0.95, 6)
    contrasts = np.abs(candidates[:, None] - luminances[None, :]).min(axis=1)
    clear = contrasts >= 0.15
    brightness = candidates[np.argmax(clear) if clear.any() else np.argmax(contrasts)]
    tint = rng.uniform(-0.05, 0.05, 3) * brightness  # in the dark, the same tint would be a strong colour
    change = rng.uniform(-0.15, 0.15) if rng.random() < 0.7 else 0.0
    colours = np.clip(brightness + tint + np.array([[change], [-change]]) / 2, 0.02, 0.98)
    cells = int(rng.integers(2, 12))
    amplitude = rng.uniform(0.01, 0.09) if rng.random() < 0.6 else 0.0
    noise = rng.normal(0, amplitude, (cells, cells, 1)) + rng.normal(0, amplitude / 6, (cells, cells, 3))
    return Backdrop(colours, float(rng.uniform(0, 2 * np.pi)), noise, distance * float(rng.uniform(1.5, 3.0)))


def _render_frame(
    scene: Scene, around: _Surroundings, appearances: list[tuple[Mesh, Floats]], size: int, seconds: float
) -> Rendering:
    bodies, feet, radii = [], [], []
    camera = _turn("z", around.roll) @ _turn("x", around.pitch)
    reach = around.distance * around.tan_half_view * 2  # metres that the image spans where the things are
    phase = (1 - np.cos(2 * np.pi * seconds / _SWING_SECONDS)) / 2
    for pose, swing, (mesh, colours) in zip(around.poses, around.swing, appearances, strict=True):
        # The scale is that of the first frame: a thing which turns does not pulsate.
        posed = mesh.vertices @ (camera @ _turn("y", pose.yaw)).T
        # A long thing seen from its end counts for more than its outline: else its near end would fill the image.
        scale = pose.extent * reach / max(float((np.ptp(posed, axis=0) * (1, 1, 0.8)).max()), 1e-9)
        turn = camera @ _turn("y", pose.yaw + swing * phase)
        middle = (posed.min(axis=0) + posed.max(axis=0)) / 2
        drift = np.array(around.drift) * phase
        place = np.array([*(np.array(pose.middle) + drift) * reach, -around.distance])
        place[:2] -= middle[:2] * scale
        upright = mesh.vertices.astype(np.float64) * scale
        bodies.append(Body(upright @ turn.T + place, mesh.faces, colours))
        feet.append(place + camera[:, 1] * (upright[:, 1].min() - pose.hover * scale))
        radii.append(scale * float(np.hypot(mesh.vertices[:, 0], mesh.vertices[:, 2]).max()))
    backdrop = around.backdrop
    if around.ground_colour is not None:
        up = camera[:, 1]
        heights = np.stack(feet) @ up
        sinks = (heights - heights.min())[:, None] * up
        bodies = [replace(body, vertices=body.vertices - sink) for body, sink in zip(bodies, sinks, strict=True)]
        shadows = np.stack(feet) - sinks
        ground = Ground(shadows[0], up, around.ground_colour, shadows, np.array(radii), around.shadow_strength)
        backdrop = replace(backdrop, ground=ground)
    return render(
        bodies, around.light, backdrop, tan_half_view=around.tan_half_view, size=size, greyscale=scene.greyscale
    )


def _turn(axis: Literal["x", "y", "z"], angle: float) -> Floats:
    """The rotation (3, 3) about an axis by an angle in radians, for column vectors."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[second, first] = np.sin(angle)
    matrix[first, second] = -np.sin(angle)
    return matrix
