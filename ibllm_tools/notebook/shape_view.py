"""A 3D model or cloud that can be turned, within the page.

Its geometry alone goes in, as 16-bit whole numbers; neither its file nor any name or text of it does. The page is in a
frame without an origin of its own and without any network (see `shape_page`).
"""

import base64
import json

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.media.draw_shape import CLAY, GROUND, LIGHT, LOW_TO_HIGH, PAPER, SKY, SUN, TILT, TURN
from ibllm_tools.media.mesh import Geometry
from ibllm_tools.media.upright import read_upright
from ibllm_tools.notebook.markup import WIDTH, note, text
from ibllm_tools.notebook.medium import Medium
from ibllm_tools.notebook.shape_page import PAGE

MOST_FACES = 40_000
MOST_POINTS = 30_000
STEPS = 65535
HEIGHT = 280


def shape_view(medium: Medium) -> str:
    """A frame in which a 3D model or a cloud is turned by dragging.

    A model of more than `MOST_FACES` faces is shown by its points, and of more than `MOST_POINTS` points so many are.

    Raises:
        AttachmentError: it cannot be read.
        MissingExtraError: the package that reads it is not installed.
    """
    geometry = read_upright(medium.source, name=medium.name, limits=medium.limits)
    solid = 0 < len(geometry.triangles) <= MOST_FACES
    corners = geometry.triangles.reshape(-1, 3) if solid else _thinned(geometry.vertices)
    content = {
        "data": base64.b64encode(_in_steps(corners, geometry).tobytes()).decode("ascii"),
        "solid": solid,
        "view": [float(TURN), float(TILT)],
        "paper": PAPER,
        "clay": CLAY.tolist(),
        "light": (LIGHT / np.linalg.norm(LIGHT)).tolist(),
        "shine": [GROUND, SKY, SUN],
        "scale": LOW_TO_HIGH,
    }
    page = PAGE.replace("CONTENT", json.dumps(content))
    return (
        f'<iframe title="3D view of {text(medium.name)}" sandbox="allow-scripts" srcdoc="{text(page)}" '
        f'style="display:block;{WIDTH};height:{HEIGHT}px;border:0;border-radius:4px"></iframe>'
        + note(_said(geometry, solid, len(corners)))
    )


def _said(geometry: Geometry, solid: bool, shown: int) -> str:
    faces, points = len(geometry.triangles), len(geometry.vertices)
    if solid:
        return f"{faces:,} faces; drag to turn"
    what = f"{faces:,} faces" if faces else f"{points:,} points"
    return f"{what}{'' if shown == points and not faces else f', shown by {shown:,} points'}; drag to turn"


def _thinned(points: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(points) <= MOST_POINTS:
        return points
    return points[np.linspace(0, len(points) - 1, MOST_POINTS).astype(np.int64)]


def _in_steps(corners: NDArray[np.float64], geometry: Geometry) -> NDArray[np.uint16]:
    """Points (N, 3) on a grid of 65,536 steps along the longest side, around its middle."""
    low, high = geometry.vertices.min(axis=0), geometry.vertices.max(axis=0)
    placed = (corners - (low / 2 + high / 2)) / (high - low).max()  # the sum may be too large
    steps: NDArray[np.uint16] = np.rint((placed + 0.5) * STEPS).clip(0, STEPS).astype("<u2")
    return steps
