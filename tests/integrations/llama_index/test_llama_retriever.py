"""ImageBindRetriever: what is found, as nodes that can be read, opened and cited."""

from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import AudioBlock
from llama_index.core.schema import MetadataMode, Node, QueryBundle
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from ibllm_tools import Assistant, MediaLibrary
from ibllm_tools.errors import AttachmentAccessError, InvalidRequestError
from llama_index.retrievers.ibllm import ImageBindRetriever


def names(retriever: ImageBindRetriever, query: str | QueryBundle) -> list[str]:
    return [node.metadata["name"] for node in retriever.retrieve(query)]


def test_a_node_says_what_it_is_and_where(library: MediaLibrary, media: Path) -> None:
    (found,) = ImageBindRetriever(library, similarity_top_k=1).retrieve("a bell")
    assert isinstance(found.node, Node)
    assert found.get_content() == "It is a bell."
    assert found.score is not None
    assert found.score > 0.9
    entry = library.get(found.node_id)
    metadata = dict(found.metadata)
    assert Path(metadata.pop("thumbnail")).is_file()
    assert metadata == {
        "citation": "bell.wav@0.0-3.0s",
        "source": str(media / "bell.wav"),
        "name": "bell.wav",
        "title": "bell",
        "modality": "audio",
        "mime": "audio/wav",
        "start": 0.0,
        "end": 3.0,
        "duration": 3.0,
        "sha256": entry.sha256,
        "handle": entry.handle,
        "tags": ["loud"],
        "room": "hall",
        "year": 1712,
    }
    assert found.node.ref_doc_id == entry.handle


def test_a_language_model_reads_little_beside_the_text(library: MediaLibrary) -> None:
    (found,) = ImageBindRetriever(library, similarity_top_k=1).retrieve("a bell")
    read = found.get_content(metadata_mode=MetadataMode.LLM)
    assert read == "room: hall\nyear: 1712\ncitation: bell.wav@0.0-3.0s\n\nIt is a bell."
    assert "bell.wav" not in found.get_content(metadata_mode=MetadataMode.EMBED)


def test_the_medium_is_a_resource(library: MediaLibrary, media: Path) -> None:
    found = {node.metadata["name"]: node.node for node in ImageBindRetriever(library).retrieve("a helicopter")}
    film = found["helicopter.mp4"].video_resource
    assert (film.path, film.mimetype) == (media / "helicopter.mp4", "video/mp4")
    sound = next(block for block in found["bell.wav"].get_content_blocks() if isinstance(block, AudioBlock))
    assert (sound.path, sound.format) == (media / "bell.wav", "wav")


def test_what_has_no_caption_is_not_left_out(library: MediaLibrary) -> None:
    (found,) = ImageBindRetriever(library, similarity_top_k=1).retrieve("a duck")
    assert (found.get_content(), found.metadata["modality"]) == ("duck (point)", "point")
    assert found.metadata["citation"] == "duck.glb"
    assert found.node.image_resource is None


def test_a_source_that_has_gone_is_still_cited(assistant: Assistant, media: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bell.wav"
    copy.write_bytes((media / "bell.wav").read_bytes())
    with MediaLibrary.open(tmp_path / "library", embedder=assistant.embedder) as library:
        library.add(copy)
        copy.unlink()
        (found,) = ImageBindRetriever(library).retrieve("a bell")
    assert found.metadata["citation"] == "bell.wav@0.0-3.0s"
    assert found.node.audio_resource is None
    assert [block.block_type for block in found.node.get_content_blocks()] == ["text"]


def test_texts_are_found_with_their_place(library: MediaLibrary) -> None:
    (found,) = ImageBindRetriever(library, modality="text").retrieve("cast 1712")
    assert found.get_content() == "The bell was cast in 1712."
    assert (found.metadata["char_start"], found.metadata["char_end"]) == (0, 26)


def test_an_example_is_looked_for_by_what_it_is(library: MediaLibrary, media: Path) -> None:
    retriever = ImageBindRetriever(library, similarity_top_k=1, roots=media)
    assert names(retriever, QueryBundle("", image_path=str(media / "bell.png"))) == ["bell.wav"]
    assert names(retriever, QueryBundle("", image_path=str(media / "dog.wav"))) == ["dog.wav"]
    handle = next(library.list(modality="video")).handle
    assert names(retriever, QueryBundle("", image_path=handle)) == ["helicopter.mp4"]
    assert names(retriever, handle) == ["helicopter.mp4"]


def test_no_example_is_read_without_roots(library: MediaLibrary, media: Path) -> None:
    with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
        ImageBindRetriever(library).retrieve(QueryBundle("a bell", image_path=str(media / "bell.png")))
    with pytest.raises(AttachmentAccessError, match="fetching URLs is switched off"):
        ImageBindRetriever(library).retrieve(QueryBundle("", image_path="https://example.com/bell.png"))


def test_an_embedding_says_what_is_meant(library: MediaLibrary, assistant: Assistant, media: Path) -> None:
    retriever = ImageBindRetriever(library, similarity_top_k=1)
    vector = assistant.embed(media / "dog.wav")[0].tolist()
    assert names(retriever, QueryBundle("", embedding=vector)) == ["dog.wav"]
    assert names(retriever, QueryBundle("something else", embedding=vector)) == ["dog.wav"]


def test_an_embedding_of_another_retriever_is_not_ours(library: MediaLibrary) -> None:
    retriever = ImageBindRetriever(library, similarity_top_k=1)
    assert names(retriever, QueryBundle("a duck", embedding=[0.1] * 1536)) == ["duck.glb"]
    with pytest.raises(InvalidRequestError, match="an embedding of width 1536 and no words"):
        retriever.retrieve(QueryBundle("", embedding=[0.1] * 1536))


def test_other_words_may_say_what_is_meant(library: MediaLibrary) -> None:
    query = QueryBundle("Quack?", custom_embedding_strs=["a duck", "a small duck"])
    assert names(ImageBindRetriever(library, similarity_top_k=1), query) == ["duck.glb"]


def test_a_path_in_place_of_a_library_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="library of type str, expected a MediaLibrary"):
        ImageBindRetriever("library")


def test_an_empty_query_is_refused(library: MediaLibrary) -> None:
    with pytest.raises(InvalidRequestError, match="an empty query"):
        ImageBindRetriever(library).retrieve(" ")


@pytest.mark.parametrize(
    ("key", "value", "operator", "found"),
    [
        ("room", "hall", "==", {"bell.wav"}),
        ("room", ["hall"], "in", {"bell.wav"}),
        ("year", 2000, ">", {"dog.wav", "helicopter.mp4"}),
        ("year", 1712, "<=", {"bell.wav"}),
        ("room", "hall", "!=", {"dog.wav", "helicopter.mp4", "duck.glb"}),
        ("tags", "loud", "contains", {"bell.wav"}),
        ("tags", ["loud", "soft"], "any", {"bell.wav"}),
        ("tags", ["loud", "soft"], "all", set()),
    ],
)
def test_metadata_filters_are_understood(
    library: MediaLibrary, key: str, value: Any, operator: str, found: set[str]
) -> None:
    filters = MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])
    retriever = ImageBindRetriever(library, filters=filters, modality=["audio", "video", "point"])
    assert set(names(retriever, "a thing")) == found


def test_filters_are_joined(library: MediaLibrary) -> None:
    hall, loud = MetadataFilter(key="room", value="hall"), MetadataFilter(key="tags", value="loud", operator="contains")
    late = MetadataFilter(key="year", value=2000, operator=">")
    either = MetadataFilters(filters=[MetadataFilters(filters=[hall, loud]), late], condition="or")
    retriever = ImageBindRetriever(library, filters=either, where={"room": {"$in": ["hall", "yard"]}})
    assert set(names(retriever, "a thing")) == {"bell.wav", "dog.wav", "helicopter.mp4"}
    assert names(ImageBindRetriever(library, filters=MetadataFilters(filters=[])), "a thing")


@pytest.mark.parametrize(
    "filters",
    [
        MetadataFilters(filters=[MetadataFilter(key="room", value="ha", operator="text_match")]),
        MetadataFilters(filters=[MetadataFilter(key="room", value=None, operator="is_empty")]),
        MetadataFilters(filters=[MetadataFilter(key="room", value="hall")], condition="not"),
    ],
    ids=["text match", "empty", "not"],
)
def test_filters_that_the_library_has_not_are_refused(library: MediaLibrary, filters: MetadataFilters) -> None:
    with pytest.raises(InvalidRequestError, match="expected"):
        ImageBindRetriever(library, filters=filters)


def test_a_filter_is_checked_before_it_is_used(library: MediaLibrary) -> None:
    with pytest.raises(InvalidRequestError, match="expected a number"):
        ImageBindRetriever(library, where={"year": {"$gt": "late"}})


def test_scores_and_numbers_bound_what_is_found(library: MediaLibrary) -> None:
    first, second, *_ = ImageBindRetriever(library).retrieve("a duck")
    between = (first.get_score() + second.get_score()) / 2
    assert names(ImageBindRetriever(library, min_score=between), "a duck") == ["duck.glb"]
    assert len(names(ImageBindRetriever(library, similarity_top_k=2), "a duck")) == 2
    with pytest.raises(InvalidRequestError, match="ranking 'best'"):
        ImageBindRetriever(library, ranking="best")  # type: ignore[arg-type]


async def test_the_event_loop_is_free_meanwhile(library: MediaLibrary, unblocked: Any) -> None:
    retriever = ImageBindRetriever(library, similarity_top_k=1)
    (found,) = await unblocked(library, "search", lambda: retriever.aretrieve("a duck"))
    assert found.metadata["name"] == "duck.glb"


def test_a_library_is_found_again_after_it_was_closed(assistant: Assistant, media: Path, tmp_path: Path) -> None:
    with MediaLibrary.open(tmp_path / "library", embedder=assistant.embedder) as library:
        library.add(media / "bell.wav", media / "car.png", media / "duck.glb")
        before = ImageBindRetriever(library).retrieve("a duck")
    with MediaLibrary.open(tmp_path / "library", embedder=assistant.embedder) as library:
        after = ImageBindRetriever(library).retrieve("a duck")
    assert after[0].metadata["name"] == "duck.glb"
    assert [node.to_dict() for node in after] == [node.to_dict() for node in before]
