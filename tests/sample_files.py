"""Small files of every kind, sound and broken."""

import json
import os
import struct
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import trimesh
from PIL import Image

from ibllm_tools.media.audio import encode_wav

RNG = np.random.default_rng(7)


def png(mode: str = "RGB") -> bytes:
    """A black picture of 8 x 6."""
    file = BytesIO()
    Image.new(mode, (8, 6)).save(file, "PNG")
    return file.getvalue()


def write_image(path: Path, colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
    pixels = np.full((48, 64, 3), colour, np.uint8)
    pixels[10:30, 20:40] = 255 - pixels[10:30, 20:40]
    Image.fromarray(pixels).save(path, "PNG")
    return path


def write_sound(path: Path, seconds: float = 1.0, level: float = 0.3) -> Path:
    time = np.arange(int(16000 * seconds)) / 16000
    path.write_bytes(encode_wav((level * np.sin(2 * np.pi * 440 * time))[None].astype(np.float32), 16000))
    return path


def write_video(path: Path, frames: int = 12) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=6)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if frames == 0:
            container.start_encoding()
        for index in range(frames):
            picture = np.full((48, 64, 3), 20 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if frames:
            container.mux(stream.encode())
    return path


def write_mesh(path: Path) -> Path:
    trimesh.creation.box().export(path)
    return path


def write_nan_mesh(path: Path) -> Path:
    header = b"ply\nformat binary_little_endian 1.0\nelement vertex 3\n"
    header += b"".join(b"property float %c\n" % axis for axis in b"xyz")
    header += b"element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    vertices = struct.pack("<9f", 0, 0, 0, 1, 0, 0, float("nan"), 1, 0)
    path.write_bytes(header + vertices + struct.pack("<B3i", 3, 0, 1, 2))
    return path


def write_gltf_without_buffer(path: Path) -> Path:
    model = {
        "asset": {"version": "2.0"},
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"uri": "nowhere.bin", "byteLength": 36}],
    }
    path.write_text(json.dumps(model))
    return path


def broken_files(folder: Path) -> dict[str, Path]:
    """One file, or the lack of one, per way in which a file can be unusable."""
    files = {
        name: folder / file
        for name, file in {
            "empty": "empty.png",
            "truncated image": "cut.png",
            "truncated sound": "cut.wav",
            "truncated video": "cut.mp4",
            "truncated mesh": "cut.glb",
            "noise with a wrong suffix": "noise.mp3",
            "pickle renamed": "model.png",
            "nan mesh": "nan.ply",
            "mesh without its buffer": "alone.gltf",
            "video without frames": "still.mp4",
            "missing": "nowhere.png",
            "directory": "folder.png",
        }.items()
    }
    files["empty"].touch()
    for name, write in (("image", write_image), ("sound", write_sound), ("video", write_video), ("mesh", write_mesh)):
        path = write(files[f"truncated {name}"])
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    files["noise with a wrong suffix"].write_bytes(RNG.bytes(4000))
    files["pickle renamed"].write_bytes(b"\x80\x04\x95" + bytes(100))
    write_nan_mesh(files["nan mesh"])
    write_gltf_without_buffer(files["mesh without its buffer"])
    write_video(files["video without frames"], frames=0)
    files["directory"].mkdir()
    if os.geteuid() != 0:  # root reads everything
        files["unreadable"] = write_image(folder / "secret.png")
        files["unreadable"].chmod(0)
    return files
