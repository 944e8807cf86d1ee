"""Where the clips of a sound or a video lie, in exact arithmetic.

Clips of equal length start at equal distances, the first at the beginning and the last as late as possible; a recording
that is shorter than one clip is taken whole, several times (ImageBind's research code).
"""

import math
from collections.abc import Sequence
from fractions import Fraction

Span = tuple[Fraction, Fraction]


def clip_spans(seconds: float | Fraction, clips: int, clip_seconds: float | Fraction) -> list[Span]:
    """Start and end of each clip in seconds; the end may lie after the end of a short recording.

    Args:
        seconds: length of the recording; a float is taken as the exact value that it stores.
        clips: how many.
        clip_seconds: length of each.
    """
    length = Fraction(clip_seconds)
    last_start = max(Fraction(seconds) - length, Fraction(0))
    starts = [last_start * index / max(clips - 1, 1) for index in range(clips)]
    return [(start, start + length) for start in starts]


def window_of(bounds: tuple[float, float], seconds: Fraction) -> Span:
    """The exact window of a recording for rounded bounds: one that reaches its end, or beyond, ends there."""
    start, end = bounds
    return Fraction(start), seconds if end >= float(seconds) else Fraction(end)


def window_clip_spans(window: Span, seconds: Fraction, clips: int, clip_seconds: float | Fraction) -> list[Span]:
    """`clip_spans` of a window, as if it had been cut out: no clip goes beyond it, except at the recording's end.

    Args:
        window: start and end in seconds.
        seconds: length of the whole recording.
        clips: how many.
        clip_seconds: length of each.
    """
    start, end = window
    spans = [(start + first, start + last) for first, last in clip_spans(end - start, clips, clip_seconds)]
    return spans if end >= seconds else [(first, min(last, end)) for first, last in spans]


def sample_ranges(spans: Sequence[Span], rate: int, samples: int) -> list[tuple[int, int]]:
    """First and last (exclusive) sample of each span, rounded down, within a recording of so many samples."""
    return [(math.floor(start * rate), min(math.floor(end * rate), samples)) for start, end in spans]


def frame_indices(frames: int, clips: int, frames_per_clip: int) -> list[list[int]]:
    """Spread the clips evenly over frames without times: indices (clips, frames_per_clip), some repeated if few."""
    wanted = clips * frames_per_clip
    indices = [index * (frames - 1) // max(wanted - 1, 1) for index in range(wanted)]
    return [indices[first : first + frames_per_clip] for first in range(0, wanted, frames_per_clip)]
