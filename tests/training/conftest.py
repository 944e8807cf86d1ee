"""Tiny models and data for the stages."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from converted_models import converted_folder
from golden_adapter import HEADS
from training_fixture import VOCABULARY, WIDTH, Model, RandomItems, TrainingGolden
from transformers import LlamaConfig
from transformers.utils import logging

from ibllm_tools.checkpoints.llama_tokenizer import load_llama_tokenizer
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor
from ibllm_tools.imagebind.tokenization_imagebind import clip_tokenizer
from ibllm_tools.imagebind_llm import ImageBindLlmConfig, ImageBindLlmProcessor


@pytest.fixture(scope="session")
def golden(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingGolden:
    golden = TrainingGolden.load(reference)
    golden.converted = partial(converted_folder, reference, tmp_path_factory)
    return golden


@pytest.fixture
def processor(reference: Path) -> ImageBindLlmProcessor:
    tokenizer = load_llama_tokenizer(reference / "adapter" / "tokenizer.model")
    return ImageBindLlmProcessor(ImageBindProcessor(clip_tokenizer([("a", "b")]), image_size=32), tokenizer)


@pytest.fixture
def tiny_model() -> Callable[..., Model]:
    """Build a model without towers; the same one each time."""

    def build(*, layers: int = 3, prefix_layers: int = 2, **text: Any) -> Model:
        torch.manual_seed(0)
        sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": HEADS}
        text_config = LlamaConfig(**sizes | {"num_hidden_layers": layers} | text)
        imagebind_config = ImageBindConfig(projection_dim=WIDTH)
        return Model(
            ImageBindLlmConfig(
                imagebind_config=imagebind_config, text_config=text_config, num_prefix_layers=prefix_layers
            )
        )

    return build


@pytest.fixture
def items() -> RandomItems:
    return RandomItems()


@pytest.fixture(autouse=True)
def _without_bars() -> Iterator[None]:
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
