"""In which numbers a model computes: the type of its weights, and the quantisation of its language model."""

from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from ibllm_tools.assistant.hub_kernels import no_hub_kernels
from ibllm_tools.assistant.model_folder import QUANTIZATIONS
from ibllm_tools.checkpoints.writing import chosen_dtype
from ibllm_tools.errors import IncompatibleModelError, InvalidRequestError, MissingExtraError, one_line
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration

LARGE_MODEL_BYTES = 2 * 2**30
"""A model whose files are larger than this is not widened from float16 to float32 on a CPU."""

_KEPT = ["imagebind", "bind_network", "language_model.lm_head"]
"""What stays as it is. The encoder and the bind network compute once per request, the head decides about tokens."""


def loading_dtype(folder: Path, stored: object, device: torch.device, wanted: str | torch.dtype | None) -> torch.dtype:
    """The type in which weights are loaded.

    Args:
        folder: the model's.
        stored: the type that its configuration names; float32 where it names none.
        device: where the model is going to compute.
        wanted: what was asked for. By default as they are stored, but never float16 on a CPU, which computes with it
            slowly and not everywhere: float32 there, or bfloat16 for a model above :data:`LARGE_MODEL_BYTES`.

    Raises:
        InvalidRequestError: none of float32, float16 and bfloat16.
    """
    if (chosen := chosen_dtype(wanted)) is not None:
        return chosen
    if not isinstance(stored, torch.dtype):
        return torch.float32
    if stored != torch.float16 or device.type != "cpu":
        return stored
    large = sum(file.stat().st_size for file in folder.glob("model*.safetensors")) > LARGE_MODEL_BYTES
    return torch.bfloat16 if large else torch.float32


def quantization_config(quantization: str | QuantizationConfigMixin, dtype: torch.dtype) -> QuantizationConfigMixin:
    """The settings that transformers quantises a model with.

    Args:
        quantization: ``"int8"`` (LLM.int8(), arXiv 2208.07339) or ``"int4"`` (NF4, quantised twice, arXiv
            2305.14314), which quantise the linear layers of the language model's decoder and nothing else. A
            configuration is taken as it is.
        dtype: what the layers compute in and the other weights are.

    Raises:
        InvalidRequestError: no such quantisation.
        MissingExtraError: the extra ``quantize`` is not installed.
    """
    if isinstance(quantization, QuantizationConfigMixin):
        return quantization
    if quantization not in QUANTIZATIONS:
        raise InvalidRequestError(
            f"quantization {quantization!r}; expected {', '.join(QUANTIZATIONS)} or a configuration of transformers"
        )
    _require_bitsandbytes()
    wanted: dict[str, Any] = {"load_in_8bit": True}
    if quantization == "int4":
        # Not doubly quantised, bitsandbytes (0.50) garbles its scales on a CPU as soon as the weights are saved.
        nested = {"bnb_4bit_use_double_quant": True}
        wanted = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype, **nested}
    # transformers leaves it untyped
    return BitsAndBytesConfig(**wanted, llm_int8_skip_modules=_KEPT)  # type: ignore[no-untyped-call]


@torch.no_grad()
def settle(model: ImageBindLlmForConditionalGeneration) -> None:
    """Let a quantised language model read one token, before several threads may use it.

    Some libraries lay their weights out anew when they are first used, in place and without a lock.

    Raises:
        IncompatibleModelError: its layers cannot be quantised so.
    """
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise IncompatibleModelError(
            f"{model.name_or_path}: cannot compute with this quantisation here ({one_line(error)}); "
            "choose another one, or load the model without"
        ) from error


def _require_bitsandbytes() -> None:
    """Find its extra complete: with accelerate, which puts the quantised weights into place."""
    try:
        with no_hub_kernels():
            import accelerate  # noqa: F401 - transformers imports both by itself
            import bitsandbytes  # noqa: F401 - the same
    except ImportError as error:
        raise MissingExtraError("quantisation", str(error.name), "quantize") from error
