"""Bytes that someone broke on purpose: each decoder answers with one line, whatever they are."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from ibllm_tools.errors import IbllmError, MissingExtraError
from ibllm_tools.media.audio import read_audio
from ibllm_tools.media.image import decode_image
from ibllm_tools.media.mesh import decode_points
from ibllm_tools.media.source import Source
from ibllm_tools.media.video import probe_video, read_clips

OneLineError = Callable[[type[Exception]], AbstractContextManager[None]]


def watch(source: Source) -> None:
    read_clips(source, [(Fraction(0), probe_video(source).seconds)])


def ball(kind: str) -> bytes:
    data = trimesh.creation.icosphere(subdivisions=1).export(file_type=kind)
    return data.encode() if isinstance(data, str) else data


def picture(kind: str) -> bytes:
    file = BytesIO()
    Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)).save(file, kind)
    return file.getvalue()


CASES: dict[str, tuple[Callable[[Source], object], Callable[[Path], bytes]]] = {
    **{kind: (decode_image, lambda _, kind=kind: picture(kind)) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF")},
    **{kind: (decode_points, lambda _, kind=kind: ball(kind)) for kind in ("glb", "obj", "ply", "stl")},
    "wav": (read_audio, lambda media: (media / "short_8k.wav").read_bytes()),
    "mp4": (watch, lambda media: (media / "clip_short.mp4").read_bytes()),
}


@pytest.mark.parametrize("name", CASES)
def test_broken_bytes_are_decoded_or_refused_in_one_line(
    name: str, reference: Path, one_line_error: OneLineError
) -> None:
    decode, make = CASES[name]
    whole = make(reference / "media")
    rng = np.random.default_rng(0)
    for trial in range(12):
        data = bytearray(whole)
        reach = len(data) if trial % 2 else min(len(data), 256)  # every other trial hits the header
        for place in rng.integers(0, reach, 1 + trial):
            data[place] = rng.integers(0, 256)
        with one_line_error(IbllmError):
            decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"OFF\n" + b"\n" * 5000 + b"x", "blank.off"), (b"1," * 30_000 + b"1 !", "one_line.xyz")],
    ids=["blank lines", "a line of numbers"],
)
def test_no_text_makes_a_pattern_search_for_ever(data: bytes, name: str, one_line_error: OneLineError) -> None:
    began = time.perf_counter()
    with one_line_error(IbllmError):
        decode_points(data, name=name)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("soundfile", "short_8k.wav", "audio"), ("av", "clip_short.mp4", "video"), ("trimesh", "torus.obj", "mesh")],
)
def test_a_missing_package_names_its_extra(
    package: str, name: str, extra: str, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = {"audio": read_audio, "video": watch, "mesh": decode_points}[extra]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'ibllm-tools\[{extra}\]'"):
        decode(reference / "media" / name)
