"""What comes in as embeddings: arrays and tensors of any length, checked, as rows of unit length, and back again."""

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ibllm_tools.errors import InvalidRequestError

Vectors = TypeVar("Vectors", NDArray[Any], torch.Tensor)


def as_rows(vectors: NDArray[Any] | torch.Tensor, name: str) -> NDArray[np.float32]:
    """Vectors (E,) or (N, E) as rows (N, E) of finite numbers.

    Raises:
        InvalidRequestError: another shape, not floating point, or a value that float32 cannot hold.
    """
    if isinstance(vectors, torch.Tensor):
        vectors = (vectors.float() if vectors.is_floating_point() else vectors).detach().cpu().numpy()
    values = np.asarray(vectors)
    if values.ndim not in (1, 2) or values.size == 0 or not np.issubdtype(values.dtype, np.floating):
        raise InvalidRequestError(
            f"{name} of shape {values.shape} and type {values.dtype}: expected floating point, (E,) or (B, E), B >= 1"
        )
    with np.errstate(over="ignore"):
        rows = np.atleast_2d(values.astype(np.float32))  # (B, E)
        if not np.isfinite(np.square(rows).sum(axis=1)).all():
            raise InvalidRequestError(f"{name} hold values that are undefined, infinite or too large for float32")
    return rows


def unit(rows: NDArray[np.float32], name: str = "embeddings") -> NDArray[np.float32]:
    """Rows (N, E) of length 1. Raises InvalidRequestError where one has no direction."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise InvalidRequestError(f"{name} contain, or blend to, a zero vector, which has no direction")
    return np.asarray(rows / lengths)


def like(rows: NDArray[np.float32], original: Vectors) -> Vectors:
    """Rows in the shape, type, dtype and device of what they were made from."""
    if isinstance(original, torch.Tensor):
        return torch.from_numpy(rows).reshape(original.shape).to(original)
    return rows.reshape(original.shape).astype(original.dtype)
