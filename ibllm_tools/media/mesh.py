"""3D models and point clouds as points: what Point-Bind (arXiv 2309.00615) embeds.

Meshes (GLB, glTF, OBJ, PLY, STL, OFF) are read by trimesh and sampled on their surface; clouds (PLY, PCD, XYZ, npy) are
thinned out. Materials and textures are never loaded, nothing is fetched, and no pickle (.pt) is opened.
"""

import re
from io import BytesIO
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import CorruptMediaError, LimitExceededError, MissingExtraError, UnsupportedMediaError
from ibllm_tools.media.cloud import check_points, read_npy_cloud, read_pcd, read_xyz
from ibllm_tools.media.gltf import Siblings, check_gltf
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import NPY, require
from ibllm_tools.media.source import Source, decoding, read_source, source_label

CLOUD_READERS = {NPY: read_npy_cloud, "model/xyz": read_xyz, "model/pcd": read_pcd}
MESH_FORMATS = {
    "model/gltf-binary": "glb",
    "model/gltf+json": "gltf",
    "model/obj": "obj",
    "model/ply": "ply",
    "model/stl": "stl",
    "model/off": "off",
}
# possessive, so that a file of blank lines cannot make it try every way to split them
OFF_SIZES = re.compile(rb"[A-Z]*OFF[^\n]*+\n\s*+(?:#[^\n]*+\n\s*+)*+(\d++)\s++(\d++)")
OFFICIAL_TYPES = ("model/ply", "model/pcd", "model/xyz", NPY, "model/obj")


class Geometry(NamedTuple):
    """What a 3D file holds: points, and the faces between them."""

    vertices: NDArray[np.float64]  # (V, 3)
    triangles: NDArray[np.float64]  # (F, 3, 3): empty for a cloud


def decode_points(
    source: Source,
    *,
    name: str | None = None,
    points: int = 8192,
    seed: int = 0,
    limits: Limits = DEFAULT_LIMITS,
    official: bool = False,
) -> NDArray[np.float32]:
    """The model's or cloud's points, float32 (N, 3).

    A mesh gives ``points`` samples of its surface, drawn by area; a cloud gives all of its points, or a random subset
    of ``points``; both from a fixed seed. All parts of a scene are flattened into one. The points are centred on their
    mean and scaled to a greatest radius of 1. With ``official`` they are the raw points or vertices in file order,
    neither sampled nor centred, and only of the types that the research code reads (PLY, PCD, XYZ, npy, OBJ).

    Args:
        source: a path or the bytes.
        name: the file's name, where the content alone does not tell (``.xyz``).
        points: how many points at most.
        seed: of the sampling.
        limits: bounds on points and faces, checked before decoding.
        official: the research code's loader.

    Raises:
        UnsupportedMediaError: not a 3D file, or one that the research code does not read.
        CorruptMediaError: damaged, without vertices or surface, or with NaN or infinite coordinates.
        LimitExceededError: more points or faces than the limits allow.
    """
    kind = require(
        source, lambda found: found.modality == "point" or found.mime == NPY, expected="a 3D model or cloud", name=name
    )
    if official and kind.mime not in OFFICIAL_TYPES:
        raise UnsupportedMediaError(
            f"{source_label(source)}: {kind.mime}, the research code reads PLY, PCD, XYZ, npy and OBJ; "
            "use the default loader (official=False)"
        )
    with decoding(source, "3D model"), np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused
        geometry = read_geometry(source, kind.mime, limits, official)
        raw = geometry.vertices
        refuse_unusable(raw, source)
        if official:
            return np.ascontiguousarray(raw, dtype=np.float32)
        rng = np.random.default_rng(seed)
        if len(geometry.triangles):
            raw = _sample_surface(geometry.triangles, points, rng, source)
        elif len(raw) > points:
            raw = raw[np.sort(rng.choice(len(raw), points, replace=False))]
        return _to_unit_ball(raw, source)


def read_geometry(source: Source, mime: str, limits: Limits, official: bool) -> Geometry:
    """The content of a 3D file, as it lies in the file.

    Args:
        source: the file.
        mime: its type.
        limits: bounds on points and faces.
        official: read OBJ as the research code does: its vertices, no faces.

    Raises:
        AttachmentError: it cannot be read.
    """
    no_faces = np.empty((0, 3, 3))
    if mime in CLOUD_READERS:
        return Geometry(CLOUD_READERS[mime](source, limits), no_faces)
    data = read_source(source, limits)
    _check_announced(data, mime, source, limits)
    if official and mime == "model/obj":
        return Geometry(_obj_vertices(data), no_faces)
    return _load(data, mime, source, limits)


def _load(data: bytes, mime: str, source: Source, limits: Limits) -> Geometry:
    try:
        import trimesh
    except ImportError:
        raise MissingExtraError("reading 3D models", "trimesh", "mesh") from None
    scene = trimesh.load_scene(
        BytesIO(data),
        file_type=MESH_FORMATS[mime],
        resolver=cast(Any, Siblings(source, limits)),
        process=False,  # would drop NaN vertices silently
        skip_materials=True,
    )
    parts = [(transform, scene.geometry[part]) for transform, part in map(scene.graph.get, scene.graph.nodes_geometry)]
    _check_size(
        sum(len(_vertices(part)) for _, part in parts), sum(len(_faces(part)) for _, part in parts), source, limits
    )
    vertices = [_vertices(part) @ transform[:3, :3].T + transform[:3, 3] for transform, part in parts]
    triangles = [placed[_faces(part)] for placed, (_, part) in zip(vertices, parts, strict=True)]
    return Geometry(
        np.concatenate([np.empty((0, 3)), *vertices]),  # (V, 3)
        np.concatenate([np.empty((0, 3, 3)), *triangles]),  # (F, 3, 3)
    )


def _vertices(part: Any) -> NDArray[np.float64]:
    return np.asarray(part.vertices, dtype=np.float64).reshape(-1, 3)


def _faces(part: Any) -> NDArray[np.int64]:
    return np.asarray(getattr(part, "faces", ()), dtype=np.int64).reshape(-1, 3)


def _check_announced(data: bytes, mime: str, source: Source, limits: Limits) -> None:
    """Compare what the file says about its size with the limits, before trimesh allocates it."""
    if mime in ("model/gltf-binary", "model/gltf+json"):
        check_gltf(data, source, limits)
    elif mime == "model/ply":
        header = data.partition(b"end_header")[0]
        counts = dict(re.findall(rb"element\s+(vertex|face)\s+(\d+)", header))
        _check_size(int(counts.get(b"vertex", 0)), int(counts.get(b"face", 0)), source, limits)
    elif mime == "model/off":
        sizes = OFF_SIZES.match(data)
        if sizes:
            _check_size(int(sizes[1]), int(sizes[2]), source, limits)
    elif mime == "model/obj":
        _check_size(data.count(b"\nv "), data.count(b"\nf "), source, limits)
    elif mime == "model/stl":
        _check_size(0, _stl_faces(data), source, limits)  # its vertices are three per face, by the format


def _stl_faces(data: bytes) -> int:
    announced = int.from_bytes(data[80:84], "little")
    present = (len(data) - 84) // 50
    if b"facet" in data and announced != present:
        return data.count(b"facet normal")
    if announced > present:
        raise ValueError(f"{present:,} of {announced:,} faces")
    return announced


def _check_size(vertices: int, faces: int, source: Source, limits: Limits) -> None:
    if faces > limits.max_faces:
        raise LimitExceededError(
            f"{source_label(source)}: {faces:,} faces, the limit is {limits.max_faces:,}; simplify the model or raise "
            "Limits.max_faces"
        )
    check_points(vertices, source, limits)


def _obj_vertices(data: bytes) -> NDArray[np.float64]:
    """Lines that start with ``v``, split on single spaces, their first three numbers: no faces, no sampling."""
    lines = data.decode("utf-8", errors="replace").splitlines()
    rows = [line.split(" ")[1:4] for line in lines if line.startswith("v ")]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def refuse_unusable(vertices: NDArray[Any], source: Source) -> None:
    """Raise a CorruptMediaError where there are no points, or points that are nowhere."""
    label = source_label(source)
    if not len(vertices):
        raise CorruptMediaError(f"{label}: no vertices, expected a 3D model or cloud; export it again")
    if not np.isfinite(vertices).all():
        raise CorruptMediaError(f"{label}: NaN or infinite coordinates, expected finite ones; repair the model")


def _sample_surface(
    triangles: NDArray[np.float64], count: int, rng: np.random.Generator, source: Source
) -> NDArray[np.float64]:
    """Points spread evenly over the surface: triangles drawn by area, then a uniform place within each."""
    edges = triangles[:, 1:] - triangles[:, :1]  # (F, 2, 3)
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)  # (F,): twice the area
    total = areas.sum()
    if not (np.isfinite(total) and total > 0):
        raise CorruptMediaError(f"{source_label(source)}: a surface of area zero, expected a solid; export it again")
    chosen = rng.choice(len(areas), size=count, p=areas / total)
    place = rng.random((count, 2, 1))
    folded = np.where(place.sum(axis=1, keepdims=True) > 1, 1 - place, place)  # from the parallelogram to its half
    samples: NDArray[np.float64] = triangles[chosen, 0] + (edges[chosen] * folded).sum(axis=1)  # (N, 3)
    return samples


def _to_unit_ball(points: NDArray[Any], source: Source) -> NDArray[np.float32]:
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    radius = np.linalg.norm(centred, axis=1).max()
    if not (np.isfinite(radius) and radius > 0):
        raise CorruptMediaError(f"{source_label(source)}: all points in one place, expected a shape; export it again")
    scaled: NDArray[np.float32] = (centred / radius).astype(np.float32)
    return scaled
