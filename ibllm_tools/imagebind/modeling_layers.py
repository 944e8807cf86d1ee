"""The transformer that all towers share, and the stems that turn grids into tokens."""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.imagebind.configuration_imagebind import (
    ImageBindAudioConfig,
    ImageBindDepthConfig,
    ImageBindTowerConfig,
    ImageBindVisionConfig,
)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    is_causal: bool = False,
    **unused: Any,
) -> tuple[Tensor, Tensor]:
    """Attention step by step, (B, H, L, d) -> (B, L, H, d) and the weights; what torch's SDPA computes in one."""
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5  # (B, H, L, L)
    if is_causal:
        scores = scores.masked_fill(scores.new_ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class Attention(nn.Module):
    """Multi-head self-attention; with ``add_kv_bias`` a learned key and value join, given in the projected space.

    ``attn_implementation``, as transformers has it, is ``"sdpa"`` by default, or ``"eager"``.
    """

    def __init__(self, config: ImageBindTowerConfig, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.config = config
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.out_proj = nn.Linear(width, width)
        self.bias_k = nn.Parameter(torch.empty(1, 1, width)) if config.add_kv_bias else None
        self.bias_v = nn.Parameter(torch.empty(1, 1, width)) if config.add_kv_bias else None

    def forward(self, hidden: Tensor, is_causal: bool = False) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        query, key, value = self.qkv(hidden).chunk(3, dim=-1)  # (B, L, D) each
        if self.bias_k is not None and self.bias_v is not None:
            key = torch.cat([key, self.bias_k.expand(len(key), -1, -1).to(key.dtype)], dim=1)  # (B, L + 1, D)
            value = torch.cat([value, self.bias_v.expand(len(value), -1, -1).to(value.dtype)], dim=1)
        query, key, value = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation or "sdpa", eager_attention)
        attended, _ = attend(self, query, key, value, None, is_causal=is_causal)  # (B, L, H, D / H)
        return self.out_proj(attended.flatten(2))


class Mlp(nn.Module):
    """Two linear layers around an exact (erf) GELU."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.fc2(F.gelu(self.fc1(hidden)))


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth."""

    def __init__(
        self, config: ImageBindTowerConfig, *, drop_path: float, norm_eps: float | None = None, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps if norm_eps is None else norm_eps
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.self_attn = Attention(config, qkv_bias=qkv_bias)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * config.mlp_ratio))
        self.drop_path = drop_path

    def forward(self, hidden: Tensor, is_causal: bool = False) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        hidden = hidden + self.dropped(self.self_attn(self.layer_norm1(hidden), is_causal))
        return hidden + self.dropped(self.mlp(self.layer_norm2(hidden)))

    def dropped(self, branch: Tensor) -> Tensor:
        """Drop the whole branch of some items while training, and scale up the rest."""
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        return branch * (branch.new_empty(len(branch), 1, 1).bernoulli_(keep) / keep)


def drop_path_schedule(config: ImageBindTowerConfig) -> list[float]:
    """Stochastic depth per block, rising linearly from 0 to ``drop_path_rate``."""
    last = max(config.num_hidden_layers - 1, 1)
    return [config.drop_path_rate * index / last for index in range(config.num_hidden_layers)]


class Encoder(nn.Module):
    """The blocks of a tower."""

    def __init__(self, config: ImageBindTowerConfig) -> None:
        super().__init__()
        self.is_causal = False
        self.layers = nn.ModuleList(Block(config, drop_path=rate) for rate in drop_path_schedule(config))

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        for layer in self.layers:
            hidden = layer(hidden, self.is_causal)
        return hidden


class PatchStem(nn.Module):
    """ImageBind's stem: one strided convolution, two-dimensional or over time as well, and (in 2-D) a LayerNorm."""

    def __init__(
        self,
        config: ImageBindVisionConfig | ImageBindDepthConfig | ImageBindAudioConfig,
        stride: int,
        temporal_kernel: int | None,
    ) -> None:
        super().__init__()
        width, side = config.hidden_size, config.patch_size
        self.kernel, self.stride = side, stride
        self.projection: nn.Conv2d | nn.Conv3d
        if temporal_kernel is None:
            self.projection = nn.Conv2d(config.num_channels, width, side, stride, bias=False)
            self.norm: nn.Module = nn.LayerNorm(width, eps=config.stem_norm_eps)
        else:
            kernel = (temporal_kernel, side, side)
            self.projection = nn.Conv3d(config.num_channels, width, kernel, kernel, bias=False)
            self.norm = nn.Identity()
        self.temporal_kernel = temporal_kernel

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of an input of that height and width."""
        rows, columns = ((length - self.kernel) // self.stride + 1 for length in size)
        return rows, columns

    def forward(self, values: Tensor) -> Tensor:
        """(B, C, H, W), or (B, C, T, H, W) with a temporal kernel -> (B, N, D)."""
        if self.temporal_kernel is not None and values.shape[2] != self.temporal_kernel:
            if values.shape[2] != 1:
                raise InvalidRequestError(
                    f"a clip of {values.shape[2]} frames; expected {self.temporal_kernel}, or 1: a still image"
                )
            values = values.expand(-1, -1, self.temporal_kernel, -1, -1)  # a still image is a clip of equal frames
        return self.norm(self.projection(values).flatten(2).transpose(1, 2))


class ConvStem(nn.Module):
    """Strided 3x3 convolutions, each halving the side, then a projection; learns faster than patches on small data.

    The frames of a clip go through it one by one and are averaged.
    """

    def __init__(self, in_channels: int, channels: list[int], hidden_size: int) -> None:
        super().__init__()
        self.depth = len(channels)
        widths = [in_channels, *channels]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in itertools.pairwise(widths)
        )
        self.projection = nn.Conv2d(channels[-1], hidden_size, 1)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens of an input of that height and width."""
        rows, columns = (-(-length // 2**self.depth) for length in size)
        return rows, columns

    def forward(self, values: Tensor) -> Tensor:
        """(B, C, H, W) or (B, C, T, H, W) -> (B, N, D)."""
        frames = values.shape[2] if values.ndim == 5 else 1
        if values.ndim == 5:
            values = values.transpose(1, 2).flatten(0, 1)  # (B T, C, H, W)
        for layer in self.layers:
            values = layer(values)
        tokens = self.projection(values).flatten(2).transpose(1, 2)  # (B T, N, D)
        return tokens.unflatten(0, (-1, frames)).mean(dim=1)  # (B, N, D)
