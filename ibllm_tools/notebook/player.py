"""Sounds and videos as players of the browser, at the part that matters.

A file that a browser can play is laid into the page as it is, with that part as a media fragment (W3C Media Fragments
URI 1.0), so that what lies around it can be heard too. Of a sound that is too large for that, or of a kind that
browsers do not know, the part alone is cut out.
"""

import numpy as np

from ibllm_tools.errors import AttachmentNotFoundError, InvalidRequestError, LimitExceededError
from ibllm_tools.media.audio import encode_wav, probe_audio, read_audio
from ibllm_tools.media.limits import MEBIBYTE
from ibllm_tools.media.source import read_source
from ibllm_tools.notebook.markup import WIDTH, data_uri, note, picture
from ibllm_tools.notebook.medium import Medium

MOST_BYTES = 8 * MEBIBYTE
"""Of one sound or video within a page."""
SAMPLE_BYTES = 4
VIDEOS = {f"video/{kind}": f"video/{kind}" for kind in ("mp4", "webm", "ogg")} | {"video/quicktime": "video/mp4"}
"""What browsers play, and what they are to take it as."""
SOUNDS = {f"audio/{kind}": f"audio/{kind}" for kind in ("wav", "mpeg", "flac", "ogg", "mp4", "aac", "webm")} | VIDEOS
"""The sound of videos included."""


def player(medium: Medium, poster: bytes | None = None) -> str:
    """A player of a sound or video.

    Args:
        medium: of modality ``audio`` or ``video``.
        poster: a WebP picture that a video shows until it is played, or in its place.

    Raises:
        AttachmentError: a sound of which a part is to be cut out cannot be decoded.
    """
    playable = (VIDEOS if medium.modality == "video" else SOUNDS).get(medium.mime)
    if playable and medium.size <= MOST_BYTES:
        content = read_source(medium.source, medium.limits)
        if len(content) != medium.size:
            raise AttachmentNotFoundError(f"{medium.name}: its file has changed just now; show it again")
        return _element(medium, data_uri(content, playable) + _fragment(medium), poster)
    why = f"{medium.size:,} bytes, at most {MOST_BYTES:,} are laid into a notebook"
    if not playable:
        why = f"browsers do not play {medium.mime}"
    if medium.modality == "video":
        still = "" if poster is None else picture(poster, medium.name)
        return still + note(f"{medium.name}: {why}")
    try:
        part = _cut(medium)
    except LimitExceededError as error:
        return note(error)
    return _element(medium, data_uri(part, "audio/wav"), None) + note(f"{_span(medium)} alone, in one channel: {why}")


def _cut(medium: Medium) -> bytes:
    """The part that matters as WAV, its channels mixed.

    Raises:
        LimitExceededError: it is larger than `MOST_BYTES` too.
        AttachmentError, MissingExtraError: it cannot be decoded.
    """
    info = probe_audio(medium.source, limits=medium.limits)
    start = medium.start or 0.0
    seconds = (info.seconds if medium.end is None else min(medium.end, info.seconds)) - start
    if seconds <= 0:
        raise InvalidRequestError(f"{medium.name}: starts at {start:g} s, expected less than its {info.seconds:g} s")
    size = round(seconds * info.sample_rate * SAMPLE_BYTES)
    if size > MOST_BYTES:
        raise LimitExceededError(
            f"{medium.name}: {size:,} bytes of sound, at most {MOST_BYTES:,} are laid into a notebook; show a part of "
            "it, such as a hit"
        )
    sound = read_audio(medium.source, start=start, end=medium.end, limits=medium.limits)
    return encode_wav(sound.samples.mean(axis=0, keepdims=True, dtype=np.float32), sound.sample_rate)


def _element(medium: Medium, source: str, poster: bytes | None) -> str:
    style = f"display:block;{WIDTH}"
    if medium.modality == "audio":
        return f'<audio controls preload="metadata" style="{style}" src="{source}"></audio>'
    first = "" if poster is None else f' poster="{data_uri(poster, "image/webp")}"'
    return f'<video controls preload="metadata" style="{style};max-height:300px" src="{source}"{first}></video>'


def _fragment(medium: Medium) -> str:
    if medium.start is None:
        return ""
    return f"#t={medium.start:.3f}" + ("" if medium.end is None else f",{medium.end:.3f}")


def _span(medium: Medium) -> str:
    if medium.start is None or medium.end is None:
        return "the sound"
    return f"{medium.start:.1f}-{medium.end:.1f} s"
