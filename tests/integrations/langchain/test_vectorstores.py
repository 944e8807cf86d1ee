"""ImageBindVectorStore: texts under ids of their own beside media, on disk and off it."""

import gc
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_loop import ticks_during
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index

from ibllm_tools import Assistant, Attachment
from ibllm_tools.errors import AttachmentAccessError, InvalidRequestError, StoreError, UnsupportedMediaError
from ibllm_tools.store.chroma import VectorCollection
from langchain_ibllm import ImageBindEmbeddings, ImageBindVectorStore

LONG = "A bell rings in the tower, and somebody counts.\n\n" + "Nothing else is heard. " * 40 + " \n"


@pytest.fixture
def embedding(assistant: Assistant) -> ImageBindEmbeddings:
    return ImageBindEmbeddings(assistant=assistant)


@pytest.fixture
def store(embedding: ImageBindEmbeddings, tmp_path: Path) -> Iterator[ImageBindVectorStore]:
    with ImageBindVectorStore.open(tmp_path / "library", embedding) as store:
        yield store


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def found(store: ImageBindVectorStore, query: Any = "a bell", **options: Any) -> set[str | None]:
    return set(ids(store.similarity_search(query, k=20, **options)))


class TestTexts:
    def test_equal_texts_under_two_ids_are_two_documents(self, store: ImageBindVectorStore) -> None:
        store.add_texts(["a bell", "a bell"], [{"page": 1}, {"page": 2}], ids=["a", "b"])
        assert [document.metadata for document in store.get_by_ids(["b", "a"])] == [{"page": 2}, {"page": 1}]
        assert found(store, filter={"page": 2}) == {"b"}
        store.delete(["a"])
        assert found(store) == {"b"}

    def test_a_long_text_is_one_document_and_comes_back_to_the_letter(self, store: ImageBindVectorStore) -> None:
        store.add_texts([LONG, "a dog"], ids=["long", "short"])
        documents = store.similarity_search("a bell rings in the tower", k=4)
        assert ids(documents) == ["long", "short"]
        assert documents[0] == Document(id="long", page_content=LONG, metadata={})

    @pytest.mark.parametrize(
        "text", ["<svg/>", "v 0 0 0\nf 1 1 1", "%PDF", "\u00e4\u4e2d\U0001f514", "text:a", "att://x"]
    )
    def test_any_text_is_text(self, store: ImageBindVectorStore, text: str) -> None:
        (id_,) = store.add_texts([text])
        assert store.get_by_ids([id_])[0].page_content == text

    def test_keys_that_loaders_write_stay_the_users(self, store: ImageBindVectorStore) -> None:
        metadata = {
            "source": "a.pdf",
            "title": "Bells",
            "page": 3,
            "start": "here",
            "document.source": 1,
            "tags": ["x"],
        }
        store.add_documents([Document(page_content="a bell", metadata=metadata), Document(page_content="a dog")])
        assert store.similarity_search("a bell", k=1)[0].metadata == metadata
        assert len(found(store, filter={"source": "a.pdf"})) == 1
        assert len(found(store, filter={"source": {"$ne": "a.pdf"}})) == 1
        assert len(found(store, filter={"$or": [{"title": "Bells"}, {"page": 9}]})) == 1
        assert len(found(store, filter={"title": {"$in": ["Bells"]}, "page": {"$gte": 3}})) == 1
        assert found(store, filter={"source": "b.pdf"}) == set()

    def test_replacing_a_text_replaces_its_metadata_too(self, store: ImageBindVectorStore) -> None:
        store.add_texts(["a bell"], [{"page": 1, "tower": True}], ids=["a"])
        store.add_texts(["a bell"], [{"page": 2}], ids=["a"])
        assert store.get_by_ids(["a"])[0].metadata == {"page": 2}
        store.add_texts(["a bell"], ids=["a"])
        assert store.get_by_ids(["a"])[0].metadata == {}

    def test_of_equal_ids_the_last_counts(self, store: ImageBindVectorStore) -> None:
        assert store.add_texts(["a bell", "a dog"], ids=["a", "a"]) == ["a", "a"]
        assert [document.page_content for document in store.get_by_ids(["a", "a"])] == ["a dog"]

    @pytest.mark.parametrize(
        ("texts", "metadatas", "given", "reason"),
        [
            (["a bell", " "], None, None, "blank text"),
            (["a bell", "a dog"], [{}], None, "2 texts, 1 metadatas"),
            ("bell", None, None, "texts of type str, expected a list"),
            (["a bell"], [None], None, "metadata of type NoneType"),
            ([7], None, None, "7 of type int, expected text"),
            (["a bell", "a dog"], None, ["a"], "1 ids"),
            (["a bell", "a dog"], [{}, {"x": {"y": 1}}], None, "of type dict"),
            (["a bell", "a dog"], None, ["a", "b\0"], "name"),
        ],
    )
    def test_what_cannot_be_stored_is_refused_before_anything_is_added(
        self, store: ImageBindVectorStore, texts: Any, metadatas: Any, given: Any, reason: str
    ) -> None:
        with pytest.raises(InvalidRequestError, match=reason):
            store.add_texts(texts, metadatas, ids=given)
        assert found(store) == set()

    def test_langchains_index_adds_replaces_and_cleans_up(self, store: ImageBindVectorStore) -> None:
        manager = InMemoryRecordManager("bells")
        manager.create_schema()

        def run(*texts: str) -> dict[str, int]:
            documents = [Document(page_content=text, metadata={"source": "a.txt"}) for text in texts]
            done = index(documents, manager, store, cleanup="full", source_id_key="source", key_encoder="sha256")
            return {key: count for key, count in done.items() if count}

        assert run("a bell", "a dog") == {"num_added": 2}
        assert run("a bell", "a duck") == {"num_added": 1, "num_skipped": 1, "num_deleted": 1}
        contents = {document.page_content for document in store.similarity_search("a bell", k=9)}
        assert contents == {"a bell", "a duck"}


class TestMedia:
    def test_stand_beside_texts_in_one_ranking(self, store: ImageBindVectorStore, media: Path) -> None:
        store.add_texts(["a barking dog"], ids=["note"])
        added = store.add_media([media / "dog.wav", media / "car.png"])
        documents = store.similarity_search("a barking dog", k=3)
        assert set(ids(documents)) == {"note", *added}
        assert documents[-1].metadata["citation"] == "car.png"
        (sound,) = store.similarity_search("a barking dog", modality="audio")
        assert (sound.page_content, sound.metadata["start"]) == ("dog (audio)", 0.0)

    def test_a_sound_finds_pictures_and_texts(self, store: ImageBindVectorStore, media: Path) -> None:
        store.add_media([media / "bell.png", media / "car.png"])
        assert store.similarity_search(media / "bell.wav", k=1)[0].metadata["title"] == "bell"

    def test_of_every_form(self, store: ImageBindVectorStore, media: Path) -> None:
        pixels = Attachment(np.zeros((8, 8, 3), np.uint8), modality="image", name="black.png")
        kept = store.add_media([(media / "bell.png").read_bytes(), pixels, str(media / "*.obj")], tags=["x"])
        titles = {document.metadata["modality"] for document in store.get_by_ids(kept)}
        assert titles == {"image", "point"}
        assert found(store, filter={"tags": {"$contains": "x"}}) == set(kept)

    def test_ids_are_those_of_their_segments_also_when_they_are_there(
        self, store: ImageBindVectorStore, media: Path
    ) -> None:
        first = store.add_media([media / "helicopter.mp4"])
        assert store.add_media([media / "helicopter.mp4"]) == first
        assert [document.id for document in store.get_by_ids(first)] == first

    def test_are_deleted_as_whole_sources_by_any_id(self, store: ImageBindVectorStore, media: Path) -> None:
        first = store.add_media([media / "helicopter.mp4"])
        other = store.add_media([media / "bell.png"])
        store.delete([first[-1], "nobody"])
        assert store.get_by_ids([*first, *other])[0].id == other[0]
        assert (media / "helicopter.mp4").exists()

    def test_files_outside_the_roots_are_refused(
        self, embedding: ImageBindEmbeddings, media: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "link.png").symlink_to(media / "bell.png")
        outside = ["/etc/passwd", tmp_path / "in" / "link.png", f"{tmp_path}/in/../../x", media, "/nowhere", "/*"]
        with ImageBindVectorStore.open(None, embedding, roots=tmp_path / "in") as store:
            for path in outside:
                with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
                    store.add_media([path])
            with pytest.raises(AttachmentAccessError, match="switched off"):
                store.add_media(["http://127.0.0.1:1/x.png"])
            with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
                store.similarity_search(Path("/etc/passwd"))
            assert found(store) == set()

    def test_what_is_no_media_is_refused(self, store: ImageBindVectorStore, tmp_path: Path) -> None:
        (tmp_path / "x.png").write_bytes(b"\x80\x04pickle")
        with pytest.raises(UnsupportedMediaError, match="pickle"):
            store.add_media([tmp_path / "x.png"])
        with pytest.raises(InvalidRequestError, match="expected a list"):
            store.add_media(str(tmp_path / "x.png"))


class TestSearching:
    @pytest.fixture
    def filled(self, store: ImageBindVectorStore) -> ImageBindVectorStore:
        texts = ["a ringing bell", "a bell that rings", "a ringing bell", "a barking dog", "a red car"]
        store.add_texts(texts, [{"n": number} for number in range(5)], ids=list("abcde"))
        return store

    def test_scores_are_relevances_from_0_to_1_best_first(self, filled: ImageBindVectorStore) -> None:
        scored = filled.similarity_search_with_relevance_scores("a barking dog", k=5)
        scores = [score for _, score in scored]
        assert scored[0][0].id == "d"
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        assert [score for _, score in filled.similarity_search_with_score("a barking dog", k=5)] == scores

    def test_by_a_vector(self, filled: ImageBindVectorStore) -> None:
        vector = filled.embeddings.embed_query("a red car")
        assert ids(filled.similarity_search_by_vector(vector, k=1)) == ["e"]
        assert ids(filled.max_marginal_relevance_search_by_vector(vector, k=1)) == ["e"]

    def test_marginal_relevance_passes_over_repetitions(self, filled: ImageBindVectorStore) -> None:
        assert set(ids(filled.similarity_search("a ringing bell", k=2))) == {"a", "c"}
        diverse = ids(filled.max_marginal_relevance_search("a ringing bell", k=2, lambda_mult=0.3))
        assert len({"a", "c"} & set(diverse)) == 1

    def test_marginal_relevance_chooses_from_the_nearest(self, filled: ImageBindVectorStore) -> None:
        few = filled.max_marginal_relevance_search("a ringing bell", k=2, fetch_k=2, lambda_mult=0)
        assert set(ids(few)) == {"a", "c"}
        with pytest.raises(InvalidRequestError, match="lambda_mult=2"):
            filled.max_marginal_relevance_search("a bell", lambda_mult=2)

    def test_as_retriever_of_every_kind(self, filled: ImageBindVectorStore) -> None:
        plain = filled.as_retriever(search_kwargs={"k": 2, "filter": {"n": {"$lt": 3}}})
        assert len(plain.invoke("a barking dog")) == 2
        diverse = filled.as_retriever(search_type="mmr", search_kwargs={"k": 2, "lambda_mult": 0.3})
        assert len({"a", "c"} & set(ids(diverse.invoke("a ringing bell")))) == 1
        top = filled.similarity_search_with_score("a barking dog", k=1)[0][1]
        sure = filled.as_retriever(
            search_type="similarity_score_threshold", search_kwargs={"score_threshold": float(top), "k": 5}
        )
        assert ids(sure.invoke("a barking dog")) == ["d"]

    def test_by_words(self, filled: ImageBindVectorStore) -> None:
        assert ids(filled.similarity_search("red", ranking="words")) == ["e"]

    def test_unknown_options_are_refused(self, filled: ImageBindVectorStore) -> None:
        with pytest.raises(InvalidRequestError, match="option 'where_document', expected some of filter"):
            filled.similarity_search("a bell", where_document={})


class TestOpening:
    def test_a_folder_again(self, embedding: ImageBindEmbeddings, media: Path, tmp_path: Path) -> None:
        with ImageBindVectorStore.from_texts(["a bell"], embedding, [{"n": 1}], ids=["a"], location=tmp_path) as store:
            (picture,) = store.add_media([media / "bell.png"])
        with ImageBindVectorStore.open(tmp_path, embedding) as store:
            assert store.get_by_ids(["a"]) == [Document(id="a", page_content="a bell", metadata={"n": 1})]
            assert found(store) == {"a", picture}
            store.delete(["a"])
        with ImageBindVectorStore.open(tmp_path, embedding) as store:
            assert found(store) == {picture}

    def test_in_memory_everything_is_gone_afterwards(self, embedding: ImageBindEmbeddings) -> None:
        with ImageBindVectorStore.from_documents([Document(id="a", page_content="a bell")], embedding) as store:
            assert found(store) == {"a"}
            assert store.library.attachments is not None
            folder = store.library.attachments.folder
            assert folder.exists()
        del store
        gc.collect()
        assert not folder.exists()

    def test_a_library_that_is_open(self, embedding: ImageBindEmbeddings, media: Path, tmp_path: Path) -> None:
        with ImageBindVectorStore.open(tmp_path, embedding) as store:
            store.library.add(texts={"named": "a dog"})
            again = ImageBindVectorStore(store.library)
            assert found(again) == {"named"}

    def test_other_embeddings_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequestError, match="expected ImageBindEmbeddings"):
            ImageBindVectorStore.from_texts(["a"], DeterministicFakeEmbedding(size=6), location=tmp_path)

    def test_a_closed_store_says_so(self, embedding: ImageBindEmbeddings, tmp_path: Path) -> None:
        store = ImageBindVectorStore.open(tmp_path, embedding)
        store.close()
        with pytest.raises(StoreError):
            store.similarity_search("a bell")


def test_deleting_without_ids_is_refused(store: ImageBindVectorStore) -> None:
    store.add_texts(["a bell"], ids=["a"])
    with pytest.raises(InvalidRequestError, match="without ids"):
        store.delete()
    store.delete([])
    assert found(store) == {"a"}


def test_many_are_deleted_at_once(store: ImageBindVectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted, delete = [], VectorCollection.delete

    def counting(collection: VectorCollection, ids: Sequence[str]) -> None:
        deleted.append(len(ids))
        delete(collection, ids)

    monkeypatch.setattr(VectorCollection, "delete", counting)
    store.delete(store.add_texts(["a bell", "a dog", "a duck"]))
    assert deleted == [3, 3]  # entries and records
    assert found(store) == set()


async def test_the_event_loop_goes_on_meanwhile(
    store: ImageBindVectorStore, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, search = store.library.add, store.library.search

    def slow_add(*sources: Any, **options: Any) -> Any:
        time.sleep(0.3)
        return add(*sources, **options)

    def slow_search(*query: Any, **options: Any) -> Any:
        time.sleep(0.3)
        return search(*query, **options)

    monkeypatch.setattr(store.library, "add", slow_add)
    monkeypatch.setattr(store.library, "search", slow_search)
    assert await ticks_during(store.aadd_texts(["a bell"])) > 5
    assert await ticks_during(store.aadd_media([media / "bell.png"])) > 5
    assert await ticks_during(store.asimilarity_search("a bell")) > 5
    assert await ticks_during(store.amax_marginal_relevance_search("a bell")) > 5
