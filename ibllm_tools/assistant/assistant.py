"""The assistant: attachments and a question in, an answer with evidence out (arXiv 2309.03905).

::

    attachments -> unit embeddings -> visual cache -> weighted mix -> bind network -> language model -> answer
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.utils.quantization_config import QuantizationConfigMixin

from ibllm_tools.assistant.access import Access
from ibllm_tools.assistant.answer import Answer, Evidence, Impression, Question, Usage
from ibllm_tools.assistant.constrained import SchemaCompiler
from ibllm_tools.assistant.embedding import JointEmbedder, ModelSource
from ibllm_tools.assistant.generation import DEFAULT_NEW_TOKENS, Sampling, end_tokens, generation_config
from ibllm_tools.assistant.grounding import ground, require_same_encoder
from ibllm_tools.assistant.loading import choose_device, load_model, read_cache_features
from ibllm_tools.assistant.model_folder import MINI, find_cache, find_model
from ibllm_tools.assistant.requests import PreparedQuestion, checked_question, require_text, require_words, shares
from ibllm_tools.assistant.schemas import Schema
from ibllm_tools.assistant.stop_texts import StopTexts
from ibllm_tools.assistant.streaming import AnswerStream
from ibllm_tools.assistant.writing import Live, Writing, Written, write
from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import EncoderMismatchError, IbllmError, InvalidRequestError, StoreLockedError
from ibllm_tools.imagebind.fingerprint import stored_fingerprint
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import ImageBindLlmForConditionalGeneration, mix_embeddings
from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor
from ibllm_tools.library import MediaLibrary
from ibllm_tools.store.visual_cache import VisualCache

DESCRIBE = "Describe this."
DEFAULT_ACCESS = Access()
A = TypeVar("A", Answer, Answer | IbllmError)
CAPTIONS_AT_ONCE = 16
ROOM = 0.25
"""Share of what a model can read that retrieved evidence leaves to the answer."""


class Assistant:
    """Answers questions about images, sounds, videos, 3D models and text.

    Made by :meth:`load`, or from a model and a processor that were loaded in any way transformers offers. It may be
    used from several threads at once.

    Args:
        model: the model, on its device.
        processor: its processor.
        cache: the visual cache, which :meth:`close` closes; or what it is opened from when it is first needed, a folder
            of ChromaDB, the URL of a server, or a file with image features.
        cache_index: folder for the index of a large cache, which a cache on a server needs.
        name: what answers call the model.
        access: what may be opened on behalf of whoever asks.
        fingerprint: the encoder's, where it is known; see :class:`~ibllm_tools.assistant.embedding.JointEmbedder`.
        source: where the encoder can be loaded from again, where that is known.

    Raises:
        EncoderMismatchError: the cache holds the features of another encoder.

    Example:
        >>> assistant = Assistant.load()
        >>> assistant.ask("What is making this sound?", "bell.wav").text
    """

    def __init__(
        self,
        model: ImageBindLlmForConditionalGeneration,
        processor: ImageBindLlmProcessor,
        *,
        cache: VisualCache | str | Path | None = None,
        cache_index: str | Path | None = None,
        name: str = "custom",
        access: Access = DEFAULT_ACCESS,
        fingerprint: str | None = None,
        source: ModelSource | None = None,
    ) -> None:
        self.model, self.processor, self.name, self.access = model, processor, name, access
        model.train(False)
        self.embedder = JointEmbedder(
            model.imagebind,
            processor.imagebind_processor,
            limits=access.limits,
            fingerprint=fingerprint,
            source=source,
        )
        if isinstance(cache, VisualCache) and cache.fingerprint != self.embedder.fingerprint:
            raise EncoderMismatchError(
                f"the visual cache holds the features of encoder {cache.fingerprint!r}, and this model's is "
                f"{self.embedder.fingerprint!r}; build the cache with this model"
            )
        self._schemas = SchemaCompiler(
            processor.tokenizer, model.config.text_config.vocab_size, end_tokens(model.generation_config)
        )
        self._cache, self._cache_index = cache, cache_index
        self._cache_lock = Lock()

    @classmethod
    def load(
        cls,
        model: str | Path = MINI,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        quantization: str | QuantizationConfigMixin | None = None,
        cache: bool | str | Path = True,
        cache_index: str | Path | None = None,
        access: Access = DEFAULT_ACCESS,
    ) -> Self:
        """Load a model.

        Args:
            model: ``"mini"``, the one embedded in the package; a converted model's folder; or a hub id ``owner/name``,
                the only case in which anything is downloaded.
            device: ``"cpu"``, ``"cuda"``, ...; by default CUDA where there is one.
            dtype: of the weights, ``"float32"``, ``"float16"`` or ``"bfloat16"``; by default as stored, but never
                float16 on a CPU: float32 there, or bfloat16 for files of more than 2 GiB.
            quantization: ``"int8"`` or ``"int4"`` for the decoder layers of the language model, which the extra
                ``quantize`` brings; or any quantisation configuration of transformers, which is then applied as it
                is: leave ``imagebind``, ``bind_network`` and the output head out of it. By default none.
            cache: whether questions may use the visual cache that the model is shipped with; or the folder of one in
                ChromaDB, or its server (``"http://host:port"``). The first question that needs it opens it, and gets a
                StoreError where that fails: of another encoder, owned by another process, not reachable.
            cache_index: folder for the index of a cache of more than 200,000 features; by default the cache's own. One
                on a server has none.
            access: what may be opened.

        Raises:
            ModelNotFoundError: there is no such model.
            IncompatibleModelError: a model of another kind.
            CheckpointError, ModelError: its files are damaged.
            InvalidRequestError: no such device, type or quantisation.
            MissingExtraError: the quantisation's library is not installed.
            StoreError: there is no visual cache in the folder that was named.
        """
        chosen = choose_device(device)
        folder = find_model(model)
        place = find_cache(cache, folder)
        loaded, processor = load_model(folder, chosen, dtype, quantization)
        return cls(
            loaded,
            processor,
            cache=place,
            cache_index=cache_index,
            name=str(model),
            access=access,
            fingerprint=stored_fingerprint(folder),
            source=ModelSource.of(model, device, dtype, access.limits),
        )

    def ask(
        self,
        question: str,
        *attachments: Any,
        weights: Sequence[float] | None = None,
        context: str | None = None,
        library: MediaLibrary | None = None,
        k: int = 3,
        use_cache: bool | None = None,
        schema: Schema | None = None,
        stop: str | Sequence[str] | None = None,
        **sampling: Unpack[Sampling],
    ) -> Answer:
        """Answer a question.

        Args:
            question: a question or an instruction.
            attachments: what it is about, anything that `Attachment` takes; none is a question to the language model.
                Several are mixed into one embedding.
            weights: the share of each attachment: non-negative, not all zero; equal by default.
            context: text that the answer is to build on, e.g. retrieved passages.
            library: where to look for what the answer can build on; what was found is cited in its evidence.
            k: sources to take from the library, at most; fewer where the model cannot read as much.
            use_cache: whether the visual cache draws the embedding towards images; by default where there is one.
            schema: a JSON schema, or a pydantic model: the answer's text is then JSON that parses and validates, which
                the extra ``structured`` brings. See docs/structured-answers.md.
            stop: a text, or several, before the first of which the answer ends.
            sampling: see :class:`~ibllm_tools.assistant.generation.Sampling`.

        Raises:
            InvalidRequestError: an empty or too long question, weights that do not fit, no cache where one is wanted, a
                schema that cannot be followed or needs more tokens than there are, an empty stop text.
            AttachmentError: an attachment cannot be used.
            IncompatibleModelError: the model has no tower for an attachment.
            EncoderMismatchError: the library was filled with another encoder.
            MissingExtraError: a schema is given, and llguidance is not installed.
        """
        writing = self._writing(schema, stop, sampling)
        asked = checked_question(question, attachments, weights, context)
        asked, evidence = self._grounded(asked, library, k, writing)
        answer = _with_evidence(self._answers([asked], writing, use_cache, 1)[0], evidence)
        if isinstance(answer, IbllmError):
            raise answer
        return answer

    def ask_batch(
        self,
        requests: Sequence[Question | str],
        *,
        library: MediaLibrary | None = None,
        k: int = 3,
        use_cache: bool | None = None,
        batch_size: int = 8,
        schema: Schema | None = None,
        stop: str | Sequence[str] | None = None,
        **sampling: Unpack[Sampling],
    ) -> list[Answer | IbllmError]:
        """Answer several questions together.

        Args:
            requests: the questions; a string is one without attachments.
            library: as in :meth:`ask`, for every question.
            k: as in :meth:`ask`.
            use_cache: as in :meth:`ask`.
            batch_size: how many the language model answers at once.
            schema: as in :meth:`ask`, for every question.
            stop: as in :meth:`ask`.
            sampling: as in :meth:`ask`.

        Returns:
            In the place of each question its answer, or the error why it has none; the others are answered.

        Raises:
            InvalidRequestError: ``use_cache``, ``batch_size``, ``schema``, ``stop`` or ``sampling`` are wrong for all.
            MissingExtraError: as in :meth:`ask`.
        """
        if batch_size < 1:
            raise InvalidRequestError(f"batch_size={batch_size}, expected at least 1")
        if isinstance(requests, str) or not all(isinstance(item, str | Question) for item in requests):
            raise InvalidRequestError("requests must be a list of questions, each a text or a Question")
        questions = [checked_question(item, (), None, None) if isinstance(item, str) else item for item in requests]
        writing = self._writing(schema, stop, sampling)
        grounded = [self._grounded_if_possible(question, library, k, writing) for question in questions]
        asked = [item[0] for item in grounded if not isinstance(item, IbllmError)]
        answers = iter(self._answers(asked, writing, use_cache, batch_size))
        return [item if isinstance(item, IbllmError) else _with_evidence(next(answers), item[1]) for item in grounded]

    def stream(
        self,
        question: str,
        *attachments: Any,
        weights: Sequence[float] | None = None,
        context: str | None = None,
        library: MediaLibrary | None = None,
        k: int = 3,
        use_cache: bool | None = None,
        schema: Schema | None = None,
        stop: str | Sequence[str] | None = None,
        **sampling: Unpack[Sampling],
    ) -> AnswerStream:
        """Answer a question piece by piece; arguments and errors as in :meth:`ask`.

        The attachments are embedded before it returns. The stream's ``answer`` is complete when it has ended.
        """
        began = time.perf_counter()
        writing = self._writing(schema, stop, sampling)
        asked = checked_question(question, attachments, weights, context)
        asked, evidence = self._grounded(asked, library, k, writing)
        prepared = self._prepare([asked], self._chosen_cache(use_cache), writing)[0]
        if isinstance(prepared, IbllmError):
            raise prepared

        def answer(live: Live) -> Answer:
            return _with_evidence(self._answer([prepared], writing, began, live)[0], evidence)

        return AnswerStream(self.processor.tokenizer, answer, writing.stops)

    async def aask(self, question: str, *attachments: Any, **options: Any) -> Answer:
        """:meth:`ask` without blocking the event loop."""
        return await asyncio.to_thread(self.ask, question, *attachments, **options)

    async def astream(self, question: str, *attachments: Any, **options: Any) -> AsyncIterator[str]:
        """:meth:`stream` without blocking the event loop; the model stops when the iteration is left."""
        stream = await asyncio.to_thread(self.stream, question, *attachments, **options)
        try:
            while (piece := await asyncio.to_thread(next, stream, None)) is not None:
                yield piece
        finally:
            stream.stop()

    def describe(self, attachment: Any, *, use_cache: bool | None = None, **sampling: Unpack[Sampling]) -> Answer:
        """Describe one attachment; errors as in :meth:`ask`."""
        return self.ask(DESCRIBE, attachment, use_cache=use_cache, **sampling)

    def captions(self, embeddings: NDArray[np.float32]) -> list[str]:
        """A caption per unit vector of the joint space (B, E), as :meth:`describe` says it.

        Raises:
            InvalidRequestError: they are of another width.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedder.dimension:
            raise InvalidRequestError(
                f"embeddings of shape {embeddings.shape}, expected (B, {self.embedder.dimension}), as embed gives them"
            )
        writing = Writing(generation_config(self.model.generation_config))
        cache, question = self._chosen_cache(None), Question(text=DESCRIBE)
        written: list[str] = []
        for start in range(0, len(embeddings), CAPTIONS_AT_ONCE):
            rows = torch.from_numpy(embeddings[start : start + CAPTIONS_AT_ONCE])
            if cache:
                rows = self._opened_cache().enhance(rows)
            batch = [PreparedQuestion(question, row[None], (), cache) for row in rows]
            written += [answer.text for answer in self._answer(batch, writing, time.perf_counter())]
        return written

    def prompt_tokens(self, question: str, context: str | None = None) -> int:
        """How many tokens the model reads for a question, with its prompt template.

        Raises:
            InvalidRequestError: half a surrogate pair, which cannot be encoded.
        """
        require_text(question, context)
        return int(self.processor(question, context)["input_ids"].shape[1])

    @property
    def context_length(self) -> int:
        """How many tokens the model reads and writes in all."""
        return int(self.model.config.text_config.max_position_embeddings)

    def embed(self, *attachments: Any) -> NDArray[np.float32]:
        """Unit vectors of the joint space, one row per attachment, (B, E).

        Raises:
            InvalidRequestError: no attachment at all.
            AttachmentError: an attachment cannot be used.
            IncompatibleModelError: the model has no tower for an attachment.
        """
        return self.embedder.embed([self.access.open(source) for source in attachments])

    def leaves_room(self, question: Question, *, schema: Schema | None = None) -> bool:
        """Whether question and context leave room to the answer: a quarter of what the model can read and write.

        Args:
            question: its attachments take no room.
            schema: of the answer, which may need more; errors as in :meth:`ask`.
        """
        return self._leaves_room(question, self._writing(schema, None, {}))

    def close(self) -> None:
        """Release the visual cache; questions can still be asked without it. Closing twice does nothing."""
        with self._cache_lock:
            cache, self._cache = self._cache, None
        if isinstance(cache, VisualCache):
            cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _writing(self, schema: Schema | None, stop: str | Sequence[str] | None, sampling: Sampling) -> Writing:
        own, stops = self.model.generation_config, StopTexts(stop)
        config = generation_config(own, **sampling)
        if schema is None:
            return Writing(config, stops=stops)
        if stops.texts:
            raise InvalidRequestError("stop and schema: JSON ends by itself; leave one of them out")
        grammar = self._schemas.compile(schema, self.context_length)
        if sampling.get("max_new_tokens") is None:  # the model's own number is for sentences
            config.max_new_tokens = max(config.max_new_tokens, DEFAULT_NEW_TOKENS, len(grammar.shortest))
        if config.max_new_tokens < len(grammar.shortest):
            raise InvalidRequestError(
                f"max_new_tokens={config.max_new_tokens}, and answers that fit the schema have at least "
                f"{len(grammar.shortest):,} tokens; allow as many, or ask for less"
            )
        return Writing(config, grammar)

    def _answers(
        self, questions: Sequence[Question], writing: Writing, use_cache: bool | None, batch_size: int
    ) -> list[Answer | IbllmError]:
        cache = self._chosen_cache(use_cache)
        results: list[Answer | IbllmError] = []
        for start in range(0, len(questions), batch_size):
            began = time.perf_counter()
            prepared = self._prepare(questions[start : start + batch_size], cache, writing)
            good = [item for item in prepared if isinstance(item, PreparedQuestion)]
            answers = iter(self._answer(good, writing, began))
            results += [item if isinstance(item, IbllmError) else next(answers) for item in prepared]
        return results

    def _grounded(
        self, question: Question, library: MediaLibrary | None, k: int, writing: Writing
    ) -> tuple[Question, tuple[Evidence, ...]]:
        if library is None:
            return question, ()
        require_same_encoder(library, self.embedder.fingerprint)
        self._check(question, writing)
        opened = [self._seen_or_opened(source) for source in question.attachments]
        files = [item for item in opened if isinstance(item, Attachment)]
        rows = iter(self.embedder.embed(files) if files else ())  # each (E,)
        impressions = tuple(
            item if isinstance(item, Impression) else Impression(next(rows), self.access.cite(source, item, 0.0))
            for source, item in zip(question.attachments, opened, strict=True)
        )
        question = question.model_copy(update={"attachments": impressions})
        return ground(question, library, k, self.captions, lambda informed: self._leaves_room(informed, writing))

    def _grounded_if_possible(
        self, question: Question, library: MediaLibrary | None, k: int, writing: Writing
    ) -> tuple[Question, tuple[Evidence, ...]] | IbllmError:
        try:
            return self._grounded(question, library, k, writing)
        except IbllmError as error:
            return error

    def _leaves_room(self, question: Question, writing: Writing) -> bool:
        room = max(int(ROOM * self.context_length), writing.fewest)
        return self._length(question) <= self.context_length - room

    def _length(self, question: Question) -> int:
        return self.prompt_tokens(question.text, question.context)

    def _chosen_cache(self, wanted: bool | None) -> bool:
        if wanted and self._cache is None:
            raise InvalidRequestError(f"{self.name}: no visual cache to use; leave use_cache out, or load it with one")
        return self._cache is not None if wanted is None else wanted

    def _opened_cache(self) -> VisualCache:
        with self._cache_lock:
            if self._cache is None:
                raise InvalidRequestError(
                    f"{self.name}: the visual cache was closed while a question was being answered"
                )
            if not isinstance(self._cache, VisualCache):
                self._cache = _open_cache(self._cache, self._cache_index, self.embedder)
            return self._cache

    def _prepare(
        self, questions: Sequence[Question], cache: bool, writing: Writing
    ) -> list[PreparedQuestion | IbllmError]:
        """Everything up to the language model; all attachments of the batch are embedded together."""
        opened = [self._opened(question, writing) for question in questions]
        items = [item for each in opened if isinstance(each, list) for item in each]
        embedded = iter(self.embedder.embed_each([item for item in items if isinstance(item, Attachment)]))
        rows = iter(
            [torch.from_numpy(item.embedding) if isinstance(item, Impression) else next(embedded) for item in items]
        )
        prepared: list[PreparedQuestion | IbllmError] = []
        for question, each in zip(questions, opened, strict=True):
            if isinstance(each, IbllmError):
                prepared.append(each)
            else:
                prepared.append(self._mixed(question, each, [next(rows) for _ in each], cache))
        return prepared

    def _opened(self, question: Question, writing: Writing) -> list[Attachment | Impression] | IbllmError:
        """The attachments of a question that can be answered."""
        try:
            self._check(question, writing)
            return [self._seen_or_opened(source) for source in question.attachments]
        except IbllmError as error:
            return error

    def _seen_or_opened(self, source: Any) -> Attachment | Impression:
        return source if isinstance(source, Impression) else self.access.open(source)

    def _check(self, question: Question, writing: Writing) -> None:
        require_words(question)
        shares(question)
        length, fewest, limit = self._length(question), writing.fewest, self.context_length
        if length + fewest > limit:
            answer = f" and at least {fewest:,} of an answer that fits the schema" if writing.grammar else ""
            raise InvalidRequestError(
                f"{length:,} tokens of question and context{answer}, the model reads and writes {limit:,} in all; "
                "shorten them"
            )

    def _mixed(
        self,
        question: Question,
        attachments: list[Attachment | Impression],
        rows: list[Tensor | IbllmError],
        cache: bool,
    ) -> PreparedQuestion | IbllmError:
        vectors = []
        for row in rows:
            if isinstance(row, IbllmError):
                return row
            vectors.append(row[None])  # (1, E)
        if not vectors:
            return PreparedQuestion(question, None, (), False)
        try:
            evidence = tuple(
                self._cited(*item) for item in zip(question.attachments, attachments, shares(question), strict=True)
            )
            if cache:
                # One by one, before they are mixed: among single pictures, a mix would lose one of its two things.
                vectors = [row[None] for row in self._opened_cache().enhance(torch.cat(vectors))]
            return PreparedQuestion(question, mix_embeddings(vectors, question.weights), evidence, cache)
        except IbllmError as error:
            return error

    def _cited(self, source: Any, opened: Attachment | Impression, weight: float) -> Evidence:
        if isinstance(opened, Impression):
            return opened.evidence.model_copy(update={"weight": weight})
        return self.access.cite(source, opened, weight)

    def _answer(
        self, batch: Sequence[PreparedQuestion], writing: Writing, began: float, live: Live | None = None
    ) -> list[Answer]:
        """Let the language model answer."""
        if not batch:
            return []
        prompts = self.processor([item.question.text for item in batch], [item.question.context for item in batch]).to(
            self.model.device
        )
        written = write(self.model, self.processor, prompts, self._embeddings(batch), writing, live)
        seconds = time.perf_counter() - began
        return [
            self._as_answer(item, each, int(mask.sum()), seconds)
            for item, each, mask in zip(batch, written, prompts["attention_mask"], strict=True)
        ]

    def _embeddings(self, batch: Sequence[PreparedQuestion]) -> dict[str, Tensor]:
        if all(item.embedding is None for item in batch):
            return {}
        nothing = torch.zeros(1, self.embedder.dimension)
        rows = [nothing if item.embedding is None else item.embedding for item in batch]
        mask = torch.tensor([item.embedding is not None for item in batch])  # (B,)
        return {"embeddings": torch.cat(rows).to(self.model.device), "embedding_mask": mask}  # (B, E)

    def _as_answer(self, item: PreparedQuestion, written: Written, prompt_tokens: int, seconds: float) -> Answer:
        return Answer(
            text=written.text,
            question=item.question.text,
            evidence=item.evidence,
            model=self.name,
            cache=item.cache,
            usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=written.tokens, seconds=seconds),
            finish_reason=written.finish_reason,
        )


def _with_evidence(answer: A, evidence: tuple[Evidence, ...]) -> A:
    if not isinstance(answer, Answer) or not evidence:
        return answer
    return answer.model_copy(update={"evidence": (*answer.evidence, *evidence)})


def _open_cache(place: str | Path, index: str | Path | None, embedder: JointEmbedder) -> VisualCache:
    if isinstance(place, Path) and place.is_file():
        return VisualCache.from_features(read_cache_features(place), fingerprint=embedder.fingerprint)
    try:
        return VisualCache.open(
            place,
            fingerprint=embedder.fingerprint,
            dimension=embedder.dimension,
            index_folder=index,
            create=False,
        )
    except StoreLockedError as error:
        raise StoreLockedError(f"{error}; or ask without the cache (use_cache=False, --no-cache)") from error
