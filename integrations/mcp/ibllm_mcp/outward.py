"""How results leave the server: with paths that say no more about the machine than a client needs.

A source below one of the roots is named by its path in it, which is how the tools take it; any other by its handle.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from ibllm_tools.assistant.answer import Answer, Evidence
from ibllm_tools.errors import one_line
from ibllm_tools.library import Entry, Hit, IndexReport
from ibllm_tools.toolbox import MediaListing, SearchResult

LONGEST_ERROR = 2000

Result = TypeVar("Result", bound=BaseModel)
Item = TypeVar("Item", Evidence, Entry, Hit)


class Outward:
    """Rewrites results for clients.

    Args:
        roots: folders that clients may name files in, resolved.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(roots)

    def result(self, result: Result) -> Result:
        """The same result, with sources named for clients."""
        if isinstance(result, Answer):
            evidence = tuple(map(self._named, result.evidence))
            return result.model_copy(update={"evidence": evidence, "model": _last_part(result.model)})
        if isinstance(result, SearchResult):
            return result.model_copy(update={"hits": tuple(map(self._named, result.hits))})
        if isinstance(result, MediaListing):
            return result.model_copy(update={"entries": tuple(map(self._named, result.entries))})
        if isinstance(result, IndexReport):
            failures = tuple(
                failure.model_copy(update={"source": self.text(failure.source), "reason": self.text(failure.reason)})
                for failure in result.failures
            )
            return result.model_copy(update={"failures": failures})
        raise TypeError(f"result of type {type(result).__name__}")

    def text(self, text: str) -> str:
        """A message, with the paths in it relative to the roots, and a root itself as its name."""
        for root in self.roots:
            if root.name:
                text = text.replace(f"{root}{os.sep}", "").replace(str(root), root.name)
        return text

    def line(self, message: str) -> str:
        """An error, in one line."""
        return one_line(self.text(message), LONGEST_ERROR)

    def _named(self, item: Item) -> Item:
        return item.model_copy(update={"source": self._source(item.source, item.handle)})

    def _source(self, source: str, handle: str) -> str:
        path = Path(source)
        if not path.is_absolute():
            return source
        for root in self.roots:
            if path.is_relative_to(root):
                relative = path.relative_to(root)
                first = next((folder for folder in self.roots if (folder / relative).exists()), root)
                return str(relative) if first == root else source
        return handle


def _last_part(model: str) -> str:
    return Path(model).name if Path(model).is_absolute() else model
