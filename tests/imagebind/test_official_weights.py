"""The official weights, name by name and shape by shape: both names, what has to be there, and a live model's."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_adapter import TOWER_HEADS, tiny_imagebind_config
from safetensors.torch import load_file
from torch import Tensor, nn

from ibllm_tools.errors import CheckpointError, InvalidRequestError
from ibllm_tools.imagebind import ImageBindConfig, ImageBindModel
from ibllm_tools.imagebind.official_weights import (
    Shape,
    convert_imagebind_state_dict,
    imagebind_config_from_state_dict,
    official_name,
    official_shapes,
    our_name,
    point_bind_weights,
    require_official_weights,
    require_weights,
)

PUBLISHED = ["imagebind_huge", "imagebind_w3D"]
MASK = "modality_preprocessors.text.mask"
LAST_BLOCK = "modality_trunks.thermal.blocks.11."


def published(reference: Path, name: str) -> dict[str, Shape]:
    """The shapes in a published file."""
    listing = json.loads((reference / "keys" / f"{name}.json").read_text())
    return {key: tuple(shape) for key, (shape, _) in listing.items()}


def published_config(name: str) -> ImageBindConfig:
    config = ImageBindConfig.huge()
    if name == "imagebind_huge":
        config.point_config = None
    return config


def shapes(weights: dict[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in weights.items()}


# names and shapes


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_official_shapes_are_those_of_the_published_files(reference: Path, name: str) -> None:
    assert official_shapes(published_config(name)) == published(reference, name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_converted_names_are_those_of_the_model(reference: Path, name: str) -> None:
    with torch.device("meta"):
        model = ImageBindModel(published_config(name))
    assert convert_imagebind_state_dict(published(reference, name)) == shapes(model.state_dict())


def test_every_name_leads_back(reference: Path) -> None:
    official = published(reference, "imagebind_w3D").keys() - {MASK}
    assert {official_name(our_name(key)) for key in official} == official


def test_values_are_passed_through(official_weights: dict[str, Tensor]) -> None:
    key = "modality_heads.audio.2.weight"
    assert convert_imagebind_state_dict(official_weights)[our_name(key)] is official_weights[key]


@pytest.mark.parametrize(
    "key",
    [
        "modality_trunks.vision.extra",
        "modality_preprocessors.imu.pos_embedding_helper.pos_embed",
        "modality_heads.audio.3.weight",
        "model.embed_tokens.weight",
    ],
)
def test_an_unexpected_key_is_named(key: str) -> None:
    with pytest.raises(CheckpointError, match=f"unexpected key '{key}'"):
        convert_imagebind_state_dict({key: torch.zeros(1)})


def test_a_model_with_a_stem_of_our_own_has_no_official_names() -> None:
    config = ImageBindConfig(vision_config={"stem_channels": [8, 8]})
    with pytest.raises(InvalidRequestError, match=r"'vision_model\.stem\.layers\.0.* is in no official checkpoint"):
        official_shapes(config)


# the configuration


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_configuration_is_the_published_one(reference: Path, name: str) -> None:
    config = imagebind_config_from_state_dict(published(reference, name))
    assert config.to_dict() == published_config(name).to_dict()


def test_points_alone_have_a_configuration_of_their_own(reference: Path) -> None:
    points = {key: shape for key, shape in published(reference, "imagebind_w3D").items() if "point" in key}
    config = imagebind_config_from_state_dict(points)
    assert config.point_config is not None
    assert config.vision_config is None
    require_official_weights(points, config, origin="w3D")


def test_another_size_is_read_off_the_shapes_where_the_heads_are_given(official_weights: dict[str, Tensor]) -> None:
    config = imagebind_config_from_state_dict(official_weights, num_attention_heads=TOWER_HEADS)
    require_official_weights(shapes(official_weights), config, origin="tiny")
    assert (config.audio_config.hidden_size, config.audio_config.num_attention_heads) == (40, 5)


def test_a_foreign_checkpoint_has_no_configuration() -> None:
    with pytest.raises(CheckpointError, match="no weight of an ImageBind tower"):
        imagebind_config_from_state_dict({"model.embed_tokens.weight": torch.zeros(1)})


def test_a_weight_whose_shape_is_needed_is_named(official_weights: dict[str, Tensor]) -> None:
    weights = {key: value for key, value in official_weights.items() if key != "modality_preprocessors.imu.pos_embed"}
    with pytest.raises(CheckpointError, match=r"modality_preprocessors\.imu\.pos_embed is missing"):
        imagebind_config_from_state_dict(weights, num_attention_heads=TOWER_HEADS)


# what has to be there


def refusal(found: dict[str, Shape]) -> str:
    with pytest.raises(CheckpointError) as error:
        require_official_weights(found, imagebind_config_from_state_dict(found), origin="huge.pth")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_unexpected_and_misshapen_weights_are_named_by_their_official_names(reference: Path) -> None:
    found = published(reference, "imagebind_huge")
    del found["modality_heads.imu.3.weight"]
    found["modality_heads.imu.2.weight"] = (1024, 512)
    found["modality_trunks.text.blocks.0.mlp.fc1.bias"] = (7,)
    assert refusal(found) == (
        "huge.pth: weights do not fit (1 missing: modality_heads.imu.3.weight; "
        "1 unexpected: modality_heads.imu.2.weight; "
        "1 of another shape: modality_trunks.text.blocks.0.mlp.fc1.bias is (7,), expected (4096,)); "
        "is the file complete? A checkpoint of another size needs its own `config` (--config)"
    )


def test_of_many_weights_the_first_are_named_and_the_rest_counted(reference: Path) -> None:
    found = {k: shape for k, shape in published(reference, "imagebind_huge").items() if not k.startswith(LAST_BLOCK)}
    message = refusal(found)
    assert "(14 missing: modality_trunks.thermal.blocks.11." in message
    assert message.count(LAST_BLOCK) == 8
    assert " and 6 more);" in message


def test_a_whole_tower_that_is_missing_is_missed(reference: Path) -> None:
    found = {key: shape for key, shape in published(reference, "imagebind_w3D").items() if ".imu." not in key}
    assert "modality_trunks.imu.blocks.0" in refusal(found)


def test_names_in_an_error_are_fit_for_a_terminal() -> None:
    with pytest.raises(CheckpointError) as caught:
        require_weights({"a\x1b[31m\n" + "b" * 1000: (1,)}, {}, origin="odd.pth", remedy="try again")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_foreign_weights_are_asked_for_their_origin() -> None:
    with pytest.raises(CheckpointError, match=r"llama\.pth: .*unexpected: norm.*is this an ImageBind checkpoint\?"):
        require_official_weights({"norm": (1,)}, ImageBindConfig.huge(), origin="llama.pth")


def test_weights_that_fit_are_accepted() -> None:
    require_weights({"a": (1, 2)}, {"a": (1, 2)}, origin="a file", remedy="nothing")


# Point-Bind


def point_bind(w3d: dict[str, Shape]) -> dict[str, Shape]:
    """The state dict of Point-Bind's own repository."""
    to_point_bind = (
        (r"^point_trunk\.", ""),
        (r"^modality_heads\.point\.", "bind.modality_head_point."),
        (r"^modality_postprocessors\.point\.", "bind.modality_postprocessor_point."),
        (r"^modality", "bind.modality"),
    )
    renamed = {"logit_scale": ()}
    for key, shape in w3d.items():
        for pattern, theirs in to_point_bind:
            if key != (name := re.sub(pattern, theirs, key)):
                break
        renamed[name] = shape
    return renamed


@pytest.fixture
def w3d(reference: Path) -> dict[str, Shape]:
    return published(reference, "imagebind_w3D")


@pytest.fixture
def points(w3d: dict[str, Shape]) -> dict[str, Shape]:
    return {key: shape for key, shape in w3d.items() if "point" in key}


def test_point_bind_adds_the_points_of_w3d(w3d: dict[str, Shape], points: dict[str, Shape]) -> None:
    original = point_bind(w3d)
    assert {"pc_projection", "point_encoder.cls_pos", "bind.modality_head_point.2.weight"} <= original.keys()
    assert point_bind_weights(original, origin="pointbind.pt") == points


def test_point_bind_from_several_gpus_is_the_same(w3d: dict[str, Shape], points: dict[str, Shape]) -> None:
    original = {f"module.{key}": shape for key, shape in point_bind(w3d).items()}
    assert point_bind_weights(original, origin="pointbind.pt") == points


def test_the_points_of_w3d_itself_are_found(w3d: dict[str, Shape], points: dict[str, Shape]) -> None:
    assert point_bind_weights(w3d, origin="imagebind_w3D.pth") == points


def test_i2p_mae_is_refused() -> None:
    found = {"pc_projection": (384, 512), "point_encoder.h_encoder.token_embed.0.first_conv.0.weight": (128, 3, 1)}
    with pytest.raises(CheckpointError, match=r"i2pmae\.pt: its point encoder is I2P-MAE, .*pointbind_pointbert\.pt"):
        point_bind_weights(found, origin="i2pmae.pt")


@pytest.mark.parametrize("key", ["optimizer", "bind.extra", "point_encoder.cls_head.weight"])
def test_an_unknown_key_of_point_bind_is_named(w3d: dict[str, Shape], key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"pointbind\.pt: unexpected {re.escape(key)};"):
        point_bind_weights(point_bind(w3d) | {key: (1,)}, origin="pointbind.pt")


def test_a_checkpoint_without_points_is_no_point_bind(reference: Path) -> None:
    with pytest.raises(CheckpointError, match=r"huge\.pth: no weight of a point encoder"):
        point_bind_weights(published(reference, "imagebind_huge"), origin="huge.pth")


# a live model of the research code


class ResearchModel(nn.Module):
    """A module with the research code's state dict; nothing else of it is ever looked at."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for key, value in weights.items():
            *path, leaf = key.split(".")
            module: nn.Module = self
            for name in path:
                if name not in module._modules:
                    module.add_module(name, nn.Module())
                module = module.get_submodule(name)
            if key == MASK or leaf.startswith(("running", "num_batches")):
                module.register_buffer(leaf, value.clone())
            else:
                module.register_parameter(leaf, nn.Parameter(value.clone()))


@pytest.fixture
def research_model(official_weights: dict[str, Tensor]) -> ResearchModel:
    return ResearchModel(official_weights)


@pytest.mark.parametrize(
    ("case", "modality"),
    [
        ("vision", "image"),
        ("video", "video"),
        ("text", "text"),
        ("audio", "audio"),
        ("depth", "depth"),
        ("thermal", "thermal"),
        ("imu", "imu"),
        ("point_start0", "point"),
    ],
)
def test_a_live_model_gives_the_same_embeddings(
    research_model: ResearchModel, official_weights: dict[str, Tensor], reference: Path, case: str, modality: str
) -> None:
    ours = ImageBindModel.from_official(research_model.train(), config=tiny_imagebind_config(official_weights))
    values = load_file(reference / "imagebind" / "inputs.safetensors")[case.split("_")[0]]
    expected = load_file(reference / "imagebind" / "outputs.safetensors")[f"prenorm.{case}"]
    with torch.no_grad():
        actual = ours.encode(modality, values, prenorm=True)
    torch.testing.assert_close(actual, expected, atol=5e-6, rtol=0)


def test_a_live_model_keeps_its_weights_to_itself(
    research_model: ResearchModel, official_weights: dict[str, Tensor]
) -> None:
    ours = ImageBindModel.from_official(research_model, config=tiny_imagebind_config(official_weights))
    for parameter in research_model.parameters():
        parameter.data.zero_()
    expected = convert_imagebind_state_dict(official_weights)
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())


def test_a_live_model_in_half_precision_stays_so(
    research_model: ResearchModel, official_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    ours = ImageBindModel.from_official(research_model.bfloat16(), config=tiny_imagebind_config(official_weights))
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    ours.save_pretrained(tmp_path)
    assert ImageBindModel.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_a_live_model_of_another_size_needs_its_configuration(research_model: ResearchModel) -> None:
    with pytest.raises(CheckpointError, match=r"ResearchModel: .*needs its own `config`"):
        ImageBindModel.from_official(research_model)


# what it costs


def test_parameter_count_is_the_published_one(reference: Path) -> None:
    expected = json.loads((reference / "keys" / "counts.json").read_text())
    with torch.device("meta"):
        model = ImageBindModel(ImageBindConfig.huge())
    assert sum(value.numel() for value in model.parameters()) == expected["imagebind_w3D"]["parameters"]


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, ibllm_tools.imagebind as i; assert 'ImageBindModel' in dir(i); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
