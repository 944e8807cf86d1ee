"""The response synthesizer: the assistant answers from the nodes that were retrieved, and cites them."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, closing
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, QueryType
from llama_index.core.types import RESPONSE_TEXT_TYPE, TokenAsyncGen, TokenGen

from ibllm_tools.assistant.answer import Answer, Evidence, Impression, Question
from ibllm_tools.assistant.grounding import build_on, described, require_same_encoder
from ibllm_tools.errors import InvalidRequestError, one_line
from ibllm_tools.library import Hit, MediaLibrary
from ibllm_tools.library.catalogue import modality_of
from llama_index.llms.ibllm import ImageBindLLM
from llama_index.llms.ibllm.responses import aanswer_pieces, answer_pieces

if TYPE_CHECKING:
    from ibllm_tools.assistant.streaming import AnswerStream


class _Grounding(NamedTuple):
    """A question with what it builds on, that as evidence, and the nodes that it is."""

    question: Question
    evidence: tuple[Evidence, ...]
    nodes: list[NodeWithScore]


class ImageBindSynthesizer(BaseSynthesizer):
    """Answers from retrieved nodes, and cites them: ``It is a bell. [bell.wav@0.0-3.0s; notes.txt@0-20]``.

    The best node that is of the library is also seen, by its embedding. Of all nodes, whichever retriever they come
    from, the prompt holds what they say, the best last. What the model cannot read is left out, the last nodes first,
    and is not among the response's ``source_nodes``. An image in the query is what the question is about.

    Args:
        llm: answers; its own settings say what it may open.
        library: whose entries the nodes may be, filled with the LLM's encoder.
        streaming: whether responses come piece by piece, the citations last.
        callback_manager: LlamaIndex's.

    Raises:
        EncoderMismatchError: the library was filled with another encoder.
    """

    def __init__(
        self,
        llm: ImageBindLLM,
        library: MediaLibrary,
        *,
        streaming: bool = False,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        require_same_encoder(library, llm.assistant.embedder.fingerprint)
        super().__init__(
            llm=llm, streaming=streaming, callback_manager=callback_manager, empty_response="Nothing was found."
        )
        self._answering, self._library = llm, library

    def synthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """Answer a query from nodes, best first.

        Raises:
            InvalidRequestError: the query is empty or too long, or no node fits beside it.
            AttachmentError: the image of the query cannot be used.
        """
        if nodes:
            grounding = self._grounding(query, nodes)
            nodes, response_kwargs = grounding.nodes, {**response_kwargs, "grounding": grounding}
        return super().synthesize(query, nodes, additional_source_nodes, **response_kwargs)

    async def asynthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """:meth:`synthesize` without blocking the event loop."""
        if nodes:
            grounding = await asyncio.to_thread(self._grounding, query, nodes)
            nodes, response_kwargs = grounding.nodes, {**response_kwargs, "grounding": grounding}
        return await super().asynthesize(query, nodes, additional_source_nodes, **response_kwargs)

    def get_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        grounding: _Grounding | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        """Answer from texts alone, best first, which cannot be cited; :meth:`synthesize` has the nodes."""
        found = grounding or self._from_texts(query_str, text_chunks)
        if not self._streaming:
            return self._answered(found)
        return _pieces(self._answering.answer_stream(found.question), found.evidence)

    async def aget_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        grounding: _Grounding | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        """:meth:`get_response` without blocking the event loop."""
        if grounding is None:
            grounding = await asyncio.to_thread(self._from_texts, query_str, text_chunks)
        if not self._streaming:
            return await asyncio.to_thread(self._answered, grounding)
        stream = await asyncio.to_thread(self._answering.answer_stream, grounding.question)
        return _apieces(stream, grounding.evidence)

    def _answered(self, found: _Grounding) -> str:
        answer = self._answering.answer(found.question)
        return answer.text + _citations(answer, found.evidence)

    def _grounding(self, query: QueryType, nodes: Sequence[NodeWithScore]) -> _Grounding:
        bundle = QueryBundle(query) if isinstance(query, str) else query
        assistant = self._answering.assistant
        question = self._asked(bundle)
        hits = {node.node_id: hit for node in nodes if (hit := self._hit(node)) is not None}
        cited = dict(zip(hits, described(list(hits.values()), self._library, assistant.captions), strict=True))
        readable = [node for node in nodes if node.node_id in cited or _content(node)]
        evidence = [cited.get(node.node_id) or _text_evidence(node) for node in readable]
        seen = None
        if cited and not question.attachments:
            best = next(node.node_id for node in readable if node.node_id in cited)
            seen = Impression(self._library.embed_query(hits[best]), cited[best])
        grounded = build_on(question, evidence, seen, assistant.leaves_room)
        rests = [*grounded.evidence, *([seen.evidence] if seen else [])]
        used = [node for node, said in zip(readable, evidence, strict=True) if any(said is piece for piece in rests)]
        if not used:
            raise InvalidRequestError(
                f"{len(nodes)} nodes, and none fits beside the question into the {assistant.context_length:,} tokens "
                "that the model reads and writes; use smaller chunks or a larger model"
            )
        return _Grounding(grounded.question, grounded.evidence, used)

    def _asked(self, bundle: QueryBundle) -> Question:
        """The question, about the example if there is one; as `ImageBindRetriever`, a handle stands for it too."""
        from ibllm_tools.assistant.assistant import DESCRIBE

        text, example = bundle.query_str.strip(), bundle.image_path
        if text.startswith("att://"):
            text, example = "", example or text
        if not example:
            return Question(text=bundle.query_str)
        own = not example.startswith("att://") or example in (self._answering.assistant.access.store or ())
        shown = example if own else self._library.attachment(example)
        return Question(text=text or DESCRIBE, attachments=(shown,))

    def _from_texts(self, query_str: str, text_chunks: Sequence[str]) -> _Grounding:
        from ibllm_tools.assistant.conversation import Turn, conversation

        turns = [*(Turn("tool", chunk) for chunk in reversed(text_chunks)), Turn("user", query_str)]
        return _Grounding(conversation(turns, fits=self._answering.assistant.leaves_room), (), [])

    def _hit(self, node: NodeWithScore) -> Hit | None:
        """The entry of the library that a node is."""
        if modality_of(node.node_id) is None:
            return None
        try:
            entry = self._library.get(node.node_id)
        except InvalidRequestError:  # of another library
            return None
        return Hit(**entry.model_dump(), score=node.score or 0.0)

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts_dict: PromptDictType) -> None:
        """Nothing: the model was tuned on one form of prompt."""


def _content(node: NodeWithScore) -> str:
    return " ".join(node.node.get_content(metadata_mode=MetadataMode.NONE).split())


def _text_evidence(node: NodeWithScore) -> Evidence:
    """A node of another index: its text, cited by its file's name and its place there."""
    said, known = _content(node), node.node.metadata
    digest = sha256(said.encode("utf-8", errors="replace")).hexdigest()
    name = str(
        known.get("file_name") or known.get("title") or known.get("name") or node.node.ref_doc_id or node.node_id
    )
    return Evidence(
        source=str(known.get("file_path") or known.get("source") or name),
        name=one_line(name),
        sha256=digest,
        handle=f"att://{digest}",
        modality="text",
        mime="text/plain",
        char_start=getattr(node.node, "start_char_idx", None),
        char_end=getattr(node.node, "end_char_idx", None),
        weight=0.0,
        caption=said,
        score=node.score,
    )


def _pieces(stream: "AnswerStream", evidence: tuple[Evidence, ...]) -> TokenGen:
    with closing(answer_pieces(stream)) as pieces:
        yield from pieces
    yield _citations(stream.answer, evidence)


async def _apieces(stream: "AnswerStream", evidence: tuple[Evidence, ...]) -> TokenAsyncGen:
    async with aclosing(aanswer_pieces(stream)) as pieces:
        async for piece in pieces:
            yield piece
    yield _citations(stream.answer, evidence)


def _citations(answer: Answer, evidence: tuple[Evidence, ...]) -> str:
    """What `answer_text` adds to the answer."""
    from ibllm_tools.toolbox import answer_text

    whole = answer.model_copy(update={"evidence": (*answer.evidence, *evidence)})
    return answer_text(whole).removeprefix(answer.text)
