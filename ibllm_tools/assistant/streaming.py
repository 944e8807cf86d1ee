"""An answer that is read while it is written."""

from collections.abc import Callable, Iterator
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, TextIteratorStreamer

from ibllm_tools.assistant.answer import Answer
from ibllm_tools.assistant.stop_texts import StopTexts
from ibllm_tools.assistant.writing import Live
from ibllm_tools.errors import InvalidRequestError


class AnswerStream(Iterator[str]):
    """The pieces of one answer, as the model writes them; put together they are ``answer.text``.

    The model starts with the first piece that is asked for, in a thread of its own; what fails there is raised here.
    Leaving early, with :meth:`close` or a ``with`` block, stops it at the next token.

    Args:
        tokenizer: the language model's.
        write: generates the whole answer, handing its tokens to a streamer, until it ends or is told to stop.
        stops: the texts before the first of which it ends.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        write: Callable[[Live], Answer],
        stops: StopTexts,
    ) -> None:
        self._pieces = TextIteratorStreamer(
            tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        self._write, self._stops = write, stops
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="ibllm-answer", daemon=True)
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._started = self._ended = False
        self._text_seen = self._cut = False
        self._held = ""  # what counts only when text follows: white space, and the beginning of a stop text

    def __next__(self) -> str:
        while not self._ended:
            if not self._started:
                self._started = True
                self._thread.start()
            piece: str | None = next(self._pieces, None)
            if piece is None:
                self._end()
            if visible := self._visible(piece):
                return visible
        raise StopIteration

    def _visible(self, piece: str | None) -> str:
        """What can be shown with one more piece, or with none when there are no more."""
        if self._cut:
            return ""
        text = self._held + (piece or "")
        if not self._text_seen:
            text = text.lstrip()
        whole = self._stops.cut(text)
        self._cut = whole != text
        shown = whole if self._cut or piece is None else whole[: len(whole) - self._stops.held(whole)]
        visible = shown.rstrip()
        self._held = text[len(visible) :]
        self._text_seen = self._text_seen or bool(visible)
        return visible

    @property
    def answer(self) -> Answer:
        """The whole answer with its evidence, once the stream has ended; after `close`, as far as it was written.

        Raises:
            InvalidRequestError: it has not ended, or it failed.
        """
        if self._answer is None:
            raise InvalidRequestError("the answer is not complete; read the stream to its end first")
        return self._answer

    def stop(self) -> None:
        """Ask the model to stop at the next token, without waiting for it."""
        self._stopped.set()

    def close(self) -> None:
        """Stop, and wait until the model has stopped. Closing twice does nothing."""
        self.stop()
        self._ended = True
        if self._started:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._answer = self._write(Live(self._pieces, _StopWhen(self._stopped)))
        except BaseException as error:  # raised again where the stream is read
            self._error = error
        finally:
            self._pieces.text_queue.put(self._pieces.stop_signal)

    def _end(self) -> None:
        self._ended = True
        self._thread.join()
        if self._error is not None:
            raise self._error


class _StopWhen(StoppingCriteria):
    def __init__(self, event: Event) -> None:
        self._event = event

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self._event.is_set(), device=input_ids.device)  # (B,)
