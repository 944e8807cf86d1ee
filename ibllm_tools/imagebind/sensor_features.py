"""Point clouds, depth maps, thermal images and inertial measurements.

For depth, thermal and inertial input the research code ships a model and no loader, so these are our conventions.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ibllm_tools.errors import CorruptMediaError

SAMPLING_SEED = 0


def centred_cloud(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move the centroid to the origin and scale the farthest point to distance 1: (N, 3) -> (N, 3)."""
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    radius = np.linalg.norm(centred, axis=1).max()
    return (centred / radius if radius > 0 else centred).astype(np.float32)


def resampled_cloud(points: NDArray[np.float32], num_points: int) -> NDArray[np.float32]:
    """A cloud of exactly ``num_points``: a fixed random choice of a larger one, repetitions of a smaller one."""
    count = len(points)
    if count > num_points:
        chosen = np.random.default_rng(SAMPLING_SEED).choice(count, num_points, replace=False)
        return points[np.sort(chosen)]
    return points[np.arange(num_points) % count]


def point_values(points: NDArray[np.float32], num_points: int = 8192) -> Tensor:
    """The point tower's input: (N, 3) -> (num_points, 3) float32, centred, within the unit sphere."""
    return torch.from_numpy(resampled_cloud(centred_cloud(points), num_points))


def disparity(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest depth divided by each depth, whatever its unit: 1 where it is nearest, 0 where it is missing (<= 0).

    Raises:
        CorruptMediaError: the depth is missing everywhere.
    """
    valid = depth > 0
    if not valid.any():
        raise CorruptMediaError("a depth map without a value above 0; expected distances, 0 where they are missing")
    nearest = depth[valid].min()
    return np.divide(nearest, depth, out=np.zeros_like(depth), where=valid)


def unit_range(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift and scale to [0, 1]; a constant becomes 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def map_values(values: NDArray[np.float32], size: int, mean: float, std: float) -> Tensor:
    """The centre square of a map, scaled (bilinear, antialiased) and normalised: (H, W) -> (1, size, size) float32."""
    height, width = values.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = torch.from_numpy(values[top : top + side, left : left + side].copy())[None, None]  # (1, 1, side, side)
    scaled = F.interpolate(square, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return (scaled[0] - mean) / std


def imu_values(measurement: NDArray[np.float32], num_samples: int = 2000) -> Tensor:
    """The inertial tower's input: (6, n) -> (6, num_samples), the centre of a longer one, zeros after a shorter one."""
    surplus = max(measurement.shape[1] - num_samples, 0)
    centre = torch.from_numpy(measurement[:, surplus // 2 :][:, :num_samples].copy())
    return F.pad(centre, (0, num_samples - centre.shape[1]))
