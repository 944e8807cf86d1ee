"""Point-BERT, the encoder of Point-Bind (arXiv 2309.00615): groups of neighbours, a small PointNet, a transformer.

Everything is plain PyTorch, so it runs wherever torch does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.imagebind.configuration_imagebind import ImageBindPointConfig
from ibllm_tools.imagebind.modeling_layers import Block, drop_path_schedule


def farthest_point_sampling(points: Tensor, num_samples: int, start_indices: Tensor | None = None) -> Tensor:
    """Choose points that are far from each other.

    Args:
        points: (B, N, 3).
        num_samples: G, how many to choose; more than N repeats points.
        start_indices: (B,) index of the first one; 0 by default, so that the result is reproducible (the research code
            starts at random).

    Returns:
        (B, G) indices.
    """
    batch = torch.arange(len(points), device=points.device)
    current = torch.zeros_like(batch) if start_indices is None else start_indices.to(points.device)
    distances = points.new_full(points.shape[:2], torch.inf)  # (B, N) to the nearest chosen point
    chosen = []
    for _ in range(num_samples):
        chosen.append(current)
        offsets = points - points[batch, current].unsqueeze(1)  # (B, N, 3)
        distances = torch.minimum(distances, offsets.square().sum(-1))
        current = distances.argmax(-1)
    return torch.stack(chosen, dim=1)


def nearest_neighbours(centres: Tensor, points: Tensor, group_size: int) -> Tensor:
    """The ``group_size`` points nearest to each centre: (B, G, 3), (B, N, 3) -> (B, G, K) indices, unsorted."""
    squared = -2 * centres @ points.transpose(1, 2)  # (B, G, N)
    squared = squared + centres.square().sum(-1).unsqueeze(2) + points.square().sum(-1).unsqueeze(1)
    return squared.topk(group_size, dim=-1, largest=False, sorted=False).indices


class PointwiseConv(nn.Conv1d):
    """A convolution of kernel 1, its weights included, as one matrix product (much faster on a CPU)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, rows: Tensor) -> Tensor:
        """(R, in_channels) -> (R, out_channels)."""
        return F.linear(rows, self.weight.squeeze(-1), self.bias)


class PointNet(nn.Module):
    """Embeds each group of neighbours: shared layers per point, maximum over the points, twice."""

    def __init__(self, channels: list[int], output_size: int) -> None:
        super().__init__()
        first, second, third = channels
        self.first_conv = nn.Sequential(
            PointwiseConv(3, first), nn.BatchNorm1d(first), nn.ReLU(), PointwiseConv(first, second)
        )
        self.second_conv = nn.Sequential(
            PointwiseConv(2 * second, third), nn.BatchNorm1d(third), nn.ReLU(), PointwiseConv(third, output_size)
        )

    def forward(self, groups: Tensor) -> Tensor:
        """(B, G, K, 3) -> (B, G, output_size)."""
        local = self.first_conv(groups.flatten(0, 2)).unflatten(0, groups.shape[:3])  # (B, G, K, second)
        pooled = local.max(dim=2, keepdim=True).values.expand_as(local)
        local = self.second_conv(torch.cat([pooled, local], dim=-1).flatten(0, 2))  # (B G K, output_size)
        return local.unflatten(0, groups.shape[:3]).max(dim=2).values


class PointBert(nn.Module):
    """Points (B, N, 3) -> (B, 2 D): the class token beside the maximum over the groups."""

    def __init__(self, config: ImageBindPointConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_groups, self.group_size = config.num_groups, config.group_size
        self.group_embedding = PointNet(list(config.pointnet_channels or []), config.group_embedding_size)
        self.group_projection = nn.Linear(config.group_embedding_size, width)
        self.position_mlp = nn.Sequential(
            nn.Linear(3, config.position_hidden_size), nn.GELU(), nn.Linear(config.position_hidden_size, width)
        )
        self.class_embedding = nn.Parameter(torch.empty(1, 1, width))
        self.class_position = nn.Parameter(torch.empty(1, 1, width))
        self.layers = nn.ModuleList(
            Block(config, drop_path=rate, norm_eps=config.point_norm_eps, qkv_bias=False)
            for rate in drop_path_schedule(config)
        )
        self.norm = nn.LayerNorm(width, eps=config.point_norm_eps)

    def group(self, points: Tensor, start_indices: Tensor | None) -> tuple[Tensor, Tensor]:
        """Points (B, N, 3) -> centres (B, G, 3) and neighbours relative to their centre (B, G, K, 3).

        Both come in the weights' type. They are chosen in float32 at least: half precision confuses near neighbours.
        """
        if points.shape[1] < self.group_size:
            raise InvalidRequestError(
                f"a point cloud of {points.shape[1]} points; expected at least {self.group_size} (one group)"
            )
        dtype = self.class_embedding.dtype
        points = points.to(torch.promote_types(dtype, torch.float32))
        batch = torch.arange(len(points), device=points.device)
        centres = points[batch[:, None], farthest_point_sampling(points, self.num_groups, start_indices)]
        neighbours = points[batch[:, None, None], nearest_neighbours(centres, points, self.group_size)]
        return centres.to(dtype), (neighbours - centres.unsqueeze(2)).to(dtype)

    def forward(self, points: Tensor, start_indices: Tensor | None = None) -> Tensor:
        """(B, N, 3) -> (B, 2 D)."""
        centres, groups = self.group(points, start_indices)
        hidden = self.group_projection(self.group_embedding(groups))  # (B, G, D)
        batch = len(points)
        hidden = torch.cat([self.class_embedding.expand(batch, -1, -1), hidden], dim=1)  # (B, 1 + G, D)
        positions = torch.cat([self.class_position.expand(batch, -1, -1), self.position_mlp(centres)], dim=1)
        for layer in self.layers:
            hidden = layer(hidden + positions)
        hidden = self.norm(hidden)
        return torch.cat([hidden[:, 0], hidden[:, 1:].max(dim=1).values], dim=-1)
