"""The retriever: sources of a media library, with timestamps and scores, for words or for an example."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores import MetadataFilters

from ibllm_tools.assistant.access import Access
from ibllm_tools.attachments import Roots
from ibllm_tools.errors import InvalidRequestError, one_line
from ibllm_tools.library import MediaLibrary, Query, Ranking
from ibllm_tools.library.filtering import checked_where
from ibllm_tools.media.sniff import Modality
from llama_index.retrievers.ibllm.filters import as_where
from llama_index.retrievers.ibllm.nodes import node_of


class ImageBindRetriever(BaseRetriever):
    """Finds images, sounds, videos, 3D models and texts in a media library.

    A query is, in a `QueryBundle`,

    - ``query_str``: words, looked for in captions and texts as well as by what they mean; or an ``att://`` handle;
    - ``custom_embedding_strs``: other words for what is meant, as HyDE writes them;
    - ``image_path``: an example, which may be a sound, a video or a 3D model as well: a path below the roots, a handle,
      a data URI, a URL. With words, both are mixed, each counting as much;
    - ``embedding``: the vector of what is meant. One of another width is another retriever's, which query fusion leaves
      in the bundle: then the words count.

    Each source is one node, by its best segment: a `Node` with the caption or text, the medium as resource, and in its
    metadata ``citation``, ``source``, ``modality``, ``start``, ``end``, ``sha256``, ``handle``, ``thumbnail`` and more.

    Args:
        library: what is searched.
        similarity_top_k: sources, at most.
        modality: of what is found; everything by default.
        filters: of the metadata: the user's keys, and ``source``, ``title``, ``tags``, ``mime``, ``start``, ...
        where: the same in Chroma's language; both must hold.
        min_score: leaves out what scores less, 0 to 1.
        ranking: as in `MediaLibrary.search`; by default words count where there is no example.
        roots: folder or folders that examples must lie in; none by default, so that no path is read.
        allow_fetch: whether URLs of examples are fetched.
        callback_manager: LlamaIndex's.
        verbose: as in `BaseRetriever`.

    Raises:
        InvalidRequestError: a filter, a number or a ranking that cannot be used.
    """

    def __init__(
        self,
        library: MediaLibrary,
        *,
        similarity_top_k: int = 5,
        modality: Modality | Sequence[Modality] | None = None,
        filters: MetadataFilters | None = None,
        where: Mapping[str, Any] | None = None,
        min_score: float | None = None,
        ranking: Ranking | None = None,
        roots: Roots = (),
        allow_fetch: bool = False,
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(callback_manager=callback_manager, verbose=verbose)
        if not isinstance(library, MediaLibrary):
            raise InvalidRequestError(
                f"library of type {type(library).__name__}, expected a MediaLibrary; open it with MediaLibrary.open"
            )
        if ranking is not None and ranking not in get_args(Ranking):
            raise InvalidRequestError(
                f"ranking {one_line(ranking)!r}, expected one of {', '.join(get_args(Ranking))}; or leave it out"
            )
        self.library, self.similarity_top_k, self.modality = library, similarity_top_k, modality
        self.min_score, self.ranking = min_score, ranking
        conditions = [part for part in (where, None if filters is None else as_where(filters)) if part is not None]
        self.where = checked_where({"$and": conditions}) if conditions else None
        self.access = Access(roots=roots, store=library.attachments, limits=library.limits, allow_fetch=allow_fetch)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        meant = self._meant(query_bundle)
        words = "" if query_bundle.query_str.startswith("att://") else query_bundle.query_str.strip()
        ranking = self.ranking or ("hybrid" if words and not query_bundle.image_path else "similarity")
        query: list[Query] = meant
        weights = None
        if ranking != "similarity":
            # what is meant is said by the vector alone; the words are looked for as they are
            query, weights = [words, self.library.embed_query(meant)], [0.0, 1.0]
        hits = self.library.search(
            query,
            self.similarity_top_k,
            modality=self.modality,
            where=self.where,
            min_score=self.min_score,
            query_weights=weights,
            ranking=ranking,
        )
        return [node_of(hit, self.library.attachments) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _meant(self, bundle: QueryBundle) -> list[Query]:
        vector = bundle.embedding
        width = self.library.embedder.dimension
        strange = vector is not None and len(vector) != width
        if strange and not any(text.strip() for text in bundle.embedding_strs) and not bundle.image_path:
            raise InvalidRequestError(
                f"an embedding of width {len(vector or ())} and no words, expected {width}; embed it with "
                "ImageBindEmbedding"
            )
        meant: list[Query] = []
        if vector is not None and not strange:
            meant.append(np.asarray(vector, np.float32))
        else:
            meant += [text.strip() for text in bundle.embedding_strs if text.strip()]
        if bundle.image_path:
            path = bundle.image_path
            meant.append(path if path.startswith("att://") else self.access.open(path))
        if not meant:
            raise InvalidRequestError("an empty query, expected words, an example or an embedding; pass one of them")
        return meant
