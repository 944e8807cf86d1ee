"""Texts at which an answer ends."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from ibllm_tools.errors import InvalidRequestError, one_line
from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor


class StopTexts:
    """The texts before the first of which an answer ends.

    Args:
        stop: one text, several, or none.

    Raises:
        InvalidRequestError: something else, or a text without characters.
    """

    def __init__(self, stop: str | Sequence[str] | None) -> None:
        texts = [stop] if isinstance(stop, str) else ([] if stop is None else stop)
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
            raise InvalidRequestError(f"stop={one_line(repr(stop))}, expected a text or several, none of them empty")
        self.texts = tuple(texts)

    @property
    def longest(self) -> int:
        """Bytes of the longest text in UTF-8, and so its tokens at most."""
        return max((len(text.encode("utf-8", "surrogatepass")) for text in self.texts), default=0)

    def cut(self, text: str) -> str:
        """What comes before the first of them, or the whole text."""
        places = [text.find(stop) for stop in self.texts]
        return text[: min((place for place in places if place >= 0), default=len(text))]

    def held(self, text: str) -> int:
        """How many of the last characters may be the beginning of one of them."""
        for size in range(min(len(text), max(map(len, self.texts), default=1) - 1), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self.texts):
                return size
        return 0


class StopAtTexts(StoppingCriteria):
    """Stops each row when one of the texts is in it.

    Args:
        stops: the texts.
        processor: the model's, which decodes.
        read: tokens of the prompt, which do not count, L.
        rows: B.

    Attributes:
        lengths: tokens that each row had when it stopped, (B,); None for those that have not.
    """

    def __init__(self, stops: StopTexts, processor: ImageBindLlmProcessor, read: int, rows: int) -> None:
        self._stops, self._processor, self._read = stops, processor, read
        # the first characters of a part may be halves, and the first token may lose its space
        self._window = stops.longest + 8
        self.lengths: list[int | None] = [None] * rows

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which rows have stopped, (B,)."""
        for row, ids in enumerate(input_ids[:, self._read :].tolist()):
            if self.lengths[row] is None and self._stops_in(ids):
                self.lengths[row] = len(ids)
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)

    def _stops_in(self, ids: list[int]) -> bool:
        text = self._processor.decode(ids[-self._window :], strip=False)
        if len(ids) <= self._window:
            text = text.lstrip()  # as answers are
        return self._stops.cut(text) != text
