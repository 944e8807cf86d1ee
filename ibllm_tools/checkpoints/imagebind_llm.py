"""The adapter's checkpoint, LLaMA and ImageBind -> the folder of an ImageBind-LLM that answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ibllm_tools.checkpoints.adapter_file import AdapterFile, open_adapter, upon_llama
from ibllm_tools.checkpoints.adapter_weights import (
    AdapterPlan,
    generation_config_of_the_paper,
    imagebind_llm_config,
    is_tuned,
    plan_adapter_weights,
    sizes_of,
)
from ibllm_tools.checkpoints.imagebind import (
    Encoder,
    official_encoder,
    read_converted_encoder,
    read_official_encoder,
)
from ibllm_tools.checkpoints.known_files import IMAGEBIND_LLM_LICENCE, LLAMA_LICENCE
from ibllm_tools.checkpoints.llama import LlamaSource, norm_drift, open_llama
from ibllm_tools.checkpoints.model_card import ModelCard
from ibllm_tools.checkpoints.peft_adapter import write_peft_adapter
from ibllm_tools.checkpoints.reading import OfficialFile, SourceFile
from ibllm_tools.checkpoints.writing import (
    Conversion,
    PlannedWeight,
    chosen_dtype,
    require_target,
    stored_dtype,
    write_model_folder,
)
from ibllm_tools.errors import IncompatibleModelError, InvalidRequestError
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind.fingerprint import ENCODER_PREFIX
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration
from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor

_SUMMARY = (
    "ImageBind-LLM (arXiv 2309.03905) answers questions about images, videos, sounds, texts, depth and thermal images "
    "and motion{points}: the official adapter on its LLaMA and ImageBind, under the names of `ibllm_tools`."
)
_USAGE = """\
from ibllm_tools import Assistant

assistant = Assistant.load(folder)
answer = assistant.ask("What is making this sound?", "bell.wav")
print(answer.text)
"""
_NO_POINTS = (
    "this ImageBind has no point tower, so 3D models and point clouds cannot be asked about; imagebind_w3D.pth has "
    "one, and `ibllm convert point-bind` adds one"
)


def convert_imagebind_llm(
    adapter: str | Path,
    folder: str | Path,
    *,
    llama: str | Path,
    imagebind: str | Path | None = None,
    tokenizer: str | Path | None = None,
    imagebind_config: ImageBindConfig | None = None,
    keep_lora: bool = False,
    dtype: str | torch.dtype | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Conversion:
    """Make a folder that ``Assistant.load`` and ``ImageBindLlmForConditionalGeneration.from_pretrained`` load.

    As in the research code LLaMA comes first and the adapter after it, so the adapter's norms win, and so does
    everything else that a raw training checkpoint holds, except an ImageBind where ``imagebind`` names one.

    Args:
        adapter: ``7B.pth`` or ``7B-pretrained.pth``, or a checkpoint as training saved it.
        folder: where to; new or empty.
        llama: the LLaMA that the adapter was tuned on, see :func:`~ibllm_tools.checkpoints.llama.open_llama`.
        imagebind: ``imagebind_w3D.pth`` or ``imagebind_huge.pth``, or a folder that it was converted to. By default the
            one in the adapter's checkpoint, which only raw ones have.
        tokenizer: CLIP's, see :func:`~ibllm_tools.checkpoints.clip_tokenizer.load_clip_tokenizer`; a converted
            ImageBind has its own.
        imagebind_config: of an ImageBind that has not the published size; a converted one has its own.
        keep_lora: keep the LoRA as a peft adapter in the folder, instead of merging it. Loading then needs peft.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``; by default every weight keeps its type, a merged one that
            of LLaMA.
        overwrite: replace the model in ``folder``, once the new one is complete.
        progress: show bars, on a terminal.

    Raises:
        CheckpointError: a file is not such a checkpoint, or a damaged one.
        IncompatibleModelError: the files do not belong together.
        InvalidRequestError: ``folder`` cannot be used, or an ImageBind or its tokenizer is not named.
        ModelNotFoundError: there is no LLaMA, or a hub id cannot be reached.
    """
    folder, chosen = Path(folder).expanduser(), chosen_dtype(dtype)
    require_target(folder, overwrite=overwrite)  # before anything is hashed, which takes a minute
    tuned, base = open_adapter(OfficialFile(adapter)), open_llama(llama)
    official = upon_llama(tuned, base)
    plan = _stored(plan_adapter_weights(official, keep_lora=keep_lora, origin=str(tuned.file.path)), chosen)
    encoder = _encoder(tuned, imagebind, tokenizer, imagebind_config, chosen, progress=progress)
    sizes = sizes_of(official)
    _require_embedding_width(sizes.embedding_width, encoder, tuned)
    warnings = tuple(_warnings(tuned, base, encoder, progress=progress))
    sources = (tuned.file.source("the adapter", progress=progress), *base.sources(progress=progress), *encoder.sources)
    licences = (IMAGEBIND_LLM_LICENCE, LLAMA_LICENCE, *encoder.licences)
    options = _options(tuned, keep_lora=keep_lora, own_imagebind=imagebind is None, dtype=chosen)
    processor = ImageBindLlmProcessor(encoder.processor, base.load_tokenizer())
    weights = [*(replace(weight, name=ENCODER_PREFIX + weight.name) for weight in encoder.weights), *plan.model]

    def save_processor(place: Path) -> None:
        processor.save_pretrained(place)
        if plan.lora:
            write_peft_adapter(place, plan.lora, progress=progress)

    def release() -> None:
        for source in (tuned.file, base.weights, encoder):
            source.release()

    write_model_folder(
        folder,
        weights,
        model_class=ImageBindLlmForConditionalGeneration,
        config=imagebind_llm_config(
            sizes,
            encoder.config,
            norm_eps=base.norm_eps,
            max_positions=base.max_position_embeddings,
            keep_lora=keep_lora,
        ),
        generation_config=generation_config_of_the_paper(),
        processor=encoder.processor,
        save_processor=save_processor,
        card=str(_card(encoder, sources, licences, options, warnings)),
        release=release,
        encoder_prefix=ENCODER_PREFIX,
        overwrite=overwrite,
        progress=progress,
    )
    return Conversion.of(folder, [*weights, *plan.lora], sources, licences, warnings)


def _card(
    encoder: Encoder,
    sources: Sequence[SourceFile],
    licences: Sequence[str],
    options: Mapping[str, str],
    warnings: Sequence[str],
) -> ModelCard:
    return ModelCard(
        title="ImageBind-LLM",
        summary=_SUMMARY.format(points="" if encoder.config.point_config is None else ", and about 3D models"),
        licence="other",
        task="any-to-any",
        tags=("imagebind-llm", "imagebind", "llama", "multimodal"),
        licences=licences,
        sources=sources,
        options=options,
        warnings=warnings,
        usage=_USAGE,
    )


def _stored(plan: AdapterPlan, dtype: torch.dtype | None) -> AdapterPlan:
    """The plan in the type that the user wants."""

    def cast(weights: Sequence[PlannedWeight]) -> list[PlannedWeight]:
        return [replace(weight, dtype=stored_dtype(weight.dtype, dtype)) for weight in weights]

    return AdapterPlan(cast(plan.model), cast(plan.lora))


def _encoder(
    adapter: AdapterFile,
    imagebind: str | Path | None,
    tokenizer: str | Path | None,
    config: ImageBindConfig | None,
    dtype: torch.dtype | None,
    *,
    progress: bool,
) -> Encoder:
    """The joint embedding: the one that is named, or else the adapter's own."""
    if imagebind is None:
        return _own_encoder(adapter, tokenizer, config, dtype)
    if not Path(imagebind).expanduser().is_dir():
        return read_official_encoder(imagebind, tokenizer=tokenizer, config=config, dtype=dtype, progress=progress)
    if tokenizer is not None or config is not None:
        raise InvalidRequestError(
            f"{imagebind}: a converted ImageBind has its tokenizer and its configuration with it; pass neither"
        )
    return read_converted_encoder(imagebind, dtype=dtype, progress=progress)


def _own_encoder(
    adapter: AdapterFile, tokenizer: str | Path | None, config: ImageBindConfig | None, dtype: torch.dtype | None
) -> Encoder:
    """The ImageBind that a raw training checkpoint holds; its file is already among the sources."""
    if not adapter.imagebind:
        raise InvalidRequestError(
            f"{adapter.file.path}: there is no ImageBind in it; pass imagebind_w3D.pth, imagebind_huge.pth or the "
            "folder that one was converted to as imagebind (--imagebind)"
        )
    return official_encoder(adapter.imagebind, adapter.file, tokenizer=tokenizer, config=config, dtype=dtype)


def _require_embedding_width(width: int, encoder: Encoder, adapter: AdapterFile) -> None:
    if (found := encoder.config.projection_dim) != width:
        raise IncompatibleModelError(
            f"{adapter.file.path}: the adapter takes embeddings {width} wide, but this ImageBind's are {found} wide; "
            "name the ImageBind that it was tuned with"
        )


def _warnings(adapter: AdapterFile, llama: LlamaSource, encoder: Encoder, *, progress: bool) -> Iterator[str]:
    """What the content tells about files whose shapes fit."""
    yield from llama.warnings(progress=progress)
    norms = {
        key: weight.read()
        for key, weight in adapter.weights.items()
        if key.startswith("llama.") and key.endswith("norm.weight")
    }
    if drift := norm_drift(llama.weights, norms, tuned=is_tuned(adapter.weights)):
        yield f"{adapter.file.path.name}: {drift}"
    if encoder.config.point_config is None:
        yield _NO_POINTS


def _options(
    adapter: AdapterFile, *, keep_lora: bool, own_imagebind: bool, dtype: torch.dtype | None
) -> dict[str, str]:
    """What was chosen, for the model card."""
    options = {"type of the weights": str(dtype or "as in the files").removeprefix("torch.")}
    if not is_tuned(adapter.weights):
        options["LoRA"] = "none, the adapter is of the pretraining phase"
    elif keep_lora:
        options["LoRA"] = "kept apart as a peft adapter (`adapter_model.safetensors`); loading needs peft"
    else:
        options["LoRA"] = "merged into the weights"
    if own_imagebind:
        options["ImageBind"] = "the one in the adapter's checkpoint"
    elif adapter.imagebind:
        options["ImageBind"] = "the one that was named; that in the adapter's checkpoint was left out"
    return options
