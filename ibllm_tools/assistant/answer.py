"""What goes into an assistant and what comes out; the command line, the tools and MCP share these JSON schemas."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from ibllm_tools.attachments import Traceable
from ibllm_tools.attachments.citation import citation
from ibllm_tools.media.sniff import Modality

FinishReason = Literal["stop", "length"]

SOURCES_SCHEMA = {
    "type": "array",
    "items": {"type": "string"},
    "description": "What the question is about: paths, URLs, data URIs or att:// handles.",
}


class Question(BaseModel):
    """A question and what it is about. The attachments are opened when the question is asked, not before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(description="The question or instruction.")
    attachments: Annotated[tuple[Any, ...], WithJsonSchema(SOURCES_SCHEMA)] = Field(
        default=(), description="What the question is about: anything that Attachment takes, or an Impression."
    )
    weights: tuple[float, ...] | None = Field(
        default=None, description="Share of each attachment: non-negative, not all zero; equal when left out."
    )
    context: str | None = Field(
        default=None, description="Text that the answer is to build on, e.g. retrieved passages."
    )


class Evidence(Traceable):
    """An attachment that an answer rests on, in a form that can be cited and found again."""

    source: str = Field(description="Path, URL or handle as it was handed in; the name of anything else.")
    name: str = Field(description="File name.")
    sha256: str = Field(description="SHA-256 of its bytes, hexadecimal.")
    handle: str = Field(description="att://<sha256>, under which an attachment store finds it.")
    modality: Modality = Field(description="What it was taken as; 'point' is everything 3D.")
    mime: str = Field(description="MIME type, by content.")
    start: float | None = Field(default=None, description="Sounds and videos: where the part used begins, seconds.")
    end: float | None = Field(default=None, description="Sounds and videos: where the part used ends, seconds.")
    char_start: int | None = Field(default=None, description="Retrieved texts: the first character of the chunk.")
    char_end: int | None = Field(default=None, description="Retrieved texts: the character after the last one.")
    weight: float = Field(
        description="Its share of the mix, 0 to 1; the shares of an answer add up to 1. 0 for what was only read about."
    )
    caption: str | None = Field(default=None, description="Retrieved: what the prompt said of it, a caption or text.")
    score: float | None = Field(default=None, description="Retrieved: how well it fits the question, 0 to 1.")

    @property
    def citation(self) -> str:
        """``bell.wav@0.0-2.0s``: where it is, in few characters."""
        return citation(self)

    def _repr_html_(self) -> str:
        from ibllm_tools.notebook.cards import card

        facts: list[str] = [self.modality]
        if self.weight:
            facts.append(f"share {self.weight:.0%}")
        if self.score is not None:
            facts.append(f"score {self.score:.2f}")
        read = self.caption if self.modality == "text" else None
        part = (self.modality, self.start, self.end, self.char_start, self.char_end)
        return card(
            self.citation,
            facts,
            caption=None if read else self.caption,
            quoted=read,
            medium=lambda: self.origin.medium(*part),
        )


@dataclass(frozen=True)
class Impression:
    """An attachment of a question that is embedded already.

    Attributes:
        embedding: unit vector (E,) of the joint space.
        evidence: how it is cited; its weight is set by the question.
    """

    embedding: NDArray[np.float32]
    evidence: Evidence


class Usage(BaseModel):
    """What an answer cost."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int = Field(description="Tokens read, without padding.")
    completion_tokens: int = Field(description="Tokens written, the end token included.")
    seconds: float = Field(description="Wall-clock seconds from the call, those of the whole batch in a batch.")


class Answer(BaseModel):
    """An answer, and what it rests on."""

    model_config = ConfigDict(frozen=True)

    text: str = Field(description="The answer.")
    question: str = Field(description="The question or instruction it answers.")
    evidence: tuple[Evidence, ...] = Field(
        description="The attachments, in the order of the question, then what was retrieved, best first."
    )
    model: str = Field(description="Name, folder or hub id of the model that answered.")
    cache: bool = Field(description="Whether the visual cache drew the embedding towards images.")
    usage: Usage = Field(description="Tokens and seconds.")
    finish_reason: FinishReason = Field(
        description="'stop': it ended by itself, at a stop text or as complete JSON; 'length': it was cut off, by "
        "max_new_tokens, the end of what the model reads and writes, or whoever left the stream."
    )

    def _repr_html_(self) -> str:
        from ibllm_tools.notebook.reports import answer_report

        return answer_report(self.question, self.text, (self.model, f"{self.usage.seconds:.1f} s"), self.evidence)
