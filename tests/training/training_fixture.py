"""The research code's tiny LLaMA_adapter as it was trained, and items to train on."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ibllm_tools.checkpoints.imagebind import imagebind_config_from_state_dict
from ibllm_tools.checkpoints.imagebind_llm import convert_adapter_state_dict, imagebind_llm_config_from_state_dict
from ibllm_tools.imagebind_llm import ImageBindLlmForConditionalGeneration
from ibllm_tools.training import Stage, prepare_for_stage

Model = ImageBindLlmForConditionalGeneration
TOWER_HEADS = {"vision": 4, "audio": 5, "text": 2, "depth": 2, "thermal": 3, "imu": 4, "point": 6}
HEADS, WIDTH, VOCABULARY = 4, 16, 97
PROJECTIONS = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}


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


@dataclass
class Golden:
    """What the research code computed when it trained its tiny LLaMA_adapter."""

    facts: dict[str, Any]
    weights: dict[str, Tensor]
    training: dict[str, Tensor]
    images: Tensor

    def official(self, phase: Stage, prefix_layers: int) -> dict[str, Tensor]:
        """The official state dict of a model, as fixture.json derives them."""
        weights = dict(self.weights)
        alternative = weights.pop("alt.prefix_query.weight.query_layer2")
        if prefix_layers == 2:
            weights["prefix_query.weight"] = alternative
        if phase == "pretrain":
            tuned = re.compile(r"lora|^llama\..*\.bias$")
            weights = {key: value for key, value in weights.items() if not tuned.search(key)}
        return weights

    def model(self, phase: Stage, prefix_layers: int = 4) -> Model:
        """A fresh model, prepared for its stage."""
        official = self.official(phase, prefix_layers)
        imagebind = {k.removeprefix("image_bind."): v for k, v in official.items() if k.startswith("image_bind.")}
        config = imagebind_llm_config_from_state_dict(
            official,
            num_attention_heads=HEADS,
            norm_eps=1e-5,
            keep_lora=True,
            imagebind_config=imagebind_config_from_state_dict(imagebind, num_attention_heads=TOWER_HEADS),
        )
        model = prepare_for_stage(Model(config), phase)
        model.load_state_dict(convert_adapter_state_dict(official, num_attention_heads=HEADS, keep_lora=True))
        return model

    def batch(self) -> dict[str, Tensor]:
        """What the three updates of the fixture were made with."""
        labels = self.training["labels"]
        return {
            "input_ids": self.training["tokens"],
            "labels": labels.masked_fill(labels == 0, -100),
            "pixel_values": self.images,
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
