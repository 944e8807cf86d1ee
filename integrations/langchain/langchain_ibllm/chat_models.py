"""`ChatImageBindLLM`: a chat model of LangChain that hears, watches and looks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, Field

from ibllm_tools.errors import InvalidRequestError
from langchain_ibllm.answer_forms import AnswerForm, as_tools, checked_choice, choose_form, listed
from langchain_ibllm.answers import PROVIDER, as_last_chunk, as_message
from langchain_ibllm.asking import Request, aask, ask, read_aside
from langchain_ibllm.batching import abatched, batched
from langchain_ibllm.blocks import turns
from langchain_ibllm.local_model import CONFIG, LocalModel
from langchain_ibllm.profile import profile_of, read_profile

if TYPE_CHECKING:
    from ibllm_tools.assistant.conversation import Turn

METHODS = ("json_schema", "function_calling", "json_mode")


class ChatImageBindLLM(LocalModel, BaseChatModel):
    """Answers questions about images, sounds, videos, 3D models and text in messages.

    The model was tuned on single instructions: the last human message is asked, what was said before is its context,
    oldest left out first where it does not fit (:func:`ibllm_tools.assistant.conversation.conversation`), and the
    attachments are those of the last message that has any. :mod:`langchain_ibllm.blocks` says which blocks are read.

    Nothing but what a message carries is opened unless ``roots``, ``attachments`` or ``allow_fetch`` say so: messages
    may come from anyone. Errors are those of ``ibllm_tools``.

    An answer's ``response_metadata`` holds ``model_name``, ``finish_reason`` and ``evidence``: what it rests on, each
    with a ``citation`` like ``bell.wav@0.0-2.0s``.

    Example:
        >>> chat = ChatImageBindLLM(roots="media")
        >>> chat.invoke([HumanMessage([{"type": "text", "text": "What is this?"},
        ...                            {"type": "audio", "url": "media/bell.wav"}])]).text
    """

    model_config = CONFIG

    streaming: bool = Field(
        default=False,
        description="Whether invoke, too, reads the answer piece by piece, for callbacks; batches are not joined then.",
    )

    @property
    def _llm_type(self) -> str:
        return "imagebind-llm-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self.described()

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Whether ``dumps`` writes it: always; one with a ready assistant or an opened library cannot be loaded."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where ``load`` finds the class."""
        return ["langchain_ibllm", "chat_models"]

    def _resolve_model_profile(self) -> ModelProfile | None:
        if self.assistant is not None:
            return read_profile(self.assistant.model.config.to_dict(), fetches=self.allow_fetch)
        return profile_of(self.model, fetches=self.allow_fetch)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = PROVIDER
        params["ls_model_name"] = self.model_name_of(kwargs.get("model"))
        return params

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        known = super()._get_llm_string(stop=stop, **kwargs)
        return known if self._identity is None else f"{known}---{self._identity}"

    def get_token_ids(self, text: str) -> list[int]:
        """The text as the language model's tokens."""
        return self.token_ids(text) if self.custom_get_token_ids is None else self.custom_get_token_ids(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """How many tokens the words of the messages are, and of the list of tools; attachments take none.

        What is asked has a few more, of the prompt around it. Raises InvalidRequestError for what is not read.
        """
        told = listed(as_tools(tools)) if tools else ""
        return sum(self.get_num_tokens(text) for text in (told, *(turn.text for turn in turns(messages))))

    # ---- answering

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request, form = self._request(messages, stop, **kwargs)
        return _result(as_message(ask(self, request), form))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request, form = await asyncio.to_thread(self._request, messages, stop, **kwargs)
        return _result(as_message(await aask(self, request), form))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request, form = self._request(messages, stop, **kwargs)
        with request.open_stream() as stream:
            for piece in stream:
                if form.kind != "call":
                    yield _chunk(AIMessageChunk(content=piece))
        yield _chunk(as_last_chunk(stream.answer, form))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request, form = await asyncio.to_thread(self._request, messages, stop, **kwargs)
        stream = await asyncio.to_thread(request.open_stream)
        try:
            async for piece in read_aside(stream):
                if form.kind != "call":
                    yield _chunk(AIMessageChunk(content=piece))
        finally:
            stream.stop()
        yield _chunk(as_last_chunk(stream.answer, form))

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer several inputs, ``batch_size`` at a time, which the model does together; arguments as LangChain's.

        Each keeps its own callbacks, cache and error.
        """

        def invoke(value: LanguageModelInput, own: RunnableConfig) -> AIMessage:
            return self.invoke(value, own, **kwargs)

        return batched(self, invoke, inputs, config, self.batch_size, return_exceptions)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """:meth:`batch` without blocking the event loop."""

        async def ainvoke(value: LanguageModelInput, own: RunnableConfig) -> AIMessage:
            return await self.ainvoke(value, own, **kwargs)

        return await abatched(self, ainvoke, inputs, config, self.batch_size, return_exceptions)

    def _request(
        self,
        messages: Sequence[BaseMessage],
        stop: Sequence[str] | None,
        *,
        tools: Sequence[Any] = (),
        tool_choice: str | bool | Mapping[str, Any] | None = None,
        response_format: Mapping[str, Any] | None = None,
        model: str | None = None,
        **sampling: Any,
    ) -> tuple[Request, AnswerForm]:
        """What is asked, of whom, and the form of the answer."""
        from ibllm_tools.assistant.conversation import Turn, conversation

        options = self.sampling(**sampling)
        said = turns(messages)
        offered = as_tools(tools)
        form = choose_form(
            offered,
            checked_choice(tool_choice, offered),
            response_format,
            answered=_answered(said),
            shown=any(turn.attachments for turn in said),
        )
        assistant = self.answering(model)
        question = conversation(
            [Turn("system", form.note), *said], fits=partial(assistant.leaves_room, schema=form.schema)
        )
        # JSON ends by itself: stop texts are for words
        options |= self.stopping(stop) if form.schema is None else {"schema": form.schema}
        return self.requested(assistant, question, options), form

    # ---- tools and structured output

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools, one at a time.

        The call is decoded along the tools' schemas, so that name and arguments always validate; whether they make
        sense is up to the model. Under "auto" a tool is called where the question shows nothing to look at and no tool
        has answered it yet; otherwise the model answers in words.

        Args:
            tools: anything that LangChain takes for a tool.
            tool_choice: ``None`` or ``"auto"``; ``"any"``, ``"required"`` or ``True`` for a call in any case;
                ``"none"`` or ``False``; or the name of a tool.
            strict: arguments always follow the schema, whatever is said here.
            parallel_tool_calls: there is one call at a time, whatever is said here.
            kwargs: further arguments of every call.

        Raises:
            InvalidRequestError: no such tool, or one that a provider runs.
            ValueError: what LangChain takes for no tool.
        """
        described = as_tools(tools)
        return self.bind(tools=described, tool_choice=checked_choice(tool_choice, described), **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Answers that are JSON of a schema, parsed.

        Args:
            schema: a pydantic class, a TypedDict, a JSON schema or a function in OpenAI's form.
            method: how the model is asked; the answer follows the schema with each of them.
            include_raw: whether the message comes too, as ``{"raw", "parsed", "parsing_error"}``.
            strict: the answer always follows the schema, whatever is said here.
            kwargs: none.

        Raises:
            InvalidRequestError: no such method, or other arguments.
        """
        if kwargs or method not in METHODS:
            raise InvalidRequestError(
                f"method {method!r} with arguments {sorted(kwargs)}, expected one of {', '.join(METHODS)} and no others"
            )
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw)
        llm = self.bind(
            response_format={"type": "json_schema", "json_schema": {"schema": _json_schema(schema)}},
            ls_structured_output_format={"kwargs": {"method": method}, "schema": schema},
        )
        parser: BaseOutputParser[Any] = JsonOutputParser()
        if isinstance(schema, type) and is_basemodel_subclass(schema):
            parser = PydanticOutputParser(pydantic_object=schema)
        if not include_raw:
            return llm | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=llm) | parsed.with_fallbacks([unparsed], exception_key="parsing_error")


def _answered(said: "Sequence[Turn]") -> bool:
    """Whether a tool has answered since the last user turn."""
    return next((turn.role for turn in reversed(said) if turn.role in ("user", "tool")), None) == "tool"


def _json_schema(schema: dict[str, Any] | type) -> dict[str, Any]:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_json_schema()
    if isinstance(schema, dict) and "title" not in schema and "name" not in schema and "function" not in schema:
        return schema  # a JSON schema that LangChain would refuse for want of a title
    return convert_to_json_schema(schema)


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])


def _chunk(message: AIMessageChunk) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=message)
