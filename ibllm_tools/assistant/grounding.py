"""Answers that rest on what a media library holds: retrieve, put it into the prompt, cite it.

A question without attachments is searched for in its own words, and what fits best is also *seen*: its embedding is the
attachment of the question. A question with attachments is searched for by what is like them. Of all that is retrieved
the prompt says what and where it is, the best last, next to the answer, since small models heed what is near.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.assistant.answer import Evidence, Impression, Question
from ibllm_tools.errors import EncoderMismatchError, one_line
from ibllm_tools.library import Entry, Hit, MediaLibrary

Captions = Callable[[NDArray[np.float32]], list[str]]
Fits = Callable[[Question], bool]


class Grounded(NamedTuple):
    """A question that says what was retrieved for it, and that as evidence, best first.

    What the question has as an attachment is among its attachments, and not among the evidence.
    """

    question: Question
    evidence: tuple[Evidence, ...]


def ground(question: Question, library: MediaLibrary, k: int, captions: Captions, fits: Fits) -> Grounded:
    """Retrieve what a question can be answered with, and put it into the question.

    Args:
        question: as it was asked, its attachments as impressions.
        library: what is searched, filled with the same encoder.
        k: sources to retrieve, at most.
        captions: writes those that are missing.
        fits: whether the model can read a question; evidence that is too much is left out, the worst first.
    """
    impressions: tuple[Impression, ...] = question.attachments
    if impressions:
        hits = library.search([item.embedding for item in impressions], k, query_weights=question.weights)
    else:
        hits = library.search(question.text, k, ranking="hybrid")
    if not hits:
        return Grounded(question, ())
    evidence = described(hits, library, captions)
    seen = None if impressions else Impression(library.embed_query(hits[0]), evidence[0])
    return build_on(question, evidence, seen, fits)


def build_on(question: Question, evidence: Sequence[Evidence], seen: Impression | None, fits: Fits) -> Grounded:
    """Put what was retrieved into a question.

    Args:
        question: as it was asked.
        evidence: what was retrieved, best first, with what is said of it.
        seen: one of them, that the question is about as well; it is cited as the attachment that it is.
        fits: whether the model can read a question; evidence that is too much is left out, the worst first.
    """
    if seen is not None:
        question = question.model_copy(update={"attachments": (seen,)})
    for count in range(len(evidence), 0, -1):
        informed = question.model_copy(update={"context": _context(question.context, evidence[:count])})
        if fits(informed):
            read = (piece for piece in evidence[:count] if seen is None or piece is not seen.evidence)
            return Grounded(informed, tuple(read))
    return Grounded(question, ())


def require_same_encoder(library: MediaLibrary, fingerprint: str) -> None:
    """Refuse a library of another encoder.

    Raises:
        EncoderMismatchError: its vectors mean nothing to this model.
    """
    if library.catalogue.fingerprint != fingerprint:
        raise EncoderMismatchError(
            f"{library.location}: filled with encoder {library.catalogue.fingerprint!r}, and this model's is "
            f"{fingerprint!r}; use the model that filled it"
        )


def described(hits: Sequence[Hit], library: MediaLibrary, captions: Captions) -> list[Evidence]:
    """Hits as evidence; what has neither text nor caption gets a caption from its embedding."""
    silent = [hit for hit in hits if not (hit.text or hit.caption)]
    written = captions(np.stack([library.embed_query(hit) for hit in silent])) if silent else []
    said = dict(zip((hit.id for hit in silent), written, strict=True))
    return [cited(hit, hit.text or hit.caption or said[hit.id]) for hit in hits]


def cited(entry: Entry, caption: str | None = None) -> Evidence:
    """An entry or a hit of a library as evidence.

    Args:
        entry: a segment.
        caption: what is said of it; by default its text or caption.
    """
    said = caption or entry.text or entry.caption
    return Evidence(
        source=entry.source,
        name=entry.name,
        sha256=entry.sha256,
        handle=entry.handle,
        modality=entry.modality,
        mime=entry.mime,
        start=entry.start,
        end=entry.end,
        char_start=entry.char_start,
        char_end=entry.char_end,
        weight=0.0,
        caption=None if said is None else " ".join(said.split()),
        score=entry.score if isinstance(entry, Hit) else None,
    ).traced_to(entry.origin)


def _context(given: str | None, evidence: Sequence[Evidence]) -> str:
    lines = [_line(piece) for piece in reversed(evidence)]
    return "\n".join(lines if given is None else [given, *lines])


def _line(piece: Evidence) -> str:
    span = "" if piece.start is None or piece.end is None else f", {piece.start:.1f}-{piece.end:.1f} s"
    return f"{one_line(piece.name)} ({piece.modality}{span}): {piece.caption}"
