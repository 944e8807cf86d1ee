"""The two tokenizers of the embedded model, trained on its own texts: the language model's and the text encoder's."""

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from ibllm_tools.errors import InvalidRequestError

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD = "</w>"
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_tokenizer(corpus: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """The language model's tokenizer: byte-level BPE.

    Ids 0, 1 and 2 are ``<pad>``, ``<s>`` and ``</s>``, then come the 256 bytes, so that every text can be encoded, and
    decoding gives it back exactly. ``<s>`` is put in front; who trains appends ``eos_token_id``. Digits stand alone.
    ``<s>`` or ``</s>`` inside a text are plain characters: nobody ends an answer from within a question.

    Args:
        corpus: texts; the merges are learnt from them.
        vocab_size: at least 259. A corpus with fewer merges than that leaves it smaller.

    Raises:
        InvalidRequestError: ``vocab_size`` cannot hold the bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _check_size(vocab_size, 3 + len(alphabet))
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )


def train_clip_tokenizer(corpus: Iterable[str], vocab_size: int) -> CLIPTokenizer:
    """The text encoder's tokenizer: CLIP's, with its word pattern, lower case and ``</w>``, and a small vocabulary.

    The vocabulary is the 256 bytes (id 0 is ``!``, as in CLIP), the same with ``</w>``, the merges, the start and the
    end token. The end token has the highest id: the text encoder pools where the ids are largest.

    Args:
        corpus: texts; the merges are learnt from them.
        vocab_size: at least 514. A corpus with fewer merges than that leaves it smaller.

    Raises:
        InvalidRequestError: ``vocab_size`` cannot hold the bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [*alphabet, *(letter + _END_OF_WORD for letter in alphabet)]
    _check_size(vocab_size, len(letters) + 2)
    merges = _clip_merges(corpus, vocab_size, alphabet)[: vocab_size - len(letters) - 2]
    tokens = list(dict.fromkeys([*letters, *(left + right for left, right in merges)]))
    vocab = {token: index for index, token in enumerate([*tokens, CLIP_START, CLIP_END])}
    return CLIPTokenizer(vocab=vocab, merges=merges)  # type: ignore[arg-type]  # annotated list[str], takes only pairs


def _clip_merges(corpus: Iterable[str], vocab_size: int, alphabet: list[str]) -> list[tuple[str, str]]:
    backend = Tokenizer(models.BPE(end_of_word_suffix=_END_OF_WORD))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, end_of_word_suffix=_END_OF_WORD, show_progress=False
    )
    backend.train_from_iterator(corpus, trainer)
    return [(left, right) for left, right in json.loads(backend.to_str())["model"]["merges"]]


def _check_size(vocab_size: int, smallest: int) -> None:
    if vocab_size < smallest:
        raise InvalidRequestError(
            f"vocab_size={vocab_size}: the bytes and the special tokens alone are {smallest}; pass {smallest} or more"
        )
