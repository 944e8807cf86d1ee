"""A tiny joint embedding, written as conversions write theirs."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibllm_tools.checkpoints.writing import PlannedWeight, write_model_folder
from ibllm_tools.imagebind import ImageBindConfig, ImageBindModel, ImageBindProcessor, clip_tokenizer

CONFIG = ImageBindConfig(
    projection_dim=8,
    imu_config={"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_samples": 80},
)
NAME = "imu_model.projection.weight"
PROCESSOR = ImageBindProcessor(clip_tokenizer([("a", "b</w>")]))


def weights_of(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return ImageBindModel(CONFIG).state_dict()


def planned(weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> list[PlannedWeight]:
    return [
        PlannedWeight(name, tuple(value.shape), dtype or value.dtype, partial(weights.__getitem__, name))
        for name, value in weights.items()
    ]


def write(folder: Path, weights: list[PlannedWeight] | None = None, **options: Any) -> None:
    arguments: dict[str, Any] = {
        "model_class": ImageBindModel,
        "config": CONFIG,
        "processor": PROCESSOR,
        "save_processor": PROCESSOR.save_pretrained,
        "card": "# A model\n",
        "release": lambda: None,
        "progress": False,
    }
    write_model_folder(folder, planned(weights_of(0)) if weights is None else weights, **(arguments | options))


def load(folder: Path, **options: Any) -> ImageBindModel:
    """Strictly: no weight may be missing, left over or random."""
    model, info = ImageBindModel.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(info.values()), info
    return model


def assert_holds(folder: Path, seed: int) -> None:
    expected, found = weights_of(seed), load(folder).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
