"""Text files."""

import codecs

from ibllm_tools.errors import CorruptMediaError, LimitExceededError, UnsupportedMediaError
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.source import Source, read_source, source_label

BYTES_PER_CHARACTER = 4  # the most that UTF-8 and UTF-16 need


def decode_text(source: Source, *, limits: Limits = DEFAULT_LIMITS) -> str:
    """The text of a UTF-8 file, or of a UTF-16 file that starts with a byte order mark.

    Raises:
        UnsupportedMediaError: binary data, or another encoding.
        CorruptMediaError: nothing but white space.
        LimitExceededError: more characters than ``limits.max_text_chars``.
    """
    label = source_label(source)
    data = read_source(source, limits)
    if len(data) > BYTES_PER_CHARACTER * limits.max_text_chars:
        raise _too_long(label, f"{len(data):,} bytes", limits)
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnsupportedMediaError(
            f"{label}: not UTF-8 text (byte {error.start}), expected text; convert it to UTF-8"
        ) from error
    if "\x00" in text:
        raise UnsupportedMediaError(f"{label}: binary data, expected text; pass a text file")
    if len(text) > limits.max_text_chars:
        raise _too_long(label, f"{len(text):,} characters", limits)
    if not text.strip():
        raise CorruptMediaError(f"{label}: blank, expected text; pass a file with content")
    return text


def _too_long(label: str, size: str, limits: Limits) -> LimitExceededError:
    return LimitExceededError(
        f"{label}: {size} of text, the limit is {limits.max_text_chars:,} characters; shorten it or raise "
        "Limits.max_text_chars"
    )
