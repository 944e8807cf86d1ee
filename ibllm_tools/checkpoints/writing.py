"""Planned weights -> the folder of a model that ``from_pretrained`` loads.

Weights are made, checked and written shard by shard, so that memory holds one shard, whatever the size of the model.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from ibllm_tools.checkpoints.model_weights import INDEX_FILE, WEIGHTS_FILE
from ibllm_tools.checkpoints.reading import SourceFile
from ibllm_tools.checkpoints.staging import staged_folder
from ibllm_tools.checkpoints.visual_cache import CACHE_FOLDER
from ibllm_tools.errors import CheckpointError, InvalidRequestError
from ibllm_tools.imagebind.fingerprint import DIGEST_KEY, EncoderDigest, store_fingerprint
from ibllm_tools.imagebind.official_weights import require_weights
from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor

MAX_SHARD_BYTES = 2 * 2**30
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CARD_FILE = "README.md"
CONFIG_FILE = "config.json"
ROOM_BESIDE_WEIGHTS = 64 * 2**20
"""Bytes for configuration, tokenizers and card, generously."""

_OWN_FILES = re.compile(
    r"README\.md|(imagebind/)?((model[\w-]*|adapter_model)\.safetensors|merges\.txt|chat_template\.jinja|"
    r"(config|encoder|generation_config|adapter_config|processor_config|prompt_templates|tokenizer|tokenizer_config|"
    r"special_tokens_map|added_tokens|vocab|model\.safetensors\.index)\.json)"
)
"""What conversions write, and ``save_pretrained`` of any transformers may."""
_OWN_MODEL_TYPES = ("imagebind", "imagebind_llm")


class Conversion(BaseModel):
    """What came of a conversion."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    parameters: int = Field(description="Numbers in all weights.")
    bytes: int = Field(description="Of all weights on disk.")
    sources: tuple[SourceFile, ...] = Field(description="The files it was made of.")
    licences: tuple[str, ...] = Field(description="The terms that hold for its parts.")
    warnings: tuple[str, ...] = Field(description="What is unusual about the files, and may be wrong.")

    @classmethod
    def of(
        cls,
        folder: Path,
        weights: Sequence["PlannedWeight"],
        sources: tuple[SourceFile, ...],
        licences: tuple[str, ...],
        warnings: tuple[str, ...] = (),
    ) -> Self:
        """What came of writing these weights."""
        return cls(
            folder=folder,
            parameters=sum(weight.numel for weight in weights),
            bytes=sum(weight.nbytes for weight in weights),
            sources=sources,
            licences=licences,
            warnings=warnings,
        )


@dataclass(frozen=True)
class PlannedWeight:
    """One weight of the model to be written.

    Attributes:
        name: in the model's state dict.
        shape: its shape there.
        dtype: as it will be written.
        make: reads and converts just this one. Any type will do; it is cast, and must be finite.
        origin: the file that it comes from, as an error calls it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]
    origin: str = "the checkpoint"

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.numel * self.dtype.itemsize


def chosen_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The type that a user names; ``None`` stays ``None``: every weight keeps its own.

    Raises:
        InvalidRequestError: it is none of those that weights are kept in.
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InvalidRequestError(f"dtype {name!r}; expected {', '.join(DTYPES)}")
    return DTYPES[name]


def stored_dtype(dtype: torch.dtype, chosen: torch.dtype | None) -> torch.dtype:
    """The type that a weight is written in; integers stay what they are."""
    return chosen if chosen is not None and dtype.is_floating_point else dtype


def require_target(folder: Path, *, overwrite: bool) -> None:
    """Refuse a place where something is that a conversion must not replace.

    Raises:
        InvalidRequestError: it is a file, is not empty and may not be overwritten, or holds more than a model.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidRequestError(f"{folder}: a file; expected a folder, or a name for a new one")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise InvalidRequestError(
            f"{folder}: not empty; choose another folder, or overwrite the model that is there (--overwrite)"
        )
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir())
    if model_type(folder) not in _OWN_MODEL_TYPES:
        raise InvalidRequestError(f"{folder}: holds no converted model, so it stays; choose another folder")
    if (folder / CACHE_FOLDER).exists():
        raise InvalidRequestError(
            f"{folder}: has a visual cache, which took long to make, so it stays; move {CACHE_FOLDER} away (and back "
            "afterwards, if the encoder is the same), or choose another folder"
        )
    if foreign := [file for file in files if not _OWN_FILES.fullmatch(file)]:
        raise InvalidRequestError(
            f"{folder}: holds files that are no part of a model ({', '.join(foreign[:3])}), so it stays; "
            "move them away, or choose another folder"
        )


def write_model_folder(
    folder: str | Path,
    weights: Sequence[PlannedWeight],
    *,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    processor: ImageBindProcessor,
    save_processor: Callable[[Path], None],
    card: str,
    release: Callable[[], None],
    encoder_prefix: str = "",
    generation_config: GenerationConfig | None = None,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: bool = True,
) -> None:
    """Write a model's folder: whole or not at all, see :mod:`ibllm_tools.checkpoints.staging`.

    Args:
        folder: where to; it must be new or empty unless ``overwrite`` is set.
        weights: all weights of the model, in any order.
        model_class: what loads the folder.
        config: of the model; its ``dtype`` becomes the type of most bytes, which transformers loads it as by default.
        processor: of the encoder; part of its fingerprint.
        save_processor: writes processor and tokenizers into the given folder.
        card: the model card.
        release: called after each shard, to let go of the memory that reading took.
        encoder_prefix: what stands before the names of the encoder's weights.
        generation_config: how the model generates, if it does.
        overwrite: replace the model in ``folder``; it stays as it is until the new one is complete.
        max_shard_bytes: weights per file; a single larger weight has a file of its own.
        progress: show a bar, on a terminal.

    Raises:
        CheckpointError: weights that do not fit the model, or are not finite.
        InvalidRequestError: the folder cannot be written, or there is no room.
    """
    folder = Path(folder)
    config = copy.deepcopy(config)
    config.architectures = [model_class.__name__]
    config.dtype = main_dtype(weights)
    require_weights_of(model_class, config, weights)
    digest = EncoderDigest(processor)
    room = sum(weight.nbytes for weight in weights) + ROOM_BESIDE_WEIGHTS
    free = partial(require_target, overwrite=overwrite)
    with staged_folder(folder, bytes_needed=room, require_target=free) as staging:
        config.save_pretrained(staging)
        if generation_config is not None:
            generation_config.save_pretrained(staging)
        save_processor(staging)
        (staging / CARD_FILE).write_text(card, encoding="utf-8")
        shards = split_into_shards(weights, max_shard_bytes)
        files = shard_names(len(shards))
        with progress_bar(folder.name, weights, progress) as bar:
            for file, shard in zip(files, shards, strict=True):
                write_shard(staging / file, shard, bar, digest=digest, encoder_prefix=encoder_prefix)
                release()
        write_index(staging, dict(zip(files, shards, strict=True)))
        store_fingerprint(staging, digest.hexdigest())


def main_dtype(weights: Iterable[PlannedWeight]) -> torch.dtype:
    """The floating type that most bytes have."""
    sizes: Counter[torch.dtype] = Counter()
    for weight in weights:
        if weight.dtype.is_floating_point:
            sizes[weight.dtype] += weight.nbytes
    return sizes.most_common(1)[0][0]


def split_into_shards(weights: Iterable[PlannedWeight], max_bytes: int = MAX_SHARD_BYTES) -> list[list[PlannedWeight]]:
    """The weights sorted by name, in groups of at most so many bytes; a single larger weight is a group of its own."""
    shards: list[list[PlannedWeight]] = [[]]
    size = 0
    for weight in sorted(weights, key=lambda weight: weight.name):
        if shards[-1] and size + weight.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(weight)
        size += weight.nbytes
    return shards


def shard_names(count: int) -> list[str]:
    """The names that transformers gives to so many files of weights."""
    if count == 1:
        return [WEIGHTS_FILE]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def write_shard(
    file: Path,
    shard: Sequence[PlannedWeight],
    bar: "tqdm[Any]",
    *,
    digest: EncoderDigest | None = None,
    encoder_prefix: str = "",
) -> None:
    """Make, check and write the weights of one file; those of the encoder go through the digest, if there is one.

    Raises:
        CheckpointError: a weight of another shape than planned, or one that is not finite.
    """
    tensors: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for weight in shard:
        made = _made(weight)
        # safetensors refuses tensors that share memory; some checkpoints hold one tensor under two names
        tensors[weight.name] = made.clone() if made.data_ptr() in addresses else made
        addresses.add(made.data_ptr())
        if digest is not None and weight.name.startswith(encoder_prefix):
            digest.update(weight.name.removeprefix(encoder_prefix), made)
        bar.update(weight.nbytes)
    mark = {} if digest is None else {DIGEST_KEY: digest.hexdigest()}
    save_file(tensors, file, metadata={"format": "pt", **mark})
    file.chmod((file.parent / CONFIG_FILE).stat().st_mode)  # safetensors lets nobody else read it


def write_index(folder: Path, shards: Mapping[str, Sequence[PlannedWeight]]) -> None:
    """Say which weight is in which file, where there are several files."""
    if len(shards) == 1:
        return
    weight_map = {weight.name: file for file, shard in shards.items() for weight in shard}
    total = sum(weight.nbytes for shard in shards.values() for weight in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def progress_bar(name: str, weights: Iterable[PlannedWeight], progress: bool) -> "tqdm[Any]":
    """A bar in bytes, on terminals only."""
    total = sum(weight.nbytes for weight in weights)
    return tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None if progress else True)


def _made(weight: PlannedWeight) -> Tensor:
    """The weight as it will be written."""
    tensor = weight.make().detach()
    if tuple(tensor.shape) != weight.shape:
        raise CheckpointError(
            f"{weight.origin}: {weight.name} is {tuple(tensor.shape)}, expected {weight.shape}; is it the right file?"
        )
    if not tensor.isfinite().all():
        raise CheckpointError(
            f"{weight.origin}: not all values of {weight.name} are finite; download or copy the file again"
        )
    cast = tensor.to(weight.dtype).contiguous()
    if cast.dtype is not tensor.dtype and not cast.isfinite().all():
        raise CheckpointError(
            f"{weight.origin}: some values of {weight.name} are too large for {weight.dtype}; take bfloat16"
        )
    return cast


def require_weights_of(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    weights: Iterable[PlannedWeight],
    *,
    origin: str = "the converted model",
) -> None:
    """Refuse a plan that is not the model, weight by weight; an error calls it ``origin``."""
    with torch.device("meta"):
        model = model_class(config)
    planned = {weight.name: weight.shape for weight in weights}
    left_out = model.all_tied_weights_keys.keys() - planned.keys()  # a tied weight is stored once
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in left_out}
    require_weights(planned, expected, origin=origin, remedy="does the configuration fit the checkpoint?")


def model_type(folder: Path) -> object:
    """What `config.json` says that the folder's model is; `None` where there is none."""
    try:
        return json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
