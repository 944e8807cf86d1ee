"""The tiny ImageBind-LLM of the golden fixtures, and tiny models of other families."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_adapter import HEADS, NORM_EPS, Golden
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoConfig, PreTrainedConfig

from ibllm_tools.checkpoints.imagebind_llm import convert_adapter_state_dict, imagebind_llm_config_from_state_dict
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind_llm import ImageBindLlmConfig, ImageBindLlmForConditionalGeneration


@pytest.fixture(scope="session")
def golden(reference: Path) -> Golden:
    return Golden.load(reference)


@pytest.fixture(scope="session")
def build(golden: Golden) -> Callable[..., ImageBindLlmForConditionalGeneration]:
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
            imagebind_config=golden.imagebind_config(),
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
    """A tiny decoder of a family of transformers, with grouped-query attention and three layers."""
    sizes = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | options
    return AutoConfig.for_model(family, **sizes)


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
