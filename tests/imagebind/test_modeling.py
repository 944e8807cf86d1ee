"""The model gives what the research code gives: tiny random weights, golden inputs, outputs and activations."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from ibllm_tools.errors import IncompatibleModelError, InvalidRequestError
from ibllm_tools.imagebind import ImageBindConfig, ImageBindModel
from ibllm_tools.imagebind.configuration_imagebind import INPUT_NAMES
from ibllm_tools.imagebind.modeling_point import farthest_point_sampling

TOWERS = ("vision", "text", "audio", "depth", "thermal", "imu")
CASES = (
    "vision", "vision_112", "vision_230", "vision_252", "video", "text", "audio", "audio_clips", "depth", "depth_clips",
    "thermal", "imu", "point_start0", "point_start_b",
)  # fmt: skip
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY_TOWERS: dict[str, tuple[dict[str, Any], str, tuple[int, ...]]] = {
    "vision_config": ({"image_size": 28}, "image", (2, 3, 28, 28)),
    "text_config": ({"vocab_size": 50}, "text", (2, 77)),
    "audio_config": ({"num_mel_bins": 32, "target_length": 46}, "audio", (2, 3, 1, 32, 46)),
    "depth_config": ({"image_size": 32}, "depth", (2, 1, 32, 32)),
    "thermal_config": ({"image_size": 32}, "thermal", (2, 1, 32, 32)),
    "imu_config": ({"num_samples": 80}, "imu", (2, 6, 80)),
    "point_config": (
        {"num_groups": 4, "group_size": 3, "pointnet_channels": [8, 8, 8], "group_embedding_size": 8, "pooled_size": 8},
        "point",
        (2, 20, 3),
    ),
}


def tiny(name: str, **changes: Any) -> ImageBindModel:
    return ImageBindModel(
        ImageBindConfig(projection_dim=12, **{name: {**TINY, **TINY_TOWERS[name][0], **changes}})
    ).eval()


@pytest.fixture(scope="module")
def precise(model: ImageBindModel) -> ImageBindModel:
    return copy.deepcopy(model).double()


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def encode_case(model: ImageBindModel, folder: Path, case: str, *, prenorm: bool) -> Tensor:
    kind = case.split("_")[0]
    values = load_file(folder / "inputs.safetensors")["point" if kind == "point" else case]
    starts = json.loads((folder / "fixture.json").read_text())["fps_starts"].get(case)
    if values.is_floating_point():
        values = values.to(model.dtype)  # stored as float16 without loss
    return model.encode(
        "image" if kind == "vision" else kind,
        values,
        prenorm=prenorm,
        start_indices=None if starts is None else torch.tensor(starts),
    )


@pytest.mark.parametrize("case", CASES)
def test_head_outputs_equal_the_research_code(model: ImageBindModel, reference: Path, case: str) -> None:
    expected = load_file(reference / "imagebind" / "outputs.safetensors")[f"prenorm.{case}"]
    actual = encode_case(model, reference / "imagebind", case, prenorm=True)
    torch.testing.assert_close(actual, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_embeddings_equal_the_research_code(model: ImageBindModel, reference: Path, case: str) -> None:
    expected = load_file(reference / "imagebind" / "outputs.safetensors")[f"emb.{case}"]
    actual = encode_case(model, reference / "imagebind", case, prenorm=False)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prenorm", [True, False])
def test_double_precision_equals_the_research_code(
    precise: ImageBindModel, reference: Path, case: str, prenorm: bool
) -> None:
    key = f"{'prenorm' if prenorm else 'emb'}.{case}"
    expected = load_file(reference / "imagebind" / "outputs_f64.safetensors")[key]
    actual = encode_case(precise, reference / "imagebind", case, prenorm=prenorm)
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)


def test_the_logit_scale_stops_at_100(model: ImageBindModel, reference: Path) -> None:
    hot = copy.deepcopy(model)
    hot.text_model.logit_scale.fill_(5.0)  # exp(5) = 148.4
    expected = load_file(reference / "imagebind" / "outputs.safetensors")["emb.text_scale5"]
    actual = encode_case(hot, reference / "imagebind", "text", prenorm=False)
    torch.testing.assert_close(actual, expected, atol=5e-5, rtol=0)
    torch.testing.assert_close(actual.norm(dim=-1), torch.full((4,), 100.0))


def recorded(run: Callable[[], Any], outputs: dict[str, nn.Module], inputs: dict[str, nn.Module]) -> dict[str, Tensor]:
    """What the modules returned (or received) while ``run`` ran."""
    seen: dict[str, Tensor] = {}

    def note(name: str, value: Tensor) -> None:  # a hook that returns something would replace the value
        seen[name] = value

    handles = [
        module.register_forward_hook(lambda _module, _args, output, name=name: note(name, output))
        for name, module in outputs.items()
    ] + [
        module.register_forward_pre_hook(lambda _module, args, name=name: note(name, args[0]))
        for name, module in inputs.items()
    ]
    run()
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", TOWERS)
def test_activations_equal_the_research_code(model: ImageBindModel, reference: Path, name: str) -> None:
    tower = getattr(model, f"{name}_model")
    block = tower.encoder.layers[0]
    outputs = {
        "block0.norm_1": block.layer_norm1,
        "block0.attn": block.self_attn,
        "block0.norm_2": block.layer_norm2,
        "block0.mlp": block.mlp,
        "block0.out": block,
        "trunk_out": tower.encoder,
    }
    inputs = {"pre": tower.encoder, "tokens": tower.pre_layernorm if name == "vision" else block}
    seen = recorded(lambda: encode_case(model, reference / "imagebind", name, prenorm=True), outputs, inputs)
    expected = load_file(reference / "imagebind" / "activations.safetensors")
    assert {f"act.{name}.{key}" for key in seen} == {key for key in expected if key.startswith(f"act.{name}.")}
    for key, value in seen.items():
        torch.testing.assert_close(value[:1], expected[f"act.{name}.{key}"], atol=1e-5, rtol=1e-6)


def test_point_activations_equal_the_research_code(model: ImageBindModel, reference: Path) -> None:
    point_bert = model.point_model.point_bert
    outputs = {
        "encoder": point_bert.group_embedding,
        "reduce_dim": point_bert.group_projection,
        "pos_embed": point_bert.position_mlp,
        "block0.out": point_bert.layers[0],
        "block1.out": point_bert.layers[1],
        "norm": point_bert.norm,
        "feat": point_bert,
    }
    inputs = {"pc_embed": model.point_model.post_layernorm}
    seen = recorded(lambda: encode_case(model, reference / "imagebind", "point_start0", prenorm=True), outputs, inputs)
    expected = load_file(reference / "imagebind" / "activations.safetensors")
    for key, value in seen.items():
        torch.testing.assert_close(value, expected[f"act.point.{key}"], atol=1e-5, rtol=1e-6)


def test_point_groups_equal_the_research_code(model: ImageBindModel, reference: Path) -> None:
    points = load_file(reference / "imagebind" / "inputs.safetensors")["point"].float()
    expected = load_file(reference / "imagebind" / "activations.safetensors")
    centres, groups = model.point_model.point_bert.group(points, None)
    assert centres.equal(expected["act.point.center"])
    ordered, ours = (  # the order inside of a group is arbitrary
        torch.stack([group[group[:, 0].argsort()] for group in item])
        for item in (expected["act.point.neighborhood"][0], groups[0])
    )
    torch.testing.assert_close(ours, ordered, atol=1e-6, rtol=0)


def test_more_groups_than_points_repeats_points() -> None:
    points = torch.randn(1, 5, 3)
    chosen = farthest_point_sampling(points, 8)[0]
    assert sorted(chosen[:5].tolist()) == [0, 1, 2, 3, 4]


def test_an_image_is_a_clip_of_two_equal_frames(model: ImageBindModel) -> None:
    image = torch.rand(1, 3, 224, 224)
    clip = image[:, None, :, None].expand(-1, -1, -1, 2, -1, -1)  # (B, S, 3, T, H, W)
    torch.testing.assert_close(model.get_image_features(image), model.get_video_features(clip))


def test_clips_are_averaged_after_scaling(model: ImageBindModel) -> None:
    clips = torch.randn(2, 3, 1, 128, 204)
    singly = torch.stack([model.get_audio_features(clips[:, index]) for index in range(3)]).mean(dim=0)
    torch.testing.assert_close(model.get_audio_features(clips), singly, atol=1e-5, rtol=1e-5)


def test_save_and_load_round_trips(model: ImageBindModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = ImageBindModel.from_pretrained(tmp_path)
    weights = loaded.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(weights[name].equal(value) for name, value in model.state_dict().items())
    assert loaded.config.audio_config.hidden_size == 40
    assert loaded.config.point_config.num_groups == 32


def test_auto_classes_find_it(tmp_path: Path) -> None:
    tiny("imu_config").save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), ImageBindConfig)
    model = AutoModel.from_pretrained(tmp_path)
    assert isinstance(model, ImageBindModel)
    assert model.modalities == ("imu",)


@pytest.mark.parametrize("name", TINY_TOWERS)
def test_each_tower_works_alone(name: str) -> None:
    _, modality, shape = TINY_TOWERS[name]
    model = tiny(name)
    values = torch.randint(0, 50, shape) if modality == "text" else torch.rand(shape)
    embedding = model.encode(modality, values)
    assert embedding.shape == (2, 12)
    assert embedding.isfinite().all()
    output = model(**{INPUT_NAMES[modality]: values})
    assert output[f"{modality}_embeds"].equal(embedding)


@pytest.mark.parametrize("name", ["vision_config", "audio_config", "depth_config"])
@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_conv_stem_halves_the_sides(name: str, halvings: int) -> None:
    _, modality, shape = TINY_TOWERS[name]
    model = tiny(name, stem_channels=[4, 6, 8][:halvings])
    tower = model.tower(modality)
    rows, columns = (-(-side // 2**halvings) for side in shape[-2:])
    assert tower.grid == (rows, columns)
    assert tower.embed(torch.rand(2, *shape[-3:])).shape == (2, 1 + rows * columns, 16)
    assert model.encode(modality, torch.rand(shape)).shape == (2, 12)


def test_conv_stem_averages_frames() -> None:
    model = tiny("vision_config", stem_channels=[4, 6])
    image = torch.rand(1, 3, 28, 28)
    clip = image.unsqueeze(2).expand(-1, -1, 2, -1, -1)
    torch.testing.assert_close(model.encode("video", clip), model.encode("image", image))


def test_drop_path_and_gradients_only_in_training() -> None:
    model = tiny("imu_config", num_hidden_layers=4, drop_path_rate=0.9)
    values = torch.rand(8, 6, 80)
    assert model.get_imu_features(values).equal(model.get_imu_features(values))
    model.train()
    with torch.enable_grad():
        first = model.get_imu_features(values)
        first.sum().backward()
    assert not first.equal(model.get_imu_features(values))
    assert model.imu_model.class_embedding.grad is not None


@pytest.mark.parametrize("name", TINY_TOWERS)
def test_each_tower_runs_in_half_precision(name: str) -> None:
    torch.manual_seed(0)
    _, modality, shape = TINY_TOWERS[name]
    model = tiny(name)
    values = torch.randint(0, 50, shape) if modality == "text" else torch.rand(shape)
    expected = model.encode(modality, values)
    embedding = copy.deepcopy(model).half().encode(modality, values)
    assert embedding.dtype == torch.float16
    assert torch.cosine_similarity(embedding.float(), expected).min() > 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_groups_points_as_full_precision(model: ImageBindModel, dtype: torch.dtype) -> None:
    points = torch.rand(2, 2000, 3, generator=torch.Generator().manual_seed(0))
    half, seen = copy.deepcopy(model.point_model).to(dtype), []
    half.point_bert.group_embedding.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    centres, groups = model.point_model.point_bert.group(points, None)
    half_model = copy.deepcopy(model).to(dtype)
    half_model.point_model = half
    half_model.get_point_features(points)
    assert seen[0].equal(groups.to(dtype))
    assert half.point_bert.group(points, None)[0].equal(centres.to(dtype))


def test_half_precision_interpolates_positions_in_full(model: ImageBindModel) -> None:
    half = copy.deepcopy(model).bfloat16()
    embedding = half.get_image_features(torch.rand(1, 3, 112, 112))
    assert embedding.dtype == torch.bfloat16
    assert embedding.isfinite().all()


@pytest.mark.parametrize(
    ("modality", "shape", "message"),
    [
        ("image", (3, 224, 224), "expected 4 dimensions"),
        ("image", (1, 3, 224, 112), "square"),
        ("audio", (1, 1, 128, 100), r"expected .*\(128, 204\)"),
        ("depth", (1, 1, 100, 100), r"\(224, 224\)"),
        ("imu", (1, 6, 100), "expected 2000"),
        ("imu", (1, 2, 6, 2000), "expected 3 dimensions"),
        ("point", (1, 5, 3), "at least 16"),
        ("video", (1, 1, 3, 4, 224, 224), "a clip of 4 frames; expected 2, or 1"),
        ("smell", (1, 2), "unknown modality 'smell'"),
    ],
)
def test_wrong_shapes_are_refused(model: ImageBindModel, modality: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        model.encode(modality, torch.zeros(shape))


def test_text_of_another_length_is_refused(model: ImageBindModel) -> None:
    with pytest.raises(InvalidRequestError, match="5 token ids; expected 77"):
        model.get_text_features(torch.zeros(1, 5, dtype=torch.long))


def test_a_missing_tower_is_named() -> None:
    with pytest.raises(IncompatibleModelError, match="cannot embed audio; it knows imu"):
        tiny("imu_config").get_audio_features(torch.zeros(1, 1, 128, 204))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(Exception, match="not a multiple of num_attention_heads"):
        ImageBindConfig(imu_config={"hidden_size": 10, "num_attention_heads": 3})
