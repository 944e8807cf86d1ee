"""The tiny model of the golden fixtures, and the processor with CLIP's tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest
from golden_adapter import tiny_imagebind_config
from safetensors.torch import load_file
from torch import Tensor

from ibllm_tools.imagebind import ImageBindModel, ImageBindProcessor, clip_tokenizer_from_bpe
from ibllm_tools.imagebind.official_weights import convert_imagebind_state_dict


@pytest.fixture(scope="session")
def official_weights(reference: Path) -> dict[str, Tensor]:
    return load_file(reference / "imagebind" / "state_dict.safetensors")


@pytest.fixture(scope="session")
def model(official_weights: dict[str, Tensor]) -> ImageBindModel:
    model = ImageBindModel(tiny_imagebind_config(official_weights)).eval()
    model.load_state_dict(convert_imagebind_state_dict(official_weights))
    return model


@pytest.fixture(scope="session")
def processor(reference: Path) -> ImageBindProcessor:
    return ImageBindProcessor(clip_tokenizer_from_bpe(reference / "bpe_simple_vocab_16e6.txt.gz"))


@pytest.fixture(scope="session")
def facts(reference: Path) -> dict[str, Any]:
    """What is known about the research code's tensors for the files in media/."""
    facts: dict[str, Any] = json.loads((reference / "preproc" / "fixture.json").read_text())
    return facts
