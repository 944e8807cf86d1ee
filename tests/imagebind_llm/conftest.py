"""The tiny ImageBind-LLM of the golden fixtures, and tiny models of other families."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from converted_models import converted_folder
from golden_adapter import Golden
from transformers import AutoConfig, PreTrainedConfig

from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind_llm import ImageBindLlmConfig, ImageBindLlmForConditionalGeneration

Convert = Callable[..., Path]


@pytest.fixture(scope="session")
def golden(reference: Path) -> Golden:
    return Golden.load(reference)


@pytest.fixture(scope="session")
def converted(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """The folder of one of the four models of the fixtures, converted from official files; made once."""
    return partial(converted_folder, reference, tmp_path_factory)


@pytest.fixture(scope="session")
def build(converted: Convert) -> Callable[..., ImageBindLlmForConditionalGeneration]:
    """Load one of the four models of the fixtures; shared between tests unless it is to be ``fresh``."""
    cache: dict[Path, ImageBindLlmForConditionalGeneration] = {}

    def load(
        phase: str, prefix_layers: int, *, keep_lora: bool = False, fresh: bool = False
    ) -> ImageBindLlmForConditionalGeneration:
        folder = converted(phase, prefix_layers, keep_lora=keep_lora)
        if not fresh and folder in cache:
            return cache[folder]
        model = ImageBindLlmForConditionalGeneration.from_pretrained(folder)
        if not fresh:
            cache[folder] = model
        return model

    return load


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
