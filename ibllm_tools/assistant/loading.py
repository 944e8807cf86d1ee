"""From a model's folder to the model and its processor."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ibllm_tools.assistant.model_folder import CACHE_TENSOR
from ibllm_tools.errors import CheckpointError, IbllmError, IncompatibleModelError, InvalidRequestError, ModelError
from ibllm_tools.imagebind_llm.configuration_imagebind_llm import ImageBindLlmConfig
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration
from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor
from ibllm_tools.media.source import one_line


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; by default the first CUDA device, or else the CPU.

    Raises:
        InvalidRequestError: no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidRequestError(
            f"device {str(device)!r}: not usable here ({one_line(error)}); expected cpu, cuda, cuda:1, mps, ..."
        ) from error
    return chosen


def load_model(
    folder: Path, device: torch.device, dtype: str | torch.dtype | None
) -> tuple[ImageBindLlmForConditionalGeneration, ImageBindLlmProcessor]:
    """The model, ready to answer, and its processor.

    Args:
        folder: see :func:`~ibllm_tools.assistant.model_folder.find_model`.
        device: where to put it.
        dtype: of its weights. By default as they are stored, except that float16 becomes float32 on a CPU, which
            computes in half precision slowly and not everywhere.

    Raises:
        IncompatibleModelError: a model of another kind.
        CheckpointError: weights are missing, too many or of other shapes.
        ModelError: the files cannot be read.
    """
    try:
        _require_imagebind_llm(folder)
        loaded: Any = ImageBindLlmForConditionalGeneration.from_pretrained(
            folder, dtype=_chosen_dtype(folder, device, dtype), output_loading_info=True
        )
        processor = ImageBindLlmProcessor.from_pretrained(folder)
    except IbllmError:
        raise
    except Exception as error:  # configurations and weights from elsewhere fail in as many ways as there are libraries
        raise ModelError(
            f"{folder}: not a readable model ({one_line(error) or type(error).__name__}); convert or download it again"
        ) from error
    model, info = loaded
    for complaint in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := sorted(map(str, info[complaint])):
            raise CheckpointError(
                f"{folder}: {len(names)} {complaint.replace('_keys', '')} weights ({one_line(', '.join(names))}); "
                "convert or download the model again"
            )
    return model.to(device).eval(), processor


def read_cache_features(file: Path) -> Tensor:
    """The image features (N, E) that a model is shipped with.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            features: Tensor = tensors.get_tensor(CACHE_TENSOR)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{file}: no readable {CACHE_TENSOR!r} ({one_line(error)}); download it again or ask without it"
        ) from error
    return features


def _require_imagebind_llm(folder: Path) -> None:
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type != ImageBindLlmConfig.model_type:
        raise IncompatibleModelError(
            f"{folder}: a model of type {model_type!r}, expected {ImageBindLlmConfig.model_type!r}; convert it first"
        )


def _chosen_dtype(folder: Path, device: torch.device, dtype: str | torch.dtype | None) -> str | torch.dtype:
    if dtype is not None:
        return dtype
    stored = ImageBindLlmConfig.from_pretrained(folder).dtype
    half_on_cpu = device.type == "cpu" and stored in (None, torch.float16)
    return torch.float32 if half_on_cpu else "auto"
