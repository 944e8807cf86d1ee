"""Texts and media as vectors of one joint space, for LangChain's stores and splitters."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from ibllm_tools.assistant.access import Access
from ibllm_tools.attachments import Attachment, AttachmentStore
from ibllm_tools.errors import IbllmError, InvalidRequestError
from ibllm_tools.media.limits import Limits
from ibllm_tools.store.segments import Segment, SegmentSettings, segments

Vectors = list[list[float]]

_LOADING = Lock()


class ImageBindEmbeddings(BaseModel, Embeddings):
    """Unit vectors of texts and, with :meth:`embed_media`, of images, sounds, videos, 3D models and depth maps.

    The encoder is loaded on first use, without a language model; or it is that of an assistant or a library.

    A text that is longer than what the encoder reads at once is cut as in a library, and its vector is
    unit(mean of its chunks' vectors). Queries and documents are embedded alike.

    Example:
        >>> embeddings = ImageBindEmbeddings()
        >>> words = embeddings.embed_query("a ringing bell")
        >>> (sound,) = embeddings.embed_media(["bell.wav"])
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", frozen=True)

    model: str | Path = Field(default="mini", description="``mini``, a model's folder, or a hub id.")
    device: str | None = Field(default=None, description="``cpu``, ``cuda``, ...; by default CUDA where there is one.")
    dtype: str | None = Field(default=None, description="Of the weights; by default as stored.")
    assistant: Any = Field(
        default=None,
        exclude=True,
        repr=False,
        description="An Assistant whose encoder is used. What may be opened is as it says, where nothing is said here.",
    )
    embedder: Any = Field(default=None, exclude=True, repr=False, description="An encoder that is there already.")
    roots: str | Path | list[str | Path] | None = Field(
        default=None, description="Folder or folders that the files of embed_media must lie in; anywhere by default."
    )
    attachments: AttachmentStore | str | Path | None = Field(
        default=None, description="The AttachmentStore, or its folder, in which att:// handles are looked up."
    )
    allow_fetch: bool | None = Field(default=None, description="Whether http(s) URLs are fetched; not by default.")
    limits: Limits | None = Field(default=None, description="The most that a text or an attachment may hold.")
    chunk_chars: int = Field(default=240, ge=20, description="The most characters of a text that are read at once.")

    _loaded: Any = PrivateAttr(default=None)

    def embed_documents(self, texts: list[str]) -> Vectors:
        """Unit vectors (B, E) of texts.

        Raises:
            InvalidRequestError: a blank text.
            LimitExceededError: a text longer than the limits allow.
            ModelError, CheckpointError: the encoder cannot be loaded.
        """
        limits = self._access.limits
        return self._embedded([Attachment.from_text(text, limits=limits) for text in texts])

    def embed_query(self, text: str) -> list[float]:
        """The unit vector (E,) of a text; errors as :meth:`embed_documents`."""
        return self.embed_documents([text])[0]

    def embed_media(self, sources: Iterable[Any]) -> Vectors:
        """Unit vectors (B, E) of whatever `Attachment` takes: paths, bytes, data URIs, handles, arrays, attachments.

        A text among them is a path, a URI or a handle; text itself is embedded by :meth:`embed_documents`. Sounds and
        videos are embedded as a whole, from clips of all of it.

        Raises:
            AttachmentError: one of them may not be opened or cannot be used.
            IncompatibleModelError: the encoder has no tower for one of them.
            InvalidRequestError: not something that `Attachment` takes, or a single source in place of several.
        """
        if isinstance(sources, str | bytes | Path | Attachment | np.ndarray):
            raise InvalidRequestError(f"sources of type {type(sources).__name__}, expected a list of them")
        access = self._access
        return self._embedded([access.open(source) for source in sources])

    async def aembed_media(self, sources: Iterable[Any]) -> Vectors:
        """:meth:`embed_media` in a thread of its own."""
        return await run_in_executor(None, self.embed_media, sources)

    @property
    def _access(self) -> Access:
        store = self.attachments
        said: dict[str, Any] = {
            "roots": self.roots,
            "store": AttachmentStore(store) if isinstance(store, str | Path) else store,
            "allow_fetch": self.allow_fetch,
            "limits": self.limits,
        }
        whole: Access = Access() if self.assistant is None else self.assistant.access
        return replace(whole, **{name: value for name, value in said.items() if value is not None})

    @property
    def encoder(self) -> Any:
        """The encoder, an :class:`~ibllm_tools.store.embedder.Embedder`; loaded once, whichever threads ask for it."""
        if self.embedder is not None:
            return self.embedder
        if self.assistant is not None:
            return self.assistant.embedder
        with _LOADING:
            if self._loaded is None:
                from ibllm_tools.assistant.embedding import JointEmbedder

                limits = self._access.limits
                self._loaded = JointEmbedder.load(self.model, device=self.device, dtype=self.dtype, limits=limits)
            return self._loaded

    def _embedded(self, attachments: Sequence[Attachment]) -> Vectors:
        texts = [item for item in attachments if item.modality == "text"]
        others = [item for item in attachments if item.modality != "text"]
        rows = iter(self.encoder.embed(others)) if others else iter(())
        text_rows = iter(self._mean_of_chunks(texts))
        return [next(text_rows if item.modality == "text" else rows).tolist() for item in attachments]

    def _mean_of_chunks(self, texts: Sequence[Attachment]) -> list[NDArray[np.float32]]:
        limits = self._access.limits
        settings = SegmentSettings(chunk_chars=self.chunk_chars, overlap_chars=min(40, self.chunk_chars // 3))
        parts: list[tuple[Attachment, list[Segment]]] = [
            (text, segments(text, settings, limits=limits)) for text in texts
        ]
        vectors = self.encoder.embed_segments(parts)
        return [_unit([_required(next(vectors)) for _ in chunks]) for _, chunks in parts]


def _required(vector: NDArray[np.float32] | IbllmError) -> NDArray[np.float32]:
    if isinstance(vector, IbllmError):
        raise vector
    return vector


def _unit(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    mean = np.mean(rows, axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)
