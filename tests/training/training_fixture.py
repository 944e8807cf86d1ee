"""The research code's tiny LLaMA_adapter as it was trained, and items to train on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from golden_adapter import Golden
from torch import Tensor
from torch.utils.data import Dataset

from ibllm_tools.imagebind_llm import ImageBindLlmForConditionalGeneration
from ibllm_tools.training import Stage, prepare_for_stage

Model = ImageBindLlmForConditionalGeneration
WIDTH, VOCABULARY = 16, 97


class TrainingGolden(Golden):
    """The golden fixtures, with the models and the batch that they were made with."""

    converted: Callable[..., Path]
    """The folder of one of the models, see :func:`converted_models.converted_folder`."""

    def model(self, phase: Stage, prefix_layers: int = 4) -> Model:
        """A fresh model, prepared for its stage."""
        return prepare_for_stage(Model.from_pretrained(self.converted(phase, prefix_layers, keep_lora=True)), phase)

    def batch(self) -> dict[str, Tensor]:
        """What the three updates of the fixture were made with."""
        labels = self.training["labels"]
        return {
            "input_ids": self.training["tokens"],
            "labels": labels.masked_fill(labels == 0, -100),
            "pixel_values": self.inputs["vision"],
            "embedding_mask": torch.ones(len(labels), dtype=torch.bool),
        }


class RandomItems(Dataset[dict[str, Any]]):
    """A fixed sequence for each of eight embeddings; every third item has no attachment."""

    def __init__(self, size: int = 32) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index % 8)
        ids = torch.randint(0, VOCABULARY, (5 + index % 7,), generator=generator).tolist()
        item: dict[str, Any] = {"input_ids": ids, "labels": [-100, *ids[1:]]}
        if index % 3:
            item["embedding"] = torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)
        return item
