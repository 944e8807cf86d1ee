"""`ImageBindLLM`: the same model for chains of plain prompts."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.language_models.llms import LLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from pydantic import Field, field_validator

from ibllm_tools.assistant.answer import Answer, Question
from ibllm_tools.errors import IbllmError
from langchain_ibllm.answers import PROVIDER, metadata, usage
from langchain_ibllm.asking import Request, aask, ask, ask_together, read_aside
from langchain_ibllm.batching import abatched, batched
from langchain_ibllm.local_model import CONFIG, LocalModel


class ImageBindLLM(LocalModel, LLM):
    """Answers plain prompts, each on its own or about the same ``media``.

    They are opened by the same rules as in :class:`~langchain_ibllm.ChatImageBindLLM`: no paths, unless ``roots`` say
    so. A generation's ``generation_info`` holds what a message's ``response_metadata`` does there.

    Example:
        >>> chain = PromptTemplate.from_template("What is the use of a {thing}?") | ImageBindLLM()
        >>> chain.batch([{"thing": "bell"}, {"thing": "car"}])
        >>> ImageBindLLM(media=["media/bell.wav"], roots="media").batch(["What is this?", "What colour is it?"])
    """

    model_config = CONFIG

    # A field, and no argument of a call: LangChain's cache looks at the fields alone.
    media: tuple[str, ...] = Field(
        default=(), description="What every prompt is about: path, URL, data URI or att:// handle, or several."
    )

    @field_validator("media", mode="before")
    @classmethod
    def _media_as_texts(cls, value: Any) -> Any:
        items = (value,) if isinstance(value, str | Path) else value
        if not isinstance(items, list | tuple):
            return value
        return tuple(str(item) if isinstance(item, Path) else item for item in items)

    @property
    def _llm_type(self) -> str:
        return "imagebind-llm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**self.described(), "media": self.media}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Whether ``dumps`` writes it: always; one with a ready assistant or an opened library cannot be loaded."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where ``load`` finds the class."""
        return ["langchain_ibllm", "llms"]

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = PROVIDER
        params["ls_model_name"] = self.model_name_of(kwargs.get("model"))
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """The text as the language model's tokens."""
        return self.token_ids(text) if self.custom_get_token_ids is None else self.custom_get_token_ids(text)

    def _call(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> str:
        return ask(self, self._request(prompt, stop, **kwargs)).text

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        requests = [self._request(prompt, stop, **kwargs) for prompt in prompts]
        if len(requests) == 1:
            return _result([ask(self, requests[0])])
        return _result(self._all(requests))

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        def requested() -> list[Request]:
            return [self._request(prompt, stop, **kwargs) for prompt in prompts]

        requests = await asyncio.to_thread(requested)
        if len(requests) == 1:
            return _result([await aask(self, requests[0])])
        return _result(await asyncio.to_thread(self._all, requests))

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        with self._request(prompt, stop, **kwargs).open_stream() as stream:
            for piece in stream:
                chunk = GenerationChunk(text=piece)
                if run_manager:
                    run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
        yield GenerationChunk(text="", generation_info=_info(stream.answer))

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        request = await asyncio.to_thread(self._request, prompt, stop, **kwargs)
        stream = await asyncio.to_thread(request.open_stream)
        try:
            async for piece in read_aside(stream):
                chunk = GenerationChunk(text=piece)
                if run_manager:
                    await run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
        finally:
            stream.stop()
        yield GenerationChunk(text="", generation_info=_info(stream.answer))

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Answer several prompts, ``batch_size`` at a time, which the model does together; arguments as LangChain's.

        Each keeps its own callbacks, cache and error.
        """

        def invoke(value: LanguageModelInput, own: RunnableConfig) -> str:
            return self.invoke(value, own, **kwargs)

        return batched(self, invoke, inputs, config, self.batch_size, return_exceptions)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """:meth:`batch` without blocking the event loop."""

        async def ainvoke(value: LanguageModelInput, own: RunnableConfig) -> str:
            return await self.ainvoke(value, own, **kwargs)

        return await abatched(self, ainvoke, inputs, config, self.batch_size, return_exceptions)

    def _request(
        self,
        prompt: str,
        stop: Sequence[str] | None,
        *,
        model: str | None = None,
        **sampling: Any,
    ) -> Request:
        options = self.sampling(**sampling) | self.stopping(stop)
        assistant = self.answering(model)
        return self.requested(assistant, Question(text=prompt, attachments=self.media), options)

    def _all(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers to all of them; the first error is raised."""
        answers: list[Answer] = []
        for start in range(0, len(requests), self.batch_size):
            for answer in ask_together(requests[start : start + self.batch_size]):
                if isinstance(answer, IbllmError):
                    raise answer
                answers.append(answer)
        return answers


def _result(answers: Sequence[Answer]) -> LLMResult:
    used = [usage(answer) for answer in answers]
    return LLMResult(
        generations=[[Generation(text=answer.text, generation_info=_info(answer))] for answer in answers],
        llm_output={
            "model_name": answers[0].model if answers else None,
            "token_usage": {
                "prompt_tokens": sum(each["input_tokens"] for each in used),
                "completion_tokens": sum(each["output_tokens"] for each in used),
                "total_tokens": sum(each["total_tokens"] for each in used),
            },
        },
    )


def _info(answer: Answer) -> dict[str, Any]:
    return {**metadata(answer), "usage": dict(usage(answer))}
