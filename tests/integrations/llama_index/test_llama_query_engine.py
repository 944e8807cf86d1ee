"""Answers from a media library, alone, beside a text index, and below routers."""

from pathlib import Path
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage, TextBlock
from llama_index.core.query_engine import RetrieverQueryEngine, RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.tools import QueryEngineTool
from llama_scripts import ScriptedLLM

from ibllm_tools import Assistant, MediaLibrary
from ibllm_tools.errors import EncoderMismatchError, InvalidRequestError
from llama_index.embeddings.ibllm import ImageBindEmbedding
from llama_index.llms.ibllm import ImageBindLLM
from llama_index.retrievers.ibllm import ImageBindQueryEngine, ImageBindRetriever, ImageBindSynthesizer


@pytest.fixture(scope="session")
def engine(library: MediaLibrary, llm: ImageBindLLM) -> ImageBindQueryEngine:
    return ImageBindQueryEngine.from_library(library, llm, similarity_top_k=2)


@pytest.fixture(scope="session")
def notes(assistant: Assistant) -> VectorStoreIndex:
    nodes = [TextNode(text="My bell is red.", metadata={"file_name": "notes.txt"}, start_char_idx=0, end_char_idx=15)]
    return VectorStoreIndex(nodes, embed_model=ImageBindEmbedding(assistant))


def tools(*engines: tuple[str, Any]) -> list[QueryEngineTool]:
    return [QueryEngineTool.from_defaults(item, name=name, description=f"knows {name}") for name, item in engines]


def test_an_answer_is_cited_and_its_sources_are_there(engine: ImageBindQueryEngine, library: MediaLibrary) -> None:
    response = engine.query("a duck")
    first, second = response.source_nodes
    assert str(response) == f"It is a duck. [duck.glb; {second.metadata['citation']}]"
    assert first.metadata["name"] == "duck.glb"
    assert second.metadata["end"] == 3.0
    assert set(response.metadata) == {first.node_id, second.node_id}


def test_it_answers_from_what_was_filtered(library: MediaLibrary, llm: ImageBindLLM) -> None:
    engine = ImageBindQueryEngine.from_library(library, llm, modality="audio", where={"room": "yard"})
    assert str(engine.query("What is making this sound?")) == "It is a dog. [dog.wav@0.0-3.0s]"


def test_an_image_in_the_query_is_what_it_is_about(engine: ImageBindQueryEngine, media: Path) -> None:
    query = QueryBundle("What is making this sound?", image_path=str(media / "dog.wav"))
    response = engine.query(query)
    assert str(response).startswith("It is a dog. [dog.wav@0.0-3.0s")
    assert str(engine.query(QueryBundle("", image_path=str(media / "dog.wav")))).startswith("It is a dog.")


def test_a_handle_of_the_library_is_what_a_query_is_about(engine: ImageBindQueryEngine, library: MediaLibrary) -> None:
    (dog,) = [entry for entry in library.list(modality="audio") if entry.name == "dog.wav"]
    for query in (QueryBundle("What is making this sound?", image_path=dog.handle), dog.handle):
        response = engine.query(query)
        assert str(response).startswith("It is a dog. [dog.wav@0.0-3.0s")


def test_nothing_is_said_of_what_is_not_found(library: MediaLibrary, llm: ImageBindLLM) -> None:
    engine = ImageBindQueryEngine.from_library(library, llm, where={"room": "attic"})
    assert (str(engine.query("a bell")), engine.query("a bell").source_nodes) == ("Nothing was found.", [])


def test_a_stream_ends_with_the_citations(library: MediaLibrary, llm: ImageBindLLM) -> None:
    engine = ImageBindQueryEngine.from_library(library, llm, streaming=True, similarity_top_k=1)
    response = engine.query("a duck")
    assert [node.metadata["name"] for node in response.source_nodes] == ["duck.glb"]
    pieces = list(response.response_gen)
    assert len(pieces) > 2
    assert pieces[-1] == " [duck.glb]"
    assert "".join(pieces) == "It is a duck. [duck.glb]"


async def test_asynchronous_queries_say_the_same(library: MediaLibrary, llm: ImageBindLLM) -> None:
    whole = ImageBindQueryEngine.from_library(library, llm, similarity_top_k=1)
    assert str(await whole.aquery("a duck")) == "It is a duck. [duck.glb]"
    streaming = ImageBindQueryEngine.from_library(library, llm, similarity_top_k=1, streaming=True)
    response = await streaming.aquery("a duck")
    assert "".join([piece async for piece in response.async_response_gen()]) == "It is a duck. [duck.glb]"


async def test_the_event_loop_is_free_meanwhile(
    engine: ImageBindQueryEngine, assistant: Assistant, unblocked: Any
) -> None:
    assert str(await unblocked(assistant.model, "generate", lambda: engine.aquery("a duck"))).startswith("It is a duck")


def test_texts_of_another_index_are_read_and_cited_too(
    library: MediaLibrary, llm: ImageBindLLM, notes: VectorStoreIndex
) -> None:
    fusion = QueryFusionRetriever(
        [notes.as_retriever(similarity_top_k=1), ImageBindRetriever(library, similarity_top_k=1, modality="audio")],
        llm=llm,
        mode=FUSION_MODES.RECIPROCAL_RANK,
        num_queries=1,
        use_async=False,
    )
    engine = RetrieverQueryEngine(fusion, ImageBindSynthesizer(llm, library))
    response = engine.query("What colour is the bell?")
    assert str(response) == "It is red. [bell.wav@0.0-3.0s; notes.txt@0-15]"
    assert {node.get_content() for node in response.source_nodes} == {"It is a bell.", "My bell is red."}


def test_what_the_model_cannot_read_is_no_source(library: MediaLibrary, llm: ImageBindLLM) -> None:
    nodes = [NodeWithScore(node=TextNode(text=f"{'word ' * 25}{index}", id_=str(index))) for index in range(6)]
    response = ImageBindSynthesizer(llm, library).synthesize("What is it?", nodes)
    assert 1 <= len(response.source_nodes) < 6
    assert response.source_nodes == nodes[: len(response.source_nodes)]
    too_long = [NodeWithScore(node=TextNode(text="word " * 400))]
    with pytest.raises(InvalidRequestError, match="1 nodes, and none fits beside the question"):
        ImageBindSynthesizer(llm, library).synthesize("What is it?", too_long)


def test_texts_alone_are_read(library: MediaLibrary, llm: ImageBindLLM) -> None:
    synthesizer = ImageBindSynthesizer(llm, library)
    assert synthesizer.get_response("What colour is the bell?", ["My bell is red."]) == "It is red."


def test_a_library_of_another_encoder_is_refused(library: MediaLibrary, llm: ImageBindLLM, tmp_path: Path) -> None:
    class Strange:
        fingerprint, dimension = "strange", 4

    with (
        MediaLibrary.open(tmp_path / "library", embedder=Strange()) as strange,  # type: ignore[arg-type]
        pytest.raises(EncoderMismatchError, match="filled with encoder 'strange'"),
    ):
        ImageBindQueryEngine.from_library(strange, llm)


def test_any_model_of_llama_index_answers_from_the_nodes(library: MediaLibrary) -> None:
    class Reading(ScriptedLLM):
        def _reply(self, prompt: str) -> str:
            return "cited" if "citation: duck.glb" in prompt and "duck (point)" in prompt else prompt

    retriever = ImageBindRetriever(library, similarity_top_k=1)
    assert str(RetrieverQueryEngine.from_args(retriever, llm=Reading()).query("a duck")) == "cited"


def test_media_of_nodes_go_to_a_model_that_perceives(library: MediaLibrary, media: Path) -> None:
    (found,) = ImageBindRetriever(library, similarity_top_k=1, where={"room": "yard"}, modality="audio").retrieve("it")
    shown = [*found.node.get_content_blocks()[1:], TextBlock(text="What is making this sound?")]
    assert "dog" in str(ImageBindLLM(roots=media).chat([ChatMessage(blocks=shown)]))


def test_a_router_chooses_it(engine: ImageBindQueryEngine, notes: VectorStoreIndex) -> None:
    llm = ScriptedLLM(choice=2)
    router = RouterQueryEngine.from_defaults(
        tools(("notes", notes.as_query_engine(llm=llm)), ("media", engine)), llm=llm
    )
    response = router.query("a duck")
    assert str(response).startswith("It is a duck. [duck.glb; ")
    assert response.source_nodes[0].metadata["name"] == "duck.glb"
    assert response.metadata["selector_result"].ind == 1


async def test_a_router_of_streams_chooses_it_asynchronously(library: MediaLibrary, llm: ImageBindLLM) -> None:
    engine = ImageBindQueryEngine.from_library(library, llm, streaming=True, similarity_top_k=1)
    router = RouterQueryEngine.from_defaults(tools(("media", engine)), llm=ScriptedLLM())
    response = await router.aquery("a duck")
    assert "".join([piece async for piece in response.async_response_gen()]) == "It is a duck. [duck.glb]"


@pytest.mark.parametrize("use_async", [False, True])
def test_sub_questions_are_answered_by_it(library: MediaLibrary, llm: ImageBindLLM, use_async: bool) -> None:
    sounds = ImageBindQueryEngine.from_library(library, llm, modality="audio", similarity_top_k=1)
    shapes = ImageBindQueryEngine.from_library(library, llm, modality="point", similarity_top_k=1)
    driver = ScriptedLLM(sub_questions={"sounds": "a bell", "shapes": "a duck"})
    engine = SubQuestionQueryEngine.from_defaults(
        tools(("sounds", sounds), ("shapes", shapes)),
        llm=driver,
        question_gen=LLMQuestionGenerator.from_defaults(llm=driver),
        response_synthesizer=get_response_synthesizer(llm=driver),
        verbose=False,
        use_async=use_async,
    )
    response = engine.query("What rings, and what swims?")
    assert str(response) == "It is a bell. [bell.wav@0.0-3.0s] It is a duck. [duck.glb]"
    cited = {node.metadata.get("citation") for node in response.source_nodes}
    assert {"bell.wav@0.0-3.0s", "duck.glb"} <= cited
