"""Point-Bind's point tower is given to a model that was converted before, at once or not at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from disk_operations import before_each_operation, skip_without_exchange
from official_files import (
    imagebind_weights,
    tiny_imagebind_config,
    write_adapter,
    write_imagebind,
    write_llama,
)
from safetensors.torch import load_file
from torch import Tensor

from ibllm_tools.checkpoints import convert_imagebind, convert_imagebind_llm, convert_point_bind
from ibllm_tools.errors import CheckpointError, IncompatibleModelError, InvalidRequestError, ModelNotFoundError
from ibllm_tools.imagebind import ImageBindConfig, ImageBindModel
from ibllm_tools.imagebind.fingerprint import stored_fingerprint
from ibllm_tools.imagebind_llm import ImageBindLlmForConditionalGeneration

HEAD = "point_model.projection.weight"


@pytest.fixture(scope="module")
def config(reference: Path) -> ImageBindConfig:
    return tiny_imagebind_config(reference)


@pytest.fixture(scope="module")
def checkpoints(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``imagebind_w3D.pth``, and ``other.pth`` with other points."""
    here = tmp_path_factory.mktemp("checkpoints")
    write_imagebind(reference, here / "imagebind_w3D.pth")
    other = {key: value + 1 if "point" in key else value for key, value in imagebind_weights(reference).items()}
    torch.save(other, here / "other.pth")
    torch.save(as_point_bind(imagebind_weights(reference)), here / "pointbind_pointbert.pt")
    return here


def as_point_bind(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names in Point-Bind's repository, trained on several GPUs."""
    names = {
        "point_trunk.": "",
        "modality_heads.point.": "bind.modality_head_point.",
        "modality_postprocessors.point.": "bind.modality_postprocessor_point.",
        "modality_": "bind.modality_",
    }

    def renamed(key: str) -> str:
        start = next(start for start in names if key.startswith(start))
        return "module." + names[start] + key.removeprefix(start)

    return {"module.logit_scale": torch.tensor(2.6), **{renamed(key): value for key, value in weights.items()}}


def converted(reference: Path, folder: Path, *, point: bool = False, **options: Any) -> Path:
    checkpoint = write_imagebind(reference, folder / "imagebind.pth", point=point)
    bpe, config = reference / "bpe_simple_vocab_16e6.txt.gz", tiny_imagebind_config(reference, point=point)
    return convert_imagebind(checkpoint, folder / "imagebind", tokenizer=bpe, config=config, **options).folder


@pytest.fixture(scope="module")
def without_points(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(reference, tmp_path_factory.mktemp("without"))


@pytest.fixture(scope="module")
def with_points(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(reference, tmp_path_factory.mktemp("with"), point=True)


@pytest.fixture
def model(without_points: Path, tmp_path: Path) -> Path:
    """A model without points that a test may change."""
    (tmp_path / "models").mkdir()
    return Path(shutil.copytree(without_points, tmp_path / "models" / "imagebind"))


def load(folder: Path) -> ImageBindModel:
    model, info = ImageBindModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model


def assert_same_weights(folder: Path, other: Path) -> None:
    found, expected = load(folder).state_dict(), load(other).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("file", ["imagebind_w3D.pth", "pointbind_pointbert.pt"])
def test_a_model_with_points_added_is_the_one_converted_with_them(
    model: Path, with_points: Path, checkpoints: Path, config: ImageBindConfig, file: str
) -> None:
    conversion = convert_point_bind(checkpoints / file, into=model, config=config)
    assert_same_weights(model, with_points)
    assert load(model).config.point_config.num_groups == config.point_config.num_groups
    assert stored_fingerprint(model) == stored_fingerprint(with_points)
    assert conversion.warnings == ()
    assert [path.name for path in model.parent.iterdir()] == ["imagebind"]


def test_points_that_are_there_are_replaced(
    with_points: Path, checkpoints: Path, config: ImageBindConfig, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(with_points, tmp_path / "imagebind"))
    convert_point_bind(checkpoints / "other.pth", into=model, config=config)
    before, after = load(with_points).state_dict(), load(model).state_dict()
    floating = {name for name, value in before.items() if value.is_floating_point()}
    assert {name for name in floating if not torch.equal(before[name], after[name])} == {
        name for name in floating if name.startswith("point_model.")
    }
    assert stored_fingerprint(model) != stored_fingerprint(with_points)
    convert_point_bind(checkpoints / "imagebind_w3D.pth", into=model, config=config)
    assert_same_weights(model, with_points)
    assert stored_fingerprint(model) == stored_fingerprint(with_points)


def test_files_that_stay_are_linked_not_copied(model: Path, checkpoints: Path, config: ImageBindConfig) -> None:
    inode = (model / "model.safetensors").stat().st_ino
    (model / "notes.txt").write_text("mine")
    convert_point_bind(checkpoints / "imagebind_w3D.pth", into=model, config=config)
    assert (model / "model-00001-of-00002.safetensors").stat().st_ino == inode
    assert not (model / "model.safetensors").exists()  # which transformers would prefer to the others
    assert (model / "notes.txt").read_text() == "mine"


def test_points_have_the_type_of_the_encoder(
    reference: Path, checkpoints: Path, config: ImageBindConfig, tmp_path: Path
) -> None:
    model = converted(reference, tmp_path, dtype="bfloat16")
    convert_point_bind(checkpoints / "imagebind_w3D.pth", into=model, config=config)
    stored = load_file(model / "model-00002-of-00002.safetensors")
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.bfloat16}
    assert HEAD in stored


def test_the_card_tells_of_the_points_once(model: Path, checkpoints: Path, config: ImageBindConfig) -> None:
    for file in ("other.pth", "imagebind_w3D.pth"):
        convert_point_bind(checkpoints / file, into=model, config=config)
    card = (model / "README.md").read_text()
    assert card.count("## Point clouds") == card.count("no licence stated") == 1
    assert "`imagebind_w3D.pth`" in card
    assert "other.pth" not in card
    assert "CC-BY-NC-SA 4.0" in card


def test_points_of_another_imagebind_are_warned_of(
    reference: Path, model: Path, config: ImageBindConfig, tmp_path: Path
) -> None:
    weights = imagebind_weights(reference)
    weights["modality_heads.audio.2.weight"] = torch.randn_like(weights["modality_heads.audio.2.weight"])
    torch.save(weights, tmp_path / "foreign.pth")
    conversion = convert_point_bind(tmp_path / "foreign.pth", into=model, config=config)
    assert "trained with another ImageBind than imagebind is (audio differ)" in conversion.warnings[0]
    assert conversion.warnings[0] in (model / "README.md").read_text()


def test_an_imagebind_llm_gets_points_too(
    reference: Path, without_points: Path, with_points: Path, checkpoints: Path, config: ImageBindConfig, tmp_path: Path
) -> None:
    adapter, llama = write_adapter(reference, tmp_path / "7B.pth"), write_llama(reference, tmp_path / "llama")
    folder = tmp_path / "imagebind-llm"
    convert_imagebind_llm(adapter, folder, llama=llama, imagebind=without_points)
    assert stored_fingerprint(folder) == stored_fingerprint(without_points)
    rest = {name: value for name, value in load_llm(folder).items() if "point_model" not in name}
    convert_point_bind(checkpoints / "imagebind_w3D.pth", into=folder, config=config)
    assert stored_fingerprint(folder) == stored_fingerprint(with_points)
    found, expected = load_llm(folder), load(with_points).state_dict()
    assert found.keys() == rest.keys() | {f"imagebind.{name}" for name in expected}
    assert all(torch.equal(found[name], value) for name, value in rest.items())
    assert all(torch.equal(found[f"imagebind.{name}"], value) for name, value in expected.items())


def load_llm(folder: Path) -> dict[str, Tensor]:
    model, info = ImageBindLlmForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    weights: dict[str, Tensor] = model.state_dict()
    return weights


# ---- interruptions


def kinds_seen(folder: Path, run: Callable[[], Any]) -> list[str]:
    """What strict loading gives before each file operation and at the end, each state once."""
    states: list[tuple[Any, str]] = []

    def look() -> None:
        files = {(file.name, file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.rglob("*")}
        if not states or states[-1][0] != files:
            model = load(folder)
            head = "none" if model.point_model is None else f"{model.state_dict()[HEAD].mean():.2f}"
            states.append((files, head))

    with before_each_operation(look):
        run()
    look()
    return [head for _, head in states]


def test_whenever_it_is_killed_the_old_or_the_new_model_loads(
    model: Path, checkpoints: Path, config: ImageBindConfig, with_points: Path
) -> None:
    skip_without_exchange(model.parent)
    points = f"{load(with_points).state_dict()[HEAD].mean():.2f}"
    other = f"{load(with_points).state_dict()[HEAD].mean() + 1:.2f}"
    add = kinds_seen(model, lambda: convert_point_bind(checkpoints / "imagebind_w3D.pth", into=model, config=config))
    assert add == ["none", points]
    replace = kinds_seen(model, lambda: convert_point_bind(checkpoints / "other.pth", into=model, config=config))
    assert replace == [points, other]


def test_a_model_that_a_kill_moved_away_comes_back(model: Path, checkpoints: Path, config: ImageBindConfig) -> None:
    left = model.parent / f".{model.name}.partial"
    left.mkdir()
    model.rename(left / "old")
    convert_point_bind(checkpoints / "imagebind_w3D.pth", into=model, config=config)
    assert "point" in load(model).modalities
    assert not left.exists()


def test_an_interrupt_leaves_the_model_as_it_was(
    model: Path, without_points: Path, checkpoints: Path, config: ImageBindConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ibllm_tools.checkpoints.point_bind.write_index", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert_point_bind(checkpoints / "imagebind_w3D.pth", into=model, config=config)
    assert_same_weights(model, without_points)
    assert stored_fingerprint(model) == stored_fingerprint(without_points)
    assert [path.name for path in model.parent.iterdir()] == ["imagebind"]


# ---- what is refused


def test_a_tower_of_another_size_is_refused(model: Path, without_points: Path, checkpoints: Path) -> None:
    with pytest.raises(CheckpointError, match=r"imagebind_w3D\.pth: .*point_trunk.*of another shape.*its own `config`"):
        convert_point_bind(checkpoints / "imagebind_w3D.pth", into=model)
    assert_same_weights(model, without_points)


def test_a_configuration_without_points_is_refused(model: Path, checkpoints: Path) -> None:
    with pytest.raises(InvalidRequestError, match="the configuration has no point_config"):
        convert_point_bind(checkpoints / "imagebind_w3D.pth", into=model, config=ImageBindConfig())


def test_a_checkpoint_without_points_is_refused(reference: Path, model: Path, tmp_path: Path) -> None:
    checkpoint = write_imagebind(reference, tmp_path / "imagebind_huge.pth", point=False)
    with pytest.raises(CheckpointError, match="no weight of a point encoder"):
        convert_point_bind(checkpoint, into=model)


def test_a_model_with_a_visual_cache_is_refused(model: Path, checkpoints: Path, config: ImageBindConfig) -> None:
    (model / "visual_cache").mkdir()
    with pytest.raises(InvalidRequestError, match="its visual cache is tied to the encoder as it is"):
        convert_point_bind(checkpoints / "imagebind_w3D.pth", into=model, config=config)


@pytest.mark.parametrize(
    ("config", "error", "complaint"),
    [
        (None, ModelNotFoundError, "no model in it"),
        ({"model_type": "llama"}, IncompatibleModelError, "of type 'llama'"),
        ({"model_type": "imagebind", "projection_dim": "wide"}, CheckpointError, "config.json cannot be used"),
        ({"model_type": "imagebind"}, ModelNotFoundError, "neither model.safetensors nor"),
    ],
)
def test_a_folder_without_a_converted_model_is_refused(
    checkpoints: Path, tmp_path: Path, config: dict[str, Any] | None, error: type[Exception], complaint: str
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=complaint):
        convert_point_bind(checkpoints / "imagebind_w3D.pth", into=tmp_path)


def test_a_missing_shard_is_named(model: Path, checkpoints: Path, config: ImageBindConfig) -> None:
    convert_point_bind(checkpoints / "imagebind_w3D.pth", into=model, config=config)
    (model / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors: no such file"):
        convert_point_bind(checkpoints / "other.pth", into=model, config=config)
