"""How attachments are cut: windows without tiny rests, chunks at borders, everything else whole."""

import itertools
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from pydantic import ValidationError
from sample_files import write_image, write_mesh, write_video

from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import CorruptMediaError, LimitExceededError, UnsupportedMediaError
from ibllm_tools.imagebind import ImageBindProcessor, clip_tokenizer_from_bpe
from ibllm_tools.media.audio import encode_wav
from ibllm_tools.media.limits import Limits
from ibllm_tools.store.segments import DEFAULT_SETTINGS, Segment, SegmentSettings, segments

PROSE = (
    "The bell was cast in the winter of the great frost. Nobody had asked for it. It hung for eleven years in a barn, "
    "between a plough and a broken cart, and only the swallows knew what it was. Then a boy threw a stone at it!\n\n"
    "Was that a note? He threw another. The farmer came out, and his wife, and after them the whole village; by the "
    "evening they had carried it up the hill. It is the bell that you hear now, when the wind comes from the sea.\n"
) * 4
FEW_CHARS = SegmentSettings(chunk_chars=60, overlap_chars=0)


def sound(seconds: float, rate: int = 1000) -> Attachment:
    return Attachment(encode_wav(np.ones((1, round(seconds * rate)), np.float32), rate), name="rain.wav")


def film(pictures: float, tones: float, *, audio_codec: str = "pcm_s16le") -> bytes:
    """So many seconds of pictures and of sound."""
    file = BytesIO()
    with av.open(file, "w", format="mov") as container:
        video = container.add_stream("mjpeg", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuvj420p"
        audio = container.add_stream(audio_codec, rate=8000, layout="mono")
        picture = np.zeros((32, 32, 3), np.uint8)
        for _ in range(round(10 * pictures)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode())
        for _ in range(round(10 * tones)):
            block = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
            block.sample_rate = 8000
            container.mux(audio.encode(block))
        container.mux(audio.encode())
    return file.getvalue()


def times(found: list[Segment], modality: str = "audio") -> list[tuple[float | None, float | None]]:
    return [(segment.start, segment.end) for segment in found if segment.modality == modality]


def chunks(text: str, settings: SegmentSettings = DEFAULT_SETTINGS, name: str = "a.txt") -> list[str]:
    found = segments(Attachment(text.encode(), name=name), settings)
    assert all(text[chunk.char_start : chunk.char_end] == chunk.text for chunk in found)
    return [chunk.text or "" for chunk in found]


class TestWindows:
    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [
            (0.3, [(0, 0.3)]),
            (10, [(0, 10)]),
            (12.4, [(0, 12.4)]),
            (12.5, [(0, 10), (2.5, 12.5)]),
            (15, [(0, 10), (5, 15)]),
            (17.4, [(0, 10), (5, 17.4)]),
            (18, [(0, 10), (5, 15), (8, 18)]),
        ],
    )
    def test_of_a_sound(self, seconds: float, expected: list[tuple[float, float]]) -> None:
        assert times(segments(sound(seconds))) == expected

    @pytest.mark.parametrize(("window", "step"), [(10, 5), (10, 10), (3, 0.7), (0.5, 0.1)])
    @pytest.mark.parametrize("seconds", [0.2, 9.999, 10.001, 14.99, 33.333, 61.7])
    def test_cover_the_recording_and_are_alike(self, seconds: float, window: float, step: float) -> None:
        found = times(segments(sound(seconds), SegmentSettings(window_seconds=window, step_seconds=step)))
        assert (found[0][0], found[-1][1]) == (0, seconds)
        assert all(after[0] <= before[1] for before, after in itertools.pairwise(found))
        assert all(after[0] - before[0] >= step / 2 - 1e-6 for before, after in itertools.pairwise(found))
        if seconds >= window:
            assert all(window - 1e-6 <= end - start < window + step / 2 for start, end in found)

    def test_times_are_written_short(self) -> None:
        found = times(segments(sound(2), SegmentSettings(window_seconds=0.3, step_seconds=0.1)))
        assert (0.3, 0.6) in found
        assert (0.7, 1.0) in found

    def test_an_hour_of_sound(self) -> None:
        found = segments(sound(3600, rate=8))
        assert len(found) == 719
        assert [segment.index for segment in found] == list(range(719))
        assert (found[-1].start, found[-1].end) == (3590, 3600)

    def test_too_many_are_refused(self) -> None:
        assert len(segments(sound(30), SegmentSettings(max_segments=5))) == 5
        for settings in (SegmentSettings(max_segments=4), SegmentSettings(max_segments=4, step_seconds=0.001)):
            with pytest.raises(LimitExceededError, match=r"rain\.wav: .* segments, the limit is 4; raise step_seconds"):
                segments(sound(30), settings)

    def test_the_limits_hold(self) -> None:
        with pytest.raises(LimitExceededError, match=r"Limits\.max_seconds"):
            segments(sound(30), limits=Limits(max_seconds=20))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"step_seconds": 11},
            {"window_seconds": 0},
            {"window_seconds": float("inf")},
            {"step_seconds": 0},
            {"overlap_chars": 100},
            {"chunk_chars": 5},
            {"max_segments": 0},
            {"windows": 3},
        ],
        ids=str,
    )
    def test_settings_that_cannot_be(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            SegmentSettings(**wrong)


class TestVideos:
    def test_without_sound_have_pictures_only(self, tmp_path: Path) -> None:
        found = segments(Attachment(write_video(tmp_path / "bell.mp4")))
        assert [(segment.modality, segment.start, segment.end) for segment in found] == [("video", 0, 2)]

    def test_sound_is_cut_like_the_pictures(self) -> None:
        found = segments(Attachment(film(20, 20)))
        windows = [(0, 10), (5, 15), (10, 20)]
        assert [segment.modality for segment in found] == ["video"] * 3 + ["audio"] * 3
        assert [segment.index for segment in found] == list(range(6))
        assert times(found, "video") == times(found, "audio") == windows

    def test_each_track_ends_where_it_ends(self) -> None:
        found = segments(Attachment(film(14.8, 15)))
        assert times(found, "video") == [(0, 10), (5, 14.8)]
        assert times(found, "audio") == [(0, 10), (5, 15)]

    @pytest.mark.parametrize(("pictures", "tones", "shorter"), [(30, 13, "audio"), (13, 30, "video")])
    def test_a_short_track_has_fewer_windows(self, pictures: float, tones: float, shorter: str) -> None:
        found = segments(Attachment(film(pictures, tones)))
        longer = "audio" if shorter == "video" else "video"
        assert times(found, shorter) == [(0, 10), (5, 13)]
        assert times(found, longer)[-1] == (20, 30)

    @pytest.mark.parametrize("step", [10, 5, 2])
    def test_a_short_track_ends_without_a_tiny_rest(self, step: float) -> None:
        found = segments(Attachment(film(60, 10.1)), SegmentSettings(step_seconds=step))
        assert times(found) == [(0, 10.1)]
        assert times(found, "video")[-1] == (50, 60)

    def test_the_sound_alone_can_be_asked_for(self) -> None:
        found = segments(Attachment(film(15, 15), modality="audio"))
        assert {segment.modality for segment in found} == {"audio"}
        assert times(found) == [(0, 10), (5, 15)]

    def test_both_tracks_count(self) -> None:
        with pytest.raises(LimitExceededError, match="at least 6 segments, the limit is 5"):
            segments(Attachment(film(20, 20)), SegmentSettings(max_segments=5))

    def test_an_empty_sound_does_not_cost_the_pictures(self) -> None:
        found = segments(Attachment(film(15, 0)))
        assert times(found, "video") == [(0, 10), (5, 15)]


@pytest.mark.parametrize(("write", "name"), [(write_image, "bell.png"), (write_mesh, "bell.glb")])
def test_what_does_not_last_is_one_segment(write: Callable[[Path], Path], name: str, tmp_path: Path) -> None:
    attachment = Attachment(write(tmp_path / name))
    assert segments(attachment) == [Segment(modality=attachment.modality, index=0)]


@pytest.mark.parametrize("modality", ["depth", "thermal"])
def test_maps_are_one_segment(modality: str) -> None:
    attachment = Attachment(np.ones((4, 5), np.float32), modality=modality)
    assert segments(attachment) == [Segment(modality=modality, index=0)]


def test_a_segment_goes_through_json() -> None:
    (segment,) = segments(sound(3))
    assert Segment.model_validate_json(segment.model_dump_json()) == segment


class TestTexts:
    def test_a_short_one_is_one_chunk(self) -> None:
        assert chunks("  A ringing bell.\n\nIt is red.\n") == ["A ringing bell.\n\nIt is red."]

    def test_chunks_have_their_length(self) -> None:
        lengths = [len(chunk) for chunk in chunks(PROSE)]
        assert max(lengths) <= 240
        assert min(lengths) >= 80

    @pytest.mark.parametrize("settings", [SegmentSettings(), FEW_CHARS], ids=["overlapping", "not overlapping"])
    def test_every_word_is_in_a_chunk(self, settings: SegmentSettings) -> None:
        found = segments(Attachment(PROSE.encode(), name="a.txt"), settings)
        covered = {place for chunk in found for place in range(chunk.char_start or 0, chunk.char_end or 0)}
        assert all(place in covered for place, character in enumerate(PROSE) if not character.isspace())

    @pytest.mark.parametrize("size", [20, 33, 60, 240])
    def test_no_word_is_cut(self, size: int) -> None:
        words = set(PROSE.split())
        for chunk in chunks(PROSE, SegmentSettings(chunk_chars=size, overlap_chars=size // 3)):
            assert set(chunk.split()) <= words

    def test_a_paragraph_is_the_best_border(self) -> None:
        text = "One bell rings. Two bells ring.\n\nThree bells ring. Four bells ring loudly."
        assert chunks(text, FEW_CHARS) == text.split("\n\n")

    def test_a_sentence_is_the_next_best(self) -> None:
        text = "Ask not for whom the bell tolls; it tolls.\nFor thee it tolls, and for the others."
        assert chunks(text, FEW_CHARS) == text.split("\n")

    def test_a_sentence_keeps_its_quotation_marks(self) -> None:
        text = 'He said: "I hear the red bell ring again." She said: "I hear nothing but the sea." It rang.'
        assert chunks(text, FEW_CHARS)[0] == 'He said: "I hear the red bell ring again."'
        assert chunks(text, FEW_CHARS)[1] == 'She said: "I hear nothing but the sea." It rang.'

    def test_no_chunk_is_blank(self) -> None:
        text = "A bell." + " " * 1000 + "Another" + "\n" * 1000 + "one" + " \n" * 500 + "rings."
        found = chunks(text, FEW_CHARS)
        assert " ".join(" ".join(found).split()) == "A bell. Another one rings."
        assert all(found)

    def test_a_line_is_better_than_a_word(self) -> None:
        text = "a red bell that rings in the morning\na blue whistle that is never heard by people"
        assert chunks(text, FEW_CHARS) == text.split("\n")

    def test_chunks_share_a_sentence_or_words(self) -> None:
        text = "The first of the bells was cast in winter. It is red. " + "The second one was cast in spring, " * 3
        first, second, *_ = chunks(text, SegmentSettings(chunk_chars=60, overlap_chars=20))
        assert first.endswith("It is red.")
        assert second.startswith("It is red. The second")
        words = " ".join(f"word{number}" for number in range(100))
        overlapping = chunks(words, SegmentSettings(chunk_chars=60, overlap_chars=20))
        for before, after in itertools.pairwise(overlapping):
            shared = set(before.split()) & set(after.split())
            assert 1 <= len(shared) <= 3

    def test_paragraphs_share_nothing(self) -> None:
        text = "\n\n".join(f"Paragraph {number} has a sentence of its own." for number in range(9))
        assert chunks(text, SegmentSettings(chunk_chars=60, overlap_chars=20)) == text.split("\n\n")

    def test_a_word_longer_than_a_chunk_stays_whole(self) -> None:
        link = "https://example.org/" + "bell" * 60
        assert any(link in chunk for chunk in chunks(f"Some words first. See {link} for more of it.", FEW_CHARS))
        assert chunks(link, FEW_CHARS) == [link]

    def test_text_without_spaces_is_cut_between_characters(self) -> None:
        text = "鐘が鳴っている。" * 20 + "赤い鐘" * 40
        found = chunks(text, FEW_CHARS)
        assert "".join(found) == text
        assert max(map(len, found)) <= 60
        assert found[0].endswith("。")

    def test_headings_start_chunks_in_markdown(self) -> None:
        text = "# Bells\n\n## Red ones\nThey ring.\n\n## Blue ones\nThey ring too.\n"
        expected = ["# Bells\n\n## Red ones\nThey ring.", "## Blue ones\nThey ring too."]
        assert chunks(text, name="bells.md") == expected
        assert len(chunks(text, name="bells.txt")) == 1

    def test_a_comment_in_a_code_block_is_no_heading(self) -> None:
        text = "Ring it:\n\n```python\n# the red one\nring(bell)\n```\n"
        assert chunks(text, name="bells.md") == [text.strip()]

    @pytest.mark.parametrize("blank", ["", " \n\t "])
    def test_blank_text_is_an_error(self, blank: str, tmp_path: Path) -> None:
        path = tmp_path / "notes.md"
        path.write_text(blank)
        with pytest.raises(CorruptMediaError, match=r"notes\.md"):
            segments(Attachment(path))

    def test_too_many_are_refused(self) -> None:
        with pytest.raises(LimitExceededError, match=r"a\.txt: at least 4 segments.* raise chunk_chars"):
            chunks(PROSE, SegmentSettings(max_segments=3))

    def test_binary_data_announced_as_text_is_refused(self) -> None:
        with pytest.raises(UnsupportedMediaError):
            segments(Attachment(b"\xff\xd8\xff" + bytes(50), modality="text"))

    def test_hostile_text_is_cut_in_linear_time(self) -> None:
        for text in (
            "." * 200_000,
            "\n" * 199_999 + "a",
            "a" * 200_000,
            "# a\n" * 50_000,
            '."' * 100_000,
            "a" + " " * 200_000 + "b",
        ):
            assert chunks(text, SegmentSettings(max_segments=100_000), name="a.md")

    def test_the_default_suits_the_text_tower(self, reference: Path) -> None:
        tokenizer = clip_tokenizer_from_bpe(reference / "bpe_simple_vocab_16e6.txt.gz")
        processor = ImageBindProcessor(tokenizer)
        ids = processor(text=chunks(PROSE))["input_ids"]
        assert (ids[:, -1] == 0).all()  # none fills all 77 places
