"""What a language model fills in when it calls a tool; the descriptions are written for it.

The docstring of each model is the tool's description.
"""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ibllm_tools.errors import one_line
from ibllm_tools.media.sniff import Modality

MAX_ATTACHMENTS = 16
MAX_HITS = 50
MAX_LISTED = 200
MAX_CHARS = 100_000
"""Of a question or of words to look for: millions would be tokenised for a minute, only to be found too long."""

REFERENCE = "att:// handle, id of a search hit (then only that part of it), or file path"


PROBLEMS_SHOWN = 3


def problems(error: ValidationError) -> str:
    """What is wrong with arguments, in one line: the first few fields with the reasons."""
    items = error.errors(include_url=False, include_input=False)
    shown = [": ".join([*([".".join(map(str, item["loc"]))] if item["loc"] else []), item["msg"]]) for item in items]
    more = f" and {len(shown) - PROBLEMS_SHOWN} more" if len(shown) > PROBLEMS_SHOWN else ""
    return "; ".join(one_line(each, 200) for each in shown[:PROBLEMS_SHOWN]) + more


class _Arguments(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _are_unicode(cls, arguments: Any) -> Any:
        # JSON can announce halves of characters: a result or an error that quotes one could not be sent
        try:
            json.dumps(arguments, ensure_ascii=False, default=str).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("no valid Unicode; write it otherwise") from error
        return arguments


class AskAttachmentArguments(_Arguments):
    """Ask about images, sounds, videos or 3D models: what they show or sound like. Answers with citations."""

    question: str = Field(
        min_length=1, max_length=MAX_CHARS, description="The question or instruction, in plain words."
    )
    attachments: list[str] = Field(
        default_factory=list,
        max_length=MAX_ATTACHMENTS,
        description=f"What the question is about, each an {REFERENCE}. Several are taken as one mixed impression.",
    )
    weights: list[float] | None = Field(
        default=None, description="Share of each attachment, non-negative; equal when left out."
    )
    search_library: bool = Field(
        default=False, description="Also look in the media library for what the answer can build on, and cite it."
    )


class DescribeAttachmentArguments(_Arguments):
    """Say in a sentence what an image, a sound, a video or a 3D model is, with a citation."""

    attachment: str = Field(min_length=1, description=f"What is described: an {REFERENCE}.")


class SearchMediaArguments(_Arguments):
    """Find images, sounds, videos, 3D models and texts in the media library, by words, by example, or by both."""

    query: str | None = Field(default=None, max_length=MAX_CHARS, description="What is looked for, in plain words.")
    attachments: list[str] = Field(
        default_factory=list,
        max_length=MAX_ATTACHMENTS,
        description=f"Examples of what is looked for, each an {REFERENCE}.",
    )
    k: int = Field(default=5, ge=1, le=MAX_HITS, description="How many sources to find, at most.")
    modality: list[Modality] | None = Field(
        default=None, description="What is to be found: some of these kinds; everything when left out."
    )
    tags: list[str] | None = Field(default=None, description="Only what has all of these tags.")
    min_score: float | None = Field(default=None, ge=0, le=1, description="Leave out what scores less.")


class IndexMediaArguments(_Arguments):
    """Add files or folders to the media library, so that they can be found. What has not changed is passed over."""

    paths: list[str] = Field(
        min_length=1,
        max_length=100,
        description="Files, folders or globs in the allowed folders, or att:// handles.",
    )
    title: str | None = Field(default=None, description="Title of all of them; their file names when left out.")
    tags: list[str] | None = Field(default=None, description="Tags of all of them.")
    caption: bool = Field(default=False, description="Write a caption for each; slower, but found by words too.")


class ListMediaArguments(_Arguments):
    """List what the media library holds, source by source."""

    modality: list[Modality] | None = Field(default=None, description="Some of these kinds; everything when left out.")
    limit: int = Field(default=20, ge=1, le=MAX_LISTED, description="How many sources, at most.")
    offset: int = Field(default=0, ge=0, description="How many sources to pass over.")
