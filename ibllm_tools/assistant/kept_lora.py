"""A folder whose LoRA was kept apart: transformers loads it with peft, and says nothing if it cannot."""

from pathlib import Path
from typing import Any

import torch

from ibllm_tools.assistant.hub_kernels import no_hub_kernels
from ibllm_tools.checkpoints.model_weights import ModelWeights
from ibllm_tools.errors import MissingExtraError
from ibllm_tools.imagebind_llm.configuration_imagebind_llm import ImageBindLlmConfig
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration

_ADAPTER_CONFIG = "adapter_config.json"


def require_lora_support(folder: Path) -> None:
    """Refuse to answer without the LoRA that the folder has: without peft, transformers leaves it out in silence.

    Raises:
        MissingExtraError: the folder keeps its LoRA apart, and peft is not installed.
    """
    if not (folder / _ADAPTER_CONFIG).is_file():
        return
    try:
        with no_hub_kernels():  # it imports bitsandbytes where that is installed
            import peft  # noqa: F401 - transformers imports it by itself
    except ImportError:
        raise MissingExtraError(f"{folder}, whose LoRA is kept apart,", "peft", "train") from None


def base_weights_info(folder: Path) -> dict[str, set[Any]]:
    """What is wrong with the weights below a LoRA, as transformers' loading information; empty without a LoRA.

    Where there is an adapter, that information is about the adapter alone, and a missing weight of the model itself
    would start at random.
    """
    if not (folder / _ADAPTER_CONFIG).is_file():
        return {}
    with torch.device("meta"):
        model = ImageBindLlmForConditionalGeneration(ImageBindLlmConfig.from_pretrained(folder))
    stored, expected = ModelWeights(folder), model.state_dict()
    return {
        "missing_keys": expected.keys() - model.all_tied_weights_keys.keys() - stored.keys(),
        "unexpected_keys": stored.keys() - expected.keys(),
        "mismatched_keys": {
            (name, stored.shape(name), tuple(expected[name].shape))
            for name in stored.keys() & expected.keys()
            if stored.shape(name) != tuple(expected[name].shape)
        },
    }
