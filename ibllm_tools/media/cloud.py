"""Point clouds as files of plain numbers: .npy, .xyz and .pts, and PCD (ascii and binary)."""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.errors import LimitExceededError, UnsupportedMediaError
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.npy import read_npy
from ibllm_tools.media.source import Source, read_source, source_label

AXES = ("x", "y", "z")


def read_npy_cloud(source: Source, limits: Limits) -> NDArray[Any]:
    """The points of a .npy array (N, 3 or more): the first three columns."""
    array = read_npy(source, limits)
    if array.ndim != 2 or array.shape[1] < len(AXES):
        raise UnsupportedMediaError(f"{source_label(source)}: shape {array.shape}, expected points (N, 3); reshape it")
    check_points(len(array), source, limits)
    return array[:, :3]


def read_xyz(source: Source, limits: Limits) -> NDArray[np.float64]:
    """The first three numbers of each line; .pts files start with a line that holds the count."""
    data = read_source(source, limits)
    check_points(data.count(b"\n"), source, limits)
    first, _, rest = data.lstrip().partition(b"\n")
    lines = rest if first.strip().isdigit() else data
    delimiter = "," if b"," in first else None
    return np.loadtxt(BytesIO(lines), usecols=(0, 1, 2), ndmin=2, comments=("#", "//"), delimiter=delimiter)  # (N, 3)


def read_pcd(source: Source, limits: Limits) -> NDArray[np.float64]:
    """The fields x, y and z of a Point Cloud Library file."""
    data = read_source(source, limits)
    header, body = _pcd_header(data)
    count = int(header["POINTS"][0])
    check_points(count, source, limits)
    encoding = header["DATA"][0].lower()
    if encoding == "ascii":
        columns = [_ascii_column(header, axis) for axis in AXES]
        points = np.loadtxt(BytesIO(body), usecols=columns, ndmin=2, max_rows=count)
    elif encoding == "binary":
        rows = np.frombuffer(body, dtype=_pcd_dtype(header), count=count)
        points = np.stack([rows[axis].astype(np.float64) for axis in AXES], axis=1)
    else:
        raise UnsupportedMediaError(
            f"{source_label(source)}: PCD with {encoding} data, expected ascii or binary; convert it with "
            "pcl_convert_pcd_ascii_binary"
        )
    if len(points) != count:
        raise ValueError(f"{len(points)} of {count} points")
    return points  # (N, 3)


def check_points(count: int, source: Source, limits: Limits) -> None:
    """Raise LimitExceededError beyond ``limits.max_points``."""
    if count > limits.max_points:
        raise LimitExceededError(
            f"{source_label(source)}: {count:,} points, the limit is {limits.max_points:,}; thin them out or raise "
            "Limits.max_points"
        )


def _pcd_header(data: bytes) -> tuple[dict[str, list[str]], bytes]:
    header: dict[str, list[str]] = {}
    rest = data
    while "DATA" not in header:
        line, newline, rest = rest.partition(b"\n")
        if not newline:
            raise ValueError("no DATA line")
        words = line.decode("ascii").split("#")[0].split()
        if words:
            header[words[0]] = words[1:]
    header.setdefault("COUNT", ["1"] * len(header["FIELDS"]))
    return header, rest


def _ascii_column(header: dict[str, list[str]], axis: str) -> int:
    before = header["COUNT"][: header["FIELDS"].index(axis)]
    return sum(map(int, before))


def _pcd_dtype(header: dict[str, list[str]]) -> np.dtype[Any]:
    kinds = [kind.lower() + size for kind, size in zip(header["TYPE"], header["SIZE"], strict=True)]
    names = [name if name in AXES else f"{name}{index}" for index, name in enumerate(header["FIELDS"])]
    shapes = [(int(count),) if count != "1" else () for count in header["COUNT"]]
    return np.dtype([(name, f"<{kind}", shape) for name, kind, shape in zip(names, kinds, shapes, strict=True)])
