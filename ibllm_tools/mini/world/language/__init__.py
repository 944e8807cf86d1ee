"""All text of the world: captions, questions and answers, the language model's corpus.

The tokenizers are in `ibllm_tools.mini.world.language.tokenization`, which imports transformers.
"""

from ibllm_tools.mini.world.language.corpus import TextItem, text_corpus
from ibllm_tools.mini.world.language.dialogue import (
    KNOWLEDGE_HELD_OUT_KINDS,
    Parsed,
    answer_to,
    example,
    is_correct,
    may_be_trained_with_attachment,
    parse_answer,
)
from ibllm_tools.mini.world.language.phrasings import PHRASINGS, Flavour, Split, Task
from ibllm_tools.mini.world.language.words import ThingWords, captions

PROMPT = "{question}\n"
"""What the language model reads before its answer; the answer's first word follows directly."""

__all__ = [
    "KNOWLEDGE_HELD_OUT_KINDS",
    "PHRASINGS",
    "PROMPT",
    "Flavour",
    "Parsed",
    "Split",
    "Task",
    "TextItem",
    "ThingWords",
    "answer_to",
    "captions",
    "example",
    "is_correct",
    "may_be_trained_with_attachment",
    "parse_answer",
    "text_corpus",
]
