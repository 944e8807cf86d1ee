"""Configuration of the joint embedding.

The defaults are those of ImageBind-huge (arXiv 2305.05665) and of Point-Bind's Point-BERT encoder (arXiv 2309.00615). A
modality whose configuration is ``None`` is absent from the model.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from ibllm_tools.media.sniff import Modality

INPUT_NAMES: dict[Modality, str] = {
    "image": "pixel_values",
    "video": "pixel_values_videos",
    "text": "input_ids",
    "audio": "input_features",
    "depth": "depth_values",
    "thermal": "thermal_values",
    "imu": "imu_values",
    "point": "point_values",
}
"""What the processor makes of a modality, and the model takes, under this name."""


@strict
class ImageBindTowerConfig(PreTrainedConfig):
    """What every transformer tower has: the width, the blocks, the head and the scale of its embedding.

    Attributes:
        hidden_size: width D of the tower.
        num_hidden_layers: number of pre-norm blocks.
        num_attention_heads: heads per block.
        mlp_ratio: hidden width of the MLP, in multiples of D.
        layer_norm_eps: of the blocks, the pre-LayerNorm and the head.
        stem_norm_eps: of the LayerNorm after a patch stem.
        add_kv_bias: whether a learned key and value are appended to those of the tokens.
        drop_path_rate: stochastic depth at the last block, rising linearly from 0; training only.
        logit_scale_init: initial log of the factor on the unit embedding; ``None``: the embedding stays a unit vector.
        learnable_logit_scale: whether that factor is trained.
    """

    model_type = "imagebind_tower"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6
    stem_norm_eps: float = 1e-5
    add_kv_bias: bool = True
    drop_path_rate: float = 0.0
    logit_scale_init: float | None = None
    learnable_logit_scale: bool = False

    def validate_architecture(self) -> None:
        """Refuse a width that the heads cannot share."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )


@strict
class ImageBindVisionConfig(ImageBindTowerConfig):
    """Images and videos.

    Attributes:
        image_size: side of the square input in pixels.
        patch_size: side of a patch; unused with ``stem_channels``.
        num_frames: frames per clip, merged by the stem; a still image is repeated.
        stem_channels: widths of a convolutional stem of strided 3x3 convolutions, each halving the side;
            ``None`` is ImageBind's own patch projection.
    """

    model_type = "imagebind_vision"
    base_config_key = "vision_config"

    hidden_size: int = 1280
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    add_kv_bias: bool = False
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 14
    num_frames: int = 2
    stem_channels: list[int] | None = None


@strict
class ImageBindTextConfig(ImageBindTowerConfig):
    """Text; the pooled token is the one with the highest id, CLIP's end of text."""

    model_type = "imagebind_text"
    base_config_key = "text_config"

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    add_kv_bias: bool = False
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    logit_scale_init: float | None = 2.6592600
    learnable_logit_scale: bool = True


@strict
class ImageBindAudioConfig(ImageBindTowerConfig):
    """Log-mel spectrograms of shape (1, num_mel_bins, target_length); see the vision configuration for the stem."""

    model_type = "imagebind_audio"
    base_config_key = "audio_config"

    drop_path_rate: float = 0.1
    num_channels: int = 1
    num_mel_bins: int = 128
    target_length: int = 204
    patch_size: int = 16
    patch_stride: int = 10
    stem_channels: list[int] | None = None
    logit_scale_init: float | None = 2.9957323


@strict
class ImageBindDepthConfig(ImageBindTowerConfig):
    """Depth maps of shape (1, image_size, image_size); see the vision configuration for the stem."""

    model_type = "imagebind_depth"
    base_config_key = "depth_config"

    hidden_size: int = 384
    num_attention_heads: int = 8
    num_channels: int = 1
    image_size: int = 224
    patch_size: int = 16
    stem_channels: list[int] | None = None
    logit_scale_init: float | None = 1.6094379


@strict
class ImageBindThermalConfig(ImageBindDepthConfig):
    """Thermal images of shape (1, image_size, image_size)."""

    model_type = "imagebind_thermal"
    base_config_key = "thermal_config"

    hidden_size: int = 768
    num_attention_heads: int = 12
    logit_scale_init: float | None = 2.3025851


@strict
class ImageBindImuConfig(ImageBindTowerConfig):
    """Inertial measurements: six channels (accelerometer and gyroscope), cut into windows of ``patch_size`` samples."""

    model_type = "imagebind_imu"
    base_config_key = "imu_config"

    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    drop_path_rate: float = 0.7
    head_dropout: float = 0.5
    num_channels: int = 6
    num_samples: int = 2000
    patch_size: int = 8
    logit_scale_init: float | None = 1.6094379


@strict
class ImageBindPointConfig(ImageBindTowerConfig):
    """Point clouds: Point-BERT over groups of neighbouring points, projected to ``pooled_size`` before the head.

    Attributes:
        num_groups: centres chosen by farthest-point sampling.
        group_size: neighbours of each centre.
        group_embedding_size: width of the embedding of a group (a small PointNet).
        pointnet_channels: its three inner widths.
        position_hidden_size: hidden width of the MLP that embeds a centre.
        point_norm_eps: LayerNorm epsilon inside Point-BERT (the head keeps ``layer_norm_eps``).
        pooled_size: width between Point-BERT and the head.
    """

    model_type = "imagebind_point"
    base_config_key = "point_config"

    hidden_size: int = 384
    num_attention_heads: int = 6
    add_kv_bias: bool = False
    drop_path_rate: float = 0.1
    head_dropout: float = 0.5
    num_groups: int = 512
    group_size: int = 32
    group_embedding_size: int = 256
    pointnet_channels: list[int] | None = None
    position_hidden_size: int = 128
    point_norm_eps: float = 1e-5
    pooled_size: int = 512
    logit_scale_init: float | None = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.pointnet_channels is None:
            self.pointnet_channels = [128, 256, 512]
        super().__post_init__(**kwargs)


MODALITY_CONFIGS: Mapping[str, type[ImageBindTowerConfig]] = {
    "vision_config": ImageBindVisionConfig,
    "text_config": ImageBindTextConfig,
    "audio_config": ImageBindAudioConfig,
    "depth_config": ImageBindDepthConfig,
    "thermal_config": ImageBindThermalConfig,
    "imu_config": ImageBindImuConfig,
    "point_config": ImageBindPointConfig,
}


@strict
class ImageBindConfig(PreTrainedConfig):
    """The joint embedding: one tower configuration per modality, ``None`` for those that the model lacks.

    ``ImageBindConfig()`` has no tower; :meth:`huge` has all of them at their published size.

    Attributes:
        projection_dim: width E of the joint embedding.
    """

    model_type = "imagebind"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        name: SubConfigSpec(config_class=cls, optional=True) for name, cls in MODALITY_CONFIGS.items()
    }

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    audio_config: dict[str, Any] | PreTrainedConfig | None = None
    depth_config: dict[str, Any] | PreTrainedConfig | None = None
    thermal_config: dict[str, Any] | PreTrainedConfig | None = None
    imu_config: dict[str, Any] | PreTrainedConfig | None = None
    point_config: dict[str, Any] | PreTrainedConfig | None = None
    projection_dim: int = 1024

    @classmethod
    def huge(cls) -> "ImageBindConfig":
        """The configuration of ``imagebind_huge`` with Point-Bind's point encoder (1.22 B parameters)."""
        towers: dict[str, Any] = {name: config() for name, config in MODALITY_CONFIGS.items()}
        return cls(**towers)


AutoConfig.register("imagebind", ImageBindConfig, exist_ok=True)
