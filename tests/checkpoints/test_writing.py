"""What is planned is written, shard by shard and checked, with the fingerprint of its encoder."""

import json
import shutil
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoder import NAME, assert_holds, load, planned, weights_of, write
from torch import Tensor

from ibllm_tools.checkpoints.writing import PlannedWeight
from ibllm_tools.errors import CheckpointError, InvalidRequestError
from ibllm_tools.imagebind import ImageBindProcessor
from ibllm_tools.imagebind.fingerprint import fingerprint_of, stored_fingerprint


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where folders are written: nothing else is in there."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


# ---- what is written


def test_a_written_folder_loads_as_the_model(place: Path) -> None:
    write(place / "model")
    assert_holds(place / "model", 0)
    assert isinstance(ImageBindProcessor.from_pretrained(place / "model"), ImageBindProcessor)
    assert (place / "model" / "README.md").read_text() == "# A model\n"
    assert json.loads((place / "model" / "config.json").read_text())["architectures"] == ["ImageBindModel"]
    assert [path.name for path in place.iterdir()] == ["model"]


def test_one_file_suffices_for_a_small_model(place: Path) -> None:
    write(place / "model")
    assert [file.name for file in (place / "model").glob("model*")] == ["model.safetensors"]


def test_a_large_model_is_written_in_files_of_at_most_the_given_size(place: Path) -> None:
    write(place / "model", max_shard_bytes=5000)
    assert_holds(place / "model", 0)
    files = sorted((place / "model").glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)
    ]
    shards = [load_file(file) for file in files]
    assert len(shards) > 3
    assert all(len(shard) == 1 or sum(value.nbytes for value in shard.values()) <= 5000 for shard in shards)
    index = json.loads((place / "model" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file.name for file, shard in zip(files, shards, strict=True) for name in shard}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in weights_of(0).values())


def test_memory_holds_one_shard(place: Path) -> None:
    weights = weights_of(0)
    alive: list[weakref.ref[Tensor]] = []
    left: list[int] = []

    def make(name: str) -> Tensor:
        made = weights[name].clone()
        alive.append(weakref.ref(made))
        return made

    plan = [
        PlannedWeight(name, tuple(value.shape), value.dtype, partial(make, name)) for name, value in weights.items()
    ]
    write(place / "model", plan, max_shard_bytes=5000, release=lambda: left.append(sum(r() is not None for r in alive)))
    assert left == [0] * len(list((place / "model").glob("*.safetensors")))


def test_weights_are_cast_and_the_type_of_most_bytes_is_the_models(place: Path) -> None:
    plan = planned(weights_of(0), torch.bfloat16)
    plan[0] = PlannedWeight(plan[0].name, plan[0].shape, torch.float32, plan[0].make)
    write(place / "model", plan)
    assert load(place / "model").dtype == torch.bfloat16
    stored = load_file(place / "model" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16, torch.float32}


def test_weights_that_share_memory_are_written_each(place: Path) -> None:
    weights = weights_of(0)
    norms = [name for name in weights if name.endswith("layer_norm1.weight")]
    shared = torch.arange(16.0)
    write(place / "model", planned(weights | dict.fromkeys(norms, shared)))
    loaded = load(place / "model").state_dict()
    assert len(norms) == 2
    assert all(torch.equal(loaded[name], shared) for name in norms)


def test_others_may_read_the_weights_too(place: Path) -> None:
    write(place / "model")
    files = [(place / "model" / name).stat().st_mode for name in ("model.safetensors", "config.json")]
    assert files[0] == files[1]


# ---- what is refused


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(place: Path, value: float) -> None:
    weights = weights_of(0) | {NAME: torch.full((8, 16), value)}
    with pytest.raises(CheckpointError, match=f"not all values of {NAME} are finite"):
        write(place / "model", planned(weights))
    assert list(place.iterdir()) == []


def test_a_weight_too_large_for_half_precision_is_named(place: Path) -> None:
    weights = weights_of(0) | {NAME: torch.full((8, 16), 1e6)}
    with pytest.raises(CheckpointError, match=f"some values of {NAME} are too large for torch.float16; take bfloat16"):
        write(place / "model", planned(weights, torch.float16))
    write(place / "model", planned(weights, torch.bfloat16))


def test_a_weight_of_another_shape_than_planned_is_named(place: Path) -> None:
    plan = [weight for weight in planned(weights_of(0)) if weight.name != NAME]
    plan.append(PlannedWeight(NAME, (8, 16), torch.float32, lambda: torch.zeros(16, 8)))
    with pytest.raises(CheckpointError, match=rf"{NAME} is \(16, 8\), expected \(8, 16\)"):
        write(place / "model", plan)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (lambda weights: weights.pop(NAME), f"1 missing: {NAME}"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (lambda weights: weights.update({NAME: torch.zeros(3)}), rf"{NAME} is \(3,\), expected \(8, 16\)"),
    ],
)
def test_a_plan_that_is_not_the_model_is_refused(
    place: Path, changed: Callable[[dict[str, Tensor]], Any], complaint: str
) -> None:
    weights = dict(weights_of(0))
    changed(weights)
    with pytest.raises(CheckpointError, match=complaint):
        write(place / "model", planned(weights))
    assert list(place.iterdir()) == []


def test_a_disk_without_room_is_refused_before_anything_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    plan = [PlannedWeight(w.name, w.shape, w.dtype, lambda: pytest.fail("read")) for w in planned(weights_of(0))]
    with pytest.raises(InvalidRequestError, match=r"0\.1 GB will be written, 0\.0 GB are free"):
        write(place / "model", plan)
    assert list(place.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(place: Path) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InvalidRequestError, match=r"cannot be written \(No space left on device\)"):
        write(place / "model", save_processor=full)
    assert list(place.iterdir()) == []


def test_a_place_below_a_file_is_refused(place: Path) -> None:
    (place / "file").touch()
    with pytest.raises(InvalidRequestError, match=r"model: cannot be written \(Not a directory\)"):
        write(place / "file" / "model")
    with pytest.raises(InvalidRequestError, match="a file; expected a folder"):
        write(place / "file")


def test_the_root_and_the_current_folder_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(InvalidRequestError, match="the current folder cannot be replaced"):
        write(Path())
    with pytest.raises(InvalidRequestError, match="a mount point cannot be replaced"):
        write(Path("/"))


# ---- the fingerprint in the folder


def test_the_fingerprint_in_the_folder_is_that_of_the_loaded_model(place: Path) -> None:
    write(place / "whole")
    write(place / "parts", max_shard_bytes=5000)
    expected = fingerprint_of(load(place / "whole"), ImageBindProcessor.from_pretrained(place / "whole"))
    assert stored_fingerprint(place / "whole") == stored_fingerprint(place / "parts") == expected


def test_other_weights_have_another_fingerprint(place: Path) -> None:
    write(place / "model")
    write(place / "other", planned(weights_of(1)))
    assert stored_fingerprint(place / "model") != stored_fingerprint(place / "other")


def test_a_folder_whose_weights_changed_has_no_stored_fingerprint(place: Path) -> None:
    write(place / "model")
    file = place / "model" / "model.safetensors"
    size, weights = file.stat().st_size, load_file(file)
    weights[NAME] += 1
    save_file(weights, file, metadata={"format": "pt", "something_else": "0" * 64})
    assert file.stat().st_size == size  # by which it could not be told
    assert stored_fingerprint(place / "model") is None


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json"])
def test_a_folder_whose_processor_changed_has_no_stored_fingerprint(place: Path, name: str) -> None:
    write(place / "model")
    file = place / "model" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert stored_fingerprint(place / "model") is None


def test_a_folder_without_one_of_its_files_has_no_stored_fingerprint(place: Path) -> None:
    write(place / "model", max_shard_bytes=5000)
    assert stored_fingerprint(place / "model") is not None
    next((place / "model").glob("*.safetensors")).unlink()
    assert stored_fingerprint(place / "model") is None


@pytest.mark.parametrize("content", ["", "[]", '{"fingerprint": "x"}', '{"fingerprint": "x", "files": {}}'])
def test_a_broken_record_is_no_fingerprint(place: Path, content: str) -> None:
    write(place / "model")
    (place / "model" / "encoder.json").write_text(content)
    assert stored_fingerprint(place / "model") is None
