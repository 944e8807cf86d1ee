"""Which documents hold the words of a query, and how well: BM25 (Robertson and Zaragoza, 2009).

The database finds the documents, and what their words are is decided here. Both take the same characters for those of
a word: letters, combining marks, digits, joiners, and what connects like ``_``. Case and composition make no difference
(``µm`` with either mu, ``é`` in one character or two); what is found by the database alone is left out.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from unicodedata import category, normalize

from ibllm_tools.store.chroma import VectorCollection, Where

K, B = 1.2, 0.75
MATCHES = 5000
"""Documents that are read of those that hold a word."""
IN_WORDS = ("L", "M", "Nd", "Nl", "Pc")
"""Categories of characters, or their beginnings."""
JOINERS = "\u200c\u200d"


def query_terms(text: str) -> dict[str, str]:
    """The words of a query, folded, each with the pattern of how documents may write it."""
    terms = {}
    for word in _words(normalize("NFC", text)):
        term = _folded(word)
        terms[term] = "|".join(dict.fromkeys((term, word, normalize("NFD", word))))
    return terms


def scores(
    collection: VectorCollection, size: int, terms: Mapping[str, str], where: Where | None = None
) -> dict[str, float]:
    """The ids of documents that hold any of the terms, and what they score, above 0.

    Args:
        collection: of the documents.
        size: how many it holds.
        terms: as `query_terms` gives them.
        where: filter of the metadata.
    """
    documents: dict[str, Counter[str]] = {}
    holding: Counter[str] = Counter()
    for term, pattern in terms.items():
        found = collection.find(
            where, contains={"$regex": rf"(?i)\b(?:{pattern})\b"}, limit=MATCHES, include=["documents"]
        )
        holding[term] = len(found.ids)
        for id_, document in zip(found.ids, found.documents, strict=True):
            if id_ not in documents:
                documents[id_] = Counter(_words(_folded(document)))
    documents = {id_: words for id_, words in documents.items() if not words.keys().isdisjoint(terms)}
    if not documents:
        return {}
    mean = sum(words.total() for words in documents.values()) / len(documents)
    rarity = {term: math.log(1 + (size - count + 0.5) / (count + 0.5)) for term, count in holding.items()}
    return {
        id_: sum(
            rarity[term] * words[term] * (K + 1) / (words[term] + K * (1 - B + B * words.total() / mean))
            for term in terms
        )
        for id_, words in documents.items()
    }


def _folded(text: str) -> str:
    return normalize("NFC", normalize("NFC", text).casefold())


def _words(text: str) -> Sequence[str]:
    return text.translate({ord(letter): " " for letter in set(text) if not _is_in_words(letter)}).split()


@cache
def _is_in_words(letter: str) -> bool:
    return category(letter).startswith(IN_WORDS) or letter in JOINERS
