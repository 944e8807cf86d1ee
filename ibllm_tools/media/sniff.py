"""What kind of media a source holds, by its content.

Magic bytes decide, so a renamed file is recognised. The name only breaks ties: a text of numbers is a point cloud when
it is called ``.xyz`` or ``.pts``, and a 16-bit greyscale image is a depth map when its name says ``depth`` (otherwise
it is an image, unless the caller announces depth). Text has no magic bytes: named like media, it is refused.
"""

import codecs
import mimetypes
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from ibllm_tools.errors import UnsupportedMediaError
from ibllm_tools.media import npy
from ibllm_tools.media.containers import matroska_has_video, mp4_has_video, ogg_has_video
from ibllm_tools.media.source import Source, decoding, open_source, source_label, source_size

Modality = Literal["image", "video", "audio", "text", "depth", "thermal", "imu", "point"]
HEAD_BYTES = 1 << 16
SVG_HEAD = 1024
SHAPE_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off", ".pcd", ".npy")
NPY = "application/x-npy"
READABLE = (
    "an image (PNG, JPEG, WebP, GIF, BMP, TIFF), a sound (WAV, FLAC, Ogg, MP3, M4A, AIFF), a video (MP4, WebM, MKV, "
    "MOV, AVI), a 3D model (GLB, glTF, OBJ, PLY, STL, OFF), a point cloud (PLY, PCD, XYZ, npy) or text"
)


UNWRITTEN = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
"""Characters that no text file has."""


class MediaType(NamedTuple):
    """The modality (``point`` is everything 3D: meshes and point clouds) and the MIME type."""

    modality: Modality
    mime: str


# (offset, magic bytes, type); the first that matches decides
MAGIC: tuple[tuple[int, bytes, MediaType], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", MediaType("image", "image/png")),
    (0, b"\xff\xd8\xff", MediaType("image", "image/jpeg")),
    (0, b"GIF87a", MediaType("image", "image/gif")),
    (0, b"GIF89a", MediaType("image", "image/gif")),
    (8, b"WEBP", MediaType("image", "image/webp")),
    (0, b"II*\x00", MediaType("image", "image/tiff")),
    (0, b"MM\x00*", MediaType("image", "image/tiff")),
    (8, b"WAVE", MediaType("audio", "audio/wav")),
    (0, b"fLaC", MediaType("audio", "audio/flac")),
    (0, b"ID3", MediaType("audio", "audio/mpeg")),
    (8, b"AIFF", MediaType("audio", "audio/aiff")),
    (8, b"AIFC", MediaType("audio", "audio/aiff")),
    (0, b".snd", MediaType("audio", "audio/basic")),
    (0, b"caff", MediaType("audio", "audio/x-caf")),
    (8, b"AVI ", MediaType("video", "video/x-msvideo")),
    (0, b"glTF", MediaType("point", "model/gltf-binary")),
    (0, b"ply\n", MediaType("point", "model/ply")),
    (0, b"ply\r", MediaType("point", "model/ply")),
    (0, b"# .PCD", MediaType("point", "model/pcd")),
    (0, b"VERSION .", MediaType("point", "model/pcd")),
    (0, b"VERSION 0.", MediaType("point", "model/pcd")),
)
CHUNKED = {b"WEBP": b"RIFF", b"WAVE": b"RIFF RF64", b"AVI ": b"RIFF", b"AIFF": b"FORM", b"AIFC": b"FORM"}
OBJ_LINE = re.compile(r"(v|vt|vn|vp|f|l|p|o|g|s|mtllib|usemtl|cstype|deg|curv|surf|parm|end|mg|bevel)(\s|$)|#")
NUMBERS = re.compile(r"[-+]?[\d.][^\s,;]*+([ \t,;]++[-+\w.]++)*+$")


def sniff(source: Source, name: str | None = None) -> MediaType:
    """The modality and MIME type of a source, by its content.

    Args:
        source: a path or the bytes.
        name: the file's name, to break ties; that of the path by default.

    Raises:
        UnsupportedMediaError: not a kind of media that we read.
        CorruptMediaError, AttachmentNotFoundError, AttachmentAccessError: as `open_source`.
    """
    name = (name or (source.name if isinstance(source, Path) else "")).lower()
    with open_source(source) as file:
        head = file.read(HEAD_BYTES)
        size = source_size(source)
        found = _by_magic(head, name, source) or _by_container(head, name, file, size) or _by_text(head, name)
    if found is None:
        raise UnsupportedMediaError(f"{source_label(source)}: {_foreign_kind(head)}, expected {READABLE}; convert it")
    if found.modality == "text" and (promised := _promised(name)):
        raise UnsupportedMediaError(
            f"{source_label(source)}: holds text, expected {promised} by its name; rename it to .txt if text is meant"
        )
    return found


def sniff_text(source: Source, name: str | None = None) -> MediaType:
    """As `sniff`, of what is announced as text: that it is whenever it reads as one, a drawing or a model included."""
    with open_source(source) as file:
        text = _text_of(file.read(HEAD_BYTES))
    return sniff(source, name) if text is None else MediaType("text", "text/plain")


def _promised(name: str) -> str | None:
    """What a file's suffix promises, where that is anything but text."""
    if name.endswith(SHAPE_SUFFIXES):
        return "a 3D model"
    kind = (mimetypes.guess_type(name)[0] or "").partition("/")[0]
    return {"image": "an image", "audio": "a sound", "video": "a video"}.get(kind)


def require(
    source: Source, accepts: Callable[[MediaType], bool], *, expected: str, name: str | None = None
) -> MediaType:
    """The sniffed type of a source that must be of an accepted one.

    Raises:
        UnsupportedMediaError: it is of another type than ``expected``.
    """
    found = sniff(source, name)
    if not accepts(found):
        raise UnsupportedMediaError(
            f"{source_label(source)}: its content is {found.mime} ({found.modality}), expected {expected}; "
            "pass another file or another modality"
        )
    return found


def _by_magic(head: bytes, name: str, source: Source) -> MediaType | None:
    if head.startswith(npy.MAGIC):
        return MediaType(_npy_modality(head, name, source), NPY)
    for offset, magic, found in MAGIC:
        if head[offset : offset + len(magic)] == magic and head[:4] in CHUNKED.get(magic, head[:4]):
            deep = "depth" in name and _is_deep_grey(head, found.mime)
            return MediaType("depth", found.mime) if deep else found
    if head[:2] == b"BM" and len(head) > 26 and head[6:10] == bytes(4):
        return MediaType("image", "image/bmp")
    if len(head) > 3 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return _mpeg_frame(head)
    return None


def _mpeg_frame(head: bytes) -> MediaType | None:
    """A bare MPEG audio stream: the layer and the header's reserved values tell it from chance bytes."""
    layer, bitrate, rate = head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    if layer == 0:
        return MediaType("audio", "audio/aac") if head[1] & 0xF6 == 0xF0 else None
    return MediaType("audio", "audio/mpeg") if layer in (1, 2) and 0 < bitrate < 15 and rate < 3 else None


def _is_deep_grey(head: bytes, mime: str) -> bool:
    """A single channel of 16 bits or more: the form in which depth maps are stored."""
    if mime == "image/png":
        return head[24:26] == b"\x10\x00"
    return mime == "image/tiff"


def _npy_modality(head: bytes, name: str, source: Source) -> Modality:
    """By shape: (N, 3) points, (6, n) and (n, 6) inertial, any other plane a depth map."""
    with decoding(source, ".npy array"):
        shape = npy.read_npy_header(BytesIO(head)).shape
    if len(shape) != 2:
        raise UnsupportedMediaError(
            f"{source_label(source)}: .npy array of shape {shape}, expected points (N, 3), a depth map (H, W) or "
            "inertial measurements (6, n); reshape it, or pass pixels and sounds as array with modality=..."
        )
    if "depth" in name or "thermal" in name:
        return "depth" if "depth" in name else "thermal"
    if shape[1] == 3:
        return "point"
    return "imu" if 6 in shape else "depth"


def _by_container(head: bytes, name: str, file: BinaryIO, size: int) -> MediaType | None:
    """Containers hold sound, pictures or both; a video track makes them a video. Then 3D files without magic bytes."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        if not mp4_has_video(file):
            return MediaType("audio", "audio/mp4")
        return MediaType("video", "video/quicktime" if head[8:12] == b"qt  " else "video/mp4")
    if head.startswith(b"\x1aE\xdf\xa3"):
        kind = "webm" if b"webm" in head[:64] else "x-matroska"
        return MediaType("video", f"video/{kind}") if matroska_has_video(head) else MediaType("audio", f"audio/{kind}")
    if head.startswith(b"OggS"):
        return MediaType("video", "video/ogg") if ogg_has_video(head) else MediaType("audio", "audio/ogg")
    if len(head) >= 84 and (_is_binary_stl(head, size) or (name.endswith(".stl") and b"\x00" in head)):
        return MediaType("point", "model/stl")
    return MediaType("point", "model/off") if re.match(rb"(ST)?C?N?OFF( BINARY)?\s", head) else None


def _is_binary_stl(head: bytes, size: int) -> bool:
    return size == 84 + 50 * int.from_bytes(head[80:84], "little")


def _by_text(head: bytes, name: str) -> MediaType | None:
    """Texts: 3D formats by their lines, clouds of numbers by their suffix, everything else is text."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return MediaType("text", "text/plain")
    text = _text_of(head)
    if text is None:
        return None
    if text.startswith("%PDF") or "<svg" in text[:SVG_HEAD]:
        return None
    lines = [line.strip() for line in text.splitlines()[: None if len(head) < HEAD_BYTES else -1] if line.strip()]
    if text.lstrip().startswith("{") and '"asset"' in text and re.search(r'"(meshes|buffers|accessors)"\s*:', text):
        return MediaType("point", "model/gltf+json")
    if text.startswith("solid") and ("facet" in text or name.endswith(".stl")):
        return MediaType("point", "model/stl")
    if any(line.startswith("v ") for line in lines) and all(map(OBJ_LINE.match, lines)):
        return MediaType("point", "model/obj")
    if name.endswith((".xyz", ".pts")) and any(NUMBERS.match(line) for line in lines[:9]):
        return MediaType("point", "model/xyz")
    return MediaType("text", "text/csv" if name.endswith(".csv") else "text/plain")


def _text_of(head: bytes) -> str | None:
    """The head of a file as text in UTF-8; ``None`` if it is none."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return None
    return None if UNWRITTEN.search(text) else text


def _foreign_kind(head: bytes) -> str:
    """A name for frequent kinds of files that we refuse."""
    if head.startswith(b"\x80") or (head.startswith(b"PK") and b".pkl" in head):
        return "a pickle (a .pt file, for instance), which can run code when it is opened"
    for magic, kind in ((b"%PDF", "a PDF"), (b"PK\x03\x04", "a ZIP archive or office document"), (b"\x1f\x8b", "gzip")):
        if head.startswith(magic):
            return kind
    return "an SVG drawing" if b"<svg" in head[:SVG_HEAD] else "unknown binary data"
