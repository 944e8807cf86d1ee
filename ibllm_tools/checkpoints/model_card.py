"""The README.md of a converted model: what it is, what it was made of, on which terms, and how to use it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from ibllm_tools.checkpoints.reading import SourceFile
from ibllm_tools.errors import one_line

_MAKERS = ("ibllm-tools", "torch", "transformers", "safetensors")


@dataclass(frozen=True)
class ModelCard:
    """What a card says. Sources are files by name: where they lay is nobody's business.

    Attributes:
        title: the headline.
        summary: what the model is, in a paragraph.
        licence: its identifier on the hub, e.g. ``cc-by-nc-sa-4.0`` or ``other``.
        task: its ``pipeline_tag`` on the hub.
        tags: what it is found by.
        licences: the terms that hold for its parts.
        sources: the files it was made of.
        options: what was chosen at the conversion, and how.
        warnings: what was unusual about the files.
        usage: how to load it, in Python.
    """

    title: str
    summary: str
    licence: str
    task: str
    tags: Sequence[str]
    licences: Sequence[str]
    sources: Sequence[SourceFile]
    usage: str
    options: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def __str__(self) -> str:
        front = ["---", f"license: {self.licence}", "library_name: transformers", f"pipeline_tag: {self.task}", "tags:"]
        front += [*(f"- {tag}" for tag in self.tags), "---", ""]
        sections = {
            "Licences": _bullets(self.licences),
            "Sources": _table(self.sources),
            "Conversion": _conversion(self.options, self.warnings),
            "Use": f"```python\n{self.usage.strip()}\n```",
        }
        body = [f"# {self.title}", self.summary, *(f"## {name}\n\n{text}" for name, text in sections.items())]
        return "\n".join([*front, "\n\n".join(body), ""])


def with_section(
    card: str,
    name: str,
    summary: str,
    *,
    licences: Sequence[str],
    sources: Sequence[SourceFile],
    warnings: Sequence[str] = (),
) -> str:
    """A card with one more section: about a part that a model was given later. One of that name is replaced."""
    parts = re.split(r"^(?=## )", card, flags=re.MULTILINE)
    kept = "".join(part for part in parts if not part.startswith(f"## {name}\n")).rstrip()
    text = [summary, _bullets(licences), _table(sources), _conversion({}, warnings)]
    return kept + "\n\n" + "\n\n".join([f"## {name}", *text]) + "\n"


def _conversion(options: Mapping[str, str], warnings: Sequence[str]) -> str:
    made_with = "Made with " + ", ".join(f"{name} {version(name)}" for name in _MAKERS) + "."
    lines = [made_with, _bullets([f"{name}: {value}" for name, value in options.items()])]
    return "\n\n".join(filter(None, [*lines, _bullets([f"Warning: {warning}" for warning in warnings])]))


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {one_line(line, 1000)}" for line in lines)


def _table(sources: Sequence[SourceFile]) -> str:
    rows = [f"| `{_cell(file.name)}` | {_cell(file.what)} | {file.bytes:,} | `{file.sha256}` |" for file in sources]
    return "\n".join(["| file | what | bytes | sha256 |", "| --- | --- | ---: | --- |", *rows])


def _cell(text: str) -> str:
    return re.sub(r"[|`]", "'", one_line(text))
