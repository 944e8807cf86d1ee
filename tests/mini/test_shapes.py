import numpy as np
import pytest

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.mini.world.catalog import KIND_NAMES
from ibllm_tools.mini.world.mesh import (
    BODY,
    Mesh,
    arc,
    box,
    cone,
    cylinder,
    ellipsoid,
    extrude,
    lathe,
    merge,
    mirrored,
    torus,
    tube,
)
from ibllm_tools.mini.world.shapes import (
    TEST_FAMILIES,
    TRAINING_FAMILIES,
    UNKNOWN_FAMILIES,
    build_shape,
    build_unknown_shape,
)

SEEDS = range(20)
CLOSED = {
    "box": box(1, 2, 3, taper=0.5),
    "cylinder": cylinder(1, 2, segments=32),
    "cone": cone(1, 2),
    "ellipsoid": ellipsoid(1, 2, 3),
    "torus": torus(1, 0.3),
    "partial torus": torus(1, 0.3, span=(0, 200)),
    "lathe": lathe([(0.2, 0), (1, 1), (0, 2)]),
    "tube": tube(arc(1, 0, 250), 0.1),
    "plate": extrude([(-1, -1), (1, -1), (1, 1), (-1, 1)], 0.5),
    "mirrored": mirrored(box(1, 1, 1).translate(0, 0, 2)),
}


def volume(mesh: Mesh) -> float:
    """Positive only if the faces look outwards."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def assert_sound(mesh: Mesh, label: str) -> None:
    assert mesh.vertices.dtype == np.float32, label
    assert mesh.faces.dtype == mesh.roles.dtype == np.int64, label
    assert np.isfinite(mesh.vertices).all(), label
    assert 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices), label
    assert mesh.roles.shape == (len(mesh.faces),), label
    assert set(np.unique(mesh.roles)) <= {0, 1, 2}, label
    assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(1, abs=1e-4), label
    assert mesh.areas()[mesh.roles == BODY].sum() >= 0.4 * mesh.areas().sum(), label


def occupancy(mesh: Mesh) -> np.ndarray:
    """Which cells of a coarse grid hold a face: a crude description of the shape."""
    middles = mesh.vertices[mesh.faces].mean(axis=1)
    cells = np.histogramdd(middles, bins=6, range=[(-1, 1)] * 3, weights=mesh.areas())[0].ravel()
    return cells / np.linalg.norm(cells)


@pytest.mark.parametrize("name", CLOSED)
def test_a_primitives_faces_look_outwards(name: str) -> None:
    mesh = CLOSED[name]
    edges = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    assert volume(mesh) > 0
    if name != "lathe" and name != "cone" and name != "ellipsoid":  # a pole holds one vertex for each segment
        assert len(np.unique(edges, axis=0)) == len(edges)


@pytest.mark.parametrize(
    ("name", "expected"), [("box", 3.5), ("cylinder", 2 * np.pi), ("plate", 2.0), ("mirrored", 2.0)]
)
def test_a_primitive_has_its_volume(name: str, expected: float) -> None:
    assert volume(CLOSED[name]) == pytest.approx(expected, rel=0.01)


def test_rotation_is_right_handed() -> None:
    assert box(0, 0, 0).translate(x=1).rotate("z", 90).vertices[0] == pytest.approx([0, 1, 0], abs=1e-6)


def test_merge_keeps_every_face_on_its_own_vertices() -> None:
    whole = merge(box(1, 1, 1), box(1, 1, 1).translate(3).paint(2))
    assert whole.vertices[whole.faces[whole.roles == 2]][..., 0].min() == pytest.approx(2.5)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_kind_builds_sound_meshes(kind: str) -> None:
    for seed in SEEDS:
        mesh = build_shape(kind, np.random.default_rng(seed))
        assert_sound(mesh, f"{kind} {seed}")
        assert 100 <= len(mesh.faces) <= 800, f"{kind} {seed}"


@pytest.mark.parametrize("family", UNKNOWN_FAMILIES)
def test_every_unknown_family_builds_sound_meshes(family: str) -> None:
    for seed in SEEDS:
        mesh = build_unknown_shape(np.random.default_rng(seed), family)
        assert_sound(mesh, f"{family} {seed}")
        assert len(mesh.faces) <= 800, f"{family} {seed}"


def test_the_same_seed_gives_the_same_thing() -> None:
    for build in (
        lambda seed: build_shape("bird", np.random.default_rng(seed)),
        lambda seed: build_unknown_shape(np.random.default_rng(seed)),
    ):
        assert np.array_equal(build(3).vertices, build(3).vertices)
        assert not np.array_equal(build(3).vertices[:8], build(4).vertices[:8])


def test_a_thing_is_most_like_its_own_kind() -> None:
    means = np.stack(
        [
            np.mean([occupancy(build_shape(kind, np.random.default_rng(seed))) for seed in range(6)], axis=0)
            for kind in KIND_NAMES
        ]
    )
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    fresh = np.stack([occupancy(build_shape(kind, np.random.default_rng(100))) for kind in KIND_NAMES])
    nearest = (fresh @ means.T).argmax(axis=1)
    assert (nearest == np.arange(len(KIND_NAMES))).mean() >= 0.85


def test_the_families_for_training_and_for_tests_are_disjoint_and_outside_the_catalogue() -> None:
    assert len(TRAINING_FAMILIES) >= 8
    assert len(TEST_FAMILIES) >= 4
    assert not set(TRAINING_FAMILIES) & set(TEST_FAMILIES)
    assert set(UNKNOWN_FAMILIES) == {*TRAINING_FAMILIES, *TEST_FAMILIES}
    assert not set(UNKNOWN_FAMILIES) & set(KIND_NAMES)


def test_an_unknown_shape_comes_from_the_training_families_by_default() -> None:
    default = build_unknown_shape(np.random.default_rng(5))
    again = np.random.default_rng(5)
    assert not any(
        np.array_equal(default.vertices, build_unknown_shape(np.random.default_rng(5), family).vertices)
        for family in TEST_FAMILIES
    )
    assert np.array_equal(default.vertices, build_unknown_shape(again).vertices)


@pytest.mark.parametrize(
    "build", [lambda rng: build_shape("toaster", rng), lambda rng: build_unknown_shape(rng, "toaster")]
)
def test_an_unheard_of_name_is_refused(build: object) -> None:
    with pytest.raises(InvalidRequestError, match="toaster"):
        build(np.random.default_rng(0))  # type: ignore[operator]
