"""glTF's JSON part, checked before a library allocates what it announces, and the files that it may refer to."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ibllm_tools.errors import (
    AttachmentAccessError,
    AttachmentError,
    CorruptMediaError,
    LimitExceededError,
    UnsupportedMediaError,
)
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.source import Source, read_source, source_label

BINARY_MAGIC = b"glTF"
JSON_CHUNK = slice(20, None)
ATTRIBUTES = 8  # positions, normals, colours, coordinates, ...: accessors that one mesh may bring along


def check_gltf(data: bytes, source: Source, limits: Limits) -> None:
    """Refuse announced sizes beyond the limits, node graphs that are no trees, and compressed geometry.

    Raises:
        LimitExceededError, UnsupportedMediaError, CorruptMediaError
    """
    header = _header(data)
    label = source_label(source)
    # In vectors of four, so that a matrix counts as four of them.
    announced = sum(
        accessor["count"] * (4 if accessor.get("type") == "MAT4" else 1) for accessor in header.get("accessors", [])
    )
    allowed = ATTRIBUTES * (limits.max_points + limits.max_faces)
    if announced > allowed:
        raise LimitExceededError(
            f"{label}: announces {announced:,} vertex values, the limits allow {allowed:,}; simplify the model or "
            "raise Limits.max_points and Limits.max_faces"
        )
    compressed = [name for name in header.get("extensionsRequired", []) if "compression" in name]
    if compressed:
        raise UnsupportedMediaError(
            f"{label}: geometry needs {compressed[0]}, expected plain buffers; export without it"
        )
    children = [child for node in header.get("nodes", []) for child in node.get("children", [])]
    roots = [root for scene in header.get("scenes", []) for root in set(scene.get("nodes", []))]
    if len(set(children)) < len(children) or set(children) & set(roots):
        raise CorruptMediaError(f"{label}: a node with two parents or in a cycle, expected a tree; export it again")


def _header(data: bytes) -> dict[str, Any]:
    if data.startswith(BINARY_MAGIC):
        data = data[JSON_CHUNK][: int.from_bytes(data[12:16], "little")]
    header = json.loads(data)
    if not isinstance(header, dict):
        raise ValueError("its JSON is not an object")
    return header


class Siblings:
    """The files beside a .gltf file and below its folder: the only ones that it may refer to."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source, self._limits = source, limits

    def __getitem__(self, name: str) -> bytes:
        label = source_label(self._source)
        if isinstance(self._source, bytes):
            raise AttachmentAccessError(
                f"{label}: the model refers to another file, expected one that stands alone; export it as .glb"
            )
        folder = self._source.resolve().parent
        path = Path(folder, unquote(name)).resolve()
        if "://" in name or not path.is_relative_to(folder):
            raise AttachmentAccessError(
                f"{label}: the model refers to a file outside its folder; put it beside the model, or export as .glb"
            )
        try:
            return read_source(path, self._limits)
        except AttachmentError as error:
            raise type(error)(f"{label}: the model refers to another file, {error}") from error

    get = __getitem__
