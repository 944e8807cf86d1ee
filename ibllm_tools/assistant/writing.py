"""Let the language model write: what ends an answer, and what may be in it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from transformers import (
    BatchEncoding,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from ibllm_tools.assistant.answer import FinishReason
from ibllm_tools.assistant.constrained import AnswerGrammar, SchemaEnd, SchemaProcessor
from ibllm_tools.assistant.generation import end_tokens
from ibllm_tools.assistant.stop_texts import StopAtTexts, StopTexts
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration
from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor


@dataclass(frozen=True)
class Writing:
    """How the answers of a call are written.

    Attributes:
        config: how tokens are chosen, and how many there may be.
        grammar: what answers look like, where they are to be JSON.
        stops: where they end.
    """

    config: GenerationConfig
    grammar: AnswerGrammar | None = None
    stops: StopTexts = StopTexts(None)  # noqa: RUF009  # immutable

    @property
    def fewest(self) -> int:
        """Tokens of the shortest answer."""
        return 1 if self.grammar is None else len(self.grammar.shortest)


class Live(NamedTuple):
    """What follows an answer while it is written, and may stop it."""

    streamer: TextIteratorStreamer
    stop: StoppingCriteria


class Written(NamedTuple):
    """What the language model wrote for one question."""

    text: str
    tokens: int
    finish_reason: FinishReason


def write(
    model: ImageBindLlmForConditionalGeneration,
    processor: ImageBindLlmProcessor,
    prompts: BatchEncoding,
    embeddings: dict[str, Tensor],
    writing: Writing,
    live: Live | None = None,
) -> list[Written]:
    """An answer per prompt.

    Args:
        model: the model.
        processor: its processor.
        prompts: ``input_ids`` and ``attention_mask``, (B, L).
        embeddings: what the model sees, as arguments of its ``generate``.
        writing: how answers are written; a grammar's shortest answer must fit.
        live: of a single answer that is streamed.
    """
    rows, read = prompts["input_ids"].shape
    config = copy.copy(writing.config)
    config.max_new_tokens = min(config.max_new_tokens, model.config.text_config.max_position_embeddings - read)
    criteria = StoppingCriteriaList([] if live is None else [live.stop])
    schema = None
    if writing.grammar is not None:
        config.num_beams = 1  # rows are followed one by one
        schema = SchemaProcessor(writing.grammar, rows, config.max_new_tokens, config)
        criteria.append(SchemaEnd(schema))
    stopped = StopAtTexts(writing.stops, processor, read, rows)
    if writing.stops.texts:
        criteria.append(stopped)
    ids = model.generate(
        **prompts,
        **embeddings,
        generation_config=config,
        logits_processor=LogitsProcessorList([] if schema is None else [schema]),
        stopping_criteria=criteria,
        streamer=None if live is None else live.streamer,
    )
    if schema is not None:
        return [Written(row.text, len(row.tokens), "stop" if row.complete else "length") for row in schema.rows]
    ends = end_tokens(config)
    return [
        _written(processor, row[read:].tolist(), ends, writing.stops, length)
        for row, length in zip(ids, stopped.lengths, strict=True)
    ]


def _written(
    processor: ImageBindLlmProcessor, ids: list[int], ends: Sequence[int], stops: StopTexts, stopped: int | None
) -> Written:
    last = next((place for place, token in enumerate(ids) if token in ends), None)
    length = len(ids) if last is None else last + 1
    if stopped is not None:
        length = min(length, stopped)
    raw = processor.decode(ids[:length], strip=False).lstrip()
    text = stops.cut(raw)
    ended = last is not None or text != raw
    return Written(text.rstrip(), length, "stop" if ended else "length")
