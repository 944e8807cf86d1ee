"""Segments as unit vectors: those of the same thing cut out by hand, in batches, each with its own errors."""

from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from sample_files import write_image, write_mesh, write_sound, write_video
from tiny_model import saved_tiny_model

from ibllm_tools import Attachment, IbllmError
from ibllm_tools.assistant import JointEmbedder
from ibllm_tools.assistant.embedding import BATCH_SIZE
from ibllm_tools.assistant.reading_ahead import GROUPS, WORKERS
from ibllm_tools.errors import CorruptMediaError, IncompatibleModelError, UnsupportedMediaError
from ibllm_tools.media.audio import encode_wav
from ibllm_tools.store.embedder import Embedder
from ibllm_tools.store.segments import Segment, SegmentSettings, segments

RATE = 8000
SHORT = SegmentSettings(window_seconds=1, step_seconds=0.5)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> JointEmbedder:
    return JointEmbedder.load(saved_tiny_model(tmp_path_factory), device="cpu")


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (1, round(seconds * RATE))).astype(np.float32)


def recording(samples: np.ndarray) -> Attachment:
    return Attachment(encode_wav(samples, RATE), name="rain.wav")


@pytest.fixture(scope="module")
def film() -> Attachment:
    """3 s with sound."""
    file = BytesIO()
    random = np.random.default_rng(0)
    with av.open(file, "w", format="mov") as container:
        video = container.add_stream("mjpeg", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuvj420p"
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for _ in range(30):
            picture = random.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            block = av.AudioFrame.from_ndarray(random.integers(-999, 999, (1, 800), np.int16), "s16", "mono")
            block.sample_rate = RATE
            container.mux(audio.encode(block))
        for stream in (video, audio):
            container.mux(stream.encode())
    return Attachment(file.getvalue(), name="film.mov")


def vectors(embedder: Embedder, attachment: Attachment, chosen: list[Segment] | None = None) -> np.ndarray:
    rows = list(embedder.embed_segments([(attachment, segments(attachment, SHORT) if chosen is None else chosen)]))
    assert not [row for row in rows if isinstance(row, IbllmError)]
    return np.stack(rows)


def test_windows_of_a_sound_equal_the_sounds_cut_by_hand(embedder: JointEmbedder) -> None:
    samples = noise(3)
    cuts = [recording(samples[:, start : start + RATE]) for start in range(0, 2 * RATE + 1, RATE // 2)]
    np.testing.assert_allclose(vectors(embedder, recording(samples)), embedder.embed(cuts), rtol=0, atol=1e-6)


def test_pictures_and_sound_of_a_video_are_embedded_apart(embedder: JointEmbedder, film: Attachment) -> None:
    rows = vectors(embedder, film, segments(film))
    sound = Attachment(film.read_bytes(), modality="audio")
    np.testing.assert_allclose(rows, embedder.embed([film, sound]), rtol=0, atol=1e-6)
    assert vectors(embedder, film).shape == (10, embedder.dimension)


@pytest.mark.parametrize("write", [write_image, write_mesh, write_sound, write_video])
def test_what_is_one_segment_is_embedded_as_a_whole(write: object, embedder: JointEmbedder, tmp_path: Path) -> None:
    names = {write_image: "bell.png", write_mesh: "bell.glb", write_sound: "bell.wav", write_video: "bell.mp4"}
    attachment = Attachment(write(tmp_path / names[write]))
    rows = vectors(embedder, attachment, segments(attachment))
    np.testing.assert_allclose(rows, embedder.embed([attachment]), rtol=0, atol=1e-6)


def test_chunks_of_text_equal_the_texts_alone(embedder: JointEmbedder) -> None:
    text = Attachment.from_text("It is a red bell. It rings.\n\nWhat is making this sound?")
    chunks = segments(text, SegmentSettings(chunk_chars=40, overlap_chars=0))
    alone = [Attachment.from_text(chunk.text or "") for chunk in chunks]
    assert len(chunks) == 2
    np.testing.assert_allclose(vectors(embedder, text, chunks), embedder.embed(alone), rtol=0, atol=1e-6)


def test_rows_are_unit_vectors(embedder: JointEmbedder, film: Attachment) -> None:
    np.testing.assert_allclose(np.linalg.norm(vectors(embedder, film), axis=1), 1, rtol=0, atol=1e-6)


def test_a_part_of_the_segments_is_enough(embedder: JointEmbedder, film: Attachment) -> None:
    chosen = segments(film, SHORT)
    rows = vectors(embedder, film, chosen)
    np.testing.assert_allclose(vectors(embedder, film, chosen[3:8:2]), rows[3:8:2], rtol=0, atol=1e-6)


def test_batches_reach_across_attachments(embedder: JointEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    encode = embedder.model.encode

    def counting(modality: str, values: object, **options: object) -> object:
        sizes.append(len(values))
        return encode(modality, values, **options)

    monkeypatch.setattr(embedder.model, "encode", counting)
    sounds = [recording(noise(0.5 + index / 100)) for index in range(BATCH_SIZE + 4)]
    rows = list(embedder.embed_segments((sound, segments(sound)) for sound in sounds))
    assert sizes == [BATCH_SIZE, 4]
    np.testing.assert_allclose(np.stack(rows), embedder.embed(sounds), rtol=0, atol=1e-6)


def test_attachments_are_read_as_they_are_needed(embedder: JointEmbedder) -> None:
    asked = []

    def endless() -> object:
        while True:
            sound = recording(noise(0.5))
            asked.append(sound)
            yield sound, segments(sound)

    rows = embedder.embed_segments(endless())
    for _ in range(BATCH_SIZE + 1):
        next(rows)
    assert len(asked) <= 2 * BATCH_SIZE + GROUPS + 2 * WORKERS


def test_damage_costs_only_the_segments_that_need_it(embedder: JointEmbedder) -> None:
    samples = noise(3)
    expected = vectors(embedder, recording(samples))
    samples[0, 10] = np.nan
    damaged = recording(samples)
    first, *others = embedder.embed_segments([(damaged, segments(damaged, SHORT))])
    assert isinstance(first, CorruptMediaError)
    np.testing.assert_allclose(np.stack(others), expected[1:], rtol=0, atol=1e-6)


def test_a_file_that_cannot_be_read_fails_for_each_of_its_segments_alone(
    embedder: JointEmbedder, film: Attachment, tmp_path: Path
) -> None:
    path = write_sound(tmp_path / "gone.wav", seconds=3)
    gone = Attachment(path)
    lost = segments(gone, SHORT)
    path.unlink()
    still = segments(film, SHORT)
    rows = list(embedder.embed_segments([(film, still), (gone, lost), (film, still)]))
    assert [isinstance(row, IbllmError) for row in rows] == [False] * 10 + [True] * 5 + [False] * 10
    assert "gone.wav" in str(rows[10])


def test_a_video_whose_sound_cannot_be_used_keeps_its_pictures(embedder: JointEmbedder, tmp_path: Path) -> None:
    silent = Attachment(write_video(tmp_path / "silent.mp4"))
    picture, sound = embedder.embed_segments(
        [(silent, [*segments(silent), Segment(modality="audio", index=1, start=0, end=2)])]
    )
    np.testing.assert_allclose(picture, embedder.embed([silent])[0], rtol=0, atol=1e-6)
    assert isinstance(sound, UnsupportedMediaError)


def test_what_the_model_has_no_tower_for_says_so(embedder: JointEmbedder) -> None:
    assert "imu" not in embedder.modalities
    motion = Attachment(np.zeros((6, 50), np.float32), modality="imu", name="walk.npy")
    (error,) = embedder.embed_segments([(motion, segments(motion))])
    assert isinstance(error, IncompatibleModelError)
    assert "walk.npy" in str(error)


def test_it_says_what_it_can_embed(embedder: JointEmbedder) -> None:
    assert embedder.modalities == ("image", "video", "text", "audio", "depth", "point")


def test_nothing_gives_nothing(embedder: JointEmbedder) -> None:
    assert list(embedder.embed_segments([])) == []
