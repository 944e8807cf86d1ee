"""3D files as they stand: their geometry with y up, checked, to be drawn."""

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import CorruptMediaError
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.mesh import Geometry, read_geometry, refuse_unusable
from ibllm_tools.media.sniff import NPY, require
from ibllm_tools.media.source import Source, decoding, source_label

Z_UP = ("model/stl", "model/off")  # by custom: what is printed or built; the others have y up


def read_upright(source: Source, *, name: str | None = None, limits: Limits = DEFAULT_LIMITS) -> Geometry:
    """The points and faces of a 3D model or cloud, y up, in the units of the file.

    Args:
        source: a path or the bytes.
        name: the file's name, where the content alone does not tell (``.xyz``).
        limits: checked before anything is decoded.

    Raises:
        MissingExtraError: the package that reads it is not installed.
        UnsupportedMediaError: not a 3D file.
        CorruptMediaError: damaged, or without extent.
        LimitExceededError: more points or faces than the limits allow.
    """
    kind = require(
        source, lambda found: found.modality == "point" or found.mime == NPY, expected="a 3D model or cloud", name=name
    )
    with decoding(source, "3D model"), np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused
        geometry = read_geometry(source, kind.mime, limits, official=False)
        refuse_unusable(geometry.vertices, source)
        points, triangles = geometry.vertices.astype(np.float64), geometry.triangles
        extent = (points.max(axis=0) - points.min(axis=0)).max()
        if not (np.isfinite(extent) and extent > 0):
            raise CorruptMediaError(
                f"{source_label(source)}: all points in one place, expected a shape; export it again"
            )
        return Geometry(_y_up(points), _y_up(triangles)) if kind.mime in Z_UP else Geometry(points, triangles)


def _y_up(coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
    return coordinates[..., [0, 2, 1]] * (1, 1, -1)
