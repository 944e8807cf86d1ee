"""The official weights of ImageBind: their names and shapes, and ours.

Official are ``imagebind_huge.pth``, the same with Point-Bind's Point-BERT in it (``imagebind_w3D.pth``, the copy of
ImageBind inside ImageBind-LLM), and Point-Bind's own checkpoint, which keeps its part under names of its own.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from ibllm_tools.errors import CheckpointError, InvalidRequestError, one_line
from ibllm_tools.imagebind.configuration_imagebind import MODALITY_CONFIGS, ImageBindConfig
from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel

Shape = tuple[int, ...]
Value = TypeVar("Value")
Weight = TypeVar("Weight", Tensor, Shape)
"""What a function that only looks at shapes takes: the weights themselves, or their shapes."""

_NAMED = 8
"""How many names an error lists before it only counts."""

_TEXT_MASK = "modality_preprocessors.text.mask"
"""An official buffer that we have no use for: the causal mask, which follows from the context length."""

_FIELDS = {
    "tower": "vision|text|audio|depth|thermal|imu",
    "grid": "vision|audio|depth|thermal",
    "classed": "vision|audio|depth|thermal|imu",
    "rgbt": "audio|thermal",
    "headed": "vision|audio|depth|thermal|imu|point",
    "pooled": "vision|audio|depth|thermal|point",
    "scaled": "text|audio|depth|thermal|imu|point",
    "layer": r"\d+",
    "half": "[12]",
    "kv": "[kv]",
    "leaf": "weight|bias",
    "rest": ".+",
}
"""What may stand for a field of a name."""

_NAMES: dict[tuple[str, str], dict[str, str]] = {
    ("modality_preprocessors.", ""): {
        "{classed}.cls_token": "{classed}_model.class_embedding",
        "{grid}.pos_embedding_helper.pos_embed": "{grid}_model.position_embedding",
        "text.pos_embed": "text_model.position_embedding",
        "imu.pos_embed": "imu_model.position_embedding",
        "text.token_embedding.weight": "text_model.token_embedding.weight",
        "vision.rgbt_stem.proj.1.weight": "vision_model.stem.projection.weight",
        "{rgbt}.rgbt_stem.proj.weight": "{rgbt}_model.stem.projection.weight",
        "{rgbt}.rgbt_stem.norm_layer.{leaf}": "{rgbt}_model.stem.norm.{leaf}",
        "depth.depth_stem.proj.weight": "depth_model.stem.projection.weight",
        "depth.depth_stem.norm_layer.{leaf}": "depth_model.stem.norm.{leaf}",
        "imu.imu_stem.proj.weight": "imu_model.stem.weight",
        "imu.imu_stem.norm_layer.{leaf}": "imu_model.stem_norm.{leaf}",
    },
    ("modality_trunks.", ""): {"vision.pre_transformer_layer.0.{leaf}": "vision_model.pre_layernorm.{leaf}"},
    ("modality_trunks.{tower}.blocks.{layer}.", "{tower}_model.encoder.layers.{layer}."): {
        "norm_{half}.{leaf}": "layer_norm{half}.{leaf}",
        "attn.in_proj_{leaf}": "self_attn.qkv.{leaf}",
        "attn.bias_{kv}": "self_attn.bias_{kv}",
        "attn.out_proj.{leaf}": "self_attn.out_proj.{leaf}",
        "mlp.fc{half}.{leaf}": "mlp.fc{half}.{leaf}",
    },
    ("modality_heads.", ""): {
        "{headed}.0.{leaf}": "{headed}_model.post_layernorm.{leaf}",
        "{pooled}.2.weight": "{pooled}_model.projection.weight",
        "imu.3.weight": "imu_model.projection.weight",
        "text.proj.0.{leaf}": "text_model.post_layernorm.{leaf}",
        "text.proj.1.weight": "text_model.projection.weight",
    },
    ("modality_postprocessors.", ""): {"{scaled}.1.log_logit_scale": "{scaled}_model.logit_scale"},
    ("point_trunk.", "point_model."): {"pc_projection": "point_projection"},
    ("point_trunk.point_encoder.", "point_model.point_bert."): {
        "cls_token": "class_embedding",
        "cls_pos": "class_position",
        "encoder.{rest}": "group_embedding.{rest}",
        "reduce_dim.{leaf}": "group_projection.{leaf}",
        "pos_embed.{rest}": "position_mlp.{rest}",
        "norm.{leaf}": "norm.{leaf}",
    },
    ("point_trunk.point_encoder.blocks.blocks.{layer}.", "point_model.point_bert.layers.{layer}."): {
        "norm{half}.{leaf}": "layer_norm{half}.{leaf}",
        "attn.qkv.weight": "self_attn.qkv.weight",
        "attn.proj.{leaf}": "self_attn.out_proj.{leaf}",
        "mlp.fc{half}.{leaf}": "mlp.fc{half}.{leaf}",
    },
}
"""Official name -> ours, below the official prefix and ours; read in both directions."""

_RULES = tuple(
    (official_prefix + official, our_prefix + ours)
    for (official_prefix, our_prefix), names in _NAMES.items()
    for official, ours in names.items()
)

_POINT_BIND = (
    ("point_encoder.", "point_trunk.point_encoder."),
    ("pc_projection", "point_trunk.pc_projection"),
    ("bind.modality_head_point.", "modality_heads.point."),
    ("bind.modality_postprocessor_point.", "modality_postprocessors.point."),
    ("bind.", ""),
)
"""How the names in Point-Bind's own checkpoint begin, and in ``imagebind_w3D.pth``."""


def _compiled(rules: Iterable[tuple[str, str]]) -> tuple[tuple[re.Pattern[str], str], ...]:
    def pattern(template: str) -> re.Pattern[str]:
        text, *fields = re.split(r"\{(\w+)\}", template)
        parts = [re.escape(text)]
        for field, text in zip(fields[::2], fields[1::2], strict=True):
            parts += [f"(?P<{field}>{_FIELDS[field]})", re.escape(text)]
        return re.compile("".join(parts))

    return tuple((pattern(source), target) for source, target in rules)


_TO_OURS = _compiled(_RULES)
_TO_OFFICIAL = _compiled((ours, official) for official, ours in _RULES)


def _renamed(name: str, rules: tuple[tuple[re.Pattern[str], str], ...]) -> str | None:
    for pattern, target in rules:
        if match := pattern.fullmatch(name):
            return target.format(**match.groupdict())
    return None


def our_name(official: str) -> str:
    """The name that an official key has in :class:`~ibllm_tools.imagebind.modeling_imagebind.ImageBindModel`.

    Raises:
        CheckpointError: it is no weight of the official code (the text tower's mask is none).
    """
    if (name := _renamed(official, _TO_OURS)) is None:
        raise CheckpointError(
            f"unexpected key {official!r}: not a weight of ImageBind; is this an ImageBind checkpoint?"
        )
    return name


def official_name(ours: str) -> str:
    """The official key of a weight of :class:`~ibllm_tools.imagebind.modeling_imagebind.ImageBindModel`.

    Raises:
        InvalidRequestError: no official checkpoint has it, as with convolutional stems.
    """
    if (name := _renamed(ours, _TO_OFFICIAL)) is None:
        raise InvalidRequestError(
            f"{ours!r} is in no official checkpoint; expected the configuration of one, without `stem_channels`"
        )
    return name


def convert_imagebind_state_dict(official: Mapping[str, Value]) -> dict[str, Value]:
    """Official state dict, or its shapes or the like, -> ours. Values are passed through untouched: nothing is copied.

    Raises:
        CheckpointError: a key is not one of the official code.
    """
    return {our_name(key): value for key, value in official.items() if key != _TEXT_MASK}


def point_bind_weights(original: Mapping[str, Value], *, origin: str) -> dict[str, Value]:
    """What a Point-Bind checkpoint adds to ImageBind, under the official names of ``imagebind_w3D.pth``.

    The frozen ImageBind in it is left out, and so is the temperature of its training.

    Args:
        original: state dict (or its shapes) of the Point-Bind repository with its Point-BERT encoder, saved from one
            GPU or several (``module.``); or of ``imagebind_w3D.pth``.
        origin: what to call it in an error, such as the file's path.

    Raises:
        CheckpointError: the encoder is I2P-MAE, a key is unknown, or there is no weight of a point encoder.
    """
    names = {key: key.removeprefix("module.") for key in original}
    if any(name.startswith("point_encoder.h_encoder.") for name in names.values()):
        raise CheckpointError(
            f"{origin}: its point encoder is I2P-MAE, expected Point-BERT; use Point-Bind's pointbind_pointbert.pt"
        )
    official = {key: _w3d_name(name) for key, name in names.items()}
    known = {"logit_scale", _TEXT_MASK}
    if unknown := [key for key, name in official.items() if name not in known and not _renamed(name, _TO_OURS)]:
        raise CheckpointError(f"{origin}: unexpected {names_listed(unknown)}; is this a Point-Bind checkpoint?")
    point = ("point_trunk.", "modality_heads.point.", "modality_postprocessors.point.")
    weights = {name: original[key] for key, name in official.items() if name.startswith(point)}
    if not weights:
        raise CheckpointError(f"{origin}: no weight of a point encoder found; is this a Point-Bind checkpoint?")
    return weights


def _w3d_name(point_bind: str) -> str:
    for theirs, official in _POINT_BIND:
        if point_bind.startswith(theirs):
            return official + point_bind.removeprefix(theirs)
    return point_bind


def official_shapes(config: ImageBindConfig) -> dict[str, Shape]:
    """What the official checkpoint of a configuration holds: shapes by official name, the text tower's mask included.

    Raises:
        InvalidRequestError: the configuration is not one that an official checkpoint can have.
    """
    with torch.device("meta"):
        weights = ImageBindModel(config).state_dict()
    shapes = {official_name(name): tuple(weight.shape) for name, weight in weights.items()}
    if (positions := shapes.get("modality_preprocessors.text.pos_embed")) is not None:
        shapes[_TEXT_MASK] = (positions[1], positions[1])
    return shapes


def require_official_weights(found: Mapping[str, Shape], config: ImageBindConfig, *, origin: str) -> None:
    """Refuse weights that are not, key by key and shape by shape, the official ones of a configuration.

    Args:
        found: shapes by official name.
        config: what they are meant for.
        origin: what to call them in an error, such as the file's path.

    Raises:
        CheckpointError: a weight is missing, unexpected or of another shape.
    """
    expected = official_shapes(config)
    remedy = "is the file complete? A checkpoint of another size needs its own `config` (--config)"
    if expected.keys().isdisjoint(found):
        remedy = "is this an ImageBind checkpoint?"
    require_weights(found, expected, origin=origin, remedy=remedy)


def require_weights(found: Mapping[str, Shape], expected: Mapping[str, Shape], *, origin: str, remedy: str) -> None:
    """Refuse weights whose names or shapes differ from the expected ones, with an error that names each kind.

    Args:
        found: shapes by name.
        expected: shapes by name.
        origin: what to call the weights in an error, such as the file's path.
        remedy: the end of the error's sentence.

    Raises:
        CheckpointError: a weight is missing, unexpected or of another shape.
    """
    misshapen = [key for key in expected if key in found and tuple(found[key]) != tuple(expected[key])]
    problems = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": [f"{key} is {tuple(found[key])}, expected {tuple(expected[key])}" for key in misshapen],
    }
    if any(problems.values()):
        told = [f"{len(keys)} {kind}: {names_listed(keys)}" for kind, keys in problems.items() if keys]
        raise CheckpointError(f"{origin}: weights do not fit ({'; '.join(told)}); {remedy}")


def names_listed(names: Collection[str]) -> str:
    """The first names, fit to be printed, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(one_line(name) for name in islice(names, _NAMED)) + more


def imagebind_config_from_state_dict(
    official: Mapping[str, Weight],
    *,
    num_attention_heads: Mapping[str, int] | None = None,
    origin: str = "the checkpoint",
) -> ImageBindConfig:
    """The configuration of an official checkpoint.

    By default that of the published one: its six towers, and points where there is any weight of theirs (of points
    alone if there is nothing else). With ``num_attention_heads`` any size: widths and depths are read off the shapes, a
    tower without weights is absent, and what does not show in them (input sizes, patches, point groups, the heads of
    towers that are not named) is as published.

    Args:
        official: state dict with official keys, or its shapes.
        num_attention_heads: heads by tower (``"vision"``, ..., ``"point"``), of a checkpoint that is not as published.
        origin: what to call it in an error, such as the file's path.

    Raises:
        CheckpointError: there is no weight of any tower, or one whose shape is needed is missing.
    """
    shapes = {ours: _shape(value) for key, value in official.items() if (ours := _renamed(key, _TO_OURS))}
    towers = {name for name in MODALITY_CONFIGS if any(key.startswith(_prefix(name)) for key in shapes)}
    if not towers:
        raise CheckpointError(f"{origin}: no weight of an ImageBind tower found; is this an ImageBind checkpoint?")
    if num_attention_heads is None:
        if towers != {"point_config"}:
            towers |= MODALITY_CONFIGS.keys() - {"point_config"}
        published: dict[str, Any] = {name: config() for name, config in MODALITY_CONFIGS.items() if name in towers}
        return ImageBindConfig(**published)
    configs: dict[str, Any] = {name: _tower_sizes(name, shapes) for name in MODALITY_CONFIGS if name in towers}
    for name, heads in num_attention_heads.items():
        if sizes := configs.get(f"{name}_config"):
            sizes["num_attention_heads"] = heads
    width = _required(shapes, f"{_prefix(next(iter(configs)))}projection.weight")[0]
    return ImageBindConfig(projection_dim=width, **configs)


def _tower_sizes(name: str, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """What the shapes tell about a tower, as arguments of its configuration."""
    prefix = _prefix(name)
    layers = [int(match[1]) for key in shapes if (match := re.match(rf"{prefix}\w+\.layers\.(\d+)\.", key))]
    sizes: dict[str, Any] = {"num_hidden_layers": max(layers, default=-1) + 1}
    if name != "point_config":
        return sizes | {"hidden_size": _required(shapes, f"{prefix}position_embedding")[-1]}
    width, group_width = _required(shapes, f"{prefix}point_bert.group_projection.weight")
    pooled = _required(shapes, f"{prefix}point_projection")[1]
    return sizes | {"hidden_size": width, "group_embedding_size": group_width, "pooled_size": pooled}


def _prefix(config_name: str) -> str:
    return config_name.removesuffix("config") + "model."


def _shape(weight: Tensor | Shape) -> Shape:
    return tuple(weight.shape) if isinstance(weight, Tensor) else weight


def _required(shapes: Mapping[str, Shape], ours: str) -> Shape:
    if ours not in shapes:
        raise CheckpointError(f"{official_name(ours)} is missing; is the file complete?")
    return shapes[ours]
