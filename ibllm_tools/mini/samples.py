"""The sample media in ``examples/media``: things, sounds and scenes of the validation split, as ordinary files."""

from pathlib import Path

import numpy as np

from ibllm_tools.mini.world.scenes import (
    Scene,
    depth_map,
    export_mesh,
    point_cloud,
    render_scene,
    render_video,
    sample_scene,
    write_depth_png16,
    write_mp4,
    write_png,
)
from ibllm_tools.mini.world.sounds import record, write_wav

IMAGE_SIZE, VIDEO_SIZE, VIDEO_FPS, VIDEO_SECONDS = 256, 192, 12, 3
SEED = 2023


def _scene(name: str, kind: str, colour: str, **options: bool) -> Scene:
    """A scene of the validation split; the file's name decides the draw."""
    rng = np.random.default_rng([SEED, *name.encode()])
    return sample_scene(rng, "validation", kinds=[kind], colours=[colour], **options)


def write_samples(folder: Path) -> list[Path]:
    """Write all sample files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind, colour in (
        ("bell.png", "bell", "red"),
        ("car.png", "car", "blue"),
        ("guitar.png", "guitar", "orange"),
    ):
        write_png(render_scene(_scene(name, kind, colour), size=IMAGE_SIZE).rgb, folder / name)
    grey = render_scene(_scene("robot_grey.png", "robot", "green", greyscale=True), size=IMAGE_SIZE)
    write_png(grey.rgb, folder / "robot_grey.png")
    stranger = sample_scene(np.random.default_rng(SEED), "validation", unknown=True)
    write_png(render_scene(stranger, size=IMAGE_SIZE).rgb, folder / "stranger.png")
    for name, kind, size in (("bell.wav", "bell", 0.8), ("dog.wav", "dog", 0.9), ("small_siren.wav", "siren", 0.62)):
        write_wav(folder / name, record(kind, np.random.default_rng([SEED, *name.encode()]), size=size, seconds=3.0))
    film = render_video(
        _scene("helicopter.mp4", "helicopter", "yellow"),
        frames=VIDEO_FPS * VIDEO_SECONDS,
        fps=VIDEO_FPS,
        size=VIDEO_SIZE,
    )
    write_mp4(film, folder / "helicopter.mp4", fps=VIDEO_FPS)
    for name, kind, colour in (("duck.glb", "duck", "yellow"), ("piano.obj", "piano", "purple")):
        export_mesh(_scene(name, kind, colour).instances[0], folder / name)
    np.save(folder / "train_points.npy", point_cloud(_scene("train_points.npy", "train", "red").instances[0], seed=1))
    write_depth_png16(
        depth_map(_scene("kettle_depth.png", "kettle", "blue"), size=IMAGE_SIZE), folder / "kettle_depth.png"
    )
    return sorted(folder.iterdir())
