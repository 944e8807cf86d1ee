"""A media library as a vector store: texts under ids of their own beside media, in one ranking."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore

from ibllm_tools.attachments import SCHEME, Attachment, allowed_path
from ibllm_tools.errors import InvalidRequestError, one_line
from ibllm_tools.library import Entry, Hit, MediaLibrary, Query, Ranking
from ibllm_tools.library.entry import NAMED_TEXT
from ibllm_tools.media.sniff import Modality
from langchain_ibllm.documents import as_document, stored_metadata, translated, user_metadata
from langchain_ibllm.embeddings import ImageBindEmbeddings


class ImageBindVectorStore(VectorStore):
    """Texts and media in a :class:`~ibllm_tools.library.MediaLibrary`, for whatever takes a LangChain vector store.

    **Texts** that were added here come back as they were put in, under their ids: the whole text and its metadata. In
    the library each is a source ``text:ID``. A long one is cut into chunks and found by its best.

    **Media**, and whatever else the library holds, come back as :class:`~langchain_ibllm.ImageBindRetriever` gives
    them: one document per source, of its best segment, under the entry's id.

    Scores are those of the library: 0 to 1, larger is better, comparable across modalities.

    Args:
        library: its encoder embeds what is added and asked for.

    Example:
        >>> store = ImageBindVectorStore.open("library")
        >>> store.add_texts(["The bell was cast in 1712."], [{"source": "chronicle.txt"}], ids=["chronicle-1"])
        >>> store.add_media(["media/"])
        >>> store.as_retriever(search_type="mmr", search_kwargs={"k": 3}).invoke("a ringing bell")
    """

    def __init__(self, library: MediaLibrary) -> None:
        self.library = library

    @classmethod
    def open(cls, location: str | Path | None = None, embedding: Embeddings | None = None, **settings: Any) -> Self:
        """Open a library as a vector store, and make an empty one where there is none; close it after use.

        Args:
            location: a folder, the URL of a Chroma server, or None for memory, whose texts lie in a temporary folder.
            embedding: an :class:`~langchain_ibllm.ImageBindEmbeddings`; by default one of the embedded model.
            settings: of :meth:`~ibllm_tools.library.MediaLibrary.open`: ``name``, ``attachments``, ``captioner``,
                ``settings``, ``roots``, ``limits``, ``create``.

        Raises:
            InvalidRequestError: other embeddings, which know no media.
            EncoderMismatchError, StoreLockedError, StoreError: as :meth:`~ibllm_tools.library.MediaLibrary.open`.
        """
        encoder = _encoder_of(ImageBindEmbeddings() if embedding is None else embedding)
        temporary = None
        if location is None and settings.get("attachments") is None:
            temporary = settings["attachments"] = tempfile.mkdtemp(prefix="ibllm-")
        try:
            opened = cls(MediaLibrary.open(location, embedder=encoder, **settings))
        except BaseException:
            if temporary is not None:
                shutil.rmtree(temporary)
            raise
        if temporary is not None:
            weakref.finalize(opened.library, shutil.rmtree, temporary)
        return opened

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        location: str | Path | None = None,
        **settings: Any,
    ) -> Self:
        """:meth:`open` with texts in it; arguments and errors as there and in :meth:`add_texts`."""
        store = cls.open(location, embedding, **settings)
        try:
            store.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            store.close()
            raise
        return store

    @property
    def embeddings(self) -> ImageBindEmbeddings:
        """Those that the library's vectors are of."""
        return ImageBindEmbeddings(embedder=self.library.embedder)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts, or replace those of the same ids.

        Args:
            texts: not blank.
            metadatas: of each: text, numbers, true and false, and lists of these; None is left out.
            ids: of each, 1 to 1,024 characters; a random one where there is none. Of equal ones the last counts.
            batch_size: which LangChain's ``index`` names; the library batches by itself.
            kwargs: none.

        Returns:
            The ids.

        Raises:
            InvalidRequestError: a blank text, an id or metadata that cannot be stored, not one of each, or a single
                text in place of several. Nothing is added then.
            StoreError: the library cannot be written, or has no store for its texts.
        """
        _refuse(kwargs)
        if isinstance(texts, str):
            raise InvalidRequestError("texts of type str, expected a list of them")
        given = list(texts)
        said: Sequence[Mapping[str, Any]] = metadatas or [{}] * len(given)
        names = [id_ or str(uuid4()) for id_ in ids or [None] * len(given)]
        if not len(given) == len(said) == len(names):
            raise InvalidRequestError(
                f"{len(given)} texts, {len(said)} metadatas and {len(names)} ids, expected one of each for every text"
            )
        stored = {f"{NAMED_TEXT}{name}": stored_metadata(metadata) for name, metadata in zip(names, said, strict=True)}
        self.library.add(
            texts=dict(zip(names, given, strict=True)),
            metadata=stored.__getitem__,
            strict=True,
            progress=False,
        )
        return names

    def add_media(
        self,
        sources: Iterable[Any],
        *,
        metadata: Mapping[str, Any] | Callable[[str], Mapping[str, Any] | None] | None = None,
        title: str | None = None,
        tags: Sequence[str] | None = None,
        caption: str | bool = False,
    ) -> list[str]:
        """Index files, folders, globs, and whatever else `Attachment` takes but URLs.

        Args:
            sources: several of them. Files must lie in the library's roots.
            metadata, title, tags, caption: as :meth:`~ibllm_tools.library.MediaLibrary.add` has them.

        Returns:
            The ids of all entries of these sources: segments of sounds and videos, chunks of text files.

        Raises:
            AttachmentError: the first source that cannot be used; those before it may be there.
            InvalidRequestError: a single source in place of several, or what is said of them cannot be stored.
            StoreError: the library cannot be written.
        """
        if isinstance(sources, str | bytes | Path | Attachment | np.ndarray):
            raise InvalidRequestError(f"sources of type {type(sources).__name__}, expected a list of them")
        names: list[str] = []

        def noted(source: str) -> Mapping[str, Any] | None:
            names.append(source)
            return metadata(source) if callable(metadata) else metadata

        self.library.add(
            *map(self._opened, sources),
            metadata=noted,
            title=title,
            tags=tags,
            caption=caption,
            strict=True,
            progress=False,
        )
        return [entry.id for entry in self.library.entries(*names)]

    async def aadd_media(self, sources: Iterable[Any], **labels: Any) -> list[str]:
        """:meth:`add_media` in a thread of its own."""
        return await run_in_executor(None, self.add_media, sources, **labels)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Remove documents by their ids, of media whole sources; ids that are not there are passed over.

        Raises:
            InvalidRequestError: no ids, for that would be everything.
            StoreError: the library cannot be written.
        """
        _refuse(kwargs)
        if ids is None:
            raise InvalidRequestError("delete without ids, expected a list of them; an empty one deletes nothing")
        self.library.delete(*(NAMED_TEXT + id_ for id_ in ids), *self._entries(ids))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of these ids, in their order; ids that are not there are passed over."""
        entries = self.library.entries(*(NAMED_TEXT + id_ for id_ in ids))
        texts = {entry.source: entry for entry in reversed(entries)}
        others = {entry.id: entry for entry in self._entries(ids)}
        found = (texts.get(NAMED_TEXT + id_) or others.get(id_) for id_ in dict.fromkeys(ids))
        return [self._document(entry) for entry in found if entry is not None]

    def similarity_search(self, query: Any, k: int = 4, **kwargs: Any) -> list[Document]:
        """The documents nearest to a query, best first.

        Args:
            query: a text, or what else a library can be asked: an ``att://`` handle, a ``Path``, an `Attachment`, a
                hit, or a list of these.
            k: documents, at most.
            kwargs: ``filter`` of the documents' metadata, plain or in Chroma's language; ``modality``, ``min_score``,
                ``ranking`` and ``query_weights``, as :meth:`~ibllm_tools.library.MediaLibrary.search` has them.

        Raises:
            InvalidRequestError: a query or an option that cannot be used.
            StoreError: the library is closed or cannot be reached.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(self, query: Any, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """As :meth:`similarity_search`, each with its score, 0 to 1."""
        return [(self._document(hit), hit.score) for hit in self._search(query, k, **kwargs)]

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """As :meth:`similarity_search`, of a vector (E,)."""
        return self.similarity_search(np.asarray(embedding, np.float32), k, **kwargs)

    def max_marginal_relevance_search(
        self, query: Any, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Documents that are near to the query and not all the same.

        Each is the one with the most ``lambda_mult * score - (1 - lambda_mult) * similarity`` to those before it.

        Args:
            query, k, kwargs: as in :meth:`similarity_search`.
            fetch_k: the nearest ones, which are chosen from.
            lambda_mult: 1 looks at scores alone, 0 at differences alone.
        """
        if not 0 <= lambda_mult <= 1:
            raise InvalidRequestError(f"lambda_mult={lambda_mult}, expected a number from 0 to 1")
        hits = self._search(query, k, diversity=1 - lambda_mult, candidates=fetch_k, **kwargs)
        return [self._document(hit) for hit in hits]

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """As :meth:`max_marginal_relevance_search`, of a vector (E,)."""
        vector = np.asarray(embedding, np.float32)
        return self.max_marginal_relevance_search(vector, k, fetch_k, lambda_mult, **kwargs)

    def close(self) -> None:
        """Release the library and its lock. Closing twice does nothing."""
        self.library.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return float  # a score of the library's is one from 0 to 1 already

    def _search(
        self,
        query: Query | Sequence[Query],
        k: int,
        *,
        filter: Mapping[str, Any] | None = None,
        modality: Modality | Sequence[Modality] | None = None,
        min_score: float | None = None,
        ranking: Ranking = "similarity",
        query_weights: Sequence[float] | None = None,
        diversity: float = 0.0,
        candidates: int | None = None,
        **unknown: Any,
    ) -> list[Hit]:
        if unknown:
            raise InvalidRequestError(
                f"option {one_line(next(iter(unknown)))!r}, expected some of filter, modality, min_score, ranking, "
                "query_weights"
            )
        return self.library.search(
            query,
            k,
            where=translated(filter),
            modality=modality,
            min_score=min_score,
            ranking=ranking,
            query_weights=query_weights,
            diversity=diversity,
            candidates=candidates,
            segments=1,
        )

    def _opened(self, source: Any) -> Any:
        """A source as the library takes it. A folder or glob outside its roots is not even looked into."""
        library = self.library
        if isinstance(source, Path) or (isinstance(source, str) and not SCHEME.match(source)):
            allowed_path(Path(source), library.roots)
            return source
        return Attachment.of(source, roots=library.roots, store=library.attachments, limits=library.limits)

    def _entries(self, ids: Iterable[str]) -> list[Entry]:
        """The entries of those ids that are entries'."""
        found = []
        for id_ in ids:
            with suppress(InvalidRequestError):
                found.append(self.library.get(id_))
        return found

    def _document(self, entry: Entry) -> Document:
        if not entry.source.startswith(NAMED_TEXT):
            return as_document(entry, self.library.attachments)
        text = self.library.attachment(entry).read_bytes().decode("utf-8")
        return Document(id=entry.source.removeprefix(NAMED_TEXT), page_content=text, metadata=user_metadata(entry))


def _encoder_of(embedding: Embeddings) -> Any:
    if not isinstance(embedding, ImageBindEmbeddings):
        raise InvalidRequestError(
            f"embedding of type {type(embedding).__name__}, expected ImageBindEmbeddings: the library's vectors are "
            "those of media, too"
        )
    return embedding.encoder


def _refuse(kwargs: Mapping[str, Any]) -> None:
    if kwargs:
        raise InvalidRequestError(f"option {next(iter(kwargs))!r}, expected none; leave it out")
