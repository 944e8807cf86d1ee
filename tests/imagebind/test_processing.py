"""With ``official=True`` the processor gives what the research code gives (golden tensors), and it round-trips."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from ibllm_tools.errors import CheckpointError, CorruptMediaError, InvalidRequestError
from ibllm_tools.imagebind import ImageBindConfig, ImageBindProcessor, clip_tokenizer_from_bpe
from ibllm_tools.imagebind.audio_features import log_mel, read_mono, resample
from ibllm_tools.imagebind.image_features import CLIP_MEAN, CLIP_STD, normalised_pixels
from ibllm_tools.media.audio import encode_wav, read_audio
from ibllm_tools.media.video import FrameClip

WRONG_WORDS = gzip.compress(b"version\none two three")
CUT_GZIP = gzip.compress(b"version\n" + b"a b\n" * 500)[:-12]

IMAGES = ["dog_image.jpg", "car_image.jpg", "portrait_alpha.png", "gray.png"]
SOUNDS = ["dog_audio.wav", "car_audio.wav", "stereo_44k.wav", "short_8k.wav"]
VIDEOS = ["clip_6s.mp4", "clip_short.mp4"]
CLOUDS = ["torus.obj", "cloud64.npy", "cloud_ascii.ply"]
TEXTS = range(30)
NOISE_FLOOR = -11.0
"""Log energy below which float32's rounding shows: the FFT of another CPU gives other bits there."""


def tone(seconds: float, rate: int = 16000, channels: int = 1, pitch: float = 440.0) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return np.tile(0.3 * np.sin(2 * np.pi * pitch * times), (channels, 1)).astype(np.float32)


@pytest.mark.parametrize("name", IMAGES)
def test_image_equals_the_research_code(processor: ImageBindProcessor, reference: Path, name: str) -> None:
    expected = load_file(reference / "preproc" / "vision.safetensors")[name]
    values = processor(images=reference / "media" / name, official=True)["pixel_values"]
    torch.testing.assert_close(values[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SOUNDS)
def test_resampling_equals_the_research_code(reference: Path, facts: dict[str, Any], name: str) -> None:
    expected = load_file(reference / "preproc" / "audio.safetensors")[f"{name}.wave16k_head"]
    sound = read_audio(reference / "media" / name)
    resampled = resample(sound.samples, sound.sample_rate)
    assert list(resampled.shape) == facts["audio"][name]["wave16k"]["shape"]
    torch.testing.assert_close(resampled[:, :4000], expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", SOUNDS)
def test_sound_equals_the_research_code(processor: ImageBindProcessor, reference: Path, name: str) -> None:
    expected = load_file(reference / "preproc" / "audio.safetensors")[name]
    values = processor(audio=reference / "media" / name, official=True)["input_features"][0]
    audible = expected * processor.audio_std + processor.audio_mean > NOISE_FLOOR
    torch.testing.assert_close(values[audible], expected[audible], atol=1e-4, rtol=0)
    torch.testing.assert_close(values, expected, atol=1e-3, rtol=0)
    assert (values - expected).abs().mean() < 1e-5


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("bins", [128, 64])
def test_filter_bank_equals_transformers(bins: int) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    expected = spectrogram(
        sound,
        window_function(400, "hann", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=mel_filter_bank(257, bins, 20.0, 8000.0, 16000, mel_scale="kaldi", triangularize_in_mel_space=True),
        mel_floor=2.0**-23,
        log_mel="log",
        remove_dc_offset=True,
    )
    # the FFTs round differently on some processors, which quiet bins show: 1.7e-4 was seen
    np.testing.assert_allclose(log_mel(sound[None], bins)[0].numpy(), expected, atol=3e-4)


def test_filter_bank_of_a_batch_equals_one_by_one() -> None:
    sounds = torch.from_numpy(np.concatenate([tone(0.5), tone(0.5, pitch=900)]))
    together = log_mel(sounds)
    torch.testing.assert_close(together, torch.cat([log_mel(sound[None]) for sound in sounds]))


@pytest.mark.parametrize("rate", [44100, 48000, 8000, 11025, 22050, 44101])
def test_a_stretch_equals_the_whole_resampled(rate: int) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, (2, rate)).astype(np.float32)
    whole = resample(sound.mean(axis=0, keepdims=True), rate)[0]
    part = read_mono(lambda first, last: sound[:, first:last], rate, rate, (7001, 9003))
    torch.testing.assert_close(part, whole[7001:9003], atol=1e-6, rtol=0)


def test_odd_rates_are_resampled_without_a_huge_kernel() -> None:
    resampled = resample(tone(0.5, rate=44101, pitch=440.0), 44101)[0, 100:-100]
    torch.testing.assert_close(resampled, torch.from_numpy(tone(0.5))[0, 100 : 100 + len(resampled)], atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", VIDEOS)
def test_video_equals_the_research_code(
    processor: ImageBindProcessor, reference: Path, facts: dict[str, Any], name: str
) -> None:
    expected = load_file(reference / "preproc" / "video.safetensors")
    values = processor(videos=reference / "media" / name, official=True)["pixel_values_videos"]
    assert list(values.shape[1:]) == facts["video"][name]["shape"]
    torch.testing.assert_close(values[0, ..., ::7, ::7], expected[f"{name}.sub7"], atol=1e-4, rtol=0)
    assert float(values.double().norm()) == pytest.approx(facts["video"][name]["l2"], rel=1e-6)


def test_video_rows_equal_the_research_code(processor: ImageBindProcessor, reference: Path) -> None:
    expected = load_file(reference / "preproc" / "video.safetensors")["clip_6s.mp4.clip0_center_rows112"]
    values = processor(videos=reference / "media" / "clip_6s.mp4", official=True)["pixel_values_videos"]
    torch.testing.assert_close(values[0, 1, ..., :112, :], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CLOUDS)
def test_points_equal_the_research_code(processor: ImageBindProcessor, reference: Path, name: str) -> None:
    expected = load_file(reference / "preproc" / "points.safetensors")[name]
    values = processor(points=reference / "media" / name, official=True)["point_values"][0]
    torch.testing.assert_close(values, expected.float(), atol=0, rtol=0)


@pytest.mark.parametrize("index", TEXTS)
@pytest.mark.parametrize("keep_end_token", [True, False])
def test_text_equals_the_research_code(
    processor: ImageBindProcessor, reference: Path, index: int, keep_end_token: bool
) -> None:
    text = json.loads((reference / "preproc" / "text.json").read_text())["items"][index]["text"]
    key = "official_ids" if keep_end_token else "vendored_ids"
    expected = load_file(reference / "preproc" / "text.safetensors")[key][index]
    chosen = ImageBindProcessor(processor.tokenizer, keep_end_token=keep_end_token)
    assert chosen(text=text)["input_ids"][0].tolist() == expected.tolist()


def test_processor_round_trips(processor: ImageBindProcessor, tmp_path: Path) -> None:
    small = ImageBindProcessor(processor.tokenizer, image_size=64, num_mel_bins=64, num_points=1024, official=True)
    small.save_pretrained(tmp_path)
    loaded = ImageBindProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == small.to_dict()
    assert loaded(text="Tom &amp; Jerry")["input_ids"].equal(small(text="Tom &amp; Jerry")["input_ids"])


def test_auto_processor_finds_it(processor: ImageBindProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    ImageBindConfig().save_pretrained(tmp_path)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), ImageBindProcessor)


def test_sizes_are_configuration(processor: ImageBindProcessor) -> None:
    small = ImageBindProcessor(
        processor.tokenizer, image_size=64, num_mel_bins=64, num_points=100, imu_samples=200, video_clips=2
    )
    inputs = small(
        images=np.zeros((90, 80, 3), np.uint8),
        text="a bell",
        audio=tone(3.0),
        videos=np.zeros((9, 90, 80, 3), np.uint8),
        points=np.random.default_rng(0).normal(size=(300, 3)),
        depth=np.ones((90, 80)),
        thermal=np.ones((90, 80)),
        imu=np.zeros((6, 500)),
    )
    assert {key: tuple(value.shape) for key, value in inputs.items()} == {
        "pixel_values": (1, 3, 64, 64),
        "input_ids": (1, 77),
        "input_features": (1, 3, 1, 64, 204),
        "pixel_values_videos": (1, 2, 3, 2, 64, 64),
        "point_values": (1, 100, 3),
        "depth_values": (1, 1, 64, 64),
        "thermal_values": (1, 1, 64, 64),
        "imu_values": (1, 6, 200),
    }


def test_paths_and_bytes_and_arrays_give_the_same(processor: ImageBindProcessor, tmp_path: Path) -> None:
    sound = tone(2.5, rate=16000)
    path = tmp_path / "tone.wav"
    path.write_bytes(encode_wav(sound, 16000))
    values = processor(audio=[path, str(path), path.read_bytes(), sound, sound[0], read_audio(path)])["input_features"]
    assert all(item.equal(values[0]) for item in values[1:])


def test_process_keeps_the_order(processor: ImageBindProcessor) -> None:
    dark, light = np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), 255, np.uint8)
    values = processor.process("image", [light, dark, light])
    assert values[0].equal(values[2])
    assert (values[0] > values[1]).all()


def test_a_sequence_of_clips_is_one_video(processor: ImageBindProcessor) -> None:
    clip = FrameClip(np.zeros((2, 30, 40, 3), np.uint8), (0.0, 1.0), 0.0, 2.0)
    assert processor(videos=[clip, clip, clip])["pixel_values_videos"].shape == (1, 3, 3, 2, 224, 224)
    assert processor(videos=[[clip], [clip]])["pixel_values_videos"].shape == (2, 1, 3, 2, 224, 224)


def test_a_long_and_narrow_image_is_scaled_within_bounds(processor: ImageBindProcessor) -> None:
    values = processor(images=np.zeros((1, 300_000, 3), np.uint8))["pixel_values"]
    assert values.shape == (1, 3, 224, 224)


def test_depth_becomes_disparity_whatever_its_unit(processor: ImageBindProcessor) -> None:
    metres = np.array([[1.0, 2.0], [4.0, 0.0]], np.float32).repeat(112, 0).repeat(112, 1)
    values = processor(depth=[metres, metres * 1000])["depth_values"]
    assert values[0].equal(values[1])
    assert values[0, 0, ::112, ::112].tolist() == [[1.0, 0.0], [-0.5, -1.0]]


def test_thermal_is_scaled_to_its_range(processor: ImageBindProcessor) -> None:
    kelvin = np.linspace(280, 310, 224 * 224, dtype=np.float32).reshape(224, 224)
    values = processor(thermal=kelvin)["thermal_values"]
    assert (values.min(), values.max()) == (-1.0, 1.0)


def test_imu_is_cut_at_the_centre_and_padded(processor: ImageBindProcessor) -> None:
    ramp = np.tile(np.arange(2010, dtype=np.float32), (6, 1))
    assert processor(imu=ramp)["imu_values"][0, 0, [0, -1]].tolist() == [5.0, 2004.0]
    assert processor(imu=ramp[:, :10])["imu_values"][0, 0, 8:12].tolist() == [8.0, 9.0, 0.0, 0.0]


@pytest.mark.parametrize("modality", ["audio", "image", "point", "depth", "imu"])
def test_what_is_empty_is_corrupt(processor: ImageBindProcessor, modality: str) -> None:
    shapes = {"audio": (1, 0), "image": (0, 4, 3), "point": (0, 3), "depth": (0, 4), "imu": (6, 0)}
    empty = np.zeros(shapes[modality], np.uint8 if modality == "image" else np.float32)
    with pytest.raises(CorruptMediaError, match="empty"):
        processor.process(modality, [empty])


def test_a_depth_map_without_depth_is_corrupt(processor: ImageBindProcessor) -> None:
    with pytest.raises(CorruptMediaError, match="above 0"):
        processor(depth=np.zeros((8, 8)))


def test_nan_is_corrupt(processor: ImageBindProcessor) -> None:
    with pytest.raises(CorruptMediaError, match="NaN"):
        processor(audio=np.full((1, 900), np.nan, np.float32))


@pytest.mark.parametrize(
    ("modality", "items", "message"),
    [
        ("image", [np.zeros((3, 8, 8), np.uint8)], r"uint8.*expected a path, bytes or .*\(H, W, 3\)"),
        ("audio", [np.zeros((1, 2, 900), np.float32)], r"shape \(1, 2, 900\)"),
        ("point", [np.zeros((5, 4))], r"\(N, 3\)"),
        ("text", [3], "expected a string"),
        ("smell", [b""], "unknown modality 'smell'"),
        ("image", [], "empty list"),
        ("video", [np.zeros((4, 2, 200, 3), np.uint8)], "crop it"),
    ],
)
def test_errors_name_what_came_in(processor: ImageBindProcessor, modality: str, items: list[Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        processor.process(modality, items)
    assert type(caught.value).__module__ == "ibllm_tools.errors"


def test_nothing_given_is_refused(processor: ImageBindProcessor) -> None:
    with pytest.raises(InvalidRequestError, match="nothing to process"):
        processor()


def test_other_tensors_are_refused(processor: ImageBindProcessor) -> None:
    with pytest.raises(InvalidRequestError, match="expected 'pt'"):
        processor(text="a", return_tensors="np")


def test_pixels_are_normalised_per_channel_in_batches_of_any_shape() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 6, 3), dtype=np.uint8)
    pixels = normalised_pixels(rgb)
    assert pixels.shape == (2, 4, 3, 5, 6)
    expected = (rgb[..., 1] / 255 - CLIP_MEAN[1]) / CLIP_STD[1]
    np.testing.assert_allclose(pixels[:, :, 1], expected, rtol=1e-5, atol=1e-6)
    assert pixels[1, 2].equal(normalised_pixels(rgb[1, 2]))


@pytest.mark.parametrize(
    "content", [None, b"", b"no gzip", WRONG_WORDS, CUT_GZIP], ids=["missing", "empty", "no gzip", "wrong", "cut"]
)
def test_what_is_no_merge_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "merges.txt.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"merges\.txt\.gz: .*expected CLIP's"):
        clip_tokenizer_from_bpe(path)
