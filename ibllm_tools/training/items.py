"""Texts as training items: token ids, and labels that count the answer only."""

from typing import TypedDict

from transformers import PreTrainedTokenizerBase

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import IGNORED_LABEL
from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor

CAPTION_INSTRUCTION = "Generate caption of this image"


class TokenItem(TypedDict):
    """One sequence: ids (L,) and labels (L,), shifted by the model; -100 does not count."""

    input_ids: list[int]
    labels: list[int]


def instruction_item(
    processor: ImageBindLlmProcessor,
    instruction: str,
    answer: str,
    *,
    input: str | None = None,
    max_words: int = 512,
    official_repr_quirk: bool = False,
) -> TokenItem:
    """An instruction with its answer, which follows the prompt directly; only the answer and the end token count.

    Args:
        processor: templates and tokenizer.
        instruction: what is asked.
        answer: what is to be said.
        input: further context of the instruction, if any.
        max_words: tokens that are kept; a longer item is cut and has no end token.
        official_repr_quirk: write the instruction as Python writes a tuple of it, ``('What is it?',)``. The research
            code does so, by a stray comma, in items without an image.

    Raises:
        InvalidRequestError: the instruction is empty, or the tokenizer has no end token.
    """
    shown = str((instruction,)) if official_repr_quirk else instruction
    prompt = processor.format_prompt(shown, input)
    ids, prompt_length = _encoded(processor.tokenizer, prompt, answer)
    labels = [IGNORED_LABEL] * min(prompt_length, len(ids)) + ids[prompt_length:]
    return {"input_ids": ids[:max_words], "labels": labels[:max_words]}


def _encoded(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> tuple[list[int], int]:
    """Begin, prompt, answer and end as ids, and how many of them the prompt has on its own, its begin included."""
    if tokenizer.eos_token_id is None:
        raise InvalidRequestError("the tokenizer has no end token: set eos_token, or answers never learn to end")
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    prompt_ids, whole_ids = tokenizer([prompt, prompt + answer], add_special_tokens=False)["input_ids"]
    return [*begin, *whole_ids, tokenizer.eos_token_id], len(begin) + len(prompt_ids)
