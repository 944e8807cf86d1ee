"""The LLM: questions about images, sounds, videos, 3D models and texts, in LlamaIndex's messages."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core import instrumentation
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    TextBlock,
)
from llama_index.core.instrumentation.events.llm import LLMStructuredPredictEndEvent, LLMStructuredPredictStartEvent
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.types import TokenAsyncGen
from pydantic import BaseModel, Field, ValidationError

from ibllm_tools.errors import InvalidRequestError, one_line
from llama_index.llms.ibllm.blocks import image_source, turns
from llama_index.llms.ibllm.model_settings import ModelSettings
from llama_index.llms.ibllm.responses import (
    achat_responses,
    acompletion_responses,
    chat_response,
    chat_responses,
    completion_response,
    completion_responses,
)

if TYPE_CHECKING:
    from ibllm_tools.assistant.answer import Answer, Question
    from ibllm_tools.assistant.streaming import AnswerStream

Model = TypeVar("Model", bound=BaseModel)
dispatcher = instrumentation.get_dispatcher(__name__)  # type: ignore[attr-defined]  # as LlamaIndex's own do


class ImageBindLLM(ModelSettings, CustomLLM):
    """ImageBind-LLM as an LLM that hears, watches and looks.

    A conversation becomes one question: the last user message is asked, what comes before it is context as far as it
    fits, and what was shown last is what it is about. Where several attachments are shown together, the model perceives
    one mixed impression. Besides the settings below, each call takes ``temperature``, ``max_tokens``, ``top_p``,
    ``stop``, ``schema`` and ``use_cache``.

    A response's ``additional_kwargs`` hold ``evidence``, ``citations``, ``finish_reason`` and the tokens; ``raw`` is
    the whole `Answer`.

    Example:
        >>> llm = ImageBindLLM(roots=["media"])
        >>> message = ChatMessage(blocks=[TextBlock(text="What is this?"), AudioBlock(path="media/bell.wav")])
        >>> llm.chat([message]).message.content
    """

    temperature: float | None = Field(
        default=None, ge=0, description="0 takes the likeliest token every time; by default as the model says."
    )
    max_tokens: int | None = Field(default=None, ge=1, description="Length of an answer, at most.")

    @classmethod
    def class_name(cls) -> str:
        """Its name where it is written down."""
        return "ImageBindLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What it can read and write; loads the model."""
        from ibllm_tools.assistant.generation import DEFAULT_NEW_TOKENS

        window = self.assistant.context_length
        written = self.max_tokens or self.assistant.model.generation_config.max_new_tokens or DEFAULT_NEW_TOKENS
        return LLMMetadata(
            context_window=window,
            num_output=min(written, window // 4),  # more would leave prompts no room
            is_chat_model=True,
            model_name=self.model,
        )

    def to_payload(self) -> dict[str, Any]:
        """What events say of it, without loading the model."""
        return {
            "class_name": self.class_name(),
            "model_name": self.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last user message.

        Args:
            messages: oldest first. Images, sounds, videos, documents and citable blocks are opened as the settings
                allow; tool calls and thoughts are passed over.
            kwargs: see the class.

        Raises:
            InvalidRequestError: nothing is asked, it is too long, or a setting that there is not.
            AttachmentError: what a block holds cannot be used or may not be opened.
            IncompatibleModelError: the model has no tower for it.
        """
        return chat_response(self._ask(messages, kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """:meth:`chat`, piece by piece; the last response holds the details. Leaving it stops the model."""
        return chat_responses(self._stream(messages, kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """:meth:`chat` without blocking the event loop."""
        return chat_response(await asyncio.to_thread(self._ask, messages, kwargs))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """:meth:`stream_chat` without blocking the event loop."""
        return achat_responses(await asyncio.to_thread(self._stream, messages, kwargs))

    @llm_completion_callback()
    def complete(
        self, prompt: str, formatted: bool = False, *, image_documents: Sequence[Any] = (), **kwargs: Any
    ) -> CompletionResponse:
        """Answer a prompt.

        Args:
            prompt: a question or an instruction.
            formatted: whether the prompt is final already.
            image_documents: images, as `ImageBlock`, `ImageNode` or `ImageDocument`, that it is about.
            kwargs: see the class.

        Raises:
            IbllmError: as :meth:`chat`.
        """
        return completion_response(self._ask(self._prompted(prompt, formatted), kwargs, image_documents))

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, *, image_documents: Sequence[Any] = (), **kwargs: Any
    ) -> CompletionResponseGen:
        """:meth:`complete`, piece by piece; the last response holds the details. Leaving it stops the model."""
        return completion_responses(self._stream(self._prompted(prompt, formatted), kwargs, image_documents))

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, *, image_documents: Sequence[Any] = (), **kwargs: Any
    ) -> CompletionResponse:
        """:meth:`complete` without blocking the event loop."""
        messages = self._prompted(prompt, formatted)
        return completion_response(await asyncio.to_thread(self._ask, messages, kwargs, image_documents))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, *, image_documents: Sequence[Any] = (), **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """:meth:`stream_complete` without blocking the event loop."""
        messages = self._prompted(prompt, formatted)
        return acompletion_responses(await asyncio.to_thread(self._stream, messages, kwargs, image_documents))

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """The answer to a prompt, without blocking the event loop, not even while the model is loaded."""
        await asyncio.to_thread(lambda: self.assistant)  # prompts ask for the metadata
        return await super().apredict(prompt, **prompt_args)

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """:meth:`apredict`, piece by piece."""
        await asyncio.to_thread(lambda: self.assistant)
        return await super().astream(prompt, **prompt_args)

    @dispatcher.span
    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """An answer as an object: only JSON that fits its schema can be written (the extra ``structured``).

        Raises:
            MissingExtraError: the extra is not installed.
            InvalidRequestError: as :meth:`chat`; a schema that cannot be followed, or an answer that was cut off.
        """
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        messages = self._get_messages(prompt, **prompt_args)
        response = self.chat(messages, **{**(llm_kwargs or {}), "schema": output_cls})
        return _parsed(output_cls, response)

    @dispatcher.span
    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """:meth:`structured_predict` without blocking the event loop."""
        dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
        )
        await asyncio.to_thread(lambda: self.assistant)
        messages = self._get_messages(prompt, **prompt_args)
        response = await self.achat(messages, **{**(llm_kwargs or {}), "schema": output_cls})
        return _parsed(output_cls, response)

    @dispatcher.span
    def stream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Model, None, None]:
        """:meth:`structured_predict` as a stream of the one object."""
        yield self.structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

    @dispatcher.span
    async def astream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Model, None]:
        """:meth:`astructured_predict` as a stream of the one object."""

        async def one() -> AsyncGenerator[Model, None]:
            yield await self.astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

        return one()

    def _prompted(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        text = prompt if formatted or self.completion_to_prompt is None else self.completion_to_prompt(prompt)
        return [ChatMessage(role=MessageRole.USER, blocks=[TextBlock(text=text)])]

    def answer(self, question: "Question", **kwargs: Any) -> "Answer":
        """The assistant's answer to a question, with the settings of this LLM; errors as in :meth:`chat`."""
        return self.assistant.ask(
            question.text, *question.attachments, context=question.context, **self._options(kwargs)
        )

    def answer_stream(self, question: "Question", **kwargs: Any) -> "AnswerStream":
        """:meth:`answer`, piece by piece."""
        return self.assistant.stream(
            question.text, *question.attachments, context=question.context, **self._options(kwargs)
        )

    def _ask(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any], images: Sequence[Any] = ()) -> "Answer":
        return self.answer(self._question(messages, kwargs, images), **kwargs)

    def _stream(
        self, messages: Sequence[ChatMessage], kwargs: dict[str, Any], images: Sequence[Any] = ()
    ) -> "AnswerStream":
        return self.answer_stream(self._question(messages, kwargs, images), **kwargs)

    def _question(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any], images: Sequence[Any]) -> "Question":
        from ibllm_tools.assistant.conversation import Turn, conversation

        assistant, schema = self.assistant, kwargs.get("schema")
        said = turns(messages, assistant.access)
        if images:
            shown = tuple(image_source(image) for image in images)
            said[-1] = Turn(said[-1].role, said[-1].text, (*said[-1].attachments, *shown))
        return conversation(said, fits=lambda question: assistant.leaves_room(question, schema=schema))

    def _options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        options = {"temperature": self.temperature, "max_tokens": self.max_tokens, **kwargs}
        options["max_new_tokens"] = options.pop("max_tokens")
        return options


def _parsed(output_cls: type[Model], response: ChatResponse) -> Model:
    text = response.message.content or ""
    try:
        result = output_cls.model_validate_json(text)
    except ValidationError as error:
        if response.additional_kwargs["finish_reason"] == "length":
            reason = "it was cut off, expected the whole; raise max_tokens"
        else:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or output_cls.__name__
            reason = f"{place}: {first['msg']}, which its schema does not say; say it there, or ask for less"
        raise InvalidRequestError(f"{one_line(text)}: no {output_cls.__name__}, for {one_line(reason, 300)}") from error
    dispatcher.event(LLMStructuredPredictEndEvent(output=result))
    return result
