"""Answers that are JSON of a schema: the model may write only what leads to one, and always gets to its end in time.

llguidance says which tokens the schema allows. On top of that, a way to the end that fits into the tokens that are left
is known at every moment (:mod:`~ibllm_tools.assistant.completion`): a token after which there were none is not taken.
"""

import json
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ibllm_tools.assistant.completion import MOST_STEPS, Landmarks, Vocabulary, shortest_completion
from ibllm_tools.assistant.json_position import JsonPosition
from ibllm_tools.assistant.schemas import Schema, as_json_schema, closed, pattern_bytes, property_names
from ibllm_tools.errors import IncompatibleModelError, InvalidRequestError, MissingExtraError, one_line

if TYPE_CHECKING:
    from llguidance import LLMatcher

TRIES = 8
"""Tokens that are drawn before the known way is followed, where those drawn lead too far."""
FEW_STEPS = 2_000
"""Of a search that may fail: for a way on from a token, of which there are others, or before patterns are looked at."""
STEPS_PER_TOKEN = 40
"""The same for long ways."""
STRICT = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
    "coerce_one_of": False,
}
"""Compact JSON, and nothing of a schema is ignored, whatever it asks for itself."""


class SchemaCompiler:
    """Makes grammars of schemas, for one language model. It may be used from several threads at once.

    Args:
        tokenizer: the language model's.
        width: of its logits, V.
        ends: the tokens that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, width: int, ends: Sequence[int]) -> None:
        self._tokenizer, self._width, self._ends = tokenizer, width, list(ends)
        self._lock = Lock()
        self._vocabulary: Vocabulary | None = None

    def compile(self, schema: Schema, longest: int) -> "AnswerGrammar":
        """The grammar of a schema.

        Args:
            schema: a JSON schema, or a pydantic model.
            longest: tokens of an answer at most.

        Raises:
            InvalidRequestError: it is none, it says what cannot be expressed, or no answer that short satisfies it.
            IncompatibleModelError: the model's tokenizer cannot be constrained.
            MissingExtraError: llguidance is not installed.
        """
        whole = closed(as_json_schema(schema))
        text = json.dumps(whole)
        llguidance, vocabulary = _llguidance(), self._opened()
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=STRICT)
            matcher = llguidance.LLMatcher(vocabulary.tokenizer, grammar, log_level=0)
            reason = matcher.get_error()
        except ValueError as error:  # half a surrogate pair, say
            reason = str(error)
        if reason:
            raise InvalidRequestError(f"schema {one_line(text, 60)} cannot be followed: {one_line(reason)}")
        landmarks = Landmarks(property_names(whole), pattern_bytes(whole))
        return AnswerGrammar(matcher, vocabulary, longest, landmarks)

    def _opened(self) -> Vocabulary:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = _vocabulary(self._tokenizer, self._width, self._ends)
            return self._vocabulary


class AnswerGrammar:
    """What answers of a schema look like.

    Args:
        matcher: at the beginning.
        vocabulary: of the language model.
        longest: tokens of an answer at most.
        landmarks: of the schema.

    Attributes:
        shortest: the shortest answer that was found.

    Raises:
        InvalidRequestError: no answer is that short.
    """

    def __init__(self, matcher: "LLMatcher", vocabulary: Vocabulary, longest: int, landmarks: Landmarks) -> None:
        self.matcher, self.vocabulary = matcher, vocabulary
        self._landmarks = landmarks._replace(marks=b"")
        way = self.way_on(matcher, JsonPosition(), longest, FEW_STEPS if landmarks.marks else MOST_STEPS)
        if way is None and landmarks.marks:  # they make the search longer, and few patterns need them
            self._landmarks = landmarks
            way = self.way_on(matcher, JsonPosition(), longest)
        if not way:
            raise InvalidRequestError(
                f"no answer was found that fits the schema and has {longest:,} tokens or fewer, which is all that the "
                "model reads and writes; ask for less, or without patterns"
            )
        self.shortest = way

    def way_on(
        self, matcher: "LLMatcher", position: JsonPosition, limit: int, steps: int = MOST_STEPS
    ) -> list[int] | None:
        """The shortest way from a place to the end of an answer; see `shortest_completion`."""
        return shortest_completion(matcher, position, self.vocabulary, limit, self._landmarks, steps)


class SchemaProcessor(LogitsProcessor):
    """Chooses the next token of each row; of the scores only its own is left.

    Args:
        grammar: of the answers.
        rows: how many there are, B.
        budget: tokens that each may have, at least as many as the shortest answer.
        config: how tokens are drawn.
    """

    def __init__(self, grammar: AnswerGrammar, rows: int, budget: int, config: GenerationConfig) -> None:
        warpers = _warpers(config)
        self.rows = [_Row(grammar, budget, warpers) for _ in range(rows)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) of which one per row is finite."""
        chosen = torch.full_like(scores, -torch.inf)
        for index, (row, likely) in enumerate(zip(self.rows, scores.float().cpu(), strict=True)):
            chosen[index, row.next_token(likely)] = 0.0
        return chosen


class SchemaEnd(StoppingCriteria):
    """Stops each row at the end of its JSON."""

    def __init__(self, processor: SchemaProcessor) -> None:
        self._processor = processor

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which rows have ended, (B,)."""
        return torch.tensor([row.ended for row in self._processor.rows], device=input_ids.device)


class _Row:
    """One answer while it is written.

    Attributes:
        tokens: those chosen so far.
        complete: whether they are a whole answer.
        ended: whether nothing may follow.
    """

    def __init__(self, grammar: AnswerGrammar, budget: int, warpers: LogitsProcessorList | None) -> None:
        self._grammar, self._vocabulary = grammar, grammar.vocabulary
        self._budget, self._warpers = budget, warpers
        self._matcher = grammar.matcher.deep_copy()
        self._position = JsonPosition()
        self._way = grammar.shortest
        self.tokens: list[int] = []
        self.complete = self.ended = False

    @property
    def text(self) -> str:
        """What has been written; half a character at the end is left out."""
        ends = self._vocabulary.ends
        written = self._vocabulary.text([token for token in self.tokens if token not in ends])
        return written.decode("utf-8", errors="ignore")

    def next_token(self, scores: Tensor) -> int:
        """The token that is taken, by scores (V,)."""
        ends = self._vocabulary.ends
        if self.ended:
            return ends[0]
        allowed = torch.from_numpy(self._vocabulary.allowed(self._matcher))
        likely = scores.masked_fill(~allowed, -torch.inf)
        if not self._matcher.is_accepting():
            # where the model would end, it takes the shortest way to an end
            likely[self._way[0]] = torch.maximum(likely[self._way[0]], scores[ends].max())
        for _ in range(TRIES):
            if not bool((likely > -torch.inf).any()):
                break
            token = self._draw(likely)
            if token in ends or self._take(token):
                return self._taken(token)
            likely[token] = -torch.inf
        token = self._way[0] if self._way else ends[0]
        self._follow(token)
        return self._taken(token)

    def _draw(self, likely: Tensor) -> int:
        if self._warpers is None:
            return int(likely.argmax())
        ids = torch.empty(1, 0, dtype=torch.long)  # they do not look at what was written
        warped = self._warpers(ids, likely[None])  # type: ignore[arg-type]  # a LongTensor is a Tensor
        return int(torch.multinomial(warped.softmax(-1)[0], 1))

    def _taken(self, token: int) -> int:
        self.tokens.append(token)
        self.complete = self._matcher.is_accepting()
        self.ended = token in self._vocabulary.ends or self._matcher.is_stopped()
        return token

    def _follow(self, token: int) -> None:
        if self._way:
            if not self._matcher.consume_token(token):  # a limit of llguidance was reached
                raise InvalidRequestError(f"the schema cannot be followed: {one_line(self._matcher.get_error())}")
            self._position = self._position.after(self._vocabulary.texts[token])
            self._way = self._way[1:]

    def _take(self, token: int) -> bool:
        """Go on with a token, unless there is no short enough way from there."""
        if self._way and token == self._way[0]:
            self._follow(token)
            return True
        left = self._budget - len(self.tokens) - 1
        matcher, position = self._matcher.deep_copy(), self._position.after(self._vocabulary.texts[token])
        if position.rambles or position.repeated or not matcher.consume_token(token):
            return False
        way = self._rest_of_way(matcher, position, left)
        if way is None:
            steps = max(FEW_STEPS, STEPS_PER_TOKEN * len(self._way))
            way = self._grammar.way_on(matcher, position, left, steps)
        if way is None:
            return False
        self._matcher, self._position, self._way = matcher, position, way
        return True

    def _rest_of_way(self, matcher: "LLMatcher", position: JsonPosition, left: int) -> list[int] | None:
        """The shortest end of the known way that leads on from here, which most often there is."""
        for begin in range(len(self._way), -1, -1):
            rest = self._way[begin:]
            if len(rest) > left:
                return None
            end = [*rest, self._vocabulary.ends[0]]
            if matcher.validate_tokens(end) == len(end):
                return None if position.after(self._vocabulary.text(rest)).repeated else rest
        return None


def _llguidance() -> Any:
    try:
        import llguidance.hf
    except ImportError as error:
        raise MissingExtraError("structured answers", "llguidance", "structured") from error
    return llguidance


def _vocabulary(tokenizer: PreTrainedTokenizerBase, width: int, ends: Sequence[int]) -> Vocabulary:
    from_tokenizer = _llguidance().hf.from_tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise IncompatibleModelError(
            f"tokenizer {type(tokenizer).__name__}: structured answers need a fast one, of the tokenizers library"
        )
    if not ends and tokenizer.eos_token_id is None:
        raise IncompatibleModelError("the model has no token that ends an answer: structured answers need one")
    ends = ends or [tokenizer.eos_token_id]
    return Vocabulary(from_tokenizer(tokenizer, n_vocab=width, eos_token=list(ends)), ends)


def _warpers(config: GenerationConfig) -> LogitsProcessorList | None:
    """How scores become odds, where tokens are drawn and not just the likeliest is taken."""
    if not config.do_sample:
        return None
    warpers = LogitsProcessorList()
    if config.temperature not in (None, 1.0):
        warpers.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        warpers.append(TopKLogitsWarper(config.top_k))
    if config.top_p not in (None, 1.0):
        warpers.append(TopPLogitsWarper(config.top_p))
    return warpers
