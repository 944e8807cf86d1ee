"""LLaMA as a model folder of transformers: ``config.json`` and safetensors, or ``pytorch_model.bin``, or their shards.

The weights are Meta's under other names; the rows of the query and key projections are reordered.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, FiniteFloat, PositiveInt
from torch import Tensor

from ibllm_tools.checkpoints.llama_weights import (
    LlamaFolder,
    LlamaWeights,
    official_shapes,
    read_settings,
    require_floating,
    require_names,
    require_shapes,
)
from ibllm_tools.checkpoints.reading import OfficialFile
from ibllm_tools.errors import CheckpointError, IncompatibleModelError, ModelNotFoundError

# As transformers looks for them; an index lists the files of a model in several.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_COMPUTED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""A buffer that early conversions saved."""
_THEIR_NAMES = {
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


class _Config(BaseModel):
    model_type: str
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: Annotated[int, Field(gt=0, le=1024)]
    num_attention_heads: PositiveInt
    vocab_size: PositiveInt
    rms_norm_eps: Annotated[FiniteFloat, Field(gt=0)] = 1e-6
    max_position_embeddings: PositiveInt | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None


def read_hugging_face(folder: Path) -> LlamaFolder:
    """The weights under Meta's names, with rows in Meta's order.

    Raises:
        CheckpointError: weights are missing, unexpected or do not fit ``config.json``.
        IncompatibleModelError: ``config.json`` is that of another architecture.
        ModelNotFoundError: the folder holds no weights.
    """
    settings = folder / "config.json"
    config = _plain(settings)
    files = _files(folder)
    where = {name: file for file in files for name in file if not _COMPUTED.fullmatch(name)}
    expected = official_shapes(
        dim=config.hidden_size,
        hidden=config.intermediate_size,
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
    )
    names = {name: _their_name(name) for name in expected}
    require_names(folder, set(where), set(names.values()))
    require_shapes(folder, {name: where[theirs].shapes[theirs] for name, theirs in names.items()}, expected, settings)
    dtypes = {name: where[theirs].dtypes[theirs] for name, theirs in names.items()}
    require_floating(folder, dtypes)

    def read(name: str) -> Tensor:
        tensor = where[names[name]][names[name]]
        rotary = name.endswith(("attention.wq.weight", "attention.wk.weight"))
        return pairs_from_halves(tensor, config.num_attention_heads) if rotary else tensor

    weights = LlamaWeights(expected, dtypes, files, read)
    return LlamaFolder(
        weights, config.num_attention_heads, config.rms_norm_eps, config.max_position_embeddings, settings
    )


def pairs_from_halves(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head from rotary halves (i, i + d/2) to pairs (2i, 2i+1)."""
    halves = rows.reshape(heads, 2, len(rows) // (2 * heads), *rows.shape[1:])  # (heads, 2, d/2, ...)
    return halves.transpose(1, 2).reshape(rows.shape)


def _plain(settings: Path) -> _Config:
    """The settings, refused if they are of another architecture."""
    config = read_settings(settings, _Config)
    scaling = config.rope_scaling or {}
    rope = config.rope_parameters or {}
    kind = rope.get("rope_type", scaling.get("rope_type", scaling.get("type", "default")))
    heads = config.num_attention_heads
    for name, value, plain in (
        ("model_type", config.model_type, "llama"),
        ("quantization_config", "set" if config.quantization_config else "none", "none"),
        ("num_key_value_heads", config.num_key_value_heads or heads, heads),
        ("head_dim", config.head_dim or config.hidden_size // heads, config.hidden_size // heads),
        ("hidden_act", config.hidden_act, "silu"),
        ("tie_word_embeddings", config.tie_word_embeddings, False),
        ("attention_bias", config.attention_bias, False),
        ("mlp_bias", config.mlp_bias, False),
        ("rope_theta", rope.get("rope_theta", config.rope_theta) or 10000.0, 10000.0),
        ("the type of rope scaling", kind, "default"),
    ):
        if value != plain:
            raise IncompatibleModelError(
                f"{settings}: {name} is {value!r}, but {plain!r} in LLaMA 1, which the adapter was made for; use that"
            )
    if config.hidden_size % (2 * heads):
        raise CheckpointError(f"{settings}: {heads} attention heads cannot share a hidden size of {config.hidden_size}")
    return config


def _files(folder: Path) -> list[OfficialFile]:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return [OfficialFile(folder / name)]
        if (index := folder / f"{name}.index.json").is_file():
            return [_shard(folder, shard, index) for shard in sorted(_indexed(index))]
    raise ModelNotFoundError(
        f"{folder}: no weights beside config.json, expected {' or '.join(_WEIGHTS)}, or their shards with an index"
    )


def _shard(folder: Path, name: str, index: Path) -> OfficialFile:
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder / name}: no such file, but {index.name} lists it; copy or download it too")
    return OfficialFile(folder / name)


def _indexed(index: Path) -> set[str]:
    """The files that an index lists, which have to lie beside it."""
    try:
        listed = json.loads(index.read_bytes())["weight_map"]
        names = set(listed.values()) if isinstance(listed, Mapping) else set()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index}: not the index of a model's files ({type(error).__name__})") from error
    if not names or not all(isinstance(name, str) and name and Path(name).name == name for name in names):
        raise CheckpointError(f"{index}: not the index of a model's files, expected their names under weight_map")
    return names


def _their_name(official: str) -> str:
    name, layer = official.removesuffix(".weight"), ""
    if match := re.fullmatch(r"layers\.(\d+)\.(.+)", name):
        layer, name = f"model.layers.{match[1]}.", match[2]
    return f"{layer}{_THEIR_NAMES[name]}.weight"
