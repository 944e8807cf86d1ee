"""Which model a component of LlamaIndex uses, and what it may open: fields that can be written down and read again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, PrivateAttr, field_validator

from ibllm_tools.attachments import AttachmentStore
from ibllm_tools.errors import InvalidRequestError

if TYPE_CHECKING:
    from ibllm_tools.assistant.assistant import Assistant


class ModelSettings(BaseModel):
    """The settings that the LLM and the embeddings share.

    The model is loaded when it is first needed, once per process for everyone with the same settings. What may be
    opened is closed by default: content and data URIs only. Paths, handles and URLs take ``roots``, ``attachments`` and
    ``allow_fetch``.

    Raises:
        InvalidRequestError: an ``assistant`` and settings of what it has already.
    """

    model: str = Field(default="mini", description='"mini", the folder of a converted model, or a hub id.')
    device: str | None = Field(default=None, description='"cpu", "cuda", ...; by default CUDA where there is one.')
    dtype: str | None = Field(default=None, description='"float32", "float16" or "bfloat16"; by default as stored.')
    quantization: str | None = Field(default=None, description='"int8" or "int4"; by default none.')
    cache: bool | str = Field(default=True, description="The model's visual cache, none, or the place of another.")
    roots: list[str] | None = Field(
        default_factory=list, description="Folders that paths must lie in: none by default; null is anywhere."
    )
    attachments: str | None = Field(default=None, description="Folder of the store that att:// handles lead to.")
    allow_fetch: bool = Field(default=False, description="Whether URLs are fetched.")
    _assistant: Any = PrivateAttr(default=None)

    def __init__(self, assistant: "Assistant | None" = None, **settings: Any) -> None:
        """Take the settings, or an assistant that is loaded already, whose own access then holds."""
        if assistant is not None:
            given = sorted(set(settings) & set(ModelSettings.model_fields))
            if given:
                raise InvalidRequestError(
                    f"assistant= together with {', '.join(given)}, which it has already; pass one or the other"
                )
            settings["model"] = assistant.name
        super().__init__(**settings)
        self._assistant = assistant

    @field_validator("roots", mode="before")
    @classmethod
    def _as_list(cls, roots: Any) -> Any:
        folders = [roots] if isinstance(roots, str | Path) else roots
        return folders if folders is None else [str(folder) for folder in folders]

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
            from ibllm_tools.assistant.shared import shared_assistant

            self._assistant = shared_assistant(
                self.model,
                device=self.device,
                dtype=self.dtype,
                quantization=self.quantization,
                cache=self.cache,
                access=Access(
                    roots=self.roots,
                    store=None if self.attachments is None else AttachmentStore(self.attachments),
                    allow_fetch=self.allow_fetch,
                ),
            )
        loaded: Assistant = self._assistant
        return loaded
