"""Which model a component of LlamaIndex uses, and what it may open: fields that can be written down and read again."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, PrivateAttr, field_validator

from ibllm_tools.attachments import AttachmentStore, common_roots
from ibllm_tools.errors import InvalidRequestError, one_line

if TYPE_CHECKING:
    from ibllm_tools.assistant.assistant import Assistant


_OF_THE_MODEL = {"model", "device", "dtype", "quantization", "cache"}


class ModelSettings(BaseModel):
    """The settings that the LLM and the embeddings share.

    The model is loaded when it is first needed, once per process for everyone with the same settings. What may be
    opened is closed by default: content and data URIs only. Paths, handles and URLs take ``roots``, ``attachments`` and
    ``allow_fetch``. An assistant that is passed opens no more for it: its own roots hold as well, and its store where
    none is named.

    Raises:
        InvalidRequestError: no such setting; an ``assistant`` and settings of the model, which it has already.
    """

    model: str = Field(default="mini", description='"mini", the folder of a converted model, or a hub id.')
    device: str | None = Field(default=None, description='"cpu", "cuda", ...; by default CUDA where there is one.')
    dtype: str | None = Field(default=None, description='"float32", "float16" or "bfloat16"; by default as stored.')
    quantization: str | None = Field(default=None, description='"int8" or "int4"; by default none.')
    cache: bool | str = Field(default=True, description="The model's visual cache, none, or the place of another.")
    roots: list[str] | None = Field(
        default_factory=list,
        description="Folders that paths must lie in: none by default; null is anywhere.",
    )
    attachments: str | None = Field(default=None, description="Folder of the store that att:// handles lead to.")
    allow_fetch: bool = Field(default=False, description="Whether URLs are fetched.")
    _given: Any = PrivateAttr(default=None)
    _assistant: Any = PrivateAttr(default=None)

    def __init__(self, assistant: "Assistant | None" = None, **settings: Any) -> None:
        """Take the settings, or an assistant that is loaded already in place of those that say which model it is."""
        unknown = sorted(set(settings) - set(type(self).model_fields))
        if unknown:  # LlamaIndex's own components pass over them: a root that is misspelt, or a limit
            raise InvalidRequestError(
                f"unknown setting {one_line(', '.join(unknown))}; expected {', '.join(type(self).model_fields)}"
            )
        if assistant is not None:
            given = sorted(set(settings) & _OF_THE_MODEL)
            if given:
                raise InvalidRequestError(
                    f"assistant= together with {', '.join(given)}, which it has already; pass one or the other"
                )
            settings["model"] = assistant.name
        super().__init__(**settings)
        if assistant is not None:
            # what is written down is read again without the assistant, and must open no more then
            self.roots = self._as_list(common_roots(assistant.access.roots, self.roots))
        self._given = assistant

    @field_validator("roots", mode="before")
    @classmethod
    def _as_list(cls, roots: Any) -> Any:
        folders = [roots] if isinstance(roots, str | Path) else roots
        return [str(folder) for folder in folders] if isinstance(folders, Iterable) else folders

    @field_validator("model", "attachments", "cache", mode="before")
    @classmethod
    def _as_text(cls, place: Any) -> Any:
        folder = place.folder if isinstance(place, AttachmentStore) else place
        return str(folder) if isinstance(folder, Path) else folder

    @property
    def assistant(self) -> "Assistant":
        """The assistant behind it, loaded on first use, which may take a while.

        Raises:
            IbllmError: as `Assistant.load`.
        """
        if self._assistant is None:
            from ibllm_tools.assistant.access import Access
            from ibllm_tools.assistant.shared import shared_assistant, with_access

            owner = Access() if self._given is None else self._given.access
            access = owner.on_behalf_of(
                roots=self.roots,
                store=None if self.attachments is None else AttachmentStore(self.attachments),
                allow_fetch=self.allow_fetch,
            )
            self._assistant = (
                with_access(self._given, access)
                if self._given is not None
                else shared_assistant(
                    self.model,
                    device=self.device,
                    dtype=self.dtype,
                    quantization=self.quantization,
                    cache=self.cache,
                    access=access,
                )
            )
        loaded: Assistant = self._assistant
        return loaded
