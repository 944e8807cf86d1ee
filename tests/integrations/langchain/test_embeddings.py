"""ImageBindEmbeddings: texts and media in one space, opened with care, beside a running event loop."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_loop import ticks_during

from ibllm_tools import Access, Assistant, Attachment, AttachmentStore, JointEmbedder
from ibllm_tools.errors import AttachmentAccessError, InvalidRequestError, LimitExceededError, ModelNotFoundError
from ibllm_tools.media.limits import Limits
from langchain_ibllm import ImageBindEmbeddings


@pytest.fixture(scope="module")
def embeddings(assistant: Assistant) -> ImageBindEmbeddings:
    return ImageBindEmbeddings(assistant=assistant)


def test_no_texts_and_no_media_give_no_vectors(embeddings: ImageBindEmbeddings) -> None:
    assert embeddings.embed_documents([]) == []
    assert embeddings.embed_media([]) == []


def test_vectors_are_unit_vectors_of_plain_numbers(embeddings: ImageBindEmbeddings, assistant: Assistant) -> None:
    (row,) = embeddings.embed_documents(["a bell"])
    assert len(row) == assistant.embedder.dimension
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
    assert json.loads(json.dumps(row)) == row


def test_a_short_text_has_the_vector_that_a_query_of_a_library_has(
    embeddings: ImageBindEmbeddings, assistant: Assistant
) -> None:
    expected = assistant.embedder.embed([Attachment.from_text("a ringing bell")])[0]
    np.testing.assert_allclose(embeddings.embed_query("a ringing bell"), expected, atol=1e-5)


def test_words_are_nearest_to_the_sound_that_they_name(embeddings: ImageBindEmbeddings, media: Path) -> None:
    sounds = np.array(embeddings.embed_media([media / "bell.wav", media / "dog.wav"]))  # (2, E)
    words = np.array(embeddings.embed_documents(["a ringing bell", "a barking dog"]))  # (2, E)
    assert (words @ sounds.T).argmax(axis=1).tolist() == [0, 1]


def test_media_of_all_kinds_come_back_in_their_order(
    embeddings: ImageBindEmbeddings, media: Path, tmp_path: Path
) -> None:
    note = tmp_path / "note.txt"
    note.write_text("a ringing bell")
    store = AttachmentStore(tmp_path / "store")
    handle = store.put(media / "bell.png")
    seeing = embeddings.model_copy(update={"attachments": store.folder})
    pixels = Attachment(np.zeros((8, 8, 3), np.uint8), modality="image")
    rows = seeing.embed_media([str(note), media / "bell.wav", handle, (media / "duck.glb").read_bytes(), pixels])
    expected = [
        embeddings.embed_query("a ringing bell"),
        *embeddings.embed_media([media / "bell.wav", media / "bell.png", media / "duck.glb", pixels]),
    ]
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_the_end_of_a_long_text_counts(assistant: Assistant) -> None:
    embeddings = ImageBindEmbeddings(assistant=assistant, chunk_chars=60)  # this encoder reads 22 tokens at once
    beginning = "A quiet street in the old town, and nobody is there. " * 10
    bell, dog = (np.array(embeddings.embed_query(beginning + end)) for end in ("a ringing bell", "a barking dog"))
    words = np.array(embeddings.embed_query("a ringing bell"))
    assert words @ bell > words @ dog


def test_a_text_is_a_text_and_never_a_path(embeddings: ImageBindEmbeddings, media: Path) -> None:
    path = str(media / "bell.wav")
    text = np.array(embeddings.embed_query(path))
    assert text @ np.array(embeddings.embed_media([path])[0]) < 0.99


class TestRefused:
    def test_files_outside_the_roots(self, assistant: Assistant, media: Path, tmp_path: Path) -> None:
        embeddings = ImageBindEmbeddings(assistant=assistant, roots=tmp_path)
        (tmp_path / "link.wav").symlink_to(media / "bell.wav")
        for path in (media / "bell.wav", tmp_path / ".." / "bell.wav", tmp_path / "link.wav", "/etc/passwd"):
            with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
                embeddings.embed_media([path])

    def test_files_that_the_assistant_may_not_open(self, assistant: Assistant, media: Path, tmp_path: Path) -> None:
        bound = Assistant(assistant.model, assistant.processor, access=Access(roots=tmp_path))
        for embeddings in (
            ImageBindEmbeddings(assistant=bound),
            ImageBindEmbeddings(assistant=bound, attachments=tmp_path),
        ):
            with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
                embeddings.embed_media([media / "bell.wav"])
        assert len(ImageBindEmbeddings(assistant=bound, roots=[media]).embed_media([media / "bell.wav"])) == 1

    def test_urls(self, embeddings: ImageBindEmbeddings) -> None:
        with pytest.raises(AttachmentAccessError, match="fetching URLs is switched off"):
            embeddings.embed_media(["http://127.0.0.1:1/bell.wav"])

    def test_what_exceeds_the_limits(self, assistant: Assistant, media: Path) -> None:
        embeddings = ImageBindEmbeddings(assistant=assistant, limits=Limits(max_bytes=100))
        with pytest.raises(LimitExceededError):
            embeddings.embed_media([media / "bell.wav"])
        with pytest.raises(LimitExceededError):
            embeddings.embed_documents(["a bell " * 100])

    @pytest.mark.parametrize("text", ["", " \n"])
    def test_blank_texts(self, embeddings: ImageBindEmbeddings, text: str) -> None:
        with pytest.raises(InvalidRequestError, match="blank text"):
            embeddings.embed_documents(["a bell", text])

    def test_a_single_source_in_place_of_several(self, embeddings: ImageBindEmbeddings, media: Path) -> None:
        with pytest.raises(InvalidRequestError, match="expected a list"):
            embeddings.embed_media(str(media / "bell.wav"))

    def test_a_model_that_is_not_there(self) -> None:
        with pytest.raises(ModelNotFoundError):
            ImageBindEmbeddings(model="/nowhere").embed_query("a bell")


class Slow:
    """The encoder of the embedded model, which takes a while."""

    def __init__(self, assistant: Assistant) -> None:
        self.whole = assistant.embedder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def embed(self, attachments: Any) -> Any:
        time.sleep(0.3)
        return self.whole.embed(attachments)

    def embed_segments(self, parts: Any) -> Any:
        time.sleep(0.3)
        return self.whole.embed_segments(parts)


async def test_the_event_loop_goes_on_meanwhile(assistant: Assistant, media: Path) -> None:
    embeddings = ImageBindEmbeddings(embedder=Slow(assistant))
    assert await ticks_during(embeddings.aembed_query("a bell")) > 5
    assert await ticks_during(embeddings.aembed_documents(["a bell"])) > 5
    assert await ticks_during(embeddings.aembed_media([media / "bell.wav"])) > 5


def test_loads_the_encoder_once_for_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = JointEmbedder.load

    def counted(model: Any, **options: Any) -> JointEmbedder:
        loaded.append(model)
        return load(model, **options)

    monkeypatch.setattr(JointEmbedder, "load", counted)
    embeddings = ImageBindEmbeddings()
    assert loaded == []
    with ThreadPoolExecutor(4) as threads:
        rows = list(threads.map(embeddings.embed_query, ["a bell"] * 4))
    assert loaded == ["mini"]
    assert all(row == rows[0] for row in rows)
