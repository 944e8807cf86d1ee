"""Answers and index reports as HTML."""

from collections.abc import Mapping, Sequence
from typing import Any

from ibllm_tools.notebook.cards import block
from ibllm_tools.notebook.gallery import laid_out
from ibllm_tools.notebook.markup import FAINT, note, text, words

MOST_LINES = 20


def answer_report(question: str, answer: str, facts: Sequence[str], evidence: Sequence[Any]) -> str:
    """An answer below its question, and what it rests on."""
    said = words(question, FAINT) + words(answer, "font-size:115%;margin:2px 0 6px")
    return block(said + (laid_out(evidence) if evidence else "") + note(" · ".join(facts)))


def count_report(counts: Mapping[str, object], failures: Sequence[str]) -> str:
    """What was counted, and a line per failure."""
    said = ", ".join(f"<b>{text(count)}</b> {text(what)}" for what, count in counts.items())
    lines = "".join(map(note, failures[:MOST_LINES]))
    rest = len(failures) - MOST_LINES
    return block(f"<div>{said}</div>{lines}{note(f'and {rest} more') if rest > 0 else ''}")
