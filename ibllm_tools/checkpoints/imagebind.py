"""ImageBind's official checkpoint (``imagebind_huge.pth``, or ``imagebind_w3D.pth`` with Point-Bind) in our names."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ibllm_tools.errors import CheckpointError
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig

TOWERS = ("vision", "text", "audio", "depth", "thermal", "imu")

_POINT_BLOCK = r"point_trunk\.point_encoder\.blocks\.blocks"

_RULES: tuple[tuple[str, str], ...] = (
    # stems, class tokens, positions
    (r"modality_preprocessors\.(\w+)\.cls_token", r"\1_model.class_embedding"),
    (r"modality_preprocessors\.(\w+)\.(?:pos_embedding_helper\.)?pos_embed", r"\1_model.position_embedding"),
    (r"modality_preprocessors\.text\.token_embedding\.weight", r"text_model.token_embedding.weight"),
    (r"modality_preprocessors\.vision\.rgbt_stem\.proj\.1\.weight", r"vision_model.stem.projection.weight"),
    (r"modality_preprocessors\.imu\.imu_stem\.proj\.weight", r"imu_model.stem.weight"),
    (r"modality_preprocessors\.imu\.imu_stem\.norm_layer\.(\w+)", r"imu_model.stem_norm.\1"),
    (r"modality_preprocessors\.(\w+)\.(?:rgbt|depth)_stem\.proj\.weight", r"\1_model.stem.projection.weight"),
    (r"modality_preprocessors\.(\w+)\.(?:rgbt|depth)_stem\.norm_layer\.(\w+)", r"\1_model.stem.norm.\2"),
    # trunks
    (r"modality_trunks\.(\w+)\.pre_transformer_layer\.0\.(\w+)", r"\1_model.pre_layernorm.\2"),
    (r"modality_trunks\.(\w+)\.blocks\.(\d+)\.attn\.in_proj_(\w+)", r"\1_model.encoder.layers.\2.self_attn.qkv.\3"),
    (r"modality_trunks\.(\w+)\.blocks\.(\d+)\.attn\.(.+)", r"\1_model.encoder.layers.\2.self_attn.\3"),
    (r"modality_trunks\.(\w+)\.blocks\.(\d+)\.norm_([12])\.(\w+)", r"\1_model.encoder.layers.\2.layer_norm\3.\4"),
    (r"modality_trunks\.(\w+)\.blocks\.(\d+)\.mlp\.(.+)", r"\1_model.encoder.layers.\2.mlp.\3"),
    # heads and scales
    (r"modality_heads\.(\w+)\.(?:proj\.)?0\.(\w+)", r"\1_model.post_layernorm.\2"),
    (r"modality_heads\.(\w+)\.(?:proj\.)?[123]\.weight", r"\1_model.projection.weight"),
    (r"modality_postprocessors\.(\w+)\.1\.log_logit_scale", r"\1_model.logit_scale"),
    # Point-BERT
    (r"point_trunk\.pc_projection", r"point_model.point_projection"),
    (r"point_trunk\.point_encoder\.cls_token", r"point_model.point_bert.class_embedding"),
    (r"point_trunk\.point_encoder\.cls_pos", r"point_model.point_bert.class_position"),
    (r"point_trunk\.point_encoder\.encoder\.(.+)", r"point_model.point_bert.group_embedding.\1"),
    (r"point_trunk\.point_encoder\.reduce_dim\.(\w+)", r"point_model.point_bert.group_projection.\1"),
    (r"point_trunk\.point_encoder\.pos_embed\.(.+)", r"point_model.point_bert.position_mlp.\1"),
    (r"point_trunk\.point_encoder\.norm\.(\w+)", r"point_model.point_bert.norm.\1"),
    (rf"{_POINT_BLOCK}\.(\d+)\.norm([12])\.(\w+)", r"point_model.point_bert.layers.\1.layer_norm\2.\3"),
    (rf"{_POINT_BLOCK}\.(\d+)\.attn\.qkv\.weight", r"point_model.point_bert.layers.\1.self_attn.qkv.weight"),
    (rf"{_POINT_BLOCK}\.(\d+)\.attn\.proj\.(\w+)", r"point_model.point_bert.layers.\1.self_attn.out_proj.\2"),
    (rf"{_POINT_BLOCK}\.(\d+)\.mlp\.(.+)", r"point_model.point_bert.layers.\1.mlp.\2"),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern), replacement) for pattern, replacement in _RULES)
_DERIVED = {"modality_preprocessors.text.mask"}
"""Official buffers that follow from the configuration: the causal mask."""


def renamed(key: str) -> str:
    """The name that an official key has in :class:`~ibllm_tools.imagebind.modeling_imagebind.ImageBindModel`.

    Raises:
        CheckpointError: it is no key of the official code.
    """
    for pattern, replacement in _COMPILED:
        if match := pattern.fullmatch(key):
            return match.expand(replacement)
    raise CheckpointError(f"unexpected key {key!r}: not a weight of ImageBind; is this an ImageBind checkpoint?")


def convert_imagebind_state_dict(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official state dict -> ours. Values are passed through untouched, so nothing is copied.

    Raises:
        CheckpointError: a key is not one of the official code.
    """
    return {renamed(key): value for key, value in official.items() if key not in _DERIVED}


def _count(official: Mapping[str, Tensor], pattern: str) -> int:
    found = [int(match.group(1)) for key in official if (match := re.match(pattern, key))]
    return max(found) + 1 if found else 0


def _first(official: Mapping[str, Tensor], pattern: str) -> Tensor | None:
    return next((value for key, value in official.items() if re.fullmatch(pattern, key)), None)


def imagebind_config_from_state_dict(
    official: Mapping[str, Tensor], *, num_attention_heads: Mapping[str, int] | None = None
) -> ImageBindConfig:
    """Read widths and depths off the shapes; what does not show in them is as in ImageBind-huge.

    That is the input sizes and patches, the point groups, and, unless they are given, the numbers of heads.

    Args:
        official: state dict with official keys; a modality without keys is absent from the configuration.
        num_attention_heads: per tower; those of ImageBind-huge by default.

    Raises:
        CheckpointError: there is no key of any tower.
    """
    heads = {name: getattr(ImageBindConfig.huge(), f"{name}_config").num_attention_heads for name in (*TOWERS, "point")}
    heads.update(num_attention_heads or {})
    configs: dict[str, Any] = {}
    width = 0
    for name in TOWERS:
        positions = _first(official, rf"modality_preprocessors\.{name}\.(pos_embedding_helper\.)?pos_embed")
        head = _first(official, rf"modality_heads\.{name}\.(proj\.)?[123]\.weight")
        if positions is None or head is None:
            continue
        width = head.shape[0]
        configs[f"{name}_config"] = {
            "hidden_size": positions.shape[-1],
            "num_hidden_layers": _count(official, rf"modality_trunks\.{name}\.blocks\.(\d+)\."),
            "num_attention_heads": heads[name],
        }
    if (cls_token := official.get("point_trunk.point_encoder.cls_token")) is not None:
        width = official["modality_heads.point.2.weight"].shape[0]
        configs["point_config"] = {
            "hidden_size": cls_token.shape[-1],
            "num_hidden_layers": _count(official, r"point_trunk\.point_encoder\.blocks\.blocks\.(\d+)\."),
            "num_attention_heads": heads["point"],
            "group_embedding_size": official["point_trunk.point_encoder.reduce_dim.weight"].shape[1],
            "pooled_size": official["point_trunk.pc_projection"].shape[1],
        }
    if not configs:
        raise CheckpointError("no key of an ImageBind tower found; is this an ImageBind checkpoint?")
    return ImageBindConfig(projection_dim=width, **configs)
