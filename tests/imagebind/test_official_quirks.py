"""Each habit of the research code: ``official=True`` keeps it, the default mends it."""

from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.imagebind import ImageBindProcessor
from ibllm_tools.imagebind.audio_features import normalised_log_mel
from ibllm_tools.imagebind.clip_sampling import clip_spans, sample_ranges
from ibllm_tools.media.audio import encode_wav

RATE = 16000
TRIANGLE = "v 1 1 1\nv 3 1 1\nv 1 3 1\nf 1 2 3\n"


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (1, round(seconds * RATE))).astype(np.float32)


def png(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def images(processor: ImageBindProcessor, source: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(processor(images=source, official=official)["pixel_values"][0] for official in (True, False))


def test_exif_orientation_is_ignored_or_applied(processor: ImageBindProcessor) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    official, ours = images(processor, png(picture, exif=exif))
    assert ours.equal(official.rot90(-1, (1, 2)))


def test_alpha_is_dropped_or_composited_over_white(processor: ImageBindProcessor) -> None:
    official, ours = images(processor, png(Image.new("RGBA", (224, 224), (0, 0, 0, 0))))
    black, white = (np.full((224, 224, 3), value, np.uint8) for value in (0, 255))
    assert official.equal(processor(images=black)["pixel_values"][0])
    assert ours.equal(processor(images=white)["pixel_values"][0])


def test_a_pillow_image_is_judged_like_its_file(processor: ImageBindProcessor) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 4), np.uint8), "RGBA")
    for official in (True, False):
        from_object = processor(images=picture, official=official)["pixel_values"]
        assert from_object.equal(processor(images=png(picture), official=official)["pixel_values"])


def test_left_channel_is_heard_or_all_of_them(processor: ImageBindProcessor) -> None:
    right_only = np.concatenate([np.zeros_like(noise(2.0)), noise(2.0)])
    official = processor(audio=right_only, official=True)["input_features"]
    ours = processor(audio=right_only)["input_features"]
    mono = processor(audio=right_only.mean(axis=0))["input_features"]
    assert official[..., :198].std() < 1e-3
    torch.testing.assert_close(ours, mono)
    assert ours.std() > 0.1


def test_the_mean_drifts_from_clip_to_clip_or_not(processor: ImageBindProcessor) -> None:
    """The filter bank is blind to a constant, so the drift shows as a step inside of a later clip."""
    sound = noise(3.0) + 0.5
    official = processor(audio=sound, official=True)["input_features"][0]
    ours = processor(audio=sound)["input_features"][0]
    second_clip = torch.from_numpy(sound[:, 8000:40000])
    clean = normalised_log_mel(second_clip - second_clip.mean())
    torch.testing.assert_close(ours[1], clean)
    assert (official[1] - clean).abs().max() > 0.1
    torch.testing.assert_close(official[0], ours[0])


def test_the_callers_waveform_is_left_alone(processor: ImageBindProcessor) -> None:
    sound = noise(3.0) + 0.5
    before = sound.copy()
    processor(audio=sound, official=True)
    np.testing.assert_array_equal(sound, before)


def test_clip_starts_come_from_a_float_or_are_exact() -> None:
    samples = 52800  # 3.3 s
    assert sample_ranges(clip_spans(samples / RATE, 3, 2), RATE, samples)[1] == (10399, 42399)
    assert sample_ranges(clip_spans(Fraction(samples, RATE), 3, 2), RATE, samples)[1] == (10400, 42400)


@pytest.mark.parametrize("seconds", [0.01, 0.025, 0.3])
@pytest.mark.parametrize("official", [True, False])
def test_a_very_short_sound_is_padded(processor: ImageBindProcessor, seconds: float, official: bool) -> None:
    """The research code fails below one frame of 25 ms."""
    sounds = [encode_wav(noise(seconds), RATE), noise(4.0)]
    values = processor(audio=sounds, official=official)["input_features"]
    assert values.shape == (2, 3, 1, 128, 204)
    assert values.isfinite().all()


def test_only_the_surroundings_of_clips_are_read(
    processor: ImageBindProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ibllm_tools.imagebind import decoding

    read = []
    original = decoding.read_audio

    def spy(source: object, **span: Fraction) -> object:
        read.append(float(span["end"] - span["start"]))
        return original(source, **span)

    monkeypatch.setattr(decoding, "read_audio", spy)
    processor(audio=encode_wav(noise(60.0), RATE))
    assert len(read) == 3
    assert sum(read) < 6.1


def test_three_crops_or_the_centre(processor: ImageBindProcessor, reference: Path) -> None:
    video = reference / "media" / "clip_short.mp4"
    official = processor(videos=video, official=True)["pixel_values_videos"]
    ours = processor(videos=video)["pixel_values_videos"]
    assert (official.shape[1], ours.shape[1]) == (15, 5)
    assert ours.equal(official[:, 1::3])


def test_vertices_in_file_order_or_points_on_the_surface(processor: ImageBindProcessor) -> None:
    official = processor(points=TRIANGLE.encode(), official=True)["point_values"][0]
    ours = processor(points=TRIANGLE.encode())["point_values"][0]
    assert official.tolist() == [[1, 1, 1], [3, 1, 1], [1, 3, 1]]
    assert ours.shape == (8192, 3)
    assert ours.unique(dim=0).shape[0] > 8000


@pytest.mark.parametrize("count", [50, 8192, 20000])
def test_clouds_are_centred_scaled_and_resampled(processor: ImageBindProcessor, count: int) -> None:
    cloud = np.random.default_rng(0).normal(5, 3, (count, 3)).astype(np.float32)
    assert processor(points=cloud, official=True)["point_values"][0].equal(torch.from_numpy(cloud))
    ours = processor(points=cloud)["point_values"][0]
    assert ours.shape == (8192, 3)
    assert ours.mean(dim=0).abs().max() < 0.02
    assert ours.norm(dim=1).max() <= 1 + 1e-6


def test_clouds_of_different_sizes_are_refused_or_made_equal(processor: ImageBindProcessor) -> None:
    clouds = [np.random.default_rng(0).normal(size=(count, 3)) for count in (100, 200)]
    with pytest.raises(InvalidRequestError, match="one shape per batch"):
        processor(points=clouds, official=True)
    assert processor(points=clouds)["point_values"].shape == (2, 8192, 3)


def test_a_cloud_of_one_place_stays_finite(processor: ImageBindProcessor) -> None:
    assert processor(points=np.ones((40, 3)))["point_values"].abs().max() == 0


def test_the_processors_own_choice_holds_until_a_call_chooses(processor: ImageBindProcessor) -> None:
    cloud = np.full((40, 3), 2.0)
    parity = ImageBindProcessor(processor.tokenizer, official=True)
    assert parity(points=cloud)["point_values"].max() == 2
    assert parity(points=cloud, official=False)["point_values"].max() == 0


def test_a_long_text_keeps_its_end_token_even_officially(processor: ImageBindProcessor) -> None:
    ids = processor(text="word " * 200, official=True)["input_ids"][0]
    assert ids[-1] == processor.tokenizer.eos_token_id
