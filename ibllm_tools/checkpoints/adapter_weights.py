"""ImageBind-LLM's official weights (OpenGVLab/LLaMA-Adapter, ``imagebind_LLM``): names, shapes, the way to ours.

The research code keeps its weights in three files: LLaMA, the adapter (bind network, gates, norms, biases, LoRA) and
ImageBind. This module is about the first two, under the research code's names (``llama.*``, ``image_bind_*``,
``prefix_query.weight``). Nothing is read until a planned weight is made, so a 7 B model passes through one weight at a
time.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig

from ibllm_tools.checkpoints.reading import OfficialWeight
from ibllm_tools.checkpoints.writing import PlannedWeight
from ibllm_tools.errors import CheckpointError
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind.official_weights import require_weights
from ibllm_tools.imagebind_llm.configuration_imagebind_llm import ImageBindLlmConfig

Shape = tuple[int, ...]

_LLAMA_WINDOW = 2048
_BIND_BLOCKS = 3
_LANGUAGE_MODEL = "language_model."
_TUNED = re.compile(r"llama\.layers\.\d+\.(?:\w+\.lora_\w+\.weight|\w+\.w\w\.bias)")


@dataclass(frozen=True)
class _Projection:
    """One of the seven linear maps of a decoder layer."""

    block: str
    ours: str
    rotary: bool = False
    biased: bool = True  # once biases are tuned
    widens: bool = False
    narrows: bool = False


_PROJECTIONS = {
    "wq": _Projection("attention", "self_attn.q_proj", rotary=True),
    "wk": _Projection("attention", "self_attn.k_proj", rotary=True, biased=False),
    "wv": _Projection("attention", "self_attn.v_proj", biased=False),
    "wo": _Projection("attention", "self_attn.o_proj"),
    "w1": _Projection("feed_forward", "mlp.gate_proj", widens=True),
    "w2": _Projection("feed_forward", "mlp.down_proj", narrows=True),
    "w3": _Projection("feed_forward", "mlp.up_proj", widens=True),
}
_RENAMED = {
    "prefix_query.weight": "prefix_queries",
    "image_bind_proj.weight": "bind_network.proj.weight",
    "image_bind_proj.bias": "bind_network.proj.bias",
    **{
        f"image_bind_{name}_{block}.weight": f"bind_network.blocks.{block - 1}.{ours}.weight"
        for block in range(1, _BIND_BLOCKS + 1)
        for name, ours in (("norm", "norm"), ("f1", "gate_proj"), ("f2", "down_proj"), ("f3", "up_proj"))
    },
    "llama.tok_embeddings.weight": f"{_LANGUAGE_MODEL}model.embed_tokens.weight",
    "llama.norm.weight": f"{_LANGUAGE_MODEL}model.norm.weight",
    "llama.output.weight": f"{_LANGUAGE_MODEL}lm_head.weight",
}
_RENAMED_IN_LAYERS = {
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}


def weights_in_memory(state_dict: Mapping[str, Tensor]) -> dict[str, OfficialWeight]:
    """A state dict as official weights."""
    return {
        key: OfficialWeight(tuple(value.shape), value.dtype, partial(state_dict.__getitem__, key))
        for key, value in state_dict.items()
    }


@dataclass(frozen=True)
class AdapterSizes:
    """What the shapes of the official weights follow from.

    Attributes:
        vocabulary: words of the LLaMA.
        width: D of the LLaMA.
        intermediate_width: of its feed-forward blocks.
        layers: of the decoder.
        heads: of each attention.
        embedding_width: E of the joint embedding.
        prefix_layers: N, how many of the last layers receive the embedding.
        lora_rank: 16 in the finetune phase, which also tunes biases; 0 in the pretrain phase, which has neither.
    """

    vocabulary: int
    width: int
    intermediate_width: int
    layers: int
    heads: int
    embedding_width: int
    prefix_layers: int
    lora_rank: int


@dataclass(frozen=True)
class AdapterPlan:
    """Our weights.

    Attributes:
        model: of the language model and of what binds it, under the names of
            :class:`~ibllm_tools.imagebind_llm.ImageBindLlmForConditionalGeneration`.
        lora: of a peft adapter on that model, where it is kept apart; else empty.
    """

    model: Sequence[PlannedWeight]
    lora: Sequence[PlannedWeight]


def sizes_of(official: Mapping[str, OfficialWeight], *, origin: str = "the adapter") -> AdapterSizes:
    """Read the sizes off the shapes of LLaMA and adapter together.

    Args:
        official: weights by the research code's names.
        origin: what to call the adapter in an error, such as the file's path.

    Raises:
        CheckpointError: a weight that they are read from is missing, or of another kind.
    """

    def shape(key: str, dimensions: int = 2) -> Shape:
        if key not in official:
            raise CheckpointError(f"{origin}: {key} is missing; expected all weights of LLaMA and adapter")
        if len(official[key].shape) != dimensions:
            raise CheckpointError(
                f"{origin}: {key} is of shape {official[key].shape}, expected {dimensions} dimensions"
            )
        return official[key].shape

    vocabulary, width = shape("llama.tok_embeddings.weight")
    return AdapterSizes(
        vocabulary=vocabulary,
        width=width,
        intermediate_width=shape("llama.layers.0.feed_forward.w1.weight")[0],
        layers=layer_count(official),
        heads=shape("llama.layers.0.attention.gate", 4)[1],
        embedding_width=shape("image_bind_proj.weight")[1],
        prefix_layers=shape("prefix_query.weight")[0],
        lora_rank=shape("llama.layers.0.attention.lora_wq_l1.weight")[0] if is_tuned(official) else 0,
    )


def is_tuned(keys: Iterable[str]) -> bool:
    """Whether there are LoRA or biases among weights, as after the finetune phase, which also tunes norms."""
    return any(_TUNED.fullmatch(key) for key in keys)


def layer_count(keys: Mapping[str, object], name: str = r"attention\.wq\.weight") -> int:
    """How many decoder layers there are, by the keys of one weight of theirs."""
    return sum(re.fullmatch(rf"llama\.layers\.\d+\.{name}", key) is not None for key in keys)


def adapter_shapes(sizes: AdapterSizes) -> dict[str, Shape]:
    """Every weight of LLaMA and adapter by its official name, ``image_bind.*`` apart, and its shape."""
    width, hidden = sizes.width, 4 * sizes.width
    shapes: dict[str, Shape] = {
        "prefix_query.weight": (sizes.prefix_layers, width),
        "image_bind_proj.weight": (width, sizes.embedding_width),
        "image_bind_proj.bias": (width,),
        "llama.tok_embeddings.weight": (sizes.vocabulary, width),
        "llama.norm.weight": (width,),
        "llama.output.weight": (sizes.vocabulary, width),
    }
    for block in range(1, _BIND_BLOCKS + 1):
        shapes[f"image_bind_norm_{block}.weight"] = (width,)
        shapes[f"image_bind_f1_{block}.weight"] = shapes[f"image_bind_f3_{block}.weight"] = (hidden, width)
        shapes[f"image_bind_f2_{block}.weight"] = (width, hidden)
    for index in range(sizes.layers):
        shapes |= {f"llama.layers.{index}.{name}": shape for name, shape in _layer_shapes(sizes).items()}
    return shapes


def _layer_shapes(sizes: AdapterSizes) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {
        "attention.gate": (1, sizes.heads, 1, 1),
        "attention_norm.weight": (sizes.width,),
        "ffn_norm.weight": (sizes.width,),
    }
    for name, projection in _PROJECTIONS.items():
        rows = sizes.intermediate_width if projection.widens else sizes.width
        columns = sizes.intermediate_width if projection.narrows else sizes.width
        shapes[f"{projection.block}.{name}.weight"] = (rows, columns)
        if sizes.lora_rank:
            shapes[f"{projection.block}.lora_{name}_l1.weight"] = (sizes.lora_rank, columns)
            shapes[f"{projection.block}.lora_{name}_l2.weight"] = (rows, sizes.lora_rank)
            if projection.biased:
                shapes[f"{projection.block}.{name}.bias"] = (rows,)
    return shapes


def imagebind_llm_config(
    sizes: AdapterSizes,
    imagebind_config: ImageBindConfig,
    *,
    norm_eps: float = 1e-6,
    max_positions: int | None = None,
    keep_lora: bool = False,
) -> ImageBindLlmConfig:
    """The configuration of the model that the plan fills.

    Args:
        sizes: of the official weights.
        imagebind_config: of the joint embedding.
        norm_eps: ``norm_eps`` of LLaMA's ``params.json``; does not show in the shapes.
        max_positions: the LLaMA's window in tokens; that of LLaMA-7B by default. The research code stops at 512, but
            only because it reserves memory for no more: up to there the answers are the same.
        keep_lora: as for :func:`plan_adapter_weights`.
    """
    return ImageBindLlmConfig(
        imagebind_config=imagebind_config,
        text_config=LlamaConfig(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.width,
            intermediate_size=sizes.intermediate_width,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            max_position_embeddings=max_positions or _LLAMA_WINDOW,
            rms_norm_eps=norm_eps,
            attention_bias=bool(sizes.lora_rank),
            mlp_bias=bool(sizes.lora_rank),
        ),
        num_prefix_layers=sizes.prefix_layers,
        prefix_value_rank=0 if keep_lora else sizes.lora_rank,
    )


def generation_config_of_the_paper() -> GenerationConfig:
    """The research code's sampling: up to 256 tokens from the nucleus of 0.75 at temperature 0.1."""
    return GenerationConfig(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        max_new_tokens=256,
        do_sample=True,
        temperature=0.1,
        top_p=0.75,
        top_k=0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def convert_adapter_state_dict(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official state dict -> ours, in memory and with the LoRA merged; ``image_bind.*`` is none of its business.

    Raises:
        CheckpointError: missing, unexpected or wrongly shaped weights.
    """
    plan = plan_adapter_weights(weights_in_memory(official))
    return {weight.name: weight.make().to(weight.dtype) for weight in plan.model}


def plan_adapter_weights(
    official: Mapping[str, OfficialWeight], *, keep_lora: bool = False, origin: str = "the adapter"
) -> AdapterPlan:
    """How our weights come out of LLaMA's and the adapter's.

    Rows of the query and key projections are reordered from rotary pairs (2i, 2i+1) to halves (i, i + d/2), the order
    of transformers; so are their biases and LoRA. LoRA is added in float32.

    Args:
        official: weights by the research code's names, without ``image_bind.*``.
        keep_lora: ``False`` merges the LoRA into the weights and keeps, in low rank, what the value projections gained;
            ``True`` leaves it apart, under peft's names (scaling 1).
        origin: what to call the adapter in an error, such as the file's path.

    Raises:
        CheckpointError: missing, unexpected or wrongly shaped weights.
    """
    sizes = sizes_of(official, origin=origin)
    found = {key: weight.shape for key, weight in official.items()}
    remedy = "is the right LLaMA under the adapter, and is the file complete?"
    require_weights(found, adapter_shapes(sizes), origin=origin, remedy=remedy)
    if sizes.width % (2 * sizes.heads):
        raise CheckpointError(f"{origin}: {sizes.heads} heads cannot share a width of {sizes.width} in pairs")
    if not 1 <= sizes.prefix_layers <= sizes.layers:
        raise CheckpointError(f"{origin}: prefix_query.weight is for {sizes.prefix_layers} of {sizes.layers} layers")
    planner = _Planner(official, sizes, keep_lora)
    return AdapterPlan(list(planner.model()), list(planner.lora()) if keep_lora else [])


@dataclass(frozen=True)
class _Planner:
    """The plan of one checkpoint."""

    official: Mapping[str, OfficialWeight]
    sizes: AdapterSizes
    keep_lora: bool

    def model(self) -> Iterator[PlannedWeight]:
        """The weights of the model, decoder layer after decoder layer, as they lie in the files."""
        yield from (self._planned(ours, key) for key, ours in _RENAMED.items())
        injected = range(self.sizes.layers - self.sizes.prefix_layers, self.sizes.layers)
        # The research code has gates in every layer; those of the layers before the last N are never used.
        yield self._stacked("gates", [f"llama.layers.{index}.attention.gate" for index in injected], flatten=True)
        if self.sizes.lora_rank and not self.keep_lora:
            for name, part in (("prefix_value_down", 1), ("prefix_value_up", 2)):  # (N, r, D) and (N, D, r)
                yield self._stacked(name, [f"llama.layers.{i}.attention.lora_wv_l{part}.weight" for i in injected])
        for index in range(self.sizes.layers):
            theirs, ours = f"llama.layers.{index}.", f"{_LANGUAGE_MODEL}model.layers.{index}."
            yield from (self._planned(ours + name, theirs + key) for key, name in _RENAMED_IN_LAYERS.items())
            yield from self._projections(index)

    def lora(self) -> Iterator[PlannedWeight]:
        """A and B of every projection, where there are any."""
        if not self.sizes.lora_rank:
            return
        for index in range(self.sizes.layers):
            for name, projection in _PROJECTIONS.items():
                module = f"{_LANGUAGE_MODEL}model.layers.{index}.{projection.ours}"
                down, up = self._lora_keys(index, name)
                yield self._planned(f"{module}.lora_A.weight", down)
                yield self._planned(f"{module}.lora_B.weight", up, rotary=projection.rotary)

    def _projections(self, index: int) -> Iterator[PlannedWeight]:
        """The seven projections of one decoder layer, with biases and LoRA."""
        for name, projection in _PROJECTIONS.items():
            key = f"llama.layers.{index}.{projection.block}.{name}"
            ours = f"{_LANGUAGE_MODEL}model.layers.{index}.{projection.ours}"
            merged = bool(self.sizes.lora_rank) and not self.keep_lora
            lora = self._lora_keys(index, name) if merged else None
            yield self._planned(f"{ours}.weight", f"{key}.weight", rotary=projection.rotary, lora=lora)
            if not self.sizes.lora_rank:
                continue
            if projection.biased:
                yield self._planned(f"{ours}.bias", f"{key}.bias", rotary=projection.rotary)
            else:  # transformers has one switch for all attention biases: those that the research code lacks are zero
                rows, dtype = self.official[f"{key}.weight"].shape[0], self.official[f"{key}.weight"].dtype
                yield PlannedWeight(f"{ours}.bias", (rows,), dtype, partial(torch.zeros, rows, dtype=dtype))

    def _planned(
        self, name: str, key: str, *, rotary: bool = False, lora: tuple[str, str] | None = None
    ) -> PlannedWeight:
        weight = self.official[key]
        added = [self.official[part] for part in lora or ()]

        def make() -> Tensor:
            tensor = weight.read()
            if added:
                down, up = (part.read().float() for part in added)
                tensor = tensor.float() + up @ down
            return _halves_from_pairs(tensor, self.sizes.heads) if rotary else tensor

        origin = ", ".join(dict.fromkeys(part.origin for part in [weight, *added]))
        return PlannedWeight(name, weight.shape, weight.dtype, make, origin)

    def _stacked(self, name: str, keys: Sequence[str], *, flatten: bool = False) -> PlannedWeight:
        weights = [self.official[key] for key in keys]

        def make() -> Tensor:
            parts = [weight.read() for weight in weights]
            return torch.stack([part.flatten() for part in parts] if flatten else parts)

        shape = (self.sizes.heads,) if flatten else weights[0].shape
        return PlannedWeight(name, (len(weights), *shape), weights[0].dtype, make, weights[0].origin)

    def _lora_keys(self, index: int, name: str) -> tuple[str, str]:
        stem = f"llama.layers.{index}.{_PROJECTIONS[name].block}.lora_{name}"
        return f"{stem}_l1.weight", f"{stem}_l2.weight"


def _halves_from_pairs(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head from rotary pairs (2i, 2i+1) to halves (i, i + d/2)."""
    pairs = rows.view(heads, len(rows) // (2 * heads), 2, *rows.shape[1:])  # (heads, d/2, 2, ...)
    return pairs.transpose(1, 2).reshape(rows.shape)
