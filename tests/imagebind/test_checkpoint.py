"""Official checkpoints convert one-to-one: names, shapes, values."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ibllm_tools.checkpoints.imagebind import convert_imagebind_state_dict, imagebind_config_from_state_dict, renamed
from ibllm_tools.errors import CheckpointError
from ibllm_tools.imagebind import ImageBindConfig, ImageBindModel


def official_keys(reference: Path, name: str) -> dict[str, Tensor]:
    listing = json.loads((reference / "keys" / f"{name}.json").read_text())
    return {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for key, (shape, dtype) in listing.items()
    }


def shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


@pytest.mark.parametrize("name", ["imagebind_huge", "imagebind_w3D"])
def test_published_keys_are_those_of_the_huge_model(reference: Path, name: str) -> None:
    config = ImageBindConfig.huge()
    if name == "imagebind_huge":
        config.point_config = None
    with torch.device("meta"):
        model = ImageBindModel(config)
    assert shapes(convert_imagebind_state_dict(official_keys(reference, name))) == shapes(model.state_dict())


@pytest.mark.parametrize("name", ["imagebind_huge", "imagebind_w3D"])
def test_the_configuration_is_read_off_the_shapes(reference: Path, name: str) -> None:
    config = imagebind_config_from_state_dict(official_keys(reference, name)).to_dict()
    huge = ImageBindConfig.huge().to_dict()
    if name == "imagebind_huge":
        huge["point_config"] = None
    assert {key: config[key] for key in huge if key.endswith("_config")} == {
        key: value for key, value in huge.items() if key.endswith("_config")
    }
    assert config["projection_dim"] == 1024


def test_parameter_count_is_the_published_one(reference: Path) -> None:
    expected = json.loads((reference / "keys" / "counts.json").read_text())
    with torch.device("meta"):
        model = ImageBindModel(ImageBindConfig.huge())
    assert sum(value.numel() for value in model.parameters()) == expected["imagebind_w3D"]["parameters"]


def test_values_are_passed_through(official_weights: dict[str, Tensor]) -> None:
    key = "modality_heads.audio.2.weight"
    assert convert_imagebind_state_dict(official_weights)[renamed(key)] is official_weights[key]


def test_no_two_keys_share_a_name(official_weights: dict[str, Tensor]) -> None:
    assert len(convert_imagebind_state_dict(official_weights)) == len(official_weights) - 1  # the causal mask


@pytest.mark.parametrize("key", ["modality_trunks.vision.extra", "model.embed_tokens.weight"])
def test_an_unexpected_key_is_named(key: str) -> None:
    with pytest.raises(CheckpointError, match=f"unexpected key '{key}'"):
        convert_imagebind_state_dict({key: torch.zeros(1)})


def test_a_foreign_checkpoint_has_no_configuration() -> None:
    with pytest.raises(CheckpointError, match="no key of an ImageBind tower"):
        imagebind_config_from_state_dict({"model.embed_tokens.weight": torch.zeros(1)})


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, ibllm_tools.imagebind as i; assert 'ImageBindModel' in dir(i); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
