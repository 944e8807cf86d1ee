"""How an answer is written: the model's own generation settings, and what a caller changes of them."""

import copy
import math
from typing import TypedDict

from transformers import GenerationConfig

from ibllm_tools.errors import InvalidRequestError

DEFAULT_NEW_TOKENS = 256


class Sampling(TypedDict, total=False):
    """What a caller may choose; the model's own ``generation_config`` decides the rest.

    Attributes:
        max_new_tokens: length of the answer at most, at least 1.
        temperature: 0 takes the likeliest token every time, more draws among them.
        top_p: draw from the smallest set of tokens that holds this share of the probability, above 0 and up to 1.
    """

    max_new_tokens: int | None
    temperature: float | None
    top_p: float | None


def generation_config(
    own: GenerationConfig,
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    **unknown: object,
) -> GenerationConfig:
    """The model's settings with those of one call.

    Raises:
        InvalidRequestError: a value out of its range or of another type, or a setting that there is not.
    """
    if unknown:
        raise InvalidRequestError(
            f"unknown setting {', '.join(unknown)}; expected {', '.join(Sampling.__annotations__)}"
        )
    _check(max_new_tokens, temperature, top_p)
    config = copy.deepcopy(own)
    config.max_new_tokens = max_new_tokens or own.max_new_tokens or DEFAULT_NEW_TOKENS
    config.max_length = None  # max_new_tokens says it
    if config.pad_token_id is None:
        config.pad_token_id = min(end_tokens(config), default=0)
    if temperature is not None or top_p is not None:
        config.do_sample = temperature != 0
        config.temperature = float(temperature) if temperature is not None else own.temperature
        config.top_p = float(top_p) if top_p is not None else own.top_p
        config.top_k = own.top_k or 0  # transformers would cut to 50 tokens unasked
    if not config.do_sample:
        config.do_sample, config.temperature, config.top_p, config.top_k = False, None, None, None
    return config


def end_tokens(config: GenerationConfig) -> list[int]:
    """The tokens that end an answer."""
    ids = config.eos_token_id
    return [] if ids is None else [int(id_) for id_ in (ids if isinstance(ids, list) else [ids])]


def _check(max_new_tokens: int | None, temperature: float | None, top_p: float | None) -> None:
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if value is not None and not isinstance(value, int | float):
            raise InvalidRequestError(f"{name}={value!r}, expected a number")
    if max_new_tokens is not None and not isinstance(max_new_tokens, int):
        raise InvalidRequestError(f"max_new_tokens={max_new_tokens!r}, expected a whole number")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise InvalidRequestError(f"max_new_tokens={max_new_tokens}, expected at least 1")
    if temperature is not None and not 0 <= temperature < math.inf:
        raise InvalidRequestError(f"temperature={temperature}, expected 0 (no randomness) or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise InvalidRequestError(f"top_p={top_p}, expected more than 0 and at most 1")
