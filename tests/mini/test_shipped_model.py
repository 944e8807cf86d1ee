"""The shipped weights on small samples of the validation split, from files to answers.

The floors leave room for the chance of a small sample; they are far above what an untrained or broken model reaches.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from ibllm_tools import Answer, Assistant, Attachment, Question
from ibllm_tools.mini.dataset import words_of
from ibllm_tools.mini.world.catalog import KIND_NAMES
from ibllm_tools.mini.world.language import (
    KNOWLEDGE_HELD_OUT_KINDS,
    PHRASINGS,
    Task,
    ThingWords,
    is_correct,
    parse_answer,
)
from ibllm_tools.mini.world.scenes import (
    Scene,
    depth_map,
    export_mesh,
    render_scene,
    render_video,
    sample_scene,
    write_depth_png16,
    write_mp4,
    write_png,
)
from ibllm_tools.mini.world.sounds import record, write_wav

WEIGHTS = Path(__file__).parents[2] / "ibllm_tools" / "mini" / "weights"
MEDIA = Path(__file__).parents[2] / "examples" / "media"
HELD_OUT_QUESTION = {task: PHRASINGS[task]["validation"]["any"][0] for task in (Task.IDENTIFY, Task.SOUND, Task.USE)}


@pytest.fixture(scope="module")
def assistant() -> Iterator[Assistant]:
    with Assistant.load() as assistant:
        yield assistant


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Two individuals of each kind that no other split has."""
    rng = np.random.default_rng(404)
    return [sample_scene(rng, "validation", kinds=[kind]) for kind in KIND_NAMES for _ in range(2)]


def share_right(
    assistant: Assistant, task: Task, question: str, files: list[Path], things: list[tuple[ThingWords, ...]]
) -> float:
    answers = assistant.ask_batch([Question(text=question, attachments=(str(file),)) for file in files], batch_size=32)
    texts = [answer.text for answer in answers if isinstance(answer, Answer)]
    assert len(texts) == len(files)
    return float(np.mean([is_correct(task, thing, text) for thing, text in zip(things, texts, strict=True)]))


def named(scenes: list[Scene]) -> list[tuple[ThingWords, ...]]:
    return [tuple(ThingWords(instance.kind) for instance in scene.instances) for scene in scenes]


def pictures(folder: Path, scenes: list[Scene]) -> list[Path]:
    files = [folder / f"{index}.png" for index in range(len(scenes))]
    for file, scene in zip(files, scenes, strict=True):
        write_png(render_scene(scene, size=128).rgb, file)
    return files


def test_it_names_things_in_pictures(assistant: Assistant, scenes: list[Scene], tmp_path: Path) -> None:
    files = pictures(tmp_path, scenes)
    assert share_right(assistant, Task.IDENTIFY, HELD_OUT_QUESTION[Task.IDENTIFY], files, named(scenes)) >= 0.85


def test_it_tells_colours(assistant: Assistant, scenes: list[Scene], tmp_path: Path) -> None:
    things = [tuple(words_of(instance) for instance in scene.instances) for scene in scenes]
    files = pictures(tmp_path, scenes)
    assert share_right(assistant, Task.COLOUR, "What colour is it?", files, things) >= 0.8


def test_it_names_things_by_their_sound(assistant: Assistant, tmp_path: Path) -> None:
    rng = np.random.default_rng(405)
    files = [tmp_path / f"{kind}.wav" for kind in KIND_NAMES]
    for kind, file in zip(KIND_NAMES, files, strict=True):
        write_wav(file, record(kind, rng))
    things = [(ThingWords(kind),) for kind in KIND_NAMES]
    assert share_right(assistant, Task.IDENTIFY, "What is making this sound?", files, things) >= 0.75


def test_it_names_things_in_videos(assistant: Assistant, scenes: list[Scene], tmp_path: Path) -> None:
    filmed = scenes[::4]
    files = [tmp_path / f"{index}.mp4" for index in range(len(filmed))]
    for file, scene in zip(files, filmed, strict=True):
        write_mp4(render_video(scene, frames=24, fps=8, size=128), file, fps=8)
    assert share_right(assistant, Task.IDENTIFY, "What is in this video?", files, named(filmed)) >= 0.75


def test_it_names_3d_models(assistant: Assistant, scenes: list[Scene], tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.{'glb' if index % 2 else 'obj'}" for index in range(len(scenes))]
    for file, scene in zip(files, scenes, strict=True):
        export_mesh(scene.instances[0], file)
    assert share_right(assistant, Task.IDENTIFY, "What is this 3D model?", files, named(scenes)) >= 0.7


def test_it_names_things_in_depth_maps(assistant: Assistant, scenes: list[Scene], tmp_path: Path) -> None:
    files = [tmp_path / f"depth_{index}.png" for index in range(len(scenes))]
    for file, scene in zip(files, scenes, strict=True):
        write_depth_png16(depth_map(scene, size=128), file)
    assert share_right(assistant, Task.IDENTIFY, "What is in the depth map?", files, named(scenes)) >= 0.7


@pytest.mark.parametrize("task", [Task.SOUND, Task.USE])
def test_it_knows_of_kinds_it_was_never_asked_about_with_an_attachment(
    assistant: Assistant, scenes: list[Scene], tmp_path: Path, task: Task
) -> None:
    held_out = [scene for scene in scenes if scene.instances[0].kind in KNOWLEDGE_HELD_OUT_KINDS]
    files = pictures(tmp_path, held_out)
    assert share_right(assistant, task, HELD_OUT_QUESTION[task], files, named(held_out)) >= 0.7


def test_it_cannot_tell_the_colour_of_a_grey_picture(assistant: Assistant, tmp_path: Path) -> None:
    rng = np.random.default_rng(406)
    scenes = [sample_scene(rng, "validation", greyscale=True) for _ in range(30)]
    files = pictures(tmp_path, scenes)
    assert share_right(assistant, Task.GREY_COLOUR, "What colour is it?", files, named(scenes)) >= 0.75


def test_it_says_that_it_does_not_know_a_thing_from_outside_its_world(assistant: Assistant, tmp_path: Path) -> None:
    rng = np.random.default_rng(407)
    scenes = [sample_scene(rng, "validation", unknown=True) for _ in range(40)]
    files = pictures(tmp_path, scenes)
    assert share_right(assistant, Task.UNKNOWN, HELD_OUT_QUESTION[Task.IDENTIFY], files, named(scenes)) >= 0.5


def test_a_mix_of_two_attachments_names_both(assistant: Assistant) -> None:
    answer = assistant.ask("What things are there?", MEDIA / "guitar.png", MEDIA / "bell.wav")
    assert set(parse_answer(answer.text).kinds) == {"guitar", "bell"}


def test_it_says_when_nothing_is_attached(assistant: Assistant) -> None:
    assert assistant.ask("What is it?").text == "There is no attachment."
    assert assistant.ask("What sound does a dog make?").text == "It is a dog. It barks."


def test_a_sound_finds_its_picture_in_the_joint_space(assistant: Assistant) -> None:
    bell, dog, *pictures = assistant.embed(
        *(MEDIA / name for name in ("bell.wav", "dog.wav", "bell.png", "car.png", "guitar.png"))
    )
    assert int(np.argmax(np.stack(pictures) @ bell)) == 0
    assert bell @ pictures[0] > dog @ pictures[0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bell.png", "bell"),
        ("car.png", "car"),
        ("guitar.png", "guitar"),
        ("robot_grey.png", "robot"),
        ("bell.wav", "bell"),
        ("dog.wav", "dog"),
        ("small_siren.wav", "siren"),
        ("helicopter.mp4", "helicopter"),
        ("duck.glb", "duck"),
        ("piano.obj", "piano"),
        ("train_points.npy", "train"),
        ("kettle_depth.png", "kettle"),
    ],
)
def test_it_names_the_sample_media(assistant: Assistant, name: str, kind: str) -> None:
    assert parse_answer(assistant.ask("What is it?", MEDIA / name).text).kinds == (kind,)


def test_the_weights_fit_and_are_half_precision() -> None:
    files = list(WEIGHTS.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) <= 16_000_000
    stored = [tensor for file in files for tensor in load_file(file).values() if tensor.is_floating_point()]
    assert {str(tensor.dtype) for tensor in stored} == {"torch.float16"}


def test_the_sample_media_are_small_and_of_every_kind() -> None:
    files = list(MEDIA.iterdir())
    assert sum(file.stat().st_size for file in files) <= 2_000_000
    assert {Attachment(file).modality for file in files} >= {"image", "audio", "video", "point", "depth"}
