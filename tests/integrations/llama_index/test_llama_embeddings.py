"""ImageBindEmbedding: one space for texts, images, sounds, videos and 3D models."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from PIL import Image

from ibllm_tools import Assistant, AttachmentStore
from ibllm_tools.errors import AttachmentAccessError, InvalidRequestError, UnsupportedMediaError
from llama_index.embeddings.ibllm import ImageBindEmbedding


@pytest.fixture(scope="session")
def embedding(assistant: Assistant) -> ImageBindEmbedding:
    return ImageBindEmbedding(assistant, roots=None)


def test_all_kinds_share_one_space(embedding: ImageBindEmbedding, assistant: Assistant, media: Path) -> None:
    vectors = {
        "text": embedding.get_text_embedding("a bell"),
        "query": embedding.get_query_embedding("a bell"),
        "image": embedding.get_image_embedding(str(media / "bell.png")),
        "audio": embedding.get_audio_embedding(media / "bell.wav"),
        "video": embedding.get_video_embedding(media / "helicopter.mp4"),
        "point": embedding.get_point_embedding(media / "duck.glb"),
    }
    assert {len(vector) for vector in vectors.values()} == {assistant.embedder.dimension}
    assert all(embedding.similarity(vector, vector) == pytest.approx(1) for vector in vectors.values())
    assert vectors["text"] == pytest.approx(vectors["query"])
    bell = vectors["audio"]
    assert embedding.similarity(bell, vectors["image"]) > embedding.similarity(bell, vectors["video"])
    assert embedding.similarity(bell, vectors["text"]) > embedding.similarity(bell, vectors["point"])


def test_an_image_comes_in_any_form(embedding: ImageBindEmbedding, media: Path) -> None:
    path = media / "bell.png"
    expected = embedding.get_image_embedding(str(path))
    for form in (BytesIO(path.read_bytes()), Image.open(path), path, path.read_bytes(), path.as_uri()):
        assert embedding.get_image_embedding(form) == pytest.approx(expected, abs=1e-5)
    assert embedding.get_media_embedding(path) == pytest.approx(expected, abs=1e-5)


def test_batches_say_the_same_in_their_order(assistant: Assistant, media: Path) -> None:
    embedding = ImageBindEmbedding(assistant, roots=media, embed_batch_size=2)
    sounds = [media / "bell.wav", media / "dog.wav", media / "small_siren.wav"]
    for each, row in zip(sounds, embedding.get_audio_embeddings(sounds), strict=True):
        assert embedding.get_audio_embedding(each) == pytest.approx(row, abs=1e-4)
    images = [str(media / "bell.png"), str(media / "car.png"), str(media / "guitar.png")]
    for each, row in zip(images, embedding.get_image_embedding_batch(images), strict=True):
        assert embedding.get_image_embedding(each) == pytest.approx(row, abs=1e-4)
    texts = ["a bell", "a dog", "a car"]
    for each, row in zip(texts, embedding.get_text_embedding_batch(texts), strict=True):
        assert embedding.get_text_embedding(each) == pytest.approx(row, abs=1e-4)
    mixed = embedding.get_media_embeddings([media / "bell.wav", media / "duck.glb"])
    assert mixed[1] == pytest.approx(embedding.get_point_embedding(media / "duck.glb"), abs=1e-4)
    assert (embedding.get_text_embedding_batch([]), embedding.get_video_embeddings([])) == ([], [])


async def test_asynchronous_calls_say_the_same(embedding: ImageBindEmbedding, media: Path) -> None:
    image = str(media / "bell.png")
    assert await embedding.aget_text_embedding("a bell") == embedding.get_text_embedding("a bell")
    assert await embedding.aget_query_embedding("a bell") == embedding.get_query_embedding("a bell")
    assert await embedding.aget_text_embedding_batch(["a bell"]) == [embedding.get_text_embedding("a bell")]
    assert await embedding.aget_image_embedding(image) == embedding.get_image_embedding(image)
    assert await embedding.aget_image_embedding_batch([image]) == [embedding.get_image_embedding(image)]
    assert await embedding.aget_audio_embedding(media / "bell.wav") == embedding.get_audio_embedding(media / "bell.wav")
    film, duck = media / "helicopter.mp4", media / "duck.glb"
    assert await embedding.aget_video_embedding(film) == embedding.get_video_embedding(film)
    assert await embedding.aget_point_embedding(duck) == embedding.get_point_embedding(duck)
    assert await embedding.aget_media_embeddings([film]) == embedding.get_media_embeddings([film])


async def test_the_event_loop_is_free_meanwhile(embedding: ImageBindEmbedding, media: Path, unblocked: Any) -> None:
    for call in (
        lambda: embedding.aget_text_embedding_batch(["a bell", "a dog"]),
        lambda: embedding.aget_image_embedding(str(media / "car.png")),
        lambda: embedding.aget_audio_embedding(media / "bell.wav"),
    ):
        assert await unblocked(embedding.assistant.embedder, "embed", call)


def test_without_settings_no_path_is_read_and_no_url_fetched(media: Path, store: AttachmentStore) -> None:
    closed = ImageBindEmbedding()
    with pytest.raises(AttachmentAccessError, match="outside the allowed folders"):
        closed.get_image_embedding(str(media / "bell.png"))
    with pytest.raises(AttachmentAccessError, match="fetching URLs is switched off"):
        closed.get_audio_embedding("https://example.com/bell.wav")
    handle = store.put(media / "bell.wav")
    opened = ImageBindEmbedding(roots=[media], attachments=store.folder)
    assert opened.get_media_embedding(handle) == opened.get_audio_embedding(media / "bell.wav")


def test_what_is_announced_must_be_there(embedding: ImageBindEmbedding, media: Path) -> None:
    with pytest.raises(UnsupportedMediaError, match="announced as audio, but its content is image/png"):
        embedding.get_audio_embedding(media / "bell.png")
    with pytest.raises(InvalidRequestError, match="blank text"):
        embedding.get_text_embedding(" ")


def test_it_is_written_down_and_read_again(media: Path) -> None:
    embedding = ImageBindEmbedding(roots=[media], embed_batch_size=3)
    again = ImageBindEmbedding.from_dict(embedding.to_dict())
    assert again.to_dict() == embedding.to_dict()
    assert (again.class_name(), again.model_name, again.embed_batch_size) == ("ImageBindEmbedding", "mini", 3)
    assert ImageBindEmbedding(model_name="folder").model == "folder"
    with pytest.raises(InvalidRequestError, match="expected one model"):
        ImageBindEmbedding(model="mini", model_name="folder")


def test_callbacks_see_media_too(assistant: Assistant, media: Path) -> None:
    handler = LlamaDebugHandler(print_trace_on_end=False)
    embedding = ImageBindEmbedding(assistant, roots=media, callback_manager=CallbackManager([handler]))
    embedding.get_audio_embeddings([media / "bell.wav", media / "dog.wav"])
    assert len(handler.get_event_pairs(CBEventType.EMBEDDING)) == 1
