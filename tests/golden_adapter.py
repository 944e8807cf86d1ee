"""The golden fixtures of the research code's tiny LLaMA_adapter, and how its weights are called in our model."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file
from torch import Tensor

from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind.official_weights import imagebind_config_from_state_dict
from ibllm_tools.imagebind_llm import ImageBindLlmForConditionalGeneration

HEADS = 4
NORM_EPS = 1e-5
TOWER_HEADS = {"vision": 4, "audio": 5, "text": 2, "depth": 2, "thermal": 3, "imu": 4, "point": 6}
POINT_GROUPS, POINT_GROUP_SIZE = 32, 16
PROJECTIONS = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
INTERLEAVED = ("wq.bias", "lora_wq_l2.weight", "lora_wk_l2.weight")
"""Weights whose rows the research code orders for rotating neighbouring pairs, and transformers for halves."""


@dataclass
class Golden:
    """What the research code computed with its tiny LLaMA_adapter."""

    folder: Path
    facts: dict[str, Any]
    weights: dict[str, Tensor]
    visual: dict[str, Tensor]
    inference: dict[str, Tensor]
    training: dict[str, Tensor]
    image_generate: dict[str, Tensor]
    inputs: dict[str, Tensor] = field(repr=False)

    @classmethod
    def load(cls, reference: Path) -> Self:
        """Read the fixtures."""
        adapter, imagebind = reference / "adapter", reference / "imagebind"
        weights = load_file(adapter / "state_dict.safetensors")
        weights |= {f"image_bind.{k}": v for k, v in load_file(imagebind / "state_dict.safetensors").items()}
        names = ("visual", "inference", "training", "image_generate")
        inputs = load_file(imagebind / "inputs.safetensors")
        return cls(
            adapter,
            json.loads((adapter / "fixture.json").read_text(encoding="utf-8")),
            weights,
            *(load_file(adapter / f"{name}.safetensors") for name in names),
            {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()},
        )

    def official(self, phase: str, prefix_layers: int) -> dict[str, Tensor]:
        """The official state dict of one of the four models, as fixture.json derives them."""
        weights = dict(self.weights)
        alternative = weights.pop("alt.prefix_query.weight.query_layer2")
        if prefix_layers == 2:
            weights["prefix_query.weight"] = alternative
        if phase == "pretrain":
            tuned = re.compile(r"lora|^llama\..*\.bias$")
            weights = {key: value for key, value in weights.items() if not tuned.search(key)}
        return weights


def tiny_imagebind_config(official_weights: dict[str, Tensor]) -> ImageBindConfig:
    """The configuration of the tiny joint embedding, heads and groups included, which do not show in the weights."""
    config = imagebind_config_from_state_dict(official_weights, num_attention_heads=TOWER_HEADS)
    config.point_config.num_groups, config.point_config.group_size = POINT_GROUPS, POINT_GROUP_SIZE
    return config


def our_name(official: str) -> str:
    """The research code's name of a weight that trains, in a model with LoRA, as ours."""
    if official.endswith("attention.gate"):
        return "gates"
    if official == "prefix_query.weight":
        return "prefix_queries"
    name = official.replace("image_bind_proj.", "bind_network.proj.").replace("llama.norm", "language_model.model.norm")
    for theirs, ours in (("norm", "norm"), ("f1", "gate_proj"), ("f2", "down_proj"), ("f3", "up_proj")):
        name = re.sub(
            rf"^image_bind_{theirs}_(\d)\.", lambda m, o=ours: f"bind_network.blocks.{int(m[1]) - 1}.{o}.", name
        )
    name = name.replace("llama.layers.", "language_model.model.layers.")
    name = name.replace("attention_norm", "input_layernorm").replace("ffn_norm", "post_attention_layernorm")
    for theirs, ours in PROJECTIONS.items():
        block, short = theirs.split(".")
        for part, letter in ((1, "A"), (2, "B")):
            name = name.replace(f"{block}.lora_{short}_l{part}.", f"{ours}.lora_{letter}.default.")
        name = name.replace(f"{theirs}.bias", f"{ours}.base_layer.bias")
    return name


def official_part(model: ImageBindLlmForConditionalGeneration, official: str, *, gradient: bool = False) -> Tensor:
    """A parameter, or its gradient, by its official name and in its official form; of the gates those of its layer."""
    parameter = model.get_parameter(our_name(official))
    value = parameter.grad if gradient else parameter.data
    assert value is not None, official
    if official.endswith(".gate"):
        first = model.config.text_config.num_hidden_layers - len(value)
        return value[int(official.split(".")[2]) - first].view(1, -1, 1, 1)
    if official.endswith(INTERLEAVED):
        return value.unflatten(0, (HEADS, 2, -1)).transpose(1, 2).flatten(0, 2)
    return value
