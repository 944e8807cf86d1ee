"""The golden tiny weights as the files that their owners have: ImageBind's, LLaMA's and the adapter's.

Names, shapes and layouts are the official ones, only smaller; the values are those of the golden fixtures, so whatever
is converted from these files has to give the research code's numbers.
"""

import argparse
import json
import re
from pathlib import Path

import torch
from golden_adapter import HEADS, NORM_EPS, Golden
from golden_adapter import tiny_imagebind_config as _config_of
from safetensors.torch import load_file, save_file
from torch import Tensor

from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig

ALONG_COLUMNS = ("attention.wo.weight", "feed_forward.w2.weight", "tok_embeddings.weight")
"""What Meta's model-parallel shards split along the second dimension; norms are in every shard, the rest along rows."""

HUGGING_FACE = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def imagebind_weights(reference: Path) -> dict[str, Tensor]:
    """The official state dict of the tiny joint embedding, with points."""
    return load_file(reference / "imagebind" / "state_dict.safetensors")


def tiny_imagebind_config(reference: Path, *, point: bool = True) -> ImageBindConfig:
    """Its configuration: heads and point groups do not show in the shapes."""
    config = _config_of(imagebind_weights(reference))
    if not point:
        config.point_config = None
    return config


def write_imagebind(reference: Path, path: Path, *, point: bool = True) -> Path:
    """``imagebind_w3D.pth``, or without points ``imagebind_huge.pth``; safetensors if the name says so."""
    weights = imagebind_weights(reference)
    if not point:
        weights = {key: value for key, value in weights.items() if "point" not in key}
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


def write_llama(reference: Path, folder: Path, *, shards: int = 1, dtype: torch.dtype = torch.float32) -> Path:
    """Meta's layout: ``folder/7B/{consolidated.*.pth, params.json}`` and ``folder/tokenizer.model``."""
    golden = Golden.load(reference)
    weights = {key: value.to(dtype) for key, value in llama_weights(golden).items()}
    model = folder / "7B"
    model.mkdir(parents=True)
    for shard in range(shards):
        part = {key: _slice(key, value, shard, shards) for key, value in weights.items()}
        torch.save(part | {"rope.freqs": torch.ones(8)}, model / f"consolidated.{shard:02d}.pth")
    (model / "params.json").write_text(json.dumps(golden.facts["params_json"]))
    (folder / "tokenizer.model").write_bytes((reference / "adapter" / "tokenizer.model").read_bytes())
    return folder


def write_llama_hf(reference: Path, folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """The same weights as a folder of transformers: rotary halves instead of pairs, other names."""
    golden = Golden.load(reference)
    weights = llama_weights(golden)
    converted = {}
    for key, value in weights.items():
        name, layer = key.removesuffix(".weight"), ""
        if match := re.match(r"layers\.(\d+)\.(.+)", name):
            layer, name = f"model.layers.{match[1]}.", match[2]
        if name in ("attention.wq", "attention.wk"):
            value = value.unflatten(0, (HEADS, -1, 2)).transpose(1, 2).flatten(0, 2)
        converted[f"{layer}{HUGGING_FACE[name]}.weight"] = value.to(dtype).contiguous()
    folder.mkdir(parents=True)
    save_file(converted, folder / "model.safetensors", metadata={"format": "pt"})
    vocabulary, width = weights["tok_embeddings.weight"].shape
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": width,
        "intermediate_size": len(weights["layers.0.feed_forward.w1.weight"]),
        "num_hidden_layers": golden.facts["params_json"]["n_layers"],
        "num_attention_heads": HEADS,
        "rms_norm_eps": NORM_EPS,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": str(dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.model").write_bytes((reference / "adapter" / "tokenizer.model").read_bytes())
    return folder


def write_adapter(
    reference: Path, path: Path, phase: str = "finetune", prefix_layers: int = 4, *, raw: bool = False
) -> Path:
    """``7B.pth``: what training changed, under ``model``.

    Args:
        reference: the golden fixtures.
        path: the file to write.
        phase: ``"finetune"`` or ``"pretrain"``.
        prefix_layers: 4 or 2, as in the fixtures.
        raw: as training saves it, before the research code's own conversion: ImageBind and LLaMA too, and the state of
            the training.
    """
    official = Golden.load(reference).official(phase, prefix_layers)
    if raw:
        state = {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "epoch": 3, "scaler": {"scale": 65536.0}}
        torch.save({"model": official, "args": argparse.Namespace(lr=1e-4, phase=phase), **state}, path)
        return path
    kept = {
        key: value
        for key, value in official.items()
        if not key.startswith("image_bind.") and (not key.startswith("llama.") or re.search("bias|gate|lora|norm", key))
    }
    torch.save({"model": kept}, path)
    return path


def llama_weights(golden: Golden) -> dict[str, Tensor]:
    """Meta's state dict of the base LLaMA: no biases, gates and LoRA, and the names without ``llama.``."""
    return {
        key.removeprefix("llama."): value
        for key, value in golden.weights.items()
        if key.startswith("llama.") and not re.search("bias|gate|lora", key)
    }


def _slice(key: str, value: Tensor, shard: int, shards: int) -> Tensor:
    if value.ndim == 1:
        return value
    return value.chunk(shards, dim=1 if key.endswith(ALONG_COLUMNS) else 0)[shard].contiguous()
