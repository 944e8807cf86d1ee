"""Text as ImageBind reads it: CLIP's byte-pair encoding, with the cleaning that comes before it."""

import gzip
import html
import itertools
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ftfy
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from ibllm_tools.errors import CheckpointError, one_line

START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"
WORD_END = "</w>"
PAD_ID = 0
"""What fills a text up; the text tower is causal, so what stands after the end token is never seen."""

CLIP_MERGES = 49_152 - 256 - 2
"""How many lines of CLIP's merge file count; the file has more."""


def clean_text(text: str) -> str:
    """Mend broken unicode, resolve HTML entities (twice), join whitespace, lower the case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text.strip()).strip().lower()


def _byte_symbols() -> list[str]:
    """One printable character per byte value, the naturally printable ones first, as byte-level BPE numbers them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(256 + index) for index in range(others)]


def clip_tokenizer(merges: Sequence[tuple[str, str]]) -> CLIPTokenizer:
    """CLIP's tokenizer over the given merges; the start and end tokens get the two highest ids.

    Args:
        merges: pairs of symbols, the most frequent first.
    """
    symbols = _byte_symbols()
    tokens = itertools.chain(
        symbols,
        (symbol + WORD_END for symbol in symbols),
        (left + right for left, right in merges),
        (START_TOKEN, END_TOKEN),
    )
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs: Any = list(merges)  # annotated as strings, but handed on to tokenizers.models.BPE, which takes pairs
    return CLIPTokenizer(vocab=vocabulary, merges=pairs)


def clip_tokenizer_from_bpe(path: str | Path) -> CLIPTokenizer:
    """The tokenizer of CLIP and ImageBind, from CLIP's ``bpe_simple_vocab_16e6.txt.gz`` (49408 tokens).

    Raises:
        CheckpointError: the file is missing or another one.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = itertools.islice(lines, 1, 1 + CLIP_MERGES)  # the first line names the version
            merges = [(left, right) for left, right in (row.split() for row in rows)]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise CheckpointError(
            f"{path}: not readable ({reason}); expected CLIP's bpe_simple_vocab_16e6.txt.gz, download it again"
        ) from error
    if not merges:
        raise CheckpointError(f"{path}: no merges in it; expected CLIP's bpe_simple_vocab_16e6.txt.gz")
    return clip_tokenizer(merges)


def text_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, context_length: int = 77, *, keep_end_token: bool = True
) -> list[int]:
    """A text as exactly ``context_length`` token ids: start, text, end, padded with 0.

    Args:
        tokenizer: from :func:`clip_tokenizer` or :func:`clip_tokenizer_from_bpe`.
        text: any text; it is cleaned first.
        context_length: how many ids.
        keep_end_token: cut a longer text *before* its end token. The copy of ImageBind inside ImageBind-LLM cuts the
            end token off as well (``False``), after which all long texts have the same embedding.
    """
    ids: list[int] = tokenizer(clean_text(text))["input_ids"]
    if len(ids) > context_length:
        ids = ids[: context_length - 1] + ids[-1:] if keep_end_token else ids[:context_length]
    return ids + [PAD_ID] * (context_length - len(ids))
