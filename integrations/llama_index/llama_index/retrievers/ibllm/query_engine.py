"""The query engine: a media library that answers, with citations."""

from typing import Any, Self

from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine

from ibllm_tools.library import MediaLibrary
from llama_index.llms.ibllm import ImageBindLLM
from llama_index.retrievers.ibllm.base import ImageBindRetriever
from llama_index.retrievers.ibllm.synthesizer import ImageBindSynthesizer

SOURCES = 3


class ImageBindQueryEngine(RetrieverQueryEngine):
    """Answers from a media library: ``It is a bell. [bell.wav@0.0-3.0s]``, with the nodes in ``source_nodes``.

    It is a `RetrieverQueryEngine` of `ImageBindRetriever` and `ImageBindSynthesizer`, made by :meth:`from_library`, and
    goes into a `QueryEngineTool`, a router or a sub-question engine like any other. Give those their ``llm``, or
    LlamaIndex takes OpenAI's.

    Example:
        >>> engine = ImageBindQueryEngine.from_library(library)
        >>> print(engine.query("What is ringing?"))
    """

    @classmethod
    def from_library(
        cls,
        library: MediaLibrary,
        llm: ImageBindLLM | None = None,
        *,
        streaming: bool = False,
        node_postprocessors: list[BaseNodePostprocessor] | None = None,
        callback_manager: CallbackManager | None = None,
        **retrieval: Any,
    ) -> Self:
        """Make one.

        Args:
            library: what is searched, filled with the LLM's encoder.
            llm: answers; by default the embedded model. What it may open holds for images of queries.
            streaming: whether responses come piece by piece.
            node_postprocessors: of the nodes, before the answer.
            callback_manager: LlamaIndex's.
            retrieval: settings of `ImageBindRetriever`; three sources by default.

        Raises:
            EncoderMismatchError: the library was filled with another encoder.
            InvalidRequestError: a setting that cannot be used.
        """
        llm = ImageBindLLM() if llm is None else llm
        access = llm.assistant.access
        settings = {
            "similarity_top_k": SOURCES, "roots": access.roots, "allow_fetch": access.allow_fetch, **retrieval
        }  # fmt: skip
        return cls(
            retriever=ImageBindRetriever(library, callback_manager=callback_manager, **settings),
            response_synthesizer=ImageBindSynthesizer(
                llm, library, streaming=streaming, callback_manager=callback_manager
            ),
            node_postprocessors=node_postprocessors,
            callback_manager=callback_manager,
        )
