"""What the tools give back, besides `Answer` and `IndexReport`."""

from pydantic import BaseModel, ConfigDict, Field

from ibllm_tools.library.entry import Entry, Hit, Ranking


class SearchResult(BaseModel):
    """What was found."""

    model_config = ConfigDict(frozen=True)

    hits: tuple[Hit, ...] = Field(description="One per source, best first.")
    ranking: Ranking = Field(
        default="similarity",
        description="What the scores say: how well each fits, or, where words and similarity were fused (hybrid), only "
        "how high both put it.",
    )


class MediaListing(BaseModel):
    """A page of what the library holds."""

    model_config = ConfigDict(frozen=True)

    entries: tuple[Entry, ...] = Field(description="The first entry of each source, in the order in which they came.")
    total: int = Field(description="Number of sources of these kinds.")
    next_offset: int | None = Field(description="Where the next page begins; null after the last.")
