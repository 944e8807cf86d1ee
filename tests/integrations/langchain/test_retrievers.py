"""ImageBindRetriever: queries of any modality, and documents that can be cited."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_loop import ticks_during
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from sample_files import write_sound

from ibllm_tools import Assistant, Attachment, MediaLibrary
from ibllm_tools.errors import AttachmentAccessError, AttachmentNotFoundError, InvalidRequestError
from langchain_ibllm import ImageBindRetriever

SECRET = "/etc/hostname"


@pytest.fixture(scope="module")
def library(assistant: Assistant, media: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaLibrary]:
    folder = tmp_path_factory.mktemp("retriever")
    long_sound = write_sound(folder / "tone.wav", seconds=21)
    with MediaLibrary.open(folder / "library", embedder=assistant.embedder) as library:
        library.add(media / "bell.png", tags=["tower"], caption="A bell of bronze.", metadata={"year": 1712})
        library.add(media / "bell.wav", media / "dog.wav", media / "duck.glb", media / "car.png", media / "piano.obj")
        library.add(media / "helicopter.mp4", long_sound, texts=["The dog of the miller barks at night."])
        library.roots = media
        yield library


@pytest.fixture(scope="module")
def retriever(library: MediaLibrary) -> ImageBindRetriever:
    return ImageBindRetriever(library=library)


def names(documents: list[Document]) -> list[str]:
    return [Path(document.metadata["source"]).name for document in documents]


class TestDocuments:
    def test_say_where_they_are(self, retriever: ImageBindRetriever, media: Path) -> None:
        (found,) = retriever.invoke("a barking dog", k=1, modality="audio")
        hit = retriever.library.search("a barking dog", k=1, modality="audio")[0]
        said = dict(found.metadata)
        assert Path(said.pop("thumbnail")).read_bytes()[8:12] == b"WEBP"
        assert said == {
            "source": str(media / "dog.wav"),
            "title": "dog",
            "modality": "audio",
            "mime": "audio/wav",
            "sha256": Attachment(media / "dog.wav").sha256,
            "handle": Attachment(media / "dog.wav").handle,
            "start": 0.0,
            "end": hit.end,
            "duration": hit.duration,
            "citation": f"dog.wav@0.0-{hit.end:.1f}s",
            "score": hit.score,
            "similarity": hit.similarity,
        }
        assert found.id == hit.id

    def test_read_as_their_caption_and_carry_tags_and_metadata(self, retriever: ImageBindRetriever) -> None:
        (found,) = retriever.invoke("a bell", where={"year": {"$gte": 1700}})
        assert found.page_content == "A bell of bronze."
        assert (found.metadata["tags"], found.metadata["year"]) == (["tower"], 1712)

    def test_media_without_a_caption_are_not_passed_over(self, retriever: ImageBindRetriever) -> None:
        contents = {document.page_content for document in retriever.invoke("anything", k=20)}
        assert {"bell (audio)", "duck (point)", "car (image)", "helicopter (video)"} <= contents

    def test_of_texts_are_passages_with_their_place(self, retriever: ImageBindRetriever) -> None:
        (found,) = retriever.invoke("miller", modality="text")
        assert found.page_content == "The dog of the miller barks at night."
        assert (found.metadata["char_start"], found.metadata["char_end"]) == (0, 37)
        assert found.metadata["source"] == found.metadata["handle"]

    def test_have_no_thumbnail_where_it_has_gone(self, assistant: Assistant, media: Path, tmp_path: Path) -> None:
        with MediaLibrary.open(tmp_path, embedder=assistant.embedder) as library:
            library.add(media / "bell.png")
            (handle,) = library.attachments or []
            library.attachments.delete(handle)
            (found,) = ImageBindRetriever(library=library).invoke("a bell")
            assert "thumbnail" not in found.metadata


class TestQueries:
    @pytest.mark.parametrize("shape", ["path", "attachment", "handle", "vector", "hit"])
    def test_a_sound_finds_the_picture_of_what_makes_it(
        self, retriever: ImageBindRetriever, media: Path, shape: str
    ) -> None:
        path = media / "bell.wav"
        library = retriever.library
        query: Any = {
            "path": lambda: path,
            "attachment": lambda: Attachment(path.read_bytes()),
            "handle": lambda: Attachment(path).handle,
            "vector": lambda: library.embed_query(path),
            "hit": lambda: library.search(path, k=1)[0],
        }[shape]()
        assert names(retriever.invoke(query, k=1, modality="image")) == ["bell.png"]

    def test_a_mix_is_weighted(self, retriever: ImageBindRetriever, media: Path) -> None:
        bell = Attachment(media / "bell.wav").handle
        few = {"k": 1, "modality": ["audio", "point"]}
        assert names(retriever.invoke(["a duck", bell], query_weights=[1, 0.1], **few)) == ["duck.glb"]
        assert names(retriever.invoke(["a duck", bell], query_weights=[0.1, 1], **few)) == ["bell.wav"]

    def test_what_is_subtracted_comes_last(self, retriever: ImageBindRetriever) -> None:
        found = names(retriever.invoke(["a dog", "a bell"], query_weights=[1, -1], k=20, modality="audio"))
        assert (found[0], found[-1]) == ("dog.wav", "bell.wav")

    def test_a_text_is_never_taken_for_a_path(self, retriever: ImageBindRetriever) -> None:
        assert len(retriever.invoke(SECRET, k=1)) == 1

    def test_files_outside_the_roots_are_refused(self, retriever: ImageBindRetriever) -> None:
        with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
            retriever.invoke(Path(SECRET))

    def test_handles_of_nothing_are_refused(self, retriever: ImageBindRetriever) -> None:
        with pytest.raises(AttachmentNotFoundError):
            retriever.invoke("att://" + "0" * 64)

    @pytest.mark.parametrize("query", [{"query": "a bell"}, 5, None, [], ""])
    def test_what_is_no_query_is_refused(self, retriever: ImageBindRetriever, query: Any) -> None:
        with pytest.raises(InvalidRequestError):
            retriever.invoke(query)


class TestOptions:
    def test_are_those_of_the_retriever_until_a_call_names_others(self, library: MediaLibrary) -> None:
        retriever = ImageBindRetriever(library=library, k=2, modality="image")
        assert set(names(retriever.invoke("a bell"))) == {"bell.png", "car.png"}
        assert names(retriever.invoke("a duck", modality="point", k=1)) == ["duck.glb"]

    def test_ranking_by_words_finds_captions_and_titles(self, retriever: ImageBindRetriever) -> None:
        assert names(retriever.invoke("bronze", ranking="words")) == ["bell.png"]
        assert "helicopter.mp4" in names(retriever.invoke("helicopter", ranking="hybrid", k=1))

    def test_a_least_score(self, retriever: ImageBindRetriever) -> None:
        found = retriever.invoke("a barking dog", k=20)
        bar = found[1].metadata["score"]
        assert [document.id for document in retriever.invoke("a barking dog", k=20, min_score=bar)] == [
            document.id for document in found[:2]
        ]

    def test_segments_of_one_source_are_documents_of_their_own(self, retriever: ImageBindRetriever) -> None:
        where = {"title": "tone"}
        assert len(retriever.invoke("a tone", where=where)) == 1
        found = retriever.invoke("a tone", where=where, segments=3, k=4)
        assert len({document.metadata["start"] for document in found}) == 3
        scores = [document.metadata["score"] for document in found]
        assert scores == sorted(scores, reverse=True)
        assert len(retriever.invoke("a tone", where=where, segments=3, k=2)) == 2

    def test_filters_name_the_keys_that_documents_show(self, retriever: ImageBindRetriever, media: Path) -> None:
        source = str(media / "duck.glb")
        assert names(retriever.invoke("a bell", where={"source": source})) == ["duck.glb"]
        others = retriever.invoke("a bell", where={"source": {"$ne": source}}, k=20)
        assert len(others) == 8
        assert "duck.glb" not in names(others)

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"top_k": 3}, "option 'top_k', expected some of k,"),
            ({"k": 0}, "k=0"),
            ({"modality": "smell"}, "modality 'smell'"),
            ({"where": {}}, "filter {}"),
            ({"where": {"year": {"$near": 3}}}, "year"),
            ({"ranking": "age"}, "ranking 'age'"),
            ({"query_weights": [1, 2]}, "query_weights"),
        ],
    )
    def test_that_cannot_be_used_are_refused(
        self, retriever: ImageBindRetriever, options: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(InvalidRequestError, match=reason):
            retriever.invoke("a bell", **options)


class TestInChains:
    def test_callbacks_see_the_query_the_documents_and_the_model(self, retriever: ImageBindRetriever) -> None:
        seen: list[Any] = []

        class Noting(BaseCallbackHandler):
            def on_retriever_start(self, serialized: Any, query: str, **rest: Any) -> None:
                seen.append((query, rest["metadata"]))

            def on_retriever_end(self, documents: Any, **rest: Any) -> None:
                seen.append(documents)

        found = retriever.invoke("a bell", {"callbacks": [Noting()]})
        (query, metadata), documents = seen
        assert (query, documents) == ("a bell", found)
        assert metadata["ls_retriever_name"] == "imagebind"
        assert metadata["ls_embedding_model"] == "mini"

    def test_is_a_part_of_a_chain_and_of_a_batch(self, retriever: ImageBindRetriever) -> None:
        chain = retriever.model_copy(update={"modality": "audio"}) | RunnableLambda(names)
        assert [found[0] for found in chain.batch(["a barking dog", "a ringing bell"])] == ["dog.wav", "bell.wav"]

    async def test_the_event_loop_goes_on_meanwhile(
        self, retriever: ImageBindRetriever, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        search = retriever.library.search

        def slow(*query: Any, **options: Any) -> Any:
            time.sleep(0.3)
            return search(*query, **options)

        monkeypatch.setattr(retriever.library, "search", slow)
        assert await ticks_during(retriever.ainvoke("a bell", k=1)) > 5

    async def test_options_reach_an_asynchronous_call(self, retriever: ImageBindRetriever) -> None:
        assert names(await retriever.ainvoke("a duck", k=1, modality="point")) == ["duck.glb"]
        with pytest.raises(InvalidRequestError, match="top_k"):
            await retriever.ainvoke("a duck", top_k=1)


def test_a_vector_of_another_width_is_refused(retriever: ImageBindRetriever) -> None:
    with pytest.raises(InvalidRequestError, match="shape"):
        retriever.invoke(np.ones(3, np.float32))
