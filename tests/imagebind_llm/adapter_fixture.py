"""The golden fixtures of the research code's tiny LLaMA_adapter."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass
class Golden:
    """What the research code computed for its tiny LLaMA_adapter."""

    folder: Path
    facts: dict[str, Any]
    weights: dict[str, Tensor]
    visual: dict[str, Tensor]
    inference: dict[str, Tensor]
    training: dict[str, Tensor]
    image_generate: dict[str, Tensor]
    inputs: dict[str, Tensor] = field(repr=False)

    def official(self, phase: str, prefix_layers: int) -> dict[str, Tensor]:
        """The official state dict of one of the four models, as fixture.json derives them."""
        weights = dict(self.weights)
        alternative = weights.pop("alt.prefix_query.weight.query_layer2")
        if prefix_layers == 2:
            weights["prefix_query.weight"] = alternative
        if phase == "pretrain":
            weights = {
                k: v for k, v in weights.items() if "lora" not in k and not (k[:6] == "llama." and k[-5:] == ".bias")
            }
        return weights
