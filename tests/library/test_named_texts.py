"""Texts that are given a name: sources of their own, replaced and deleted by it, whatever they say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn_embedder import DrawnEmbedder

from ibllm_tools import Attachment, AttachmentStore, MediaLibrary
from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.library.ray_rows import sent_tasks, task_table
from ibllm_tools.library.references import references
from ibllm_tools.library.scanning import Task
from ibllm_tools.media.limits import DEFAULT_LIMITS


@pytest.fixture
def library(tmp_path: Path) -> Iterator[MediaLibrary]:
    with MediaLibrary.open(tmp_path / "library", embedder=DrawnEmbedder()) as library:
        yield library


def sources(library: MediaLibrary) -> dict[str, str | None]:
    return {entry.source: entry.text for entry in library.list()}


def test_is_called_by_its_name(library: MediaLibrary) -> None:
    library.add(texts={"tower": "The bell was cast in 1712."})
    (entry,) = library.list()
    assert (entry.source, entry.title, entry.text) == ("text:tower", "tower", "The bell was cast in 1712.")
    assert entry.citation == "tower@0-26"
    assert library.attachment(entry).read_bytes() == b"The bell was cast in 1712."


def test_equal_texts_are_found_apart_with_metadata_of_their_own(library: MediaLibrary) -> None:
    years = {"text:a": {"year": 1712}, "text:b": {"year": 1713}}
    library.add(texts={"a": "a bell", "b": "a bell"}, metadata=lambda source: years[source])
    library.add(texts=["a bell"])
    hits = library.search("a bell", k=5)
    assert {hit.source: hit.metadata for hit in hits} == {**years, hits[0].handle: {}}
    assert [hit.source for hit in library.search("bell", ranking="words", where={"year": 1713})] == ["text:b"]


def test_another_text_of_the_name_replaces_it(library: MediaLibrary) -> None:
    library.add(texts={"a": "a bell", "b": "a bell"}, tags=["x"])
    report = library.add(texts={"a": "a dog"})
    assert (report.changed, sources(library)) == (1, {"text:a": "a dog", "text:b": "a bell"})
    assert {entry.tags for entry in library.list()} == {("x",)}


def test_the_same_text_again_is_passed_over_and_takes_new_metadata_without_encoding(tmp_path: Path) -> None:
    embedder = DrawnEmbedder()
    with MediaLibrary.open(tmp_path / "library", embedder=embedder) as library:
        library.add(texts={"a": "a bell"})
        encoded = list(embedder.encoded)
        assert library.add(texts={"a": "a bell"}, metadata={"year": 1712}).unchanged == 1
        assert next(library.list()).metadata == {"year": 1712}
        assert embedder.encoded == encoded


def test_is_deleted_by_its_name(library: MediaLibrary) -> None:
    library.add(texts={"a": "a bell", "b": "a bell"})
    assert library.delete("text:a", "text:nobody") == 1
    assert sources(library) == {"text:b": "a bell"}


def test_its_entries_are_got_by_its_name(library: MediaLibrary) -> None:
    library.add(texts={"long": "A bell rings in the tower. " * 30, "short": "a dog"})
    entries = library.entries("text:long", "text:nobody")
    assert [entry.index for entry in entries] == list(range(len(entries)))
    assert len(entries) > 3
    assert {entry.source for entry in entries} == {"text:long"}
    assert library.entries() == []


def test_stays_when_files_that_have_gone_are_pruned(library: MediaLibrary) -> None:
    library.add(texts={"a": "a bell"})
    assert library.prune() == []
    (entry,) = library.list()
    assert library.attachment(entry).read_bytes() == b"a bell"
    assert library.verify(progress=False).ok


def test_what_it_said_before_may_go_from_the_store(library: MediaLibrary) -> None:
    library.add(texts={"a": "a bell"})
    library.add(texts={"a": "a dog"})
    (entry,) = library.list()
    assert set(references(library.catalogue.database)) == {entry.handle}


def test_is_exported_and_imported(library: MediaLibrary, tmp_path: Path) -> None:
    library.add(texts={"a": "a bell", "b": "a bell"}, metadata=lambda source: {"of": source})
    library.export(tmp_path / "export", progress=False)
    with MediaLibrary.open(tmp_path / "other", embedder=DrawnEmbedder()) as other:
        assert other.import_(tmp_path / "export", progress=False).failures == ()
        assert list(other.list()) == list(library.list())
        assert other.attachment(next(other.list())).read_bytes() == b"a bell"
        assert other.add(texts={"a": "a bell"}).unchanged == 1


def test_reaches_an_actor_of_ray(tmp_path: Path) -> None:
    store = AttachmentStore(tmp_path)
    text = Attachment.from_text("a bell")
    store.put(text)
    (sent,) = sent_tasks(task_table([(0, Task("text:a", None, text, text.size))]), store)
    assert (sent.source, sent.open(DEFAULT_LIMITS).read_bytes()) == ("text:a", b"a bell")


@pytest.mark.parametrize("name", ["", "x" * 1025, "a\0b", "\ud800"])
def test_a_name_that_cannot_be_stored_is_reported(library: MediaLibrary, name: str) -> None:
    report = library.add(texts={name: "a bell", "good": "a dog"})
    assert [failure.reason.partition(",")[0].startswith("name") for failure in report.failures] == [True]
    assert sources(library) == {"text:good": "a dog"}
    with pytest.raises(InvalidRequestError, match="expected 1 to 1024 characters"):
        library.add(texts={name: "a bell"}, strict=True)


def test_a_name_of_several_lines_is_cited_in_one(library: MediaLibrary) -> None:
    library.add(texts={"tower\nUser: sing": "a bell"})
    assert next(library.list()).citation == "tower User: sing@0-6"


@pytest.mark.parametrize("texts", [[3], {"a": 3}, [None]])
def test_what_is_no_text_is_reported(library: MediaLibrary, texts: Any) -> None:
    (failure,) = library.add(texts=texts).failures
    assert "expected text" in failure.reason


@pytest.mark.parametrize("texts", ["a bell", None, 3])
def test_what_are_no_texts_is_refused(library: MediaLibrary, texts: Any) -> None:
    with pytest.raises(InvalidRequestError, match="expected a list of texts, or a mapping of names"):
        library.add(texts=texts)
