"""The stages of training: which weights learn in each of them (arXiv 2309.03905, section 3.3).

=========== =================================================================================================
language    the whole language model, on text alone; a language model that exists already skips this stage
pretrain    bind network, prefix queries and gates, on images with captions
finetune    LoRA, biases and norms of the language model, on instructions with and without images
=========== =================================================================================================

The joint embedding never trains.
"""

from typing import Any, Literal, get_args

import torch
from torch import nn

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration
from ibllm_tools.training.lora import LORA_RANK, add_lora

Stage = Literal["language", "pretrain", "finetune"]

_LANGUAGE_MODEL = "language_model."
_BINDING = ("bind_network.", "prefix_queries", "gates")
_UNTUNED_BIASES = ("k_proj", "v_proj")  # the research code's wk and wv have none
_BIASED_BY = {
    "attention_bias": ("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
    "mlp_bias": ("mlp", ("gate_proj", "up_proj", "down_proj")),
}


def prepare_for_stage(
    model: ImageBindLlmForConditionalGeneration, stage: Stage, *, lora_rank: int = LORA_RANK
) -> ImageBindLlmForConditionalGeneration:
    """Make the weights of a stage trainable, in float32, and freeze all others; in place.

    For ``"finetune"`` it adds LoRA, and zero biases where the language model's configuration can switch them on. The
    outputs stay what they were.

    Args:
        model: in any dtype; frozen weights keep theirs.
        stage: which weights are to train.
        lora_rank: of the LoRA that ``"finetune"`` adds.

    Returns:
        The model itself.

    Raises:
        InvalidRequestError: there is no such stage.
        MissingExtraError: peft is not installed.
    """
    if stage not in get_args(Stage):
        raise InvalidRequestError(f"no stage {stage!r}; expected one of {', '.join(get_args(Stage))}")
    if stage == "finetune":
        add_biases(model)
        add_lora(model, lora_rank)
    for name, parameter in model.named_parameters():
        trains = _trains(name, stage)
        parameter.requires_grad_(trains)
        if trains:
            parameter.data = parameter.data.float()
    return model


def add_biases(model: ImageBindLlmForConditionalGeneration) -> None:
    """Give the language model's projections zero biases where its configuration has a switch for them; in place."""
    config = model.config.text_config
    for switch, (block, projections) in _BIASED_BY.items():
        if getattr(config, switch, None) is not False:  # on already, or unknown to this architecture
            continue
        setattr(config, switch, True)
        for layer in model.language_model.get_decoder().layers:
            for name in projections:
                _add_bias(getattr(getattr(layer, block), name))


def _add_bias(projection: Any) -> None:
    linear = getattr(projection, "base_layer", projection)
    weight: torch.Tensor = linear.weight
    linear.bias = nn.Parameter(torch.zeros(linear.out_features, dtype=weight.dtype, device=weight.device))


def _trains(name: str, stage: Stage) -> bool:
    if stage == "pretrain":
        return name.startswith(_BINDING)
    if not name.startswith(_LANGUAGE_MODEL):
        return False
    return stage == "language" or _is_tuned(name)


def _is_tuned(name: str) -> bool:
    """Whether a weight of the language model is LoRA, a bias or a norm, by its name."""
    *path, last = name.split(".")
    if last == "bias":
        return not any(part in _UNTUNED_BIASES for part in path)
    return "lora_" in name or "norm" in path[-1]
