"""From a model's folder to the model and its processor."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils.quantization_config import QuantizationConfigMixin

from ibllm_tools.assistant.kept_lora import base_weights_info, require_lora_support
from ibllm_tools.assistant.model_folder import CACHE_TENSOR
from ibllm_tools.assistant.precision import loading_dtype, quantization_config, settle
from ibllm_tools.checkpoints.model_weights import ModelWeights
from ibllm_tools.errors import (
    CheckpointError,
    IbllmError,
    IncompatibleModelError,
    InvalidRequestError,
    ModelError,
    one_line,
)
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind.fingerprint import ENCODER_PREFIX, PROCESSOR_FOLDER
from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel
from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor
from ibllm_tools.imagebind_llm.configuration_imagebind_llm import ImageBindLlmConfig
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration
from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor


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
    folder: Path,
    device: torch.device,
    dtype: str | torch.dtype | None,
    quantization: str | QuantizationConfigMixin | None = None,
) -> tuple[ImageBindLlmForConditionalGeneration, ImageBindLlmProcessor]:
    """The model, ready to answer, and its processor.

    Args:
        folder: see :func:`~ibllm_tools.assistant.model_folder.find_model`.
        device: where to put it.
        dtype: of its weights, see :func:`~ibllm_tools.assistant.precision.loading_dtype`.
        quantization: of its language model, see :func:`~ibllm_tools.assistant.precision.quantization_config`.

    Raises:
        IncompatibleModelError: a model of another kind, or one that cannot be quantised so.
        CheckpointError: weights are missing, too many or of other shapes.
        InvalidRequestError: no such type or quantisation, or its library is not installed.
        MissingExtraError: the folder keeps its LoRA apart, and peft is not installed; or the extra ``quantize``.
        ModelError: the files cannot be read.
    """
    with _readable(folder):
        _require_answers(folder)
        require_lora_support(folder)
        config = ImageBindLlmConfig.from_pretrained(folder)
        weights = loading_dtype(folder, config.dtype, device, dtype)
        placed: dict[str, Any] = {}
        if quantization is not None:
            placed = {"quantization_config": quantization_config(quantization, weights), "device_map": {"": device}}
        loaded: Any = ImageBindLlmForConditionalGeneration.from_pretrained(
            folder, dtype=weights, output_loading_info=True, ignore_mismatched_sizes=True, **placed
        )
        processor = ImageBindLlmProcessor.from_pretrained(folder)
    model, info = loaded
    _require_complete(folder, info, base_weights_info(folder))
    if quantization is None:
        return model.to(device).eval(), processor
    settle(model.eval())  # it is on its device, and stays there
    return model, processor


def load_imagebind(
    folder: Path, device: torch.device, dtype: str | torch.dtype | None
) -> tuple[ImageBindModel, ImageBindProcessor]:
    """The joint embedding alone, of an ImageBind model or out of an ImageBind-LLM, and its processor.

    Of an ImageBind-LLM nothing but the encoder's weights is read.

    Args:
        folder: see :func:`~ibllm_tools.assistant.model_folder.find_model`.
        device: where to put it.
        dtype: of its weights, see :func:`~ibllm_tools.assistant.precision.loading_dtype`.

    Raises:
        IncompatibleModelError: a model of another kind.
        CheckpointError: weights are missing, too many or of other shapes.
        InvalidRequestError: no such type.
        ModelError: the files cannot be read.
    """
    with _readable(folder):
        model_type = _model_type(folder)
        if model_type == ImageBindLlmConfig.model_type:
            whole = ImageBindLlmConfig.from_pretrained(folder)
            config, stored, prefix, home = whole.imagebind_config, whole.dtype, ENCODER_PREFIX, PROCESSOR_FOLDER
        elif model_type == ImageBindConfig.model_type:
            config = ImageBindConfig.from_pretrained(folder)
            stored, prefix, home = config.dtype, "", ""
        else:
            expected = f"{ImageBindConfig.model_type!r} or {ImageBindLlmConfig.model_type!r}"
            raise _wrong_type(folder, model_type, expected)
        files = ModelWeights(folder)
        loaded: Any = ImageBindModel.from_pretrained(
            None,
            config=config,
            state_dict={name.removeprefix(prefix): files[name] for name in files if name.startswith(prefix)},
            dtype=loading_dtype(folder, stored, device, dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        processor = ImageBindProcessor.from_pretrained(folder / home)
    model, info = loaded
    _require_complete(folder, info)
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


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Name the folder in whatever goes wrong with its files."""
    try:
        yield
    except IbllmError:
        raise
    except ImportError as error:  # of a quantisation's library
        raise InvalidRequestError(f"{folder}: cannot be loaded so, {one_line(error)}") from error
    except Exception as error:  # configurations and weights from elsewhere fail in as many ways as there are libraries
        raise ModelError(
            f"{folder}: not a readable model ({one_line(error) or type(error).__name__}); convert or download it again"
        ) from error


def _require_complete(folder: Path, *infos: Mapping[str, Any]) -> None:
    for complaint in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        found = {_described(key) for info in infos for key in info.get(complaint, ())}
        if found:
            raise CheckpointError(
                f"{folder}: {len(found)} {complaint.replace('_keys', '')} weights "
                f"({one_line(', '.join(sorted(found)))}); convert or download the model again"
            )


def _described(key: str | tuple[str, torch.Size, torch.Size]) -> str:
    if isinstance(key, str):
        return key
    name, found, expected = key
    return f"{name} of shape {tuple(found)}, expected {tuple(expected)}"


def _model_type(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")


def _require_answers(folder: Path) -> None:
    model_type = _model_type(folder)
    if model_type == ImageBindConfig.model_type:
        raise IncompatibleModelError(
            f"{folder}: an ImageBind model, which embeds files but answers no questions; use it with `ibllm embed` or "
            "JointEmbedder.load, or ask an ImageBind-LLM model"
        )
    if model_type != ImageBindLlmConfig.model_type:
        raise _wrong_type(folder, model_type, repr(ImageBindLlmConfig.model_type))


def _wrong_type(folder: Path, model_type: Any, expected: str) -> IncompatibleModelError:
    return IncompatibleModelError(f"{folder}: a model of type {model_type!r}, expected {expected}; convert it first")
