"""Which weights train in each stage, and what becomes of LoRA afterwards."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_adapter import HEADS, our_name
from torch import Tensor, nn
from training_fixture import WIDTH
from transformers import MistralConfig, Qwen3Config

from ibllm_tools.errors import InvalidRequestError, MissingExtraError
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind_llm import ImageBindLlmConfig, ImageBindLlmForConditionalGeneration
from ibllm_tools.training import Stage, merge_lora, parameter_groups, prepare_for_stage

Build = Callable[..., ImageBindLlmForConditionalGeneration]


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def logits(model: ImageBindLlmForConditionalGeneration) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 97, (3, 9), generator=generator)
    embeddings = torch.randn(3, WIDTH, generator=generator)
    with torch.no_grad():
        return model.eval()(ids, embeddings=embeddings).logits


def disturb(model: nn.Module) -> None:
    """Move everything that trains away from where it started, as training would."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_weights_that_train_and_that_decay_are_the_official_ones(
    tiny_model: Build, reference: Path, stage: Stage
) -> None:
    facts = json.loads((reference / "keys" / "adapter_7B_trainable.json").read_text())[stage]
    model = prepare_for_stage(tiny_model(layers=32, prefix_layers=32), stage, lora_rank=2)
    assert trainable(model) == {our_name(name) for name in facts["trainable"]}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kept, decayed = parameter_groups(model, 0.05)
    assert (kept["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)
    assert {names[id(p)] for p in kept["params"]} == {our_name(name) for name in facts["weight_decay_zero"]}
    assert {names[id(p)] for p in decayed["params"]} == {our_name(name) for name in facts["weight_decayed"]}


def test_the_language_stage_trains_the_whole_language_model_only(tiny_model: Build) -> None:
    model = prepare_for_stage(tiny_model(), "language")
    assert trainable(model) == {name for name, _ in model.named_parameters() if name.startswith("language_model.")}


def test_the_joint_embedding_never_trains(golden: Any) -> None:
    model = golden.model("pretrain")
    for stage in ("language", "pretrain", "finetune"):
        prepare_for_stage(model, stage)
        assert not any(name.startswith("imagebind.") for name in trainable(model))


@pytest.mark.parametrize("stage", ["language", "pretrain", "finetune"])
def test_preparing_changes_no_output(tiny_model: Build, stage: Stage) -> None:
    model = tiny_model()
    model.gates.data.normal_()
    before = logits(model)
    torch.testing.assert_close(logits(prepare_for_stage(model, stage)), before, atol=1e-6, rtol=0)


def test_trainable_weights_are_float32_and_frozen_ones_keep_their_dtype(tiny_model: Build) -> None:
    model = prepare_for_stage(tiny_model().to(torch.bfloat16), "finetune")
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name


def test_lora_has_no_scaling_and_no_dropout(tiny_model: Build) -> None:
    model = prepare_for_stage(tiny_model(), "finetune", lora_rank=4)
    projection = model.injected_attentions()[0].v_proj
    assert projection.scaling == {"default": 1.0}
    assert isinstance(projection.lora_dropout["default"], nn.Identity)
    assert projection.lora_A["default"].weight.shape == (4, 32)


def test_preparing_twice_adds_lora_once(tiny_model: Build) -> None:
    model = prepare_for_stage(tiny_model(), "finetune")
    names = trainable(model)
    assert trainable(prepare_for_stage(model, "finetune")) == names


@pytest.mark.parametrize("family", ["llama", "grouped", "qwen3", "mistral"])
def test_merging_changes_no_output(tiny_model: Build, family: str, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": 8}
    if family in ("llama", "grouped"):
        model = tiny_model(**({"num_key_value_heads": 2} if family == "grouped" else {}))
    else:
        text_config = {"qwen3": Qwen3Config, "mistral": MistralConfig}[family](**sizes)
        model = ImageBindLlmForConditionalGeneration(
            ImageBindLlmConfig(imagebind_config=ImageBindConfig(projection_dim=WIDTH), text_config=text_config)
        )
    model.gates.data.normal_()
    plain = logits(model)
    disturb(prepare_for_stage(model, "finetune", lora_rank=3))
    before = logits(model)
    assert (before - plain).abs().max() > 0.01
    assert merge_lora(model) is model
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=0)
    assert model.config.prefix_value_rank == 3
    assert not any("lora" in name or "base_layer" in name for name in model.state_dict())
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(
        logits(ImageBindLlmForConditionalGeneration.from_pretrained(tmp_path)), before, atol=1e-5, rtol=0
    )


def test_a_merged_model_can_be_fine_tuned_and_merged_again(tiny_model: Build) -> None:
    model = tiny_model()
    model.gates.data.normal_()
    for rank in (3, 2):
        disturb(prepare_for_stage(model, "finetune", lora_rank=rank))
        before = logits(model)
        torch.testing.assert_close(logits(merge_lora(model)), before, atol=1e-5, rtol=0)
    assert model.config.prefix_value_rank == 5


def test_merging_without_lora_does_nothing(tiny_model: Build) -> None:
    model = tiny_model()
    names = set(model.state_dict())
    assert set(merge_lora(model).state_dict()) == names


def test_merging_equals_the_converter(golden: Any) -> None:
    """The official checkpoint, loaded with LoRA and merged here, is the one merged at conversion."""
    merged = merge_lora(golden.model("finetune")).state_dict()
    expected = ImageBindLlmForConditionalGeneration.from_pretrained(golden.converted("finetune")).state_dict()
    assert merged.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(merged[name], value, atol=1e-6, rtol=1e-6)


def test_an_unknown_stage_is_refused(tiny_model: Build) -> None:
    with pytest.raises(InvalidRequestError, match="no stage 'align'; expected one of language, pretrain, finetune"):
        prepare_for_stage(tiny_model(), "align")  # type: ignore[arg-type]


def test_a_rank_of_zero_is_refused(tiny_model: Build) -> None:
    with pytest.raises(InvalidRequestError, match="lora_rank is 0, expected 1 or more"):
        prepare_for_stage(tiny_model(), "finetune", lora_rank=0)


def test_without_peft_the_extra_is_named(tiny_model: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"ibllm-tools\[train\]"):
        prepare_for_stage(tiny_model(), "finetune")
