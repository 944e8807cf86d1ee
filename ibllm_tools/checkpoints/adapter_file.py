"""The official adapter checkpoint (``7B.pth``), told from other files and checked against the LLaMA below it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ibllm_tools.checkpoints.adapter_weights import is_tuned, layer_count
from ibllm_tools.checkpoints.llama import LlamaSource
from ibllm_tools.checkpoints.reading import OfficialFile, OfficialWeight
from ibllm_tools.errors import CheckpointError, IncompatibleModelError
from ibllm_tools.imagebind.official_weights import names_listed

_IMAGEBIND_PREFIX = "image_bind."
_LLAMA_PREFIX = "llama."
_QUERIES = "prefix_query.weight"
_UNUSED = "prefix_projector_norm."
"""A norm in early checkpoints that no code refers to any more."""
_LEGACY = re.compile(r"image_bind_(norm|f\d)_\d\.bias")
_FOREIGN = (
    (
        r"modality_(preprocessors|trunks|heads|postprocessors)\..+",
        "but ImageBind's weights: pass them as imagebind (--imagebind)",
    ),
    (r"(bind|point_encoder)\..+", "but Point-Bind's weights: convert them with point-bind"),
    (
        r"(module\.)?(tok_embeddings|layers\.\d+|model\.layers\.\d+)\..+",
        "but a LLaMA: pass its folder as llama (--llama)",
    ),
    (r"(adapter|visual)_query\.weight", "but one of LLaMA-Adapter V1 or V2, which is another model"),
    (r"(language_model|bind_network|imagebind)\..+", "but converted already: load its folder"),
)


@dataclass(frozen=True)
class AdapterFile:
    """The weights of an adapter checkpoint, read when they are asked for.

    Attributes:
        file: the checkpoint.
        weights: under the research code's names, ``image_bind.*`` apart. As published, what training changed; as
            training saves it, all of the LLaMA too.
        imagebind: ImageBind's weights under ImageBind's names, where training saved them too.
    """

    file: OfficialFile
    weights: Mapping[str, OfficialWeight]
    imagebind: Mapping[str, OfficialWeight]


def open_adapter(file: OfficialFile) -> AdapterFile:
    """The adapter in a checkpoint.

    Raises:
        CheckpointError: it is something else, or not readable.
        IncompatibleModelError: it has the legacy bind network.
    """
    weights = {_present_name(key): weight for key, weight in file.weights().items() if not key.startswith(_UNUSED)}
    _require_adapter(file, weights)
    embedding = {key: weight for key, weight in weights.items() if key.startswith(_IMAGEBIND_PREFIX)}
    return AdapterFile(
        file,
        {key: weight for key, weight in weights.items() if key not in embedding},
        {key.removeprefix(_IMAGEBIND_PREFIX): weight for key, weight in embedding.items()},
    )


def upon_llama(adapter: AdapterFile, llama: LlamaSource) -> dict[str, OfficialWeight]:
    """LLaMA and adapter as the research code loads them, one after the other: the adapter's weights win.

    Raises:
        IncompatibleModelError: the adapter was made for another LLaMA.
        CheckpointError: the adapter lacks norms that finetuning has changed.
    """
    base = {_LLAMA_PREFIX + name: weight for name, weight in llama.weights.lazily().items()}
    for complaint in _misfits(adapter.weights, base, llama.num_attention_heads):
        raise IncompatibleModelError(f"{adapter.file.path}: {complaint}; name the LLaMA that the adapter was tuned on")
    norms = [key for key in base if key.endswith("norm.weight")]
    if is_tuned(adapter.weights) and (missing := [key for key in norms if key not in adapter.weights]):
        raise CheckpointError(
            f"{adapter.file.path}: norms are missing that finetuning has changed ({names_listed(missing)}); is the "
            "file complete?"
        )
    return base | dict(adapter.weights)


def _present_name(key: str) -> str:
    # Early checkpoints have the name misspelt.
    return re.sub(r"^llma\.", _LLAMA_PREFIX, key)


def _require_adapter(file: OfficialFile, weights: Mapping[str, OfficialWeight]) -> None:
    if legacy := [key for key in weights if _LEGACY.fullmatch(key)]:
        raise IncompatibleModelError(
            f"{file.path}: its bind network is the legacy one with LayerNorms and biases "
            f"({names_listed(sorted(legacy))}), as in 7B-beta.pth; only that of the stable release is "
            "supported: use 7B.pth, with Open-Chinese-LLaMA as llama (--llama)"
        )
    if _QUERIES in weights:
        if len(shape := weights[_QUERIES].shape) != 2:
            raise CheckpointError(f"{file.path}: {_QUERIES} is of shape {shape}, expected (layers, width)")
        return
    for pattern, what in _FOREIGN:
        if key := next((key for key in weights if re.fullmatch(pattern, key)), None):
            raise CheckpointError(f"{file.path}: no adapter of ImageBind-LLM, {what} (it holds {key})")
    raise CheckpointError(
        f"{file.path}: no adapter of ImageBind-LLM, there is no {_QUERIES} in it ({names_listed(weights)}); expected a "
        "file such as 7B.pth"
    )


def _misfits(adapter: Mapping[str, OfficialWeight], base: Mapping[str, OfficialWeight], heads: int) -> Iterator[str]:
    """What shapes tell about an adapter that was made for another LLaMA."""
    width, base_width = adapter[_QUERIES].shape[1], base["llama.norm.weight"].shape[0]
    if width != base_width:
        yield f"the adapter is made for a LLaMA {width} wide, but this one is {base_width} wide"
    layers, base_layers = layer_count(adapter, r"attention\.gate"), layer_count(base)
    if layers != base_layers:
        yield f"the adapter is made for a LLaMA of {layers} layers, but this one has {base_layers}"
    gate = adapter.get("llama.layers.0.attention.gate")
    if gate is not None and gate.shape != (1, heads, 1, 1):
        yield f"the adapter's gates are of shape {gate.shape}, but this LLaMA has {heads} attention heads"
    for key in adapter.keys() & base.keys():
        if adapter[key].shape != base[key].shape:
            yield f"{key} is {adapter[key].shape} in the adapter, but {base[key].shape} in this LLaMA"
