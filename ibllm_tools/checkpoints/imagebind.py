"""``imagebind_huge.pth``, or ``imagebind_w3D.pth`` with points in it -> the folder of an ImageBind model."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPTokenizer

from ibllm_tools.checkpoints.clip_tokenizer import load_clip_tokenizer
from ibllm_tools.checkpoints.known_files import CLIP_LICENCE, IMAGEBIND_LICENCE, POINT_BIND_LICENCE
from ibllm_tools.checkpoints.model_card import ModelCard
from ibllm_tools.checkpoints.model_weights import ModelWeights
from ibllm_tools.checkpoints.reading import OfficialFile, OfficialWeight, SourceFile
from ibllm_tools.checkpoints.writing import (
    Conversion,
    PlannedWeight,
    chosen_dtype,
    require_target,
    require_weights_of,
    stored_dtype,
    write_model_folder,
)
from ibllm_tools.errors import CheckpointError, IbllmError, InvalidRequestError, one_line
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind.fingerprint import processor_home
from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel
from ibllm_tools.imagebind.official_weights import (
    convert_imagebind_state_dict,
    imagebind_config_from_state_dict,
    require_official_weights,
)
from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor

_WHAT = "ImageBind's weights"
_SUMMARY = (
    "ImageBind (arXiv 2305.05665) embeds images, videos, sounds, texts, depth and thermal images and motion into one "
    "space{points}. These are the official weights under the names of `ibllm_tools`."
)
_POINTS = ", and with Point-Bind's encoder (arXiv 2309.00615) point clouds too"
_USAGE = """\
from ibllm_tools.imagebind import ImageBindModel, ImageBindProcessor

model = ImageBindModel.from_pretrained(folder).eval()
processor = ImageBindProcessor.from_pretrained(folder)
embeddings = model(**processor(images="dog.jpg", audio="bark.wav", text="a dog"))
"""


@dataclass(frozen=True)
class Encoder:
    """A joint embedding on disk, and all that it needs to become part of a model's folder.

    Attributes:
        config: of the model.
        processor: of its inputs.
        weights: under the names of :class:`~ibllm_tools.imagebind.modeling_imagebind.ImageBindModel`.
        release: lets go of the files.
        sources: the files, for the model card.
        licences: the terms of its parts.
    """

    config: ImageBindConfig
    processor: ImageBindProcessor
    weights: tuple[PlannedWeight, ...]
    release: Callable[[], None]
    sources: tuple[SourceFile, ...]
    licences: tuple[str, ...]


def convert_imagebind(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    tokenizer: str | Path | None = None,
    config: ImageBindConfig | None = None,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Conversion:
    """Make a folder that ``ImageBindModel.from_pretrained`` loads of an official checkpoint.

    Args:
        checkpoint: ``imagebind_huge.pth`` or ``imagebind_w3D.pth``; as safetensors too.
        folder: where to; new or empty.
        tokenizer: where CLIP's tokenizer is, see :func:`~ibllm_tools.checkpoints.clip_tokenizer.load_clip_tokenizer`.
        config: of a checkpoint that has not the published size.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``; every weight keeps its type by default.
        overwrite: replace the model in ``folder``, once the new one is complete.
        progress: show bars, on a terminal.

    Raises:
        CheckpointError: not such a checkpoint, or a damaged one.
        InvalidRequestError: ``folder`` cannot be used, or there is no tokenizer.
        ModelNotFoundError: the hub id of the tokenizer cannot be reached.
    """
    folder = Path(folder).expanduser()
    require_target(folder, overwrite=overwrite)  # before the checkpoint is hashed, which takes seconds
    encoder = read_official_encoder(checkpoint, tokenizer=tokenizer, config=config, dtype=dtype, progress=progress)
    has_points = encoder.config.point_config is not None
    card = ModelCard(
        title="ImageBind",
        summary=_SUMMARY.format(points=_POINTS if has_points else ""),
        licence="cc-by-nc-sa-4.0",
        task="feature-extraction",
        tags=("imagebind", "multimodal", "embeddings", *(["point-bind"] if has_points else [])),
        licences=encoder.licences,
        sources=encoder.sources,
        options={"type of the weights": str(dtype or "as in the files").removeprefix("torch.")},
        usage=_USAGE,
    )
    write_model_folder(
        folder,
        encoder.weights,
        model_class=ImageBindModel,
        config=encoder.config,
        processor=encoder.processor,
        save_processor=encoder.processor.save_pretrained,
        card=str(card),
        release=encoder.release,
        overwrite=overwrite,
        progress=progress,
    )
    return Conversion.of(folder, encoder.weights, encoder.sources, encoder.licences)


def read_official_encoder(
    checkpoint: str | Path,
    *,
    tokenizer: str | Path | None,
    config: ImageBindConfig | None,
    dtype: str | torch.dtype | None,
    progress: bool,
) -> Encoder:
    """The encoder of an official checkpoint; arguments and errors as in :func:`convert_imagebind`."""
    chosen, file = chosen_dtype(dtype), OfficialFile(checkpoint)
    encoder = official_encoder(file.weights(), file, tokenizer=tokenizer, config=config, dtype=chosen)
    return replace(encoder, sources=(file.source(_WHAT, progress=progress), *encoder.sources))


def official_encoder(
    weights: Mapping[str, OfficialWeight],
    file: OfficialFile,
    *,
    tokenizer: str | Path | None,
    config: ImageBindConfig | None,
    dtype: torch.dtype | None,
) -> Encoder:
    """The encoder that official weights make; its sources are those of the tokenizer alone.

    Args:
        weights: under the official names.
        file: where they are from.
        tokenizer: as in :func:`convert_imagebind`.
        config: as in :func:`convert_imagebind`.
        dtype: to store them in; ``None`` for their own.
    """
    shapes = {name: weight.shape for name, weight in weights.items()}
    origin = str(file.path)
    config = imagebind_config_from_state_dict(shapes, origin=origin) if config is None else config
    require_official_weights(shapes, config, origin=origin)
    clip, clip_source = load_clip_tokenizer(tokenizer, checkpoint=file.path)
    return Encoder(
        config=config,
        processor=processor_for(config, clip),
        weights=tuple(
            PlannedWeight(name, weight.shape, stored_dtype(weight.dtype, dtype), weight.read, weight.origin)
            for name, weight in convert_imagebind_state_dict(weights).items()
        ),
        release=file.release,
        sources=(clip_source,),
        licences=imagebind_licences(config),
    )


def read_converted_encoder(folder: str | Path, *, dtype: str | torch.dtype | None, progress: bool) -> Encoder:
    """The encoder of a folder that :func:`convert_imagebind` made.

    Args:
        folder: the folder.
        dtype: as in :func:`convert_imagebind`.
        progress: show bars, on a terminal.

    Raises:
        CheckpointError: its files cannot be read, or are not those of one model.
        InvalidRequestError: it is not the folder of an ImageBind model.
    """
    folder = Path(folder).expanduser()
    chosen = chosen_dtype(dtype)
    config = read_imagebind_config(folder / "config.json")
    files = ModelWeights(folder)
    weights = tuple(
        PlannedWeight(name, weight.shape, stored_dtype(weight.dtype, chosen), weight.read, weight.origin)
        for name, weight in files.lazily().items()
    )
    require_weights_of(ImageBindModel, config, weights, origin=str(folder))  # before they are hashed
    return Encoder(
        config=config,
        processor=read_processor(folder),
        weights=weights,
        release=files.release,
        sources=tuple(file.source(f"{_WHAT}, converted", progress=progress) for file in files.files.values()),
        licences=imagebind_licences(config),
    )


def read_imagebind_config(file: Path) -> ImageBindConfig:
    """A configuration in JSON, as ``config.json`` and ``ImageBindConfig.to_dict`` have it.

    Raises:
        InvalidRequestError: it cannot be read, or is that of another model.
    """
    try:
        content = json.loads(file.expanduser().read_text(encoding="utf-8"))
        if content["model_type"] == ImageBindConfig.model_type:
            return ImageBindConfig.from_dict(content)
        reason = f"of a model of type {content['model_type']!r}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise InvalidRequestError(f"{file}: no configuration of an ImageBind model ({one_line(reason)})")


def read_processor(folder: Path) -> ImageBindProcessor:
    """The processor of the encoder in a converted folder, of an ImageBind or an ImageBind-LLM.

    Raises:
        CheckpointError: it cannot be read.
        ModelNotFoundError: a file is missing.
    """
    home = processor_home(folder)
    try:
        return ImageBindProcessor.from_pretrained(home)
    except IbllmError:
        raise
    except Exception as error:  # foreign files fail in as many ways as there are libraries
        reason = one_line(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{home}: the processor in it cannot be read ({reason}); convert it again") from error


def processor_for(config: ImageBindConfig, tokenizer: CLIPTokenizer) -> ImageBindProcessor:
    """The processor whose tensors have the sizes that a model takes; the published ones for towers that it lacks."""
    published = ImageBindConfig.huge()
    vision, audio, text, imu = (
        getattr(config, name) or getattr(published, name)
        for name in ("vision_config", "audio_config", "text_config", "imu_config")
    )
    return ImageBindProcessor(
        tokenizer,
        image_size=vision.image_size,
        frames_per_clip=vision.num_frames,
        num_mel_bins=audio.num_mel_bins,
        audio_target_length=audio.target_length,
        context_length=text.max_position_embeddings,
        imu_samples=imu.num_samples,
    )


def imagebind_licences(config: ImageBindConfig) -> tuple[str, ...]:
    """The terms of an encoder's parts."""
    points = () if config.point_config is None else (POINT_BIND_LICENCE,)
    return (IMAGEBIND_LICENCE, *points, CLIP_LICENCE)
