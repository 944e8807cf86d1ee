"""An answer that is read while it is written."""

from collections.abc import Callable, Iterator
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, TextIteratorStreamer

from ibllm_tools.assistant.answer import Answer
from ibllm_tools.errors import InvalidRequestError


class AnswerStream(Iterator[str]):
    """The pieces of one answer, as the model writes them; put together they are ``answer.text``.

    The model starts with the first piece that is asked for, in a thread of its own; what fails there is raised here.
    Leaving early, with :meth:`close` or a ``with`` block, stops it at the next token.

    Args:
        tokenizer: the language model's.
        write: generates the whole answer, handing its tokens to a streamer, until it ends or is told to stop.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        write: Callable[[TextIteratorStreamer, StoppingCriteria], Answer],
    ) -> None:
        self._pieces = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="ibllm-answer", daemon=True)
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._started = self._ended = False
        self._text_seen = False
        self._held = ""  # white space, which counts only when text follows

    def __next__(self) -> str:
        while not self._ended:
            if not self._started:
                self._started = True
                self._thread.start()
            piece: str | None = next(self._pieces, None)
            if piece is None:
                self._end()
                break
            text = self._held + (piece if self._text_seen else piece.lstrip())
            visible: str = text.rstrip()
            self._held = text[len(visible) :]
            if visible:
                self._text_seen = True
                return visible
        raise StopIteration

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
            self._answer = self._write(self._pieces, _StopWhen(self._stopped))
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
