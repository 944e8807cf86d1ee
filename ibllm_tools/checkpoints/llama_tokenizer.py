"""LLaMA's ``tokenizer.model`` as a transformers tokenizer, without the sentencepiece package.

The file is a SentencePiece ``ModelProto``: a protobuf message whose field 1 repeats the pieces, each with its text (1),
its score (2) and its type (3).
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from transformers import LlamaTokenizer

from ibllm_tools.errors import CheckpointError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BITS = 64
_NORMAL = 1


def load_llama_tokenizer(path: str | Path) -> LlamaTokenizer:
    """Read a SentencePiece BPE model, e.g. LLaMA's ``tokenizer.model``.

    Raises:
        CheckpointError: the file cannot be read, or is no SentencePiece model.
    """
    try:
        message = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; expected LLaMA's tokenizer.model") from error
    try:
        pieces = list(_pieces(message))
    except (IndexError, TypeError, ValueError, struct.error) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model; expected LLaMA's tokenizer.model") from error
    if not pieces:
        raise CheckpointError(f"{path}: no vocabulary in it; expected LLaMA's tokenizer.model")
    vocabulary = {text: index for index, (text, _, _) in enumerate(pieces)}
    scores = {text: score for text, score, kind in pieces if kind == _NORMAL}
    return LlamaTokenizer(vocab=vocabulary, merges=_merges(vocabulary, scores), add_bos_token=True)


def _merges(vocabulary: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third one, the best score first, as SentencePiece's BPE joins them."""
    merges = [
        (-score, vocabulary[text[:cut]], vocabulary[text[cut:]], text[:cut], text[cut:])
        for text, score in scores.items()
        for cut in range(1, len(text))
        if text[:cut] in vocabulary and text[cut:] in vocabulary
    ]
    return [(left, right) for *_, left, right in sorted(merges)]


def _pieces(message: bytes) -> Iterator[tuple[str, float, int]]:
    """Text, score and type of every piece, in the order of their ids."""
    for number, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            fields = dict(_fields(value))
            text, score, kind = fields.get(1, b""), fields.get(2, 0.0), fields.get(3, _NORMAL)
            if not isinstance(text, bytes):
                raise ValueError("the text of a piece is a number")
            yield text.decode("utf-8"), float(score), int(kind)


def _fields(message: bytes) -> Iterator[tuple[int, bytes | float | int]]:
    """The fields of a protobuf message: number and raw value."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            yield number, value
        elif wire_type == _BYTES:
            length, position = _varint(message, position)
            if position + length > len(message):
                raise IndexError("truncated message")
            yield number, message[position : position + length]
            position += length
        elif wire_type == _FIXED32:
            yield number, struct.unpack_from("<f", message, position)[0]
            position += 4
        elif wire_type == _FIXED64:
            position += 8
        else:
            raise IndexError(f"wire type {wire_type}")


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A little-endian base-128 number and the position after it."""
    value = shift = 0
    while shift < _VARINT_BITS:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 64 bits")
