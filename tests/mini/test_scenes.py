"""Instances and scenes: what is drawn, that it is reproducible, and that image, depth and points belong together."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibllm_tools.errors import InvalidRequestError, MissingExtraError
from ibllm_tools.mini.world import scenes
from ibllm_tools.mini.world.catalog import COLOURS, KIND_NAMES
from ibllm_tools.mini.world.scenes import Instance, Scene, sample_instance, sample_scene
from ibllm_tools.mini.world.shapes import TEST_FAMILIES, TRAINING_FAMILIES

BALL = Instance(kind="ball", colour="red", size=0.9, shape_seed=30)
BALL_SCENE = Scene((BALL,), greyscale=False, seed=5)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_same_seed_draws_the_same_scene():
    draws = [sample_scene(generator(3), "train", things=2) for _ in range(2)]
    assert draws[0] == draws[1]


def test_splits_never_share_an_instance():
    seeds = {
        split: {sample_instance(generator(seed), split).shape_seed for seed in range(200)} for split in scenes.SPLITS
    }
    assert not seeds["train"] & seeds["validation"]
    assert not seeds["train"] & seeds["test"]
    assert not seeds["validation"] & seeds["test"]


def test_every_kind_and_colour_is_drawn():
    rng = generator()
    drawn = [sample_instance(rng, "train") for _ in range(600)]
    assert {instance.kind for instance in drawn} == set(KIND_NAMES)
    assert {instance.colour for instance in drawn} == set(COLOURS)
    assert all(scenes.SMALLEST <= instance.size <= scenes.LARGEST for instance in drawn)


@pytest.mark.parametrize(
    ("split", "families"), [("train", TRAINING_FAMILIES), ("validation", TRAINING_FAMILIES), ("test", TEST_FAMILIES)]
)
def test_unknown_things_come_from_the_families_of_their_split(split, families):
    rng = generator()
    drawn = [sample_instance(rng, split, unknown=True) for _ in range(100)]
    assert {instance.family for instance in drawn} == set(families)
    assert {instance.kind for instance in drawn} == {None}


def test_two_things_differ_in_kind_and_colour():
    rng = generator()
    for _ in range(50):
        left, right = sample_scene(rng, "train", things=2).instances
        assert left.kind != right.kind
        assert left.colour != right.colour


def test_a_scene_keeps_to_the_given_kinds_and_colours():
    scene = sample_scene(generator(), "train", things=2, kinds=["dog", "cat"], colours=["blue"])
    assert {instance.kind for instance in scene.instances} == {"dog", "cat"}
    assert {instance.colour for instance in scene.instances} == {"blue"}


def test_an_unknown_thing_stands_beside_a_known_one_on_either_side():
    rng = generator()
    kinds = [
        tuple(i.kind is None for i in sample_scene(rng, "test", things=2, unknown=True).instances) for _ in range(20)
    ]
    assert set(kinds) == {(True, False), (False, True)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "split is 'dev'"),
        ({"split": "train", "kind": "unicorn"}, "kind is 'unicorn'"),
        ({"split": "train", "colour": "mauve"}, "colour is 'mauve'"),
        ({"split": "train", "kind": "dog", "unknown": True}, "an unknown thing has no kind"),
    ],
)
def test_an_instance_that_does_not_exist_is_refused(arguments, message):
    with pytest.raises(InvalidRequestError, match=message):
        sample_instance(generator(), **arguments)


@pytest.mark.parametrize("arguments", [{"things": 3}, {"things": 2, "kinds": ["dog"]}])
def test_a_scene_that_cannot_be_drawn_is_refused(arguments):
    with pytest.raises(InvalidRequestError):
        sample_scene(generator(), "train", **arguments)


def test_the_canonical_mesh_is_centred_within_the_unit_ball():
    vertices = scenes.instance_mesh(BALL).vertices
    np.testing.assert_allclose(vertices.min(axis=0) + vertices.max(axis=0), 0, atol=1e-5)
    assert np.linalg.norm(vertices, axis=1).max() == pytest.approx(1, abs=1e-5)


def test_a_single_thing_fills_its_share_of_the_image():
    rng = generator()
    for _ in range(20):
        scene = sample_scene(rng, "train")
        mask = scenes.render_scene(scene).mask
        extent = max(np.ptp(np.flatnonzero(mask.any(axis=axis))) + 1 for axis in (0, 1)) / 64
        assert 0.5 <= extent / scene.instances[0].size <= 1.1


def test_the_first_thing_is_on_the_left():
    rng = generator()
    for _ in range(10):
        owners = scenes.render_scene(sample_scene(rng, "train", things=2)).instances
        left, right = (np.nonzero(owners == index)[1].mean() for index in (0, 1))
        assert left + 16 < right


def test_colour_belongs_to_the_thing_and_not_to_the_backdrop():
    rng = generator()
    for _ in range(20):
        rendering = scenes.render_scene(sample_scene(rng, "train", kinds=["ball"]))
        saturation = np.ptp(rendering.rgb.astype(int), axis=-1)
        assert np.percentile(saturation[rendering.mask], 80) > 50
        assert np.percentile(saturation[~rendering.mask], 90) < 40


def test_a_thing_is_nearer_than_its_backdrop():
    rendering = scenes.render_scene(replace(BALL_SCENE, seed=11))
    depth = scenes.depth_map(replace(BALL_SCENE, seed=11))
    np.testing.assert_array_equal(depth, rendering.depth)
    assert np.isfinite(depth).all()
    assert 0.5 < depth[rendering.mask].min() < depth[rendering.mask].max() < depth.max()


def test_rendering_is_reproducible():
    images = [scenes.render_scene(BALL_SCENE, size=32).rgb for _ in range(2)]
    np.testing.assert_array_equal(*images)


def test_a_greyscale_scene_has_no_colour():
    rgb = scenes.render_scene(replace(BALL_SCENE, greyscale=True), size=32).rgb
    assert (rgb == rgb[..., :1]).all()


def test_a_video_begins_with_the_image_and_moves():
    scene = sample_scene(generator(1), "train", kinds=["car"])
    video = scenes.render_video(scene, frames=3, fps=2, size=32)
    assert video.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(video[0], scenes.render_scene(scene, size=32).rgb)
    assert (video[0] != video[1]).any()
    assert (video[1] != video[2]).any()


def test_a_video_without_frames_is_refused():
    with pytest.raises(InvalidRequestError, match="0 frames"):
        scenes.render_video(BALL_SCENE, frames=0, fps=2, size=32)


def test_a_point_cloud_fills_the_unit_ball():
    cloud = scenes.point_cloud(BALL, points=256, seed=1)
    assert cloud.shape == (256, 3)
    assert cloud.dtype == np.float32
    np.testing.assert_allclose(cloud.mean(axis=0), 0, atol=1e-5)
    assert np.linalg.norm(cloud, axis=1).max() == pytest.approx(1, abs=1e-5)


def test_points_lie_on_the_surface():
    radii = np.linalg.norm(scenes.point_cloud(BALL, points=512, seed=1), axis=1)
    assert radii.min() > 0.75


def test_noise_moves_the_points():
    clean, noisy = (scenes.point_cloud(BALL, points=64, seed=1, noise=noise) for noise in (0.0, 0.02))
    assert 0 < np.abs(clean - noisy).mean() < 0.1


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_an_exported_mesh_keeps_its_shape_and_colour(tmp_path: Path, suffix: str):
    trimesh = pytest.importorskip("trimesh")
    scenes.export_mesh(BALL, tmp_path / f"ball{suffix}")

    mesh = trimesh.load(tmp_path / f"ball{suffix}", force="mesh", process=False)

    assert len(mesh.faces) == len(scenes.instance_mesh(BALL).faces)
    red, green, blue = np.median(mesh.visual.vertex_colors[:, :3], axis=0)
    assert red > 150 > 80 > max(green, blue)


def test_a_mesh_in_an_unknown_format_is_refused(tmp_path: Path):
    with pytest.raises(InvalidRequestError, match=r"ball\.blend"):
        scenes.export_mesh(BALL, tmp_path / "ball.blend")


def test_exporting_a_mesh_without_trimesh_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(MissingExtraError, match="mesh"):
        scenes.export_mesh(BALL, tmp_path / "ball.glb")


def test_images_and_depths_survive_png(tmp_path: Path):
    rendering = scenes.render_scene(BALL_SCENE, size=32)
    scenes.write_png(rendering.rgb, tmp_path / "image.png")
    scenes.write_depth_png16(rendering.depth, tmp_path / "depth.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "image.png")), rendering.rgb)
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "depth.png")) / 1000, rendering.depth, atol=5.1e-4)


def test_a_video_survives_mp4(tmp_path: Path):
    av = pytest.importorskip("av")
    video = scenes.render_video(BALL_SCENE, frames=4, fps=4, size=32)
    scenes.write_mp4(video, tmp_path / "clip.mp4", fps=4)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert decoded.shape == video.shape
    assert np.abs(decoded.astype(int) - video).mean() < 12


def test_a_video_of_odd_size_is_refused(tmp_path: Path):
    with pytest.raises(InvalidRequestError, match="31x31"):
        scenes.write_mp4(np.zeros((2, 31, 31, 3), dtype=np.uint8), tmp_path / "clip.mp4", fps=4)
