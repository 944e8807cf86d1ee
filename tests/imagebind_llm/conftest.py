"""The tiny ImageBind-LLM of the golden fixtures, and tiny models of other families."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_fixture import Golden
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file
from transformers import MistralConfig, PreTrainedConfig, Qwen3Config

from ibllm_tools.checkpoints.imagebind import imagebind_config_from_state_dict
from ibllm_tools.checkpoints.imagebind_llm import convert_adapter_state_dict, imagebind_llm_config_from_state_dict
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind_llm import ImageBindLlmConfig, ImageBindLlmForConditionalGeneration

HEADS = 4
NORM_EPS = 1e-5
TOWER_HEADS = {"vision": 4, "audio": 5, "text": 2, "depth": 2, "thermal": 3, "imu": 4, "point": 6}


@pytest.fixture(scope="session")
def golden(reference: Path) -> Golden:
    adapter, imagebind = reference / "adapter", reference / "imagebind"
    weights = load_file(adapter / "state_dict.safetensors")
    weights |= {f"image_bind.{k}": v for k, v in load_file(imagebind / "state_dict.safetensors").items()}
    inputs = load_file(imagebind / "inputs.safetensors")
    return Golden(
        adapter,
        json.loads((adapter / "fixture.json").read_text(encoding="utf-8")),
        weights,
        *(load_file(adapter / f"{name}.safetensors") for name in ("visual", "inference", "training", "image_generate")),
        {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()},
    )


@pytest.fixture(scope="session")
def tiny_imagebind_config(golden: Golden) -> ImageBindConfig:
    official = {k.removeprefix("image_bind."): v for k, v in golden.weights.items() if k.startswith("image_bind.")}
    config = imagebind_config_from_state_dict(official, num_attention_heads=TOWER_HEADS)
    config.point_config.num_groups, config.point_config.group_size = 32, 16  # do not show in the weights
    return config


@pytest.fixture(scope="session")
def build(
    golden: Golden, tiny_imagebind_config: ImageBindConfig
) -> Callable[..., ImageBindLlmForConditionalGeneration]:
    """Build one of the four models of the fixtures; shared between tests unless it is to be ``fresh``."""
    cache: dict[tuple[str, int], ImageBindLlmForConditionalGeneration] = {}

    def build_model(
        phase: str, prefix_layers: int, *, keep_lora: bool = False, fresh: bool = False
    ) -> ImageBindLlmForConditionalGeneration:
        shared = not (keep_lora or fresh)
        if shared and (phase, prefix_layers) in cache:
            return cache[phase, prefix_layers]
        official = golden.official(phase, prefix_layers)
        config = imagebind_llm_config_from_state_dict(
            official,
            num_attention_heads=HEADS,
            norm_eps=NORM_EPS,
            keep_lora=keep_lora,
            imagebind_config=tiny_imagebind_config,
        )
        model = ImageBindLlmForConditionalGeneration(config)
        if keep_lora:
            names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            inject_adapter_in_model(LoraConfig(r=16, lora_alpha=16, target_modules=names), model.language_model)
        model.load_state_dict(convert_adapter_state_dict(official, num_attention_heads=HEADS, keep_lora=keep_lora))
        model.eval()
        if shared:
            cache[phase, prefix_layers] = model
        return model

    return build_model


def tiny_text_config(family: str = "qwen3", **options: Any) -> PreTrainedConfig:
    """A tiny decoder with grouped-query attention and three layers."""
    sizes = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | options
    return {"qwen3": Qwen3Config, "mistral": MistralConfig}[family](**sizes)


@pytest.fixture
def tiny_model() -> Callable[..., ImageBindLlmForConditionalGeneration]:
    """Build an ImageBind-LLM without towers on a tiny decoder; gates are opened unless told otherwise."""

    def build_model(
        family: str = "qwen3", *, gate: float = 0.7, **options: Any
    ) -> ImageBindLlmForConditionalGeneration:
        torch.manual_seed(0)
        config = ImageBindLlmConfig(
            imagebind_config=ImageBindConfig(projection_dim=16),
            text_config=tiny_text_config(family, **options.pop("text", {})),
            **{"num_prefix_layers": 2} | options,
        )
        model = ImageBindLlmForConditionalGeneration(config).eval()
        for parameter in model.language_model.parameters():  # wide enough that the greedy choice is not a near tie
            torch.nn.init.normal_(parameter.data, std=0.3)
        if gate:
            model.gates.data.normal_(std=gate)
        return model

    return build_model
