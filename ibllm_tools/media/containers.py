"""Whether a container has a video track, without decoding it: MP4 and MOV, Matroska and WebM, Ogg."""

import re
from typing import BinaryIO

BOX_HEADER = 8
MOST_BOXES = 1024
MOST_INDEX_BYTES = 1 << 24
# element TrackEntry/CodecID (0x86), its length, and an identifier that starts with "V_"
MATROSKA_VIDEO = re.compile(rb"\x86[\x80-\xff]V_[A-Z]")
MATROSKA_AUDIO = re.compile(rb"\x86[\x80-\xff]A_[A-Z]")


def mp4_has_video(file: BinaryIO) -> bool:
    """True when the ``moov`` box has a handler of type ``vide``, or when there is no such box (a cut file)."""
    position = 0
    for _ in range(MOST_BOXES):
        file.seek(position)
        header = file.read(BOX_HEADER)
        if len(header) < BOX_HEADER:
            return True
        size, kind = int.from_bytes(header[:4], "big"), header[4:]
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if kind == b"moov":
            return b"vide" in _handlers(file.read(min(size, MOST_INDEX_BYTES)))
        if size < BOX_HEADER:
            return True
        position += size
    return True


def _handlers(moov: bytes) -> set[bytes]:
    """The handler types of the tracks: four bytes, after the box's name, version, flags and a reserved word."""
    return {match[1] for match in re.finditer(rb"hdlr.{8}(.{4})", moov, re.DOTALL)}


def matroska_has_video(head: bytes) -> bool:
    """False when the file's start names sound codecs only."""
    return bool(MATROSKA_VIDEO.search(head)) or not MATROSKA_AUDIO.search(head)


def ogg_has_video(head: bytes) -> bool:
    """True when one of the first pages starts a Theora or Dirac stream."""
    return b"\x80theora" in head or b"BBCD\x00" in head
