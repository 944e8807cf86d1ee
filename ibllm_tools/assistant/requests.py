"""Questions on their way to the language model: as they are asked, checked, and with their attachments embedded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from ibllm_tools.assistant.answer import Evidence, Question
from ibllm_tools.errors import InvalidRequestError


@dataclass(frozen=True)
class PreparedQuestion:
    """A question whose attachments have become one embedding (1, E), if it has any."""

    question: Question
    embedding: Tensor | None
    evidence: tuple[Evidence, ...]
    cache: bool


def checked_question(
    text: str, attachments: tuple[Any, ...], weights: Sequence[float] | None, context: str | None
) -> Question:
    """The arguments of a call as a question.

    Raises:
        InvalidRequestError: one of another type.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(f"a question of type {type(text).__name__}, expected text; attachments come after it")
    try:
        return Question(
            text=text,
            attachments=attachments,
            weights=weights,  # type: ignore[arg-type]  # pydantic makes a tuple of them, and refuses what is none
            context=context,
        )
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InvalidRequestError(
            f"{reasons}, expected a sequence of numbers as weights and text as context"
        ) from error


def require_words(question: Question) -> None:
    """Refuse a question that says nothing; raises as :func:`require_text` does, too.

    Raises:
        InvalidRequestError: it is such a question.
    """
    if not question.text.strip():
        raise InvalidRequestError("the question is empty; ask something, or use describe")
    require_text(question.text, question.context)


def require_text(question: str, context: str | None) -> None:
    """Refuse what cannot be encoded: JSON may smuggle in halves of surrogate pairs.

    Raises:
        InvalidRequestError: there is such a half.
    """
    try:
        f"{question}{context or ''}".encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            "the question or its context holds half a surrogate pair, expected valid unicode"
        ) from error


def shares(question: Question) -> list[float]:
    """The weights of the attachments, made to add up to 1.

    Raises:
        InvalidRequestError: they do not fit.
    """
    count = len(question.attachments)
    weights = [1.0] * count if question.weights is None else list(question.weights)
    if len(weights) != count:
        raise InvalidRequestError(f"{len(weights)} weights for {count} attachments; give one weight per attachment")
    if count and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
        raise InvalidRequestError(f"weights {weights}, expected finite, non-negative numbers that are not all zero")
    most = max(weights, default=1.0)  # large ones would add up to infinity
    scaled = [weight / most for weight in weights]
    return [weight / sum(scaled) for weight in scaled]
