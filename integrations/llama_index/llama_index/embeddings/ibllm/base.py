"""The embeddings: texts, images, sounds, videos and 3D models in one space."""

import asyncio
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import ImageType
from pydantic import model_validator

from ibllm_tools.assistant.access import Announced
from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.media.sniff import Modality
from llama_index.llms.ibllm.model_settings import ModelSettings

if TYPE_CHECKING:
    from ibllm_tools.assistant.assistant import Assistant

Source = Any
"""A path, URL, data URI, ``att://`` handle, bytes, `BytesIO`, Pillow image, NumPy array or `Attachment`."""


class ImageBindEmbedding(ModelSettings, MultiModalEmbedding):
    """ImageBind's joint space: whatever is embedded can be compared with everything else.

    All are unit vectors of the same width. Similarities across modalities are lower than within one:
    `ImageBindRetriever` makes them comparable, a plain vector store does not. ``model_name`` is another name of
    ``model``.

    Example:
        >>> embedding = ImageBindEmbedding(roots=["media"])
        >>> sound = embedding.get_audio_embedding("media/bell.wav")
        >>> embedding.similarity(sound, embedding.get_text_embedding("a bell"))
    """

    def __init__(self, assistant: "Assistant | None" = None, **settings: Any) -> None:
        """Take the settings; an assistant that is loaded already stands for those of the model."""
        if "model_name" in settings:
            model = settings.setdefault("model", settings["model_name"])
            if str(model) != str(settings["model_name"]):
                raise InvalidRequestError(
                    f"model {model!r} and model_name {settings['model_name']!r}, expected one model; pass one of them"
                )
        super().__init__(assistant, **settings)

    @model_validator(mode="after")
    def _named(self) -> "ImageBindEmbedding":
        self.model_name = self.model
        return self

    @classmethod
    def class_name(cls) -> str:
        """Its name where it is written down."""
        return "ImageBindEmbedding"

    def get_media_embedding(self, source: Source, modality: Modality | None = None) -> Embedding:
        """The embedding of anything that `Attachment` takes.

        Args:
            source: what is embedded, opened as the settings allow.
            modality: what it is to be taken as; by default what its content is.

        Raises:
            AttachmentError: it cannot be used or may not be opened.
            IncompatibleModelError: the model has no tower for it.
        """
        return self.get_media_embeddings([source], modality)[0]

    def get_media_embeddings(self, sources: Sequence[Source], modality: Modality | None = None) -> list[Embedding]:
        """:meth:`get_media_embedding` of several, ``embed_batch_size`` at a time, in their order."""
        embeddings: list[Embedding] = []
        for start in range(0, len(sources), self.embed_batch_size):
            batch = list(sources[start : start + self.embed_batch_size])
            with self.callback_manager.event(
                CBEventType.EMBEDDING, payload={EventPayload.SERIALIZED: self.to_payload()}
            ) as event:
                rows = self._embed_media(batch, modality)
                event.on_end(payload={EventPayload.CHUNKS: batch, EventPayload.EMBEDDINGS: rows})
            embeddings += rows
        return embeddings

    async def aget_media_embedding(self, source: Source, modality: Modality | None = None) -> Embedding:
        """:meth:`get_media_embedding` without blocking the event loop."""
        return await asyncio.to_thread(self.get_media_embedding, source, modality)

    async def aget_media_embeddings(
        self, sources: Sequence[Source], modality: Modality | None = None
    ) -> list[Embedding]:
        """:meth:`get_media_embeddings` without blocking the event loop."""
        return await asyncio.to_thread(self.get_media_embeddings, sources, modality)

    def get_audio_embedding(self, source: Source) -> Embedding:
        """The embedding of a sound, or of the sound of a video; errors as in :meth:`get_media_embedding`."""
        return self.get_media_embedding(source, "audio")

    def get_audio_embeddings(self, sources: Sequence[Source]) -> list[Embedding]:
        """The embeddings of sounds; see :meth:`get_media_embeddings`."""
        return self.get_media_embeddings(sources, "audio")

    async def aget_audio_embedding(self, source: Source) -> Embedding:
        """:meth:`get_audio_embedding` without blocking the event loop."""
        return await self.aget_media_embedding(source, "audio")

    def get_video_embedding(self, source: Source) -> Embedding:
        """The embedding of a video's pictures; errors as in :meth:`get_media_embedding`."""
        return self.get_media_embedding(source, "video")

    def get_video_embeddings(self, sources: Sequence[Source]) -> list[Embedding]:
        """The embeddings of videos; see :meth:`get_media_embeddings`."""
        return self.get_media_embeddings(sources, "video")

    async def aget_video_embedding(self, source: Source) -> Embedding:
        """:meth:`get_video_embedding` without blocking the event loop."""
        return await self.aget_media_embedding(source, "video")

    def get_point_embedding(self, source: Source) -> Embedding:
        """The embedding of a 3D model or a point cloud; errors as in :meth:`get_media_embedding`."""
        return self.get_media_embedding(source, "point")

    def get_point_embeddings(self, sources: Sequence[Source]) -> list[Embedding]:
        """The embeddings of 3D models and point clouds; see :meth:`get_media_embeddings`."""
        return self.get_media_embeddings(sources, "point")

    async def aget_point_embedding(self, source: Source) -> Embedding:
        """:meth:`get_point_embedding` without blocking the event loop."""
        return await self.aget_media_embedding(source, "point")

    def _embed_media(self, sources: Sequence[Source], modality: Modality | None) -> list[Embedding]:
        opened = [Announced(_carried(source), modality) for source in sources]
        rows: list[Embedding] = self.assistant.embed(*opened).tolist()
        return rows

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        if not texts:
            return []
        limits = self.assistant.access.limits
        rows: list[Embedding] = self.assistant.embed(
            *(Attachment.from_text(text, limits=limits) for text in texts)
        ).tolist()
        return rows

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._get_text_embedding(query)

    def _get_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return self._embed_media(img_file_paths, "image")

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)


def _carried(source: Source) -> Source:
    return source.getvalue() if isinstance(source, BytesIO) else source
