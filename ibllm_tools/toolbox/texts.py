"""Results as the short texts that a language model reads: what was found, each with a citation and a reference.

A citation says where something is (``bell.wav@0.0-2.0s``); a reference is what another tool takes. What comes from
outside is put on one line, so that no caption can pretend to be a line of ours.
"""

from ibllm_tools.assistant.answer import Answer
from ibllm_tools.errors import one_line
from ibllm_tools.library import Entry, Hit, IndexReport
from ibllm_tools.toolbox.results import MediaListing, SearchResult

SAID_CHARS = 240
CITED_CHARS = 300
"""A file name has 255 at most, and what a shortened citation loses is the place."""

FAILURES_SHOWN = 5


def answer_text(answer: Answer) -> str:
    """``It is a bell. [bell.wav@0.0-3.0s]``."""
    cited = "; ".join(dict.fromkeys(one_line(piece.citation, CITED_CHARS) for piece in answer.evidence))
    return f"{answer.text} [{cited}]" if cited else answer.text


def search_text(result: SearchResult) -> str:
    """A line per source: ``1. dog.wav@0.0-3.0s (audio, score 0.91): It is a dog. <id>``.

    Scores that say no more than the order does are left out.
    """
    if not result.hits:
        return "Nothing was found."
    scored = result.ranking == "similarity"
    return "\n".join(f"{place}. {_hit(hit, scored)}" for place, hit in enumerate(result.hits, 1))


def listing_text(listing: MediaListing) -> str:
    """A line per source, and where the next page begins."""
    lines = [f"{listing.total} sources in the library."]
    lines += [f"- {_named(entry)}" for entry in listing.entries]
    if listing.next_offset is not None:
        lines.append(f"More with offset={listing.next_offset}.")
    return "\n".join(lines)


def report_text(report: IndexReport) -> str:
    """How many sources are new, changed and unchanged, and the first failures."""
    lines = [
        f"{report.added} added, {report.changed} changed, {report.moved} moved, {report.unchanged} unchanged, "
        f"{len(report.failures)} failed."
    ]
    lines += [f"- {one_line(failure.line, SAID_CHARS)}" for failure in report.failures[:FAILURES_SHOWN]]
    if len(report.failures) > FAILURES_SHOWN:
        lines.append(f"- and {len(report.failures) - FAILURES_SHOWN} more")
    return "\n".join(lines)


def _hit(hit: Hit, scored: bool) -> str:
    kind = f"{hit.modality}, score {hit.score:.2f}" if scored else hit.modality
    return f"{one_line(hit.citation, CITED_CHARS)} ({kind}): {_said(hit)} <{hit.id}>"


def _named(entry: Entry) -> str:
    return f"{one_line(entry.name)} ({entry.modality}): {_said(entry)} <{entry.handle}>"


def _said(entry: Entry) -> str:
    return one_line(entry.readable, SAID_CHARS)
