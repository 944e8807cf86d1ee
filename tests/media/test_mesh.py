import json
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import trimesh
from safetensors.numpy import load_file

from ibllm_tools.errors import (
    AttachmentAccessError,
    AttachmentNotFoundError,
    CorruptMediaError,
    LimitExceededError,
    UnsupportedMediaError,
)
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.mesh import decode_points

SQUARE_OFF = b"OFF\n4 2 0\n0 0 0\n3 0 0\n3 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"
XYZ = b"0 0 0\n1 0 0\n0 1 0\n0 0 1\n"


def exported(mesh: object, kind: str) -> bytes:
    data = mesh.export(file_type=kind)
    return data.encode() if isinstance(data, str) else data


def saved(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def glb(header: dict[str, object], body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(body), 0x004E4942) + body
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


@pytest.mark.parametrize("name", ["torus.obj", "cloud64.npy", "cloud_ascii.ply"])
def test_official_points_are_those_of_the_research_code(reference: Path, name: str) -> None:
    golden = load_file(reference / "preproc" / "points.safetensors")[name]
    points = decode_points(reference / "media" / name, official=True)
    assert points.dtype == np.float32
    assert np.array_equal(points, golden.astype(np.float32))


def test_a_pickle_is_always_refused(reference: Path) -> None:
    for official in (False, True):
        with pytest.raises(UnsupportedMediaError, match=r"car\.pt: a pickle .* can run code"):
            decode_points(reference / "media" / "car.pt", official=official)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_samples_the_surface_of_each_format(kind: str) -> None:
    points = decode_points(exported(trimesh.creation.icosphere(), kind), points=500)
    assert points.shape == (500, 3)
    assert np.linalg.norm(points, axis=1).min() > 0.85


def test_reads_ascii_stl_and_off() -> None:
    ascii_stl = exported(trimesh.creation.box(), "stl_ascii")
    assert decode_points(ascii_stl, points=10).shape == (10, 3)
    assert decode_points(SQUARE_OFF, points=10).shape == (10, 3)


def test_samples_by_area_and_always_the_same() -> None:
    big_and_small = trimesh.util.concatenate(
        [trimesh.creation.box((3, 3, 3)), trimesh.creation.box((1, 1, 1)).apply_translation((9, 0, 0))]
    )
    data = exported(big_and_small, "ply")
    points = decode_points(data, points=4000)
    on_the_small_box = (points[:, 0] > points[:, 0].max() - 0.3).mean()
    assert on_the_small_box == pytest.approx(0.1, abs=0.02)
    assert np.array_equal(points, decode_points(data, points=4000))
    assert not np.array_equal(points, decode_points(data, points=4000, seed=1))


def test_points_are_centred_and_scaled() -> None:
    points = decode_points(exported(trimesh.creation.box().apply_translation((100, 0, 0)), "glb"))
    assert np.abs(points.mean(axis=0)).max() < 1e-5
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1)


def test_flattens_a_scene_with_its_transforms() -> None:
    scene = trimesh.Scene()
    ball = trimesh.creation.icosphere()
    for place in (0, 10):
        scene.add_geometry(ball, transform=trimesh.transformations.translation_matrix((place, 0, 0)))
    points = decode_points(exported(scene, "glb"))
    assert (points[:, 0] < -0.5).any()
    assert (points[:, 0] > 0.5).any()


def test_a_cloud_keeps_its_points_and_a_dense_one_is_thinned_out() -> None:
    cloud = np.random.default_rng(0).normal(size=(100, 3))
    assert decode_points(saved(cloud)).shape == (100, 3)
    assert decode_points(saved(cloud), points=30).shape == (30, 3)


def pcd(kind: str) -> bytes:
    rows = np.array([(0, 0, 0, 7), (1, 0, 0, 7), (0, 2, 0, 7)], dtype="<f4,<f4,<f4,<u4")
    header = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F U\nCOUNT 1 1 1 1\n"
        f"WIDTH 3\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 3\nDATA {kind}\n"
    ).encode()
    return header + (rows.tobytes() if kind == "binary" else b"0 0 0 7\n1 0 0 7\n0 2 0 7\n")


@pytest.mark.parametrize("kind", ["ascii", "binary"])
def test_reads_pcd(kind: str) -> None:
    assert decode_points(pcd(kind), official=True).tolist() == [[0, 0, 0], [1, 0, 0], [0, 2, 0]]


def test_compressed_pcd_says_how_to_convert() -> None:
    with pytest.raises(UnsupportedMediaError, match="binary_compressed data, expected ascii or binary"):
        decode_points(pcd("binary_compressed"))


@pytest.mark.parametrize("data", [XYZ, b"4\n" + XYZ, XYZ.replace(b" ", b",")])
def test_reads_xyz_by_its_name(data: bytes) -> None:
    assert decode_points(data, name="cloud.xyz", official=True).shape == (4, 3)
    with pytest.raises(UnsupportedMediaError, match="text/plain"):
        decode_points(data)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_coordinates_that_are_not_finite(bad: float) -> None:
    mesh = trimesh.creation.box()
    mesh.vertices[0, 0] = bad
    for data in (exported(mesh, "ply"), saved(np.full((4, 3), bad))):
        with pytest.raises(CorruptMediaError, match="NaN or infinite"):
            decode_points(data)


def test_refuses_what_has_no_surface_or_no_extent() -> None:
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    with pytest.raises(CorruptMediaError, match="area zero"):
        decode_points(exported(flat, "ply"))
    with pytest.raises(CorruptMediaError, match="in one place"):
        decode_points(saved(np.ones((5, 3))))
    with pytest.raises(CorruptMediaError, match="no vertices"):
        decode_points(glb({"asset": {"version": "2.0"}, "scenes": [{"nodes": []}], "nodes": [], "meshes": []}))


@pytest.mark.parametrize("kind", ["glb", "ply", "stl"])
def test_refuses_a_truncated_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{kind}"
    path.write_bytes(exported(trimesh.creation.icosphere(), kind)[:-200])
    with pytest.raises(CorruptMediaError, match=r"model\.\w+: .*truncated"):
        decode_points(path)


def test_limits_hold_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    ball = trimesh.creation.icosphere()
    sources = [exported(ball, kind) for kind in ("ply", "stl", "obj", "glb")]
    sources += [SQUARE_OFF.replace(b"4 2 0", b"9999 9999 0"), saved(np.zeros((1000, 3))), pcd("ascii")]
    monkeypatch.setattr(trimesh, "load_scene", lambda *_, **__: pytest.fail("decoded"))
    for data in sources:
        with pytest.raises(LimitExceededError, match=r"Limits\.max_"):
            decode_points(data, limits=Limits(max_points=2, max_faces=2))


def test_a_part_repeated_too_often_is_beyond_the_limit() -> None:
    scene = trimesh.Scene()
    box = trimesh.creation.box()
    for _ in range(20):
        scene.add_geometry(box, geom_name="box")
    with pytest.raises(LimitExceededError, match="faces"):
        decode_points(exported(scene, "glb"), limits=Limits(max_faces=100))


def test_announced_zeros_are_not_allocated() -> None:
    accessor = {"componentType": 5126, "type": "VEC3", "count": 10**12}
    header = {"asset": {"version": "2.0"}, "accessors": [accessor], "meshes": [{"primitives": []}]}
    with pytest.raises(LimitExceededError, match="1,000,000,000,000"):
        decode_points(glb(header))


def test_refuses_a_cycle_of_nodes() -> None:
    nodes = [{"children": [1]}, {"children": [0]}]
    with pytest.raises(CorruptMediaError, match="cycle"):
        decode_points(glb({"asset": {"version": "2.0"}, "nodes": nodes, "scenes": [{"nodes": [0]}]}))


def separate(folder: Path, uri: str) -> Path:
    """A .gltf file whose buffer is another file."""
    files = trimesh.exchange.gltf.export_gltf(trimesh.Scene(trimesh.creation.box()), merge_buffers=True)
    header = json.loads(files["model.gltf"])
    header["buffers"][0]["uri"] = uri
    folder.mkdir(exist_ok=True)
    path = folder / "model.gltf"
    path.write_text(json.dumps(header))
    (buffer,) = (data for name, data in files.items() if name.endswith(".bin"))
    (folder / "box data.bin").write_bytes(buffer)
    return path


def test_gltf_reads_a_buffer_beside_it(tmp_path: Path) -> None:
    assert decode_points(separate(tmp_path / "in", "box%20data.bin"), points=9).shape == (9, 3)


@pytest.mark.parametrize("uri", ["../secret.bin", "/etc/hostname", "http://example.com/box.bin", "link.bin"])
def test_gltf_reads_nothing_outside_its_folder(tmp_path: Path, uri: str) -> None:
    path = separate(tmp_path / "in", uri)
    (tmp_path / "secret.bin").write_bytes(b"secret")
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(AttachmentAccessError, match="outside its folder"):
        decode_points(path)


def test_gltf_and_its_missing_buffer_are_both_named(tmp_path: Path) -> None:
    with pytest.raises(AttachmentNotFoundError, match=r"model\.gltf: .*absent\.bin: no such file"):
        decode_points(separate(tmp_path / "in", "absent.bin"))


def test_gltf_as_bytes_has_no_files_beside_it(tmp_path: Path) -> None:
    data = separate(tmp_path / "in", "box data.bin").read_bytes()
    with pytest.raises(AttachmentAccessError, match=r"export it as \.glb"):
        decode_points(data)
