"""ImageBind-LLM's official checkpoint (OpenGVLab/LLaMA-Adapter, ``imagebind_LLM``) in our names.

The research code keeps its weights in three files: LLaMA's ``consolidated.00.pth``, the adapter (bind network, gates,
norms, biases, LoRA) and ImageBind. :func:`official_state_dict` puts them together as the research code does at loading,
:func:`imagebind_llm_config_from_state_dict` reads the sizes, :func:`convert_adapter_state_dict` renames and merges.
"""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig

from ibllm_tools.checkpoints.imagebind import convert_imagebind_state_dict, imagebind_config_from_state_dict
from ibllm_tools.errors import CheckpointError
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind_llm.configuration_imagebind_llm import ImageBindLlmConfig

IMAGEBIND_PREFIX = "image_bind."
_BIND_BLOCKS = 3
_NAMES_SHOWN = 8

# official projection -> (block, LLM module, rows in rotary order, has a bias once biases are tuned)
_PROJECTIONS = {
    "wq": ("attention", "self_attn.q_proj", True, True),
    "wk": ("attention", "self_attn.k_proj", True, False),
    "wv": ("attention", "self_attn.v_proj", False, False),
    "wo": ("attention", "self_attn.o_proj", False, True),
    "w1": ("feed_forward", "mlp.gate_proj", False, True),
    "w2": ("feed_forward", "mlp.down_proj", False, True),
    "w3": ("feed_forward", "mlp.up_proj", False, True),
}


def official_state_dict(
    llama: Mapping[str, Tensor], adapter: Mapping[str, Tensor], imagebind: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The three official files as one state dict with the research code's keys; the adapter's weights win.

    Args:
        llama: ``consolidated.00.pth``.
        adapter: the ``model`` entry of the adapter checkpoint.
        imagebind: ``imagebind_w3D.pth`` or ``imagebind_huge.pth``.
    """
    base = {"llama." + key: value for key, value in llama.items() if key != "rope.freqs"}
    # Early checkpoints carry a misspelt prefix and a norm that nothing uses.
    tuned = {
        re.sub(r"^llma\.", "llama.", key): value
        for key, value in adapter.items()
        if not key.startswith("prefix_projector_norm.")
    }
    return {**base, **{IMAGEBIND_PREFIX + key: value for key, value in imagebind.items()}, **tuned}


def imagebind_llm_config_from_state_dict(
    official: Mapping[str, Tensor],
    *,
    num_attention_heads: int = 32,
    norm_eps: float = 1e-6,
    keep_lora: bool = False,
    imagebind_config: ImageBindConfig | None = None,
) -> ImageBindLlmConfig:
    """Read the sizes off the shapes.

    Args:
        official: state dict with the research code's keys.
        num_attention_heads: of the LLaMA; does not show in the shapes.
        norm_eps: ``norm_eps`` of LLaMA's ``params.json``.
        keep_lora: as for :func:`convert_adapter_state_dict`.
        imagebind_config: of the joint embedding; read off the ``image_bind.*`` weights by default.

    Raises:
        CheckpointError: missing or unexpected weights.
    """
    _require_keys(official)
    embedding = official["llama.tok_embeddings.weight"]
    tuned_biases = _has_biases(official)
    value_rank = len(official["llama.layers.0.attention.lora_wv_l1.weight"]) if _has_lora(official) else 0
    return ImageBindLlmConfig(
        imagebind_config=imagebind_config or imagebind_config_from_state_dict(_imagebind_part(official)),
        text_config=LlamaConfig(
            vocab_size=embedding.shape[0],
            hidden_size=embedding.shape[1],
            intermediate_size=official["llama.layers.0.feed_forward.w1.weight"].shape[0],
            num_hidden_layers=_layer_count(official),
            num_attention_heads=num_attention_heads,
            rms_norm_eps=norm_eps,
            attention_bias=tuned_biases,
            mlp_bias=tuned_biases,
        ),
        num_prefix_layers=official["prefix_query.weight"].shape[0],
        prefix_value_rank=0 if keep_lora else value_rank,
    )


def generation_config_of_the_paper() -> GenerationConfig:
    """The research code's sampling: up to 256 tokens from the nucleus of 0.75 at temperature 0.1."""
    return GenerationConfig(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        max_new_tokens=256,
        do_sample=True,
        temperature=0.1,
        top_p=0.75,
        top_k=0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def convert_adapter_state_dict(
    official: Mapping[str, Tensor], *, num_attention_heads: int, keep_lora: bool = False
) -> dict[str, Tensor]:
    """Official state dict -> that of :class:`~ibllm_tools.imagebind_llm.ImageBindLlmForConditionalGeneration`.

    Rows of the query and key projections are reordered from rotary pairs (2i, 2i+1) to halves (i, i + d/2), the order
    of transformers; so are their biases and LoRA.

    Args:
        official: state dict with the research code's keys. Without ``image_bind.*`` the result has no ``imagebind.*``.
        num_attention_heads: of the LLaMA; does not show in the shapes.
        keep_lora: ``False`` merges the LoRA into the weights and keeps, in low rank, what the value projections gained;
            ``True`` leaves it apart, under peft's names (adapter ``default``, scaling 1).

    Raises:
        CheckpointError: missing, unexpected or wrongly shaped weights.
    """
    _require_keys(official)
    prefix_queries = official["prefix_query.weight"]  # (N, D)
    layers = range(_layer_count(official))
    injected = layers[-len(prefix_queries) :]
    converted = {ours: official[key] for key, ours in _renamed_keys(official)}
    for index in layers:
        converted |= _convert_projections(official, index, num_attention_heads, keep_lora=keep_lora)
    # The research code has gates in every layer; those of the layers before the last N are never used.
    converted["gates"] = torch.stack(
        [official[f"llama.layers.{i}.attention.gate"].flatten() for i in injected]
    )  # (N, heads)
    if _has_lora(official) and not keep_lora:
        for name, part in (("prefix_value_down", 1), ("prefix_value_up", 2)):  # (N, r, D) and (N, D, r)
            keys = [f"llama.layers.{i}.attention.lora_wv_l{part}.weight" for i in injected]
            converted[name] = torch.stack([official[key] for key in keys])
    imagebind = convert_imagebind_state_dict(_imagebind_part(official))
    return converted | {f"imagebind.{name}": weight for name, weight in imagebind.items()}


def _convert_projections(
    official: Mapping[str, Tensor], index: int, heads: int, *, keep_lora: bool
) -> dict[str, Tensor]:
    """The seven projections of one decoder layer, with biases and LoRA."""
    converted: dict[str, Tensor] = {}
    for name, (block, ours, rotary, _) in _PROJECTIONS.items():
        key = f"llama.layers.{index}.{block}.{name}"
        weight = official[f"{key}.weight"]
        parts = {"weight": weight}
        if _has_biases(official):
            # transformers has one switch for all attention biases: those that the research code lacks are zero.
            bias = official.get(f"{key}.bias")
            parts["bias"] = weight.new_zeros(len(weight)) if bias is None else bias
        if rotary:
            parts = {part: _halves_from_pairs(tensor, heads, key) for part, tensor in parts.items()}
        if _has_lora(official):
            down, up = (official[f"llama.layers.{index}.{block}.lora_{name}_l{part}.weight"] for part in (1, 2))
            up = _halves_from_pairs(up, heads, key) if rotary else up
            if keep_lora:
                parts = {f"base_layer.{part}": tensor for part, tensor in parts.items()}
                parts |= {"lora_A.default.weight": down, "lora_B.default.weight": up}
            else:
                parts["weight"] = (parts["weight"].float() + up.float() @ down.float()).to(weight.dtype)
        converted |= {f"language_model.model.layers.{index}.{ours}.{part}": tensor for part, tensor in parts.items()}
    return converted


def _halves_from_pairs(rows: Tensor, heads: int, key: str) -> Tensor:
    """Reorder the rows of each head from rotary pairs (2i, 2i+1) to halves (i, i + d/2)."""
    if len(rows) % (2 * heads):
        raise CheckpointError(f"{key} has {len(rows)} rows, which {heads} heads cannot share: pass num_attention_heads")
    pairs = rows.view(heads, len(rows) // (2 * heads), 2, *rows.shape[1:])  # (heads, d/2, 2, ...)
    return pairs.transpose(1, 2).reshape(rows.shape)


def _renamed_keys(official: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Official key and ours, of all weights that only change their name."""
    yield "prefix_query.weight", "prefix_queries"
    for part in ("weight", "bias"):
        yield f"image_bind_proj.{part}", f"bind_network.proj.{part}"
    for block in range(_BIND_BLOCKS):
        for name, ours in (("norm", "norm"), ("f1", "gate_proj"), ("f2", "down_proj"), ("f3", "up_proj")):
            yield f"image_bind_{name}_{block + 1}.weight", f"bind_network.blocks.{block}.{ours}.weight"
    for name, ours in (("tok_embeddings", "model.embed_tokens"), ("norm", "model.norm"), ("output", "lm_head")):
        yield f"llama.{name}.weight", f"language_model.{ours}.weight"
    for index in range(_layer_count(official)):
        for name, ours in (("attention_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")):
            yield f"llama.layers.{index}.{name}.weight", f"language_model.model.layers.{index}.{ours}.weight"


def _layer_keys(official: Mapping[str, Tensor], index: int) -> Iterator[str]:
    """The official keys of one decoder layer that do more than change their name."""
    yield f"llama.layers.{index}.attention.gate"
    for name, (block, _, _, biased) in _PROJECTIONS.items():
        yield f"llama.layers.{index}.{block}.{name}.weight"
        if biased and _has_biases(official):
            yield f"llama.layers.{index}.{block}.{name}.bias"
        if _has_lora(official):
            yield from (f"llama.layers.{index}.{block}.lora_{name}_l{part}.weight" for part in (1, 2))


def _require_keys(official: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError that names what is missing and what should not be there."""
    expected = {key for key, _ in _renamed_keys(official)}
    for index in range(_layer_count(official)):
        expected.update(_layer_keys(official, index))
    found = {key for key in official if not key.startswith(IMAGEBIND_PREFIX)}
    if missing := expected - found:
        raise CheckpointError(f"missing weights: {_listed(missing)}; is the right LLaMA under the adapter?")
    if unexpected := found - expected:
        raise CheckpointError(f"unexpected weights: {_listed(unexpected)}; the research code has none of that name")


def _has_biases(official: Mapping[str, Tensor]) -> bool:
    return "llama.layers.0.attention.wq.bias" in official


def _has_lora(official: Mapping[str, Tensor]) -> bool:
    return "llama.layers.0.attention.lora_wq_l1.weight" in official


def _layer_count(official: Mapping[str, Tensor]) -> int:
    indices = [int(match[1]) for key in official if (match := re.match(r"llama\.layers\.(\d+)\.", key))]
    if not indices:
        raise CheckpointError(
            "no key starts with 'llama.layers.': expected the weights of LLaMA and of the adapter together"
        )
    return max(indices) + 1


def _imagebind_part(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(IMAGEBIND_PREFIX): value for key, value in official.items() if key.startswith(IMAGEBIND_PREFIX)
    }


def _listed(keys: set[str]) -> str:
    shown = ", ".join(sorted(keys)[:_NAMES_SHOWN])
    return shown if len(keys) <= _NAMES_SHOWN else f"{shown} and {len(keys) - _NAMES_SHOWN} more"
