"""Low-rank adaptation of the language model: peft's LoRA put in place, and folded into the weights at the end."""

from types import ModuleType
from typing import Any

import torch
from torch import nn

from ibllm_tools.errors import InvalidRequestError, MissingExtraError
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration

LORA_RANK = 16
ADAPTED_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_lora(model: ImageBindLlmForConditionalGeneration, rank: int = LORA_RANK) -> None:
    """Put a LoRA on every projection of the language model, in place: y += B (A x), without scaling and dropout.

    B starts at zero, so the model computes what it did before. A model that has LoRA already is left as it is.

    Raises:
        InvalidRequestError: ``rank`` is not positive.
        MissingExtraError: peft is not installed.
    """
    if rank < 1:
        raise InvalidRequestError(f"lora_rank is {rank}, expected 1 or more (the paper's is {LORA_RANK})")
    peft = _peft()
    if has_lora(model):
        return
    # alpha = rank makes peft's scaling 1; the research code has none.
    config = peft.LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=list(ADAPTED_PROJECTIONS))
    peft.inject_adapter_in_model(config, model.language_model)


def has_lora(model: nn.Module) -> bool:
    """Whether LoRA has been added and not merged yet."""
    return any(hasattr(module, "lora_A") for module in model.modules())


def merge_lora(model: ImageBindLlmForConditionalGeneration) -> ImageBindLlmForConditionalGeneration:
    """Fold the LoRA into the weights, in place: an ordinary model that can be saved, with the same outputs.

    The prefix passes through the value projection without its LoRA, so what the value projections of the injected
    layers gain is kept in low rank (``prefix_value_rank`` of the configuration). Without LoRA nothing changes.

    Returns:
        The model itself.

    Raises:
        MissingExtraError: peft is not installed.
    """
    if not has_lora(model):
        return model
    _peft()
    _keep_value_difference(model)
    language_model: Any = model.language_model
    adapted = [(name, module) for name, module in language_model.named_modules() if hasattr(module, "lora_A")]
    for name, module in adapted:
        module.merge()
        language_model.set_submodule(name, module.get_base_layer())
    for owner in (model, language_model):  # what peft, and transformers where it loaded the LoRA, know it by
        for mark in ("peft_config", "_hf_peft_config_loaded", "_weight_conversions"):
            vars(owner).pop(mark, None)
    return model


@torch.no_grad()
def _keep_value_difference(model: ImageBindLlmForConditionalGeneration) -> None:
    """Store the factors of every injected value projection's LoRA, beside those of an earlier merge."""
    downs, ups = [], []
    for attention in model.injected_attentions():
        projection = attention.v_proj
        names = projection.active_adapters
        downs.append(torch.cat([projection.lora_A[name].weight for name in names]))  # (r, D)
        ups.append(torch.cat([projection.lora_B[name].weight * projection.scaling[name] for name in names], dim=1))
    down, up = torch.stack(downs), torch.stack(ups)  # (N, r, D), (N, kv width, r)
    if model.prefix_value_down is not None and model.prefix_value_up is not None:
        down = torch.cat([model.prefix_value_down.to(down), down], dim=1)
        up = torch.cat([model.prefix_value_up.to(up), up], dim=2)
    model.prefix_value_down, model.prefix_value_up = nn.Parameter(down), nn.Parameter(up)
    model.config.prefix_value_rank = down.shape[1]


def _peft() -> ModuleType:
    try:
        import peft
    except ImportError:
        raise MissingExtraError("fine-tuning with LoRA", "peft", "train") from None
    return peft
