"""ImageBind (arXiv 2305.05665) in transformers' form: one tower per modality, one joint embedding.

Every tower ends in a vector of the joint space before normalisation (``prenorm``). The embedding is that vector at unit
length, times the modality's logit scale. Several clips of one input are encoded as a batch and averaged.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils.generic import ModelOutput

from ibllm_tools.errors import IncompatibleModelError, InvalidRequestError
from ibllm_tools.imagebind.configuration_imagebind import (
    INPUT_NAMES,
    ImageBindAudioConfig,
    ImageBindConfig,
    ImageBindDepthConfig,
    ImageBindImuConfig,
    ImageBindPointConfig,
    ImageBindTextConfig,
    ImageBindTowerConfig,
    ImageBindVisionConfig,
)
from ibllm_tools.imagebind.modeling_layers import ConvStem, Encoder, PatchStem
from ibllm_tools.imagebind.modeling_point import PointBert
from ibllm_tools.media.sniff import Modality

MAX_LOGIT_SCALE = 100.0


class Tower(nn.Module):
    """What ends every tower: a head that projects the pooled token into the joint space, and a scale."""

    def add_head(self, config: ImageBindTowerConfig, width: int, projection_dim: int) -> None:
        """LayerNorm and projection from ``width``, and the logit scale.

        A trained scale is a parameter, a fixed one a buffer, none at all leaves the embedding a unit vector.
        """
        self.post_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.projection = nn.Linear(width, projection_dim, bias=False)
        scale = None if config.logit_scale_init is None else torch.tensor(config.logit_scale_init)
        if scale is not None and config.learnable_logit_scale:
            self.logit_scale = nn.Parameter(scale)
        else:
            self.register_buffer("logit_scale", scale)

    def scaled(self, prenorm: Tensor) -> Tensor:
        """The head's output (B, E) at unit length, times the modality's logit scale (100 at most)."""
        unit = F.normalize(prenorm, dim=-1)
        return unit if self.logit_scale is None else unit * self.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)


class TokenTower(Tower):
    """A tower of the usual build: tokens -> transformer -> head.

    Subclasses say how values become tokens (:meth:`embed`) and which token is pooled (:meth:`pool`).
    """

    def __init__(self, config: ImageBindTowerConfig, projection_dim: int) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.add_head(config, config.hidden_size, projection_dim)

    def embed(self, values: Tensor) -> Tensor:
        """Input values -> tokens (B, L, D)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how values become tokens")

    def pool(self, hidden: Tensor, values: Tensor) -> Tensor:
        """Tokens (B, L, D) -> the pooled token (B, D): the class token, unless a tower says otherwise."""
        return hidden[:, 0]

    def forward(self, values: Tensor) -> Tensor:
        """Input values -> the head's output before normalisation, (B, E)."""
        hidden = self.encoder(self.embed(values))  # (B, L, D)
        return self.projection(self.post_layernorm(self.pool(hidden, values)))  # (B, E)


class GridTower(TokenTower):
    """A tower over a grid of patches (all but text, IMU and points), with a class token and a table of positions."""

    def __init__(
        self,
        config: ImageBindVisionConfig | ImageBindDepthConfig | ImageBindAudioConfig,
        projection_dim: int,
        size: tuple[int, int],
        stride: int,
        temporal_kernel: int | None = None,
    ) -> None:
        super().__init__(config, projection_dim)
        self.size = size
        self.stem: ConvStem | PatchStem
        if config.stem_channels is not None:
            self.stem = ConvStem(config.num_channels, list(config.stem_channels), config.hidden_size)
        else:
            self.stem = PatchStem(config, stride, temporal_kernel)
        self.grid = self.stem.grid(size)
        self.class_embedding = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], config.hidden_size))

    def embed(self, values: Tensor) -> Tensor:
        """(B, C, *size) -> (B, 1 + N, D)."""
        if tuple(values.shape[-2:]) != self.size:
            raise InvalidRequestError(
                f"{type(self).__name__}: input of shape {tuple(values.shape)}; expected the last two sizes to be "
                f"{self.size}"
            )
        return self.with_positions(self.stem(values), self.position_embedding)

    def with_positions(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Patches (B, N, D) -> (B, 1 + N, D): the class token in front, the positions added."""
        tokens = torch.cat([self.class_embedding.expand(len(patches), -1, -1), patches], dim=1)
        return tokens + positions.to(tokens.dtype)


class VisionTower(GridTower):
    """Images and video clips; the only tower that accepts other resolutions (its positions are interpolated)."""

    def __init__(self, config: ImageBindVisionConfig, projection_dim: int) -> None:
        side = config.image_size
        super().__init__(config, projection_dim, (side, side), config.patch_size, temporal_kernel=config.num_frames)
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def embed(self, values: Tensor) -> Tensor:
        """(B, 3, H, W) images or (B, 3, T, H, W) clips -> (B, 1 + N, D)."""
        if values.ndim == 4:
            values = values.unsqueeze(2)  # (B, 3, 1, H, W)
        patches = self.stem(values)  # (B, N, D)
        positions = self.positions_for(self.stem.grid((values.shape[-2], values.shape[-1])))
        return self.pre_layernorm(self.with_positions(patches, positions))

    def positions_for(self, grid: tuple[int, int]) -> Tensor:
        """The table (1, 1 + N, D), interpolated bicubically when the input is not of the trained resolution."""
        if grid == self.grid:
            return self.position_embedding
        if grid[0] != grid[1]:
            raise InvalidRequestError(f"a grid of {grid[0]}x{grid[1]} patches; expected a square input")
        class_position, table = self.position_embedding.split([1, self.grid[0] * self.grid[1]], dim=1)
        table = table.reshape(1, *self.grid, -1).permute(0, 3, 1, 2)  # (1, D, G, G)
        if table.dtype in (torch.float16, torch.bfloat16):
            table = table.float()
        # the scale is handed over, not the size: the sampled coordinates depend on it
        table = F.interpolate(table, scale_factor=grid[0] / self.grid[0], mode="bicubic", align_corners=False)
        return torch.cat([class_position, table.flatten(2).transpose(1, 2).to(class_position.dtype)], dim=1)


class DepthTower(GridTower):
    """Depth maps, and thermal images."""

    def __init__(self, config: ImageBindDepthConfig, projection_dim: int) -> None:
        super().__init__(config, projection_dim, (config.image_size, config.image_size), config.patch_size)


class AudioTower(GridTower):
    """Log-mel spectrograms, mel bands as rows."""

    def __init__(self, config: ImageBindAudioConfig, projection_dim: int) -> None:
        super().__init__(config, projection_dim, (config.num_mel_bins, config.target_length), config.patch_stride)


class ImuTower(TokenTower):
    """Inertial measurements (B, 6, samples), in windows of ``patch_size`` samples, flattened channel by channel."""

    def __init__(self, config: ImageBindImuConfig, projection_dim: int) -> None:
        super().__init__(config, projection_dim)
        self.patch_size, self.num_samples = config.patch_size, config.num_samples
        self.stem = nn.Linear(config.num_channels * config.patch_size, config.hidden_size, bias=False)
        self.stem_norm = nn.LayerNorm(config.hidden_size, eps=config.stem_norm_eps)
        self.class_embedding = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        windows = config.num_samples // config.patch_size
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + windows, config.hidden_size))
        self.dropout = nn.Dropout(config.head_dropout)

    def embed(self, values: Tensor) -> Tensor:
        """(B, 6, samples) -> (B, 1 + windows, D)."""
        if values.shape[-1] != self.num_samples:
            raise InvalidRequestError(f"IMU input of {values.shape[-1]} samples; expected {self.num_samples}")
        windows = values.unfold(-1, self.patch_size, self.patch_size)  # (B, 6, W, P)
        windows = windows.transpose(1, 2).flatten(2)  # (B, W, 6 P)
        tokens = self.stem_norm(self.stem(windows))  # (B, W, D)
        tokens = torch.cat([self.class_embedding.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens + self.position_embedding

    def forward(self, values: Tensor) -> Tensor:
        """(B, 6, samples) -> (B, E)."""
        hidden = self.encoder(self.embed(values))
        return self.projection(self.dropout(self.post_layernorm(self.pool(hidden, values))))


class TextTower(TokenTower):
    """Token ids (B, L); causal, pooled at the first end-of-text token (the highest id)."""

    def __init__(self, config: ImageBindTextConfig, projection_dim: int) -> None:
        super().__init__(config, projection_dim)
        self.context_length, self.vocab_size = config.max_position_embeddings, config.vocab_size
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Parameter(torch.empty(1, config.max_position_embeddings, config.hidden_size))
        self.encoder.is_causal = True

    def embed(self, values: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, D)."""
        if values.shape[-1] != self.context_length:
            raise InvalidRequestError(f"text of {values.shape[-1]} token ids; expected {self.context_length} (padded)")
        return self.token_embedding(values) + self.position_embedding

    def pool(self, hidden: Tensor, values: Tensor) -> Tensor:
        """(B, L, D) -> (B, D) at the end-of-text token."""
        return hidden[torch.arange(len(hidden), device=hidden.device), values.argmax(dim=-1)]


class PointTower(Tower):
    """Point clouds (B, N, 3): Point-BERT, a projection to the head's width, the head (Point-Bind)."""

    def __init__(self, config: ImageBindPointConfig, projection_dim: int) -> None:
        super().__init__()
        self.point_bert = PointBert(config)
        self.point_projection = nn.Parameter(torch.empty(2 * config.hidden_size, config.pooled_size))
        self.add_head(config, config.pooled_size, projection_dim)
        self.dropout = nn.Dropout(config.head_dropout)

    def forward(self, values: Tensor, start_indices: Tensor | None = None) -> Tensor:
        """(B, N, 3) points -> (B, E); ``start_indices`` (B,) start the farthest-point sampling, 0 by default."""
        pooled = self.point_bert(values, start_indices) @ self.point_projection  # (B, pooled_size)
        return self.projection(self.dropout(self.post_layernorm(pooled)))


@dataclass
class ImageBindOutput(ModelOutput):
    """One embedding (B, E) per modality that was given; see :meth:`ImageBindModel.encode`."""

    image_embeds: Tensor | None = None
    video_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    audio_embeds: Tensor | None = None
    depth_embeds: Tensor | None = None
    thermal_embeds: Tensor | None = None
    imu_embeds: Tensor | None = None
    point_embeds: Tensor | None = None


class ImageBindModel(PreTrainedModel):
    """The joint embedding of ImageBind, with Point-Bind's point clouds.

    Example:
        >>> model = ImageBindModel(ImageBindConfig(vision_config={}, audio_config={}))
        >>> model.get_image_features(torch.zeros(2, 3, 224, 224)).shape
        torch.Size([2, 1024])
    """

    config_class = ImageBindConfig
    config: ImageBindConfig
    base_model_prefix = "imagebind"
    main_input_name = "pixel_values"
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012 - transformers reads it as an instance variable

    _SINGLE_NDIM: ClassVar[dict[Modality, int]] = {
        "image": 4,
        "video": 5,
        "text": 2,
        "audio": 4,
        "depth": 4,
        "thermal": 4,
        "imu": 3,
        "point": 3,
    }

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__(config)
        width = config.projection_dim
        towers: dict[str, type[Tower]] = {
            "vision": VisionTower,
            "text": TextTower,
            "audio": AudioTower,
            "depth": DepthTower,
            "thermal": DepthTower,
            "imu": ImuTower,
            "point": PointTower,
        }
        for name, tower in towers.items():
            tower_config = getattr(config, f"{name}_config")
            setattr(self, f"{name}_model", None if tower_config is None else tower(tower_config, width))
        self.post_init()

    @classmethod
    def from_official(cls, module: nn.Module, *, config: ImageBindConfig | None = None) -> Self:
        """Our model with the weights of a live model of the research code, in evaluation mode.

        The weights are copied, so the two models share nothing and the given one stays as it is. Each copy has the
        device and the type of its original.

        Args:
            module: ``imagebind_model.imagebind_huge()``, or its copy with points inside ImageBind-LLM; only its state
                dict is looked at.
            config: of a model that is not of the published size.

        Raises:
            CheckpointError: a weight is missing, unexpected or of another shape.
            InvalidRequestError: no model at all.
        """
        from ibllm_tools.imagebind import official_weights  # it needs this file

        if not isinstance(module, nn.Module):
            raise InvalidRequestError(
                f"a {type(module).__name__}, expected a live model; `ibllm convert imagebind` reads a checkpoint"
            )
        official = module.state_dict()
        config = (
            official_weights.imagebind_config_from_state_dict(official) if config is None else copy.deepcopy(config)
        )
        shapes = {key: tuple(weight.shape) for key, weight in official.items()}
        official_weights.require_official_weights(shapes, config, origin=type(module).__name__)
        with torch.device("meta"):
            model = cls(config)
        weights = official_weights.convert_imagebind_state_dict(official)
        model.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()}, assign=True)
        model.config.dtype = model.dtype
        return model.eval()

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that this model has a tower for."""
        return tuple(name for name in INPUT_NAMES if self._tower_of(name) is not None)

    def _tower_of(self, modality: Modality) -> Tower | None:
        return getattr(self, "vision_model" if modality in ("image", "video") else f"{modality}_model")

    def tower(self, modality: Modality) -> Tower:
        """The tower of a modality.

        Raises:
            InvalidRequestError: there is no such modality.
            IncompatibleModelError: this model has no tower for it.
        """
        if modality not in INPUT_NAMES:
            raise InvalidRequestError(f"unknown modality {modality!r}; expected one of {', '.join(INPUT_NAMES)}")
        tower = self._tower_of(modality)
        if tower is None:
            raise IncompatibleModelError(
                f"this model cannot embed {modality}; it knows {', '.join(self.modalities)}; "
                f"load one that has a tower for {modality}"
            )
        return tower

    def encode(
        self,
        modality: Modality,
        values: Tensor,
        *,
        prenorm: bool = False,
        start_indices: Tensor | None = None,
    ) -> Tensor:
        """Embed one modality.

        Args:
            modality: which tower.
            values: image (B, 3, H, W), video (B, S, 3, T, H, W), text (B, 77), audio (B, S, 1, mels, frames), depth and
                thermal (B, 1, H, W), IMU (B, 6, samples), point (B, N, 3). With a clip axis S (optional for audio,
                depth, thermal and video) the results are averaged over the clips, after the scaling, and not
                normalised again.
            prenorm: return the head's output instead of the scaled unit vector.
            start_indices: (B,) where the farthest-point sampling starts; points only.

        Returns:
            (B, E).
        """
        tower = self.tower(modality)
        expected = self._SINGLE_NDIM[modality]
        clips = 0
        if values.ndim == expected + 1 and modality in ("video", "audio", "depth", "thermal"):
            clips = values.shape[1]
            values = values.flatten(0, 1)  # (B S, ...)
        elif values.ndim != expected:
            raise InvalidRequestError(
                f"{modality} input of shape {tuple(values.shape)}; expected {expected} dimensions, "
                "or one more for clips"
            )
        if values.is_floating_point() and modality != "point":  # its tower groups the points before it rounds them
            values = values.to(self.dtype)
        output = tower(values) if start_indices is None else tower(values, start_indices)  # (B S, E)
        if not prenorm:
            output = tower.scaled(output)
        return output.unflatten(0, (-1, clips)).mean(dim=1) if clips else output  # (B, E)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) -> (B, E)."""
        return self.encode("image", pixel_values)

    def get_video_features(self, pixel_values_videos: Tensor) -> Tensor:
        """Embed videos (B, S, 3, T, H, W) -> (B, E)."""
        return self.encode("video", pixel_values_videos)

    def get_text_features(self, input_ids: Tensor) -> Tensor:
        """Embed texts (B, L) -> (B, E)."""
        return self.encode("text", input_ids)

    def get_audio_features(self, input_features: Tensor) -> Tensor:
        """Embed sounds (B, S, 1, mels, frames) -> (B, E)."""
        return self.encode("audio", input_features)

    def get_depth_features(self, depth_values: Tensor) -> Tensor:
        """Embed depth maps (B, 1, H, W) -> (B, E)."""
        return self.encode("depth", depth_values)

    def get_thermal_features(self, thermal_values: Tensor) -> Tensor:
        """Embed thermal images (B, 1, H, W) -> (B, E)."""
        return self.encode("thermal", thermal_values)

    def get_imu_features(self, imu_values: Tensor) -> Tensor:
        """Embed inertial measurements (B, 6, samples) -> (B, E)."""
        return self.encode("imu", imu_values)

    def get_point_features(self, point_values: Tensor) -> Tensor:
        """Embed point clouds (B, N, 3) -> (B, E)."""
        return self.encode("point", point_values)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        input_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        depth_values: Tensor | None = None,
        thermal_values: Tensor | None = None,
        imu_values: Tensor | None = None,
        point_values: Tensor | None = None,
    ) -> ImageBindOutput:
        """Embed whatever is given; shapes as in :meth:`encode`."""
        given: dict[Modality, Tensor | None] = {
            "image": pixel_values,
            "video": pixel_values_videos,
            "text": input_ids,
            "audio": input_features,
            "depth": depth_values,
            "thermal": thermal_values,
            "imu": imu_values,
            "point": point_values,
        }
        return ImageBindOutput(
            **{f"{name}_embeds": self.encode(name, values) for name, values in given.items() if values is not None}
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The initialisation of ImageBind: Xavier in the blocks, N(0, 1/D) for class tokens and positions."""
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, parameter in module.named_parameters(recurse=False):
            if name in ("class_embedding", "class_position", "position_embedding"):
                on_grid = isinstance(module, GridTower | PointBert) or name == "class_embedding"
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if on_grid else 0.01)
            elif name in ("bias_k", "bias_v"):
                nn.init.xavier_normal_(parameter)
            elif name == "point_projection":
                nn.init.normal_(parameter, std=parameter.shape[0] ** -0.5)


AutoModel.register(ImageBindConfig, ImageBindModel, exist_ok=True)
