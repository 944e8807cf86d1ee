"""What the chat model and the plain one have in common: which model answers, how, and what it may open."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    field_validator,
    model_validator,
)

from ibllm_tools.assistant.access import Access, Announced
from ibllm_tools.assistant.answer import Question
from ibllm_tools.assistant.model_folder import MINI
from ibllm_tools.attachments import AttachmentStore
from ibllm_tools.errors import InvalidRequestError, one_line
from langchain_ibllm.asking import Request

if TYPE_CHECKING:
    from ibllm_tools.assistant.assistant import Assistant
    from ibllm_tools.library import MediaLibrary

_SAMPLING = ("max_new_tokens", "temperature", "top_p")
_PER_CALL = ("model", "max_tokens", *_SAMPLING)
_OPENING = Lock()  # of the process: with one of its own an object could not be copied

CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
"""Of every model; a class says it again, since LangChain's base, which ignores what it does not know, comes last."""


class LocalModel(BaseModel):
    """The fields of every model of this package.

    Equal ``model``, ``device``, ``dtype``, ``quantization`` and ``visual_cache`` share one loaded model, in whatever
    objects they occur; it is loaded by the first call.
    """

    model_config = CONFIG

    model: str = Field(default=MINI, description="'mini', the folder of a converted model, or a hub id (owner/name).")
    device: str | None = Field(default=None, description="'cpu', 'cuda', ...; by default CUDA where there is one.")
    dtype: str | None = Field(default=None, description="'float32', 'float16' or 'bfloat16'; by default as stored.")
    quantization: str | None = Field(default=None, description="'int8' or 'int4', with the extra quantize.")
    visual_cache: bool | str = Field(
        default=True, description="Whether the model's own visual cache is used, or the folder or URL of another one."
    )
    assistant: Any = Field(
        default=None,
        description="A loaded Assistant, in place of all of the above. What may be opened is said here all the same.",
    )
    roots: tuple[str, ...] | None = Field(
        default=None, description="Folder or folders that paths and file:// URLs must lie in; none by default."
    )
    attachments: str | None = Field(
        default=None, description="The AttachmentStore, or its folder, in which att:// handles are looked up."
    )
    allow_fetch: bool = Field(default=False, description="Whether http(s) URLs are fetched.")
    library: Any = Field(
        default=None,
        description="A MediaLibrary, or its folder, that answers are grounded in; filled with the same encoder.",
    )
    k: int = Field(default=3, ge=1, description="Sources to take from the library, at most.")
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        validation_alias=AliasChoices("max_tokens", "max_new_tokens"),
        description="Tokens of an answer at most; the model's own limit by default.",
    )
    temperature: float | None = Field(default=None, ge=0, description="0 takes the likeliest token every time.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Draw from this share of the probability.")
    stop: list[str] | None = Field(default=None, description="Texts before the first of which a text answer ends.")
    batch_size: int = Field(default=8, ge=1, description="Inputs of a batch that are answered at once.")
    # LangChain's standard arguments for hosted models; code that passes them to every model runs with this one too.
    timeout: float | None = Field(default=None, exclude=True, description="Without effect: nothing is waited for.")
    max_retries: int | None = Field(default=None, exclude=True, description="Without effect: nothing fails by chance.")
    api_key: SecretStr | None = Field(default=None, exclude=True, description="Without effect: nobody is called.")

    _identity: str | None = PrivateAttr(default=None)
    _opened_library: Any = PrivateAttr(default=None)

    @field_validator("model", mode="before")
    @classmethod
    def _model_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("visual_cache", mode="before")
    @classmethod
    def _cache_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("roots", mode="before")
    @classmethod
    def _roots_as_texts(cls, value: Any) -> Any:
        if isinstance(value, str | Path):
            return (str(value),)
        return value if value is None else tuple(str(root) for root in value)

    @field_validator("attachments", mode="before")
    @classmethod
    def _store_as_folder(cls, value: Any) -> Any:
        if isinstance(value, AttachmentStore):
            return str(value.folder)
        return str(value) if isinstance(value, Path) else value

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> "LocalModel":
        named = self.model_fields_set & {"model", "device", "dtype", "quantization", "visual_cache"}
        if self.assistant is not None:
            from ibllm_tools.assistant.assistant import Assistant

            if not isinstance(self.assistant, Assistant):
                raise ValueError(f"assistant of type {type(self.assistant).__name__}, expected an Assistant")
            if named:
                raise ValueError(f"assistant and {', '.join(sorted(named))}: it is loaded already, leave these out")
            self._identity = uuid4().hex
        return self

    @model_validator(mode="before")
    @classmethod
    def _never_cache_what_changes(cls, values: Any) -> Any:
        # What is answered from a library changes with what it holds, which LangChain's global cache would not notice.
        if isinstance(values, dict) and values.get("library") is not None:
            return {"cache": False, **values}
        return values

    def model_name_of(self, override: str | None = None) -> str:
        """What answers call the model."""
        return override or (self.model if self.assistant is None else str(self.assistant.name))

    def access(self) -> Access:
        """What is opened on behalf of whoever writes the messages: no path, unless roots say so.

        A ready assistant's own roots and limits hold as well, and its store where none is given here.
        """
        own = Access() if self.assistant is None else self.assistant.access
        return own.on_behalf_of(
            roots=self.roots or (),
            store=None if self.attachments is None else AttachmentStore(self.attachments),
            allow_fetch=self.allow_fetch,
        )

    def answering(self, model: str | None = None) -> "Assistant":
        """The loaded assistant.

        Args:
            model: another one, for a call.

        Raises:
            IbllmError: it cannot be loaded.
        """
        from ibllm_tools.assistant.shared import shared_assistant, with_access

        if self.assistant is not None and model is None:
            return with_access(self.assistant, self.access())
        return shared_assistant(
            model or self.model,
            device=self.device,
            dtype=self.dtype,
            quantization=self.quantization,
            cache=self.visual_cache,
            access=self.access(),
        )

    def token_ids(self, text: str) -> list[int]:
        """The text as the language model's tokens; LangChain's own count would download another model's tokenizer."""
        ids: list[int] = self.answering().processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def requested(self, assistant: "Assistant", question: Question, options: Mapping[str, Any]) -> Request:
        """The question, to be asked on behalf of this object; handles of the library stand for what it keeps.

        Raises:
            StoreError: the library cannot be opened.
            AttachmentError: the library has no such attachment any more.
        """
        if self.library is None:
            return Request(assistant, question, options)
        library = self._the_library(assistant)
        opened = tuple(_kept_in(library, assistant.access, source) for source in question.attachments)
        question = question.model_copy(update={"attachments": opened})
        return Request(assistant, question, {**options, "library": library, "k": self.k})

    def _the_library(self, assistant: "Assistant") -> "MediaLibrary":
        from ibllm_tools.library import MediaLibrary

        if isinstance(self.library, MediaLibrary):
            return self.library
        if not isinstance(self.library, str | Path):
            raise InvalidRequestError(
                f"library of type {type(self.library).__name__}, expected a MediaLibrary or its folder; open it first"
            )
        with _OPENING:
            if self._opened_library is None:
                self._opened_library = MediaLibrary.open(self.library, embedder=assistant.embedder, create=False)
            library: MediaLibrary = self._opened_library
            return library

    def sampling(self, **given: Any) -> dict[str, Any]:
        """The arguments of a call that say how an answer is written, over those of this object.

        Raises:
            InvalidRequestError: an argument that there is not.
        """
        unknown = sorted(set(given) - set(_PER_CALL))
        if unknown:
            raise InvalidRequestError(
                f"unknown argument {one_line(', '.join(unknown))}, expected {', '.join(_PER_CALL)}; leave it out"
            )
        asked = {"max_new_tokens": given.get("max_tokens")} | given
        own = {"max_new_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p}
        chosen = {key: asked[key] if asked.get(key) is not None else own[key] for key in _SAMPLING}
        return {key: value for key, value in chosen.items() if value is not None}

    def stopping(self, stop: Sequence[str] | None) -> dict[str, Any]:
        """The stop texts of a call, or of this object, as an argument of ``Assistant.ask``."""
        texts = list(stop or self.stop or ())
        return {"stop": texts} if texts else {}

    def described(self) -> dict[str, Any]:
        """What tells one model from another, for traces and caches."""
        return {
            "model_name": self.model_name_of(),
            "device": self.device,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "visual_cache": self.visual_cache,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": self.stop,
            **({} if self._identity is None else {"assistant": self._identity}),
        }


def _kept_in(library: "MediaLibrary", access: Access, source: Any) -> Any:
    """The source, opened where it is a handle that the library knows and the access's own store does not."""
    said = source if isinstance(source, Announced) else Announced(source)
    handle = said.source
    if not isinstance(handle, str) or not handle.startswith("att://") or handle in (access.store or ()):
        return source
    return replace(said, source=library.attachment(handle))
