"""A media library as a retriever: documents that say where they are, to the second."""

from contextlib import suppress
from functools import partial
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict, Field

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.library import Hit, MediaLibrary, Ranking
from ibllm_tools.media.sniff import Modality
from langchain_ibllm.documents import as_document, translated


class ImageBindRetriever(BaseRetriever):
    """Finds images, sounds, videos, 3D models, depth maps and texts of a library by a query of any modality.

    A query is a text, an ``att://`` handle, a ``Path``, an `Attachment`, a hit, a vector, or a list of these, mixed
    with ``query_weights``. A text is never taken for a path. Every field but the library may be given per call as
    well: ``retriever.invoke("a bell", k=3, modality="audio")``.

    What has neither text nor caption is found like everything else; its document reads ``bell (audio)``.

    Example:
        >>> retriever = ImageBindRetriever(library=library, k=5)
        >>> retriever.invoke("a ringing bell")
        >>> retriever.invoke([Path("street.png"), "rain"], query_weights=[1, 0.5])
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    library: MediaLibrary = Field(exclude=True, repr=False)
    k: int = Field(default=4, ge=1, description="Documents, at most.")
    modality: Modality | list[Modality] | None = Field(default=None, description="Of what is found; everything.")
    where: dict[str, Any] | None = Field(
        default=None, description="Filter of the documents' metadata, in Chroma's language."
    )
    min_score: float | None = Field(default=None, description="Leaves out what scores less.")
    ranking: Ranking = Field(default="similarity", description="By similarity, by words, or by both: hybrid.")
    diversity: float = Field(
        default=0.0, ge=0, le=1, description="Above 0, sources that resemble those before them come later."
    )
    segments: int = Field(default=1, ge=1, description="Documents of one source, at most: its best segments.")

    def invoke(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> list[Document]:
        """The documents that answer a query, best first.

        Args:
            input: the query, see the class.
            config: of the run.
            options: any of the fields, for this call; and ``query_weights`` of a list, negative ones for what it is
                not to be like.

        Raises:
            InvalidRequestError: a query, a filter or an option that cannot be used.
            AttachmentError: a file of the query may not be opened or cannot be used.
            StoreError: the library is closed or cannot be reached.
        """
        return super().invoke(input, config, **options)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> list[Document]:
        """:meth:`invoke` in a thread of its own."""
        return await super().ainvoke(input, config, **options)

    def _get_relevant_documents(
        self, query: Any, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        options.pop("verbose", None)  # BaseRetriever's own
        wanted = self._chosen(options)
        k = wanted["k"]
        hits = self.library.search(query, query_weights=options.get("query_weights"), **wanted)
        found = [segment for hit in hits for segment in self._segments(hit)]
        if not wanted["diversity"]:
            found.sort(key=lambda hit: -hit.score)
        return [as_document(hit, self.library.attachments) for hit in found[:k]]

    async def _aget_relevant_documents(
        self, query: Any, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        search = partial(self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **options)
        return await run_in_executor(None, search)

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = "chroma"
        params["ls_embedding_provider"] = "ibllm"
        source = getattr(self.library.embedder, "source", None)
        params["ls_embedding_model"] = self.library.embedder.fingerprint if source is None else source.model
        return params

    def _chosen(self, options: dict[str, Any]) -> dict[str, Any]:
        names = ("k", "modality", "where", "min_score", "ranking", "diversity", "segments")
        unknown = [name for name in options if name not in (*names, "query_weights")]
        if unknown:
            raise InvalidRequestError(f"option {unknown[0]!r}, expected some of {', '.join(names)}, query_weights")
        chosen = {name: options.get(name, getattr(self, name)) for name in names}
        return {**chosen, "where": translated(chosen["where"])}

    def _segments(self, hit: Hit) -> list[Hit]:
        """The best segments of a source as hits of their own, itself first."""
        found = [hit]
        for segment in hit.segments[1:]:
            with suppress(InvalidRequestError):  # deleted just now
                entry = self.library.get(segment.id)
                found.append(Hit(**entry.model_dump(), score=segment.score, similarity=segment.similarity))
        return found
