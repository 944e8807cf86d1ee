"""ImageBind-LLM (arXiv 2309.03905): bind network and attention-free gated injection on a Llama-like language model.

One joint embedding e becomes one vector per decoder layer,

    c_l = W_o (tanh(gate_l) * W_v (bind(e) + prefix_l)),

which is added to the layer's attention output at every position. A prefix of a single token needs no keys and no
softmax, so the vectors depend on the attachment alone: they are computed once per request, and a generated token costs
one addition per layer.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from ibllm_tools.errors import IncompatibleModelError, InvalidRequestError
from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel
from ibllm_tools.imagebind_llm.configuration_imagebind_llm import ImageBindLlmConfig

IGNORED_LABEL = -100
"""The label of positions that do not count in the loss."""

POINT_DIVISOR = 5.0
"""The research code shortens Point-Bind's head output by this before it reaches the image generator."""


def mix_embeddings(embeddings: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """The weighted mix of several embeddings, each made a unit vector first; the mix itself is not re-normalised.

    Args:
        embeddings: one (B, E) tensor per attachment.
        weights: one non-negative weight per attachment; equal weights by default.

    Returns:
        (B, E): sum of w_i / (sum(w) + 1e-6) times e_i / |e_i|, as the research code computes it.

    Raises:
        InvalidRequestError: nothing to mix, or weights that do not fit.
    """
    shares = _shares(len(embeddings), weights)
    units = [F.normalize(embedding, dim=-1) for embedding in embeddings]
    return torch.stack([share * unit for share, unit in zip(shares, units, strict=True)]).sum(dim=0)


def image_generation_embedding(
    head_outputs: Sequence[tuple[str, Tensor]],
    weights: Sequence[float] | None = None,
    *,
    enhance: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The vector that Stable unCLIP takes as ``image_embeds`` (any-to-image generation, arXiv 2309.03905).

    Args:
        head_outputs: ``(modality, output)`` per attachment, the output being the (B, E) head output of
            :meth:`ImageBindModel.encode` with ``prenorm=True``.
        weights: one non-negative weight per attachment; equal weights by default.
        enhance: the visual cache's retrieval. It gets the unit vector, and the original length is restored afterwards.

    Returns:
        (B, E).

    Raises:
        InvalidRequestError: nothing to mix, or weights that do not fit.
    """
    shares = _shares(len(head_outputs), weights)
    scaled = [output / POINT_DIVISOR if modality == "point" else output for modality, output in head_outputs]
    mixed = torch.stack([share * output for share, output in zip(shares, scaled, strict=True)]).sum(dim=0)
    if enhance is None:
        return mixed
    length = mixed.norm(dim=-1, keepdim=True)  # (B, 1)
    return enhance(mixed / length) * length


def _shares(count: int, weights: Sequence[float] | None) -> list[float]:
    if count == 0:
        raise InvalidRequestError("no embedding to mix, expected at least one attachment")
    weights = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(weights) != count:
        raise InvalidRequestError(f"{len(weights)} weights for {count} attachments: give one weight per attachment")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise InvalidRequestError(f"weights {weights}: expected finite, non-negative numbers that are not all zero")
    total = sum(weights) + 1e-6
    return [weight / total for weight in weights]


class GatedResidualMlp(nn.Module):
    """x + W_2 (silu(W_1 n) * W_3 n) with n = RMSNorm(x): one of the three blocks of the bind network."""

    def __init__(self, hidden_size: int, intermediate_size: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(hidden_size, eps=eps)
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        normed = self.norm(hidden)
        return hidden + self.down_proj(F.silu(self.gate_proj(normed)) * self.up_proj(normed))


class BindNetwork(nn.Module):
    """Maps a joint embedding (B, E) into the language model's width (B, D) (arXiv 2309.03905, section 3.2)."""

    def __init__(self, config: ImageBindLlmConfig) -> None:
        super().__init__()
        hidden_size = config.text_config.hidden_size
        self.proj = nn.Linear(config.imagebind_config.projection_dim, hidden_size)
        self.blocks = nn.ModuleList(
            GatedResidualMlp(hidden_size, config.bind_intermediate_size, config.bind_norm_eps) for _ in range(3)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, E) -> (B, D)."""
        hidden = self.proj(embeddings)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class ImageBindLlmPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of ImageBind-LLM."""

    config: ImageBindLlmConfig
    config_class = ImageBindLlmConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["GatedResidualMlp"]  # noqa: RUF012 - as the base class declares it
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012 - the same
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ImageBindLlmForConditionalGeneration):
            init.normal_(module.prefix_queries)
            init.zeros_(module.gates)
            if module.prefix_value_down is not None and module.prefix_value_up is not None:
                init.zeros_(module.prefix_value_down)
                init.zeros_(module.prefix_value_up)
        elif isinstance(module, nn.Linear):
            # The towers and the LLM initialise themselves; the bind network keeps torch's own scale, as published.
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        else:
            super()._init_weights(module)


class ImageBindLlmForConditionalGeneration(ImageBindLlmPreTrainedModel, GenerationMixin):
    """A language model that sees, hears and reads through one joint embedding (arXiv 2309.03905).

    The language model is any decoder of transformers whose layers have ``self_attn.v_proj`` and ``self_attn.o_proj``
    and hand unknown keyword arguments on to them: Llama, Mistral, Qwen2, Qwen3, Gemma, Granite, ... It keeps its own KV
    cache, attention implementation and quantisation, and its projections may carry peft's LoRA. A ``device_map`` may
    spread it over several devices and offload decoder layers; theirs are then loaded once more for the vectors.

    Attributes:
        imagebind: the joint embedding.
        bind_network: joint embedding to LLM width.
        prefix_queries: (N, D), one learned vector per injected layer.
        gates: (N, heads), zero at first, so that an untrained model is exactly the language model.
        prefix_value_down, prefix_value_up: (N, r, D) and (N, kv width, r), the LoRA that was merged into the value
            projections and that the prefix must not see; ``None`` without one.
        language_model: the decoder with its output head.
    """

    def __init__(self, config: ImageBindLlmConfig) -> None:
        super().__init__(config)
        self._build(ImageBindModel(config.imagebind_config), AutoModelForCausalLM.from_config(config.text_config))

    @classmethod
    def from_parts(
        cls, imagebind: ImageBindModel, language_model: PreTrainedModel, **options: Any
    ) -> "ImageBindLlmForConditionalGeneration":
        """Bind a joint embedding to a language model; both are taken over, not copied.

        Args:
            imagebind: the joint embedding.
            language_model: a decoder with its output head, e.g. from ``AutoModelForCausalLM.from_pretrained``.
            options: further fields of :class:`ImageBindLlmConfig`, e.g. ``num_prefix_layers``.

        Raises:
            IncompatibleModelError: a decoder that cannot take the injection.
        """
        attention = language_model.config._attn_implementation
        config = ImageBindLlmConfig(imagebind_config=imagebind.config, text_config=language_model.config, **options)
        model = cls.__new__(cls)
        ImageBindLlmPreTrainedModel.__init__(model, config)
        language_model.config._attn_implementation = attention  # a configuration unsets it in those nested in it
        model._build(imagebind, language_model)
        if language_model.generation_config is not None:
            model.generation_config = language_model.generation_config
        return model

    def _build(self, imagebind: ImageBindModel, language_model: PreTrainedModel) -> None:
        text_config = self.config.text_config
        layers, hidden_size = self.config.num_prefix_layers, text_config.hidden_size
        self.imagebind = imagebind
        self.bind_network = BindNetwork(self.config)
        self.prefix_queries = nn.Parameter(torch.empty(layers, hidden_size))
        self.gates = nn.Parameter(torch.empty(layers, text_config.num_attention_heads))
        self.prefix_value_down: nn.Parameter | None = None
        self.prefix_value_up: nn.Parameter | None = None
        self.language_model = language_model
        attentions = self.injected_attentions()
        for attention in attentions:  # all of them before the first is changed
            _require_injectable(attention)
        for index, attention in enumerate(attentions):
            _open_for_injection(attention, index)
        if rank := self.config.prefix_value_rank:
            value_size = attentions[0].v_proj.out_features
            self.prefix_value_down = nn.Parameter(torch.empty(layers, rank, hidden_size))
            self.prefix_value_up = nn.Parameter(torch.empty(layers, value_size, rank))
        self.post_init()

    def injected_attentions(self) -> list[Any]:
        """The self-attention modules of the last N decoder layers, the first of them first."""
        decoder = self.language_model.get_decoder()
        try:
            return [layer.self_attn for layer in decoder.layers[-self.config.num_prefix_layers :]]
        except AttributeError as error:
            raise IncompatibleModelError(
                f"{type(decoder).__name__} has no layers[i].self_attn: use a Llama-like decoder (Llama, Mistral, Qwen3)"
            ) from error

    def layer_vectors(self, embeddings: Tensor, embedding_mask: Tensor | None = None) -> Tensor:
        """What each injected layer adds to its attention output; computed once per request.

        Args:
            embeddings: (B, E), mixed and, where a visual cache is used, enhanced.
            embedding_mask: (B,) bool, False for items without an attachment. Their vectors are exactly zero.

        Returns:
            (B, N, D): c_l = W_o (tanh(gate_l) * W_v (bind(e) + prefix_l)) without the biases of both projections (that
            of W_o is already in the attention output) and without the LoRA of W_v (the research code has it so).

        Raises:
            InvalidRequestError: embeddings or a mask of another shape.
        """
        width = self.bind_network.proj.in_features
        if embeddings.ndim != 2 or embeddings.shape[1] != width:
            raise InvalidRequestError(f"embeddings of shape {tuple(embeddings.shape)}, expected (batch, {width})")
        embeddings = embeddings.to(self.bind_network.proj.weight)
        if embedding_mask is None:
            return self._layer_vectors(embeddings)
        if embedding_mask.shape != embeddings.shape[:1]:
            raise InvalidRequestError(
                f"embedding_mask of shape {tuple(embedding_mask.shape)}: expected {len(embeddings)}, one per embedding"
            )
        absent = ~embedding_mask.bool().to(embeddings.device)[:, None]  # (B, 1)
        # Masked before and after: whatever stands in an absent row, NaN included, reaches neither output nor gradient.
        vectors = self._layer_vectors(embeddings.masked_fill(absent, 0.0))
        return vectors.masked_fill(absent[..., None].to(vectors.device), 0.0)

    def _layer_vectors(self, embeddings: Tensor) -> Tensor:  # (B, E) -> (B, N, D)
        bound = self.bind_network(embeddings)  # (B, D)
        vectors = [
            self._layer_vector(index, attention, bound + self.prefix_queries[index].to(bound.device))
            for index, attention in enumerate(self.injected_attentions())
        ]
        return torch.stack([vector.to(bound.device) for vector in vectors], dim=1)  # (B, N, D)

    def _layer_vector(self, index: int, attention: Any, prefix: Tensor) -> Tensor:  # (B, D) -> (B, D)
        prefix = prefix.to(next(self.get_input_embeddings().parameters()).dtype)
        values = _values_without_lora(attention.v_proj, prefix)  # (B, kv heads * head width)
        if self.prefix_value_down is not None and self.prefix_value_up is not None:
            down, up = self.prefix_value_down[index].to(values), self.prefix_value_up[index].to(values)
            values = values - F.linear(F.linear(prefix.to(values.device), down), up)
        heads = self.gates.shape[1]
        key_value_heads = getattr(self.config.text_config, "num_key_value_heads", None) or heads
        values = values.unflatten(1, (key_value_heads, -1))  # (B, kv heads, head width)
        values = values.repeat_interleave(heads // key_value_heads, dim=1)  # (B, heads, head width)
        gate = torch.tanh(self.gates[index]).to(values)[:, None]  # (heads, 1)
        return _linear_part(attention.o_proj, (gate * values).flatten(1))

    @can_return_tuple  # type: ignore[untyped-decorator]  # transformers leaves it untyped
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        embeddings: Tensor | None = None,
        embedding_mask: Tensor | None = None,
        layer_vectors: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the language model with the attachments' vectors added to its last N layers.

        Args:
            input_ids: (B, L) token ids; or ``inputs_embeds`` (B, L, D).
            attention_mask: (B, L), 0 at padding.
            position_ids: (B, L), derived from the cache's length by default.
            past_key_values: the KV cache; it holds no trace of the attachment.
            inputs_embeds: (B, L, D) instead of ``input_ids``.
            labels: (B, L), shifted inside; -100 is ignored. If all are ignored the loss is 0.
            use_cache: whether to return a KV cache.
            logits_to_keep: only the logits of the last n positions; 0 for all.
            embeddings: (B, E), one joint embedding per item; ``None`` is the plain language model.
            embedding_mask: (B,) bool, False for items without an attachment.
            layer_vectors: (B, N, D) from :meth:`layer_vectors`, instead of ``embeddings``.
            kwargs: handed on to the language model.

        Returns:
            The language model's output: loss, logits (B, L, V), past_key_values, hidden_states, attentions.

        Raises:
            InvalidRequestError: embeddings of another shape, or not one per item.
            IncompatibleModelError: the decoder drops the vectors on their way to its self-attentions.
        """
        # A set, because accelerate's hooks copy lists and dicts among the arguments when they move them to a device.
        injected: set[int] = set()
        if embeddings is not None:
            layer_vectors = self.layer_vectors(embeddings, embedding_mask)
        if layer_vectors is not None:
            _require_one_per_item(layer_vectors, input_ids if input_ids is not None else inputs_embeds)
            kwargs |= {"layer_vectors": layer_vectors, "injected_layers": injected}
        output = self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        if layer_vectors is not None and not injected:
            raise IncompatibleModelError(
                f"{type(self.language_model).__name__} does not hand keyword arguments on to self_attn, so nothing can "
                "be injected: use another decoder (Llama, Mistral, Qwen3)"
            )
        if labels is not None:
            # On the device, without waiting for it; the mean over no label at all would be undefined.
            counted = (labels[:, 1:] != IGNORED_LABEL).any().to(output.loss.device)
            output.loss = torch.where(counted, output.loss, 0.0)
        return output

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *args: Any,
        embeddings: Tensor | None = None,
        embedding_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """:meth:`transformers.GenerationMixin.generate` with attachments; streamers, beams and the rest work as ever.

        Args:
            inputs: (B, L) token ids, left-padded where lengths differ; also as ``input_ids``.
            args: as in transformers.
            embeddings: (B, E), one joint embedding per item; ``None`` is the plain language model. The layers' vectors
                are computed here, once.
            embedding_mask: (B,) bool, False for items without an attachment.
            kwargs: as in transformers.

        Raises:
            InvalidRequestError: embeddings of another shape, or not one per item.
        """
        if embeddings is not None:
            kwargs["layer_vectors"] = self.layer_vectors(embeddings, embedding_mask)
            prompts = next((kwargs[name] for name in ("input_ids", "inputs_embeds") if name in kwargs), inputs)
            _require_one_per_item(kwargs["layer_vectors"], prompts)
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]  # declared for its own classes only


def _require_one_per_item(layer_vectors: Tensor, prompts: Tensor | None) -> None:
    if prompts is not None and len(layer_vectors) != len(prompts):
        raise InvalidRequestError(
            f"{len(layer_vectors)} embeddings for {len(prompts)} prompts: give one row per prompt and say with "
            "embedding_mask which prompts have an attachment"
        )


def _require_injectable(attention: Any) -> None:
    name = type(attention).__name__
    if not (hasattr(attention, "v_proj") and hasattr(attention, "o_proj")):
        raise IncompatibleModelError(
            f"{name} has no v_proj and o_proj: use a Llama-like decoder (Llama, Mistral, Qwen3)"
        )
    if getattr(attention, "injected_layer", None) is not None:
        raise IncompatibleModelError("the language model is already part of another ImageBind-LLM: give it a copy")


def _open_for_injection(attention: Any, index: int) -> None:
    """Let a self-attention add ``layer_vectors[:, index]`` to its output.

    The vectors travel as a keyword argument through the decoder, so nothing is shared between threads, and gradient
    checkpointing sees them again when it recomputes a layer.
    """
    attention.injected_layer = index
    attention.register_forward_hook(partial(_add_layer_vector, index), with_kwargs=True)


def _add_layer_vector(
    index: int, attention: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Tensor, ...]
) -> tuple[Tensor, ...] | None:
    vectors = kwargs.get("layer_vectors")
    if vectors is None:
        return None
    kwargs["injected_layers"].add(index)
    vector = vectors[:, index : index + 1].to(output[0].device)  # (B, 1, D)
    return (output[0] + vector, *output[1:])  # (B, L, D)


def _values_without_lora(projection: Any, prefix: Tensor) -> Tensor:
    """The value projection of the prefix, as if the projection had neither bias nor LoRA."""
    values = _linear_part(getattr(projection, "base_layer", projection), prefix)
    for adapter in getattr(projection, "merged_adapters", ()):  # peft may have added its LoRA to the base weights
        values = values - F.linear(prefix.to(values.device), projection.get_delta_weight(adapter).to(values))
    return values


def _linear_part(projection: Any, inputs: Tensor) -> Tensor:
    """An affine module without its bias; the module is called, so that quantised and adapted weights work alike."""
    outputs: Tensor = projection(inputs)
    if not any(name.endswith("bias") for name, _ in projection.named_parameters()):
        return outputs
    bias: Tensor = projection(torch.zeros_like(inputs[:1]))
    return outputs - bias


AutoModel.register(ImageBindLlmConfig, ImageBindLlmForConditionalGeneration, exist_ok=True)
AutoModelForCausalLM.register(ImageBindLlmConfig, ImageBindLlmForConditionalGeneration, exist_ok=True)
