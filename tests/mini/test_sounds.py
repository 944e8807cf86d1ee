from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.mini.world.catalog import KIND_NAMES
from ibllm_tools.mini.world.sounds import (
    SAMPLE_RATE,
    TEST_SOUND_FAMILIES,
    TRAINING_SOUND_FAMILIES,
    record,
    synthesise,
    synthesise_unknown,
    write_wav,
)

FAMILIES = TRAINING_SOUND_FAMILIES + TEST_SOUND_FAMILIES


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def spectral_profile(samples: np.ndarray) -> np.ndarray:
    """Power in 24 bands per octave from 50 Hz up, square-rooted against single loud lines."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    edges = 50.0 * 2.0 ** (np.arange(0, 24 * 7 + 1) / 24)
    rows = np.searchsorted(np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE), edges)
    return np.sqrt(np.array([power[a : max(b, a + 1)].mean() for a, b in pairwise(rows)]))


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("make", [synthesise, record])
def test_every_kind_of_the_catalogue_has_a_sound(make, kind):
    sound = make(kind, rng())

    assert sound.dtype == np.float32
    assert sound.shape == (2 * SAMPLE_RATE,)
    assert np.isfinite(sound).all()
    assert 0.05 < np.abs(sound).max() <= 1.0


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_sound_goes_on_until_near_its_end(kind):
    last_half = synthesise(kind, rng(3))[SAMPLE_RATE:]

    assert np.abs(last_half).max() > 0.02


@pytest.mark.parametrize("make", [synthesise, record])
def test_the_same_seed_gives_the_same_sound(make):
    np.testing.assert_array_equal(make("bell", rng(7), size=0.7), make("bell", rng(7), size=0.7))


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_another_draw_is_another_sound(kind):
    first, second = synthesise(kind, rng(1)), synthesise(kind, rng(2))

    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


@pytest.mark.parametrize("kind", ["bell", "siren", "bee", "duck", "ship", "whistle", "kettle"])
def test_a_small_thing_sounds_about_an_octave_above_a_large_one(kind):
    small, large = (
        np.mean([spectral_profile(synthesise(kind, rng(seed), size=size)) for seed in range(3)], axis=0)
        for size in (0.6, 1.0)
    )

    # In 24ths of an octave, from level to two octaves up.
    match = [np.corrcoef(large[: len(large) - shift], small[shift:])[0, 1] for shift in range(49)]

    assert 19 <= np.argmax(match) <= 29


@pytest.mark.parametrize(("seconds", "samples"), [(0.25, 4_000), (1.3, 20_800), (5.0, 80_000)])
def test_a_recording_is_as_long_as_asked(seconds, samples):
    assert all(len(record(kind, rng(), seconds=seconds)) == samples for kind in ("bell", "cat", "rocket", "ball"))


def test_a_recording_adds_noise_where_the_clean_sound_is_silent():
    quietest = [np.abs(make("clock", rng(5))).reshape(-1, 400).max(axis=1).min() for make in (synthesise, record)]

    assert quietest[0] < 1e-6 < quietest[1]


def test_recordings_differ_in_loudness():
    peaks = [np.abs(record("drum", rng(seed))).max() for seed in range(12)]

    assert max(peaks) > 3 * min(peaks)


def test_the_families_of_unknown_sounds_are_disjoint():
    assert not set(TRAINING_SOUND_FAMILIES) & set(TEST_SOUND_FAMILIES)
    assert not set(FAMILIES) & set(KIND_NAMES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_unknown_sounds_can_be_heard(family):
    sound = synthesise_unknown(rng(), family=family)

    assert sound.dtype == np.float32
    assert sound.shape == (2 * SAMPLE_RATE,)
    assert 0.05 < np.abs(sound).max() <= 1.0


def test_an_unknown_sound_comes_from_a_training_family_unless_told_otherwise():
    generator, replay = rng(4), rng(4)
    drawn = synthesise_unknown(generator)

    family = TRAINING_SOUND_FAMILIES[int(replay.integers(len(TRAINING_SOUND_FAMILIES)))]

    np.testing.assert_array_equal(drawn, synthesise_unknown(replay, family=family))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: synthesise("unicorn", rng()), "no sound for 'unicorn'.*bell"),
        (lambda: record("bell", rng(), size=2.0), r"size 2.0 of 'bell': expected 0.6 to 1.0"),
        (lambda: record("bell", rng(), seconds=0.0), r"0.0 s: expected 0.25 to 60 s"),
        (lambda: synthesise_unknown(rng(), family="bell"), "no family of sounds 'bell'"),
    ],
)
def test_a_wrong_call_says_what_was_expected(call, message):
    with pytest.raises(InvalidRequestError, match=message):
        call()


def test_a_wav_file_is_16_bit_mono_at_16_khz(tmp_path: Path):
    soundfile = pytest.importorskip("soundfile")
    sound = record("dog", rng(1), seconds=1.0)

    write_wav(tmp_path / "dog.wav", sound)

    info = soundfile.info(tmp_path / "dog.wav")
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (16_000, 1, "PCM_16", 16_000)
    np.testing.assert_allclose(soundfile.read(tmp_path / "dog.wav")[0], sound, atol=2 / 32768)
