"""What notebooks show: of every modality, of hostile things, of what is large, gone or cannot be decoded here."""

import base64
import copy
import html
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from sample_files import write_gltf_without_buffer, write_image, write_mesh, write_nan_mesh, write_sound, write_video

from ibllm_tools import Answer, Assistant, Attachment, Evidence, Hit, IndexReport, MediaLibrary
from ibllm_tools.assistant.access import Access
from ibllm_tools.attachments.origin import KEPT_BYTES
from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.library import IndexFailure
from ibllm_tools.media.limits import Limits
from ibllm_tools.notebook import gallery, player, shape_view, show

MEDIA = Path(__file__).parents[1] / "examples" / "media"
HOSTILE = '"><script>alert(1)<img src=x onerror=alert(1)>'  # without a slash, so that it can be a file's name
VOID = {"img", "meta"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and remembers them."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(markup)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def one(self, tag: str) -> dict[str, str]:
        (found,) = self.all(tag)
        return found


def page(thing: object) -> Page:
    return Page(thing._repr_html_())


def decoded(uri: str) -> tuple[str, bytes, str]:
    """The type, the bytes and the fragment of a data URI."""
    match = re.fullmatch(r"data:([^;,]+);base64,([A-Za-z0-9+/=]+)(#.*)?", uri)
    assert match
    return match[1], base64.b64decode(match[2]), match[3] or ""


def corners(frame: dict[str, str]) -> np.ndarray:
    """The points that a 3D view holds, (N, 3)."""
    data = re.search(r'"data": "([^"]*)"', frame["srcdoc"])
    assert data
    return np.frombuffer(base64.b64decode(data[1]), "<u2").reshape(-1, 3)


@pytest.fixture(scope="module")
def assistant() -> Iterator[Assistant]:
    with Assistant.load() as assistant:
        yield assistant


@pytest.fixture(scope="module")
def library(assistant: Assistant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaLibrary]:
    folder = tmp_path_factory.mktemp("library")
    with MediaLibrary.open(folder, embedder=assistant.embedder, captioner=assistant) as library:
        library.add(MEDIA, texts=["The bell <b>was</b> cast in 1712."], caption=True, tags=["toy"])
        yield library


# Each modality


@pytest.mark.parametrize("name", ["bell.png", "kettle_depth.png"])
def test_pictures_are_thumbnails(name: str) -> None:
    mime, content, _ = decoded(page(Attachment(MEDIA / name)).one("img")["src"])
    assert mime == "image/webp"
    with Image.open(BytesIO(content)) as picture:
        assert max(picture.size) <= 256


@pytest.mark.parametrize(
    ("modality", "shape"), [("thermal", (40, 50)), ("imu", (6, 300)), ("depth", (30, 40))], ids=lambda item: str(item)
)
def test_measurements_are_drawn(modality: str, shape: tuple[int, int]) -> None:
    attachment = Attachment(np.random.default_rng(0).random(shape), modality=modality)
    assert decoded(page(attachment).one("img")["src"])[0] == "image/webp"


def test_a_sound_is_a_waveform_and_a_player_of_its_file() -> None:
    shown = page(Attachment(MEDIA / "bell.wav"))
    assert decoded(shown.one("img")["src"])[0] == "image/webp"
    audio = shown.one("audio")
    assert "controls" in audio
    assert decoded(audio["src"]) == ("audio/wav", (MEDIA / "bell.wav").read_bytes(), "")


def test_a_video_is_a_player_with_a_still() -> None:
    video = page(Attachment(MEDIA / "helicopter.mp4")).one("video")
    assert decoded(video["src"]) == ("video/mp4", (MEDIA / "helicopter.mp4").read_bytes(), "")
    assert decoded(video["poster"])[0] == "image/webp"


def test_a_model_is_a_3d_view_of_its_faces() -> None:
    shown = page(Attachment(MEDIA / "duck.glb"))
    assert len(corners(shown.one("iframe"))) == 3 * 512
    assert "512 faces; drag to turn" in shown.words


def test_a_cloud_is_a_3d_view_of_its_points() -> None:
    shown = page(Attachment(MEDIA / "train_points.npy"))
    points, seen = np.load(MEDIA / "train_points.npy").astype(float), corners(shown.one("iframe")) / 65535 - 0.5
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    scaled = (points - middle) / (points.max(axis=0) - points.min(axis=0)).max()
    np.testing.assert_allclose(seen, scaled, atol=1e-4)
    assert "1,024 points; drag to turn" in shown.words


def test_the_3d_view_stands_upright(tmp_path: Path) -> None:
    mesh = tmp_path / "tower.stl"  # z is up in such files
    triangle = struct.pack("<12fH", *(0,) * 3, 0, 0, 0, 1, 0, 0, 0, 0, 5, 0)
    mesh.write_bytes(bytes(80) + struct.pack("<I", 1) + triangle)
    extent = np.ptp(corners(page(Attachment(mesh)).one("iframe")).astype(int), axis=0)
    assert extent.argmax() == 1


def test_the_3d_view_is_shut_off_from_the_page_and_the_network() -> None:
    frame = page(Attachment(MEDIA / "duck.glb")).one("iframe")
    assert frame["sandbox"] == "allow-scripts"
    policy = Page(frame["srcdoc"]).all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none';")
    assert "src=" not in frame["srcdoc"]
    assert "http:" not in frame["srcdoc"]
    assert "https:" not in frame["srcdoc"]


def test_a_model_far_out_is_shown_like_any_other() -> None:
    def triangle(power: int) -> Attachment:
        corners = ((10, 10), (11, 10), (10, 11))
        lines = [f"v {x}e{power} {y}e{power} 0" for x, y in corners]
        return Attachment("\n".join([*lines, "f 1 2 3"]).encode(), name="far.obj")

    near, far = (page(triangle(power)).one("iframe") for power in (0, 307))
    assert np.abs(corners(near) - corners(far)).max() < 2


def test_many_faces_are_shown_by_their_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_view, "MOST_FACES", 100)
    monkeypatch.setattr(shape_view, "MOST_POINTS", 90)
    shown = page(Attachment(MEDIA / "duck.glb"))
    assert len(corners(shown.one("iframe"))) == 90
    assert "512 faces, shown by 90 points" in shown.words


def test_a_text_is_quoted_from_its_beginning() -> None:
    shown = page(Attachment.from_text("<b>bold</b> " + "word " * 400))
    assert "<b>bold</b> word" in shown.words
    assert shown.all("b") == [{}]  # the title's
    assert "1,012 more characters" in shown.words


# Answers, evidence, hits and entries


def test_an_answer_shows_what_it_rests_on(assistant: Assistant) -> None:
    answer = assistant.ask("What do you see and hear?", MEDIA / "duck.glb", MEDIA / "bell.wav")
    shown = page(answer)
    assert answer.text in shown.words
    assert "What do you see and hear?" in shown.words
    assert "bell.wav@0.0-3.0s audio · share 50%" in shown.words
    assert decoded(shown.one("audio")["src"])[2] == "#t=0.000,3.000"
    assert shown.one("iframe")


def test_an_answer_without_attachments_is_words_alone(assistant: Assistant) -> None:
    answer = assistant.ask("What does a dog do?")
    shown = page(answer)
    assert answer.text in shown.words
    assert not {"img", "audio", "video", "iframe"} & {tag for tag, _ in shown.elements}


def test_what_was_handed_in_as_array_can_be_seen(assistant: Assistant) -> None:
    samples = np.sin(np.arange(16000) / 20).astype(np.float32)
    answer = assistant.ask("What is making this sound?", Attachment(samples, modality="audio", sample_rate=16000))
    assert decoded(page(answer).one("audio")["src"])[1].startswith(b"RIFF")


def test_a_streamed_answer_shows_the_same(assistant: Assistant) -> None:
    with assistant.stream("What is it?", MEDIA / "car.png") as stream:
        "".join(stream)
    assert page(stream.answer).one("img")


def test_a_grounded_answer_plays_what_it_cites(assistant: Assistant, library: MediaLibrary) -> None:
    answer = assistant.ask("a flying helicopter", library=library)
    shown = page(answer)
    assert shown.one("video")
    assert f"score {answer.evidence[0].score:.2f}" in shown.words
    assert "It is a yellow helicopter." in shown.words


def test_retrieved_texts_are_quoted_as_they_were_read(assistant: Assistant, library: MediaLibrary) -> None:
    answer = assistant.ask("cast 1712", library=library, k=5)
    (text,) = [piece for piece in answer.evidence if piece.modality == "text"]
    assert "The bell <b>was</b> cast in 1712." in page(text).words


def test_a_hit_is_heard_at_its_place(tmp_path: Path, assistant: Assistant) -> None:
    sound = write_sound(tmp_path / "long.wav", seconds=22)
    with MediaLibrary.open(None, embedder=assistant.embedder) as library:
        library.add(sound)
        later = next(entry for entry in library.list() if entry.start == 5)
        (hit,) = library.search("a sound", segments=1)
    assert decoded(page(later).one("audio")["src"])[2] == "#t=5.000,15.000"
    assert decoded(page(hit).one("audio")["src"])[2] == f"#t={hit.start:.3f},{hit.end:.3f}"


@pytest.mark.parametrize("ranking", ["similarity", "words", "hybrid"])
def test_hits_of_every_ranking_are_seen(ranking: str, library: MediaLibrary) -> None:
    hit = library.search("a helicopter", k=1, ranking=ranking)[0]
    shown = page(hit)
    assert shown.one("video")
    assert f"helicopter.mp4@0.0-3.0s video · toy · score {hit.score:.2f}" in shown.words


def test_entries_are_seen_wherever_they_come_from(library: MediaLibrary) -> None:
    entry = next(library.list(modality="point"))
    assert page(entry).one("iframe")
    assert page(library.get(entry.id)).one("iframe")


def test_a_text_in_a_library_is_quoted(library: MediaLibrary) -> None:
    assert "The bell <b>was</b> cast in 1712." in page(next(library.list(modality="text"))).words


def test_attachments_in_the_library_s_store_are_seen(assistant: Assistant, tmp_path: Path) -> None:
    with MediaLibrary.open(tmp_path / "library", embedder=assistant.embedder) as library:
        library.add(Attachment((MEDIA / "bell.wav").read_bytes(), name="ring.wav"))
        hit = library.search("a bell")[0]
    shown = page(hit)  # the library is closed
    assert "ring.wav" in shown.words or hit.name in shown.words
    assert shown.one("audio")


def test_the_sound_of_a_video_is_heard_and_not_seen(tmp_path: Path, assistant: Assistant) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        pictures, sounds = container.add_stream("mpeg4", rate=8), container.add_stream("aac", rate=8000, layout="mono")
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        for index in range(16):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 15 * index, np.uint8))))
        frame = av.AudioFrame.from_ndarray(np.sin(np.arange(16000) / 3).astype(np.float32)[None] / 2, "fltp", "mono")
        frame.sample_rate = 8000
        for stream, last in ((sounds, frame), (sounds, None), (pictures, None)):
            container.mux(stream.encode(last))
    with MediaLibrary.open(None, embedder=assistant.embedder) as library:
        library.add(path)
        (sound,) = library.list(modality="audio")
    shown = page(sound)
    assert decoded(shown.one("audio")["src"])[:2] == ("video/mp4", path.read_bytes())
    assert shown.one("img")  # its waveform
    assert shown.all("video") == []


def test_an_index_report_counts_and_says_what_failed() -> None:
    failures = tuple(IndexFailure(source=f"{index}<i>.png", reason="damaged") for index in range(25))
    report = IndexReport(
        added=3, changed=0, unchanged=0, moved=0, ignored=0, entries=7, seconds=1.25, failures=failures
    )
    shown = page(report)
    assert "3 added" in shown.words
    assert "7 entries" in shown.words
    assert "0<i>.png: damaged" in shown.words
    assert "and 5 more" in shown.words


# Several things


def test_things_lie_side_by_side(library: MediaLibrary, assistant: Assistant) -> None:
    hits = library.search("a bell", k=3)
    shown = page(show(hits, Attachment(MEDIA / "car.png")))
    assert [hit.citation in shown.words for hit in hits] == [True] * 3
    assert "car.png" in shown.words
    assert repr(show(hits)) == "\n".join(map(repr, hits))


def test_nothing_is_said_to_be_nothing() -> None:
    assert "nothing to show" in page(show([])).words
    assert repr(show()) == "nothing to show"


def test_a_path_is_no_thing_to_show() -> None:
    with pytest.raises(InvalidRequestError, match="make an Attachment of a path"):
        show("bell.wav")


def test_a_cell_holds_so_much_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    attachment = Attachment(MEDIA / "car.png")
    monkeypatch.setattr(gallery, "MOST_CHARS", 2 * len(attachment._repr_html_()))
    shown = page(show([attachment] * 5))
    assert len(shown.all("img")) == 2
    assert "3 more, for which this cell has no room" in shown.words


# What comes from outside


def test_names_are_escaped(tmp_path: Path) -> None:
    for write, suffix in ((write_image, "png"), (write_sound, "wav"), (write_video, "mp4"), (write_mesh, "glb")):
        shown = page(Attachment(write(tmp_path / f"{HOSTILE}.{suffix}")))
        assert f"{HOSTILE}.{suffix}" in shown.words
        assert shown.all("script") == []
        assert all("onerror" not in attributes for _, attributes in shown.elements)


def test_a_name_keeps_its_writing_direction_and_line_breaks_to_itself() -> None:
    shown = page(Attachment((MEDIA / "car.png").read_bytes(), name="gnp.\u202egpj\nexe"))
    assert "\n" not in shown.words
    assert ("bdi", {}) in shown.elements


def test_answers_questions_captions_and_tags_are_escaped(assistant: Assistant) -> None:
    with MediaLibrary.open(None, embedder=assistant.embedder, attachments=None) as library:
        library.add(MEDIA / "car.png", caption=HOSTILE, tags=[HOSTILE], title=HOSTILE)
        hit = library.search("a car")[0]
        answer = assistant.ask("a car", library=library)
    hostile = answer.model_copy(update={"text": HOSTILE, "question": HOSTILE, "model": HOSTILE})
    for thing in (hit, hostile):
        shown = page(thing)
        assert HOSTILE in shown.words
        assert shown.all("script") == []
        assert len(shown.all("img")) == 1


def test_messages_are_escaped(tmp_path: Path) -> None:
    attachment = Attachment(write_image(tmp_path / "<i>.png"))
    (tmp_path / "<i>.png").unlink()
    assert page(attachment).all("i") == []


def test_an_image_s_own_bytes_never_reach_the_page(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    path.write_bytes(path.read_bytes() + b"<svg onload=alert(1)>")
    assert b"<svg" not in decoded(page(Attachment(path)).one("img")["src"])[1]


def test_only_types_that_browsers_play_are_laid_into_a_page(tmp_path: Path) -> None:
    assert all(mime.startswith(("audio/", "video/")) for mime in player.SOUNDS.values())
    video = write_video(tmp_path / "clip.avi")
    shown = page(Attachment(video))
    assert shown.all("video") == []
    assert shown.one("img")
    assert "browsers do not play video/x-msvideo" in shown.words


def test_a_sound_that_browsers_do_not_know_is_cut_out_as_wav(tmp_path: Path) -> None:
    samples = np.stack([np.linspace(0, 0.5, 24000), np.zeros(24000)], axis=1)
    soundfile.write(tmp_path / "a.aiff", samples, 8000)
    attachment = Attachment(tmp_path / "a.aiff")
    part = Access().cite(None, attachment, 1).model_copy(update={"start": 1.0, "end": 2.0})
    shown = page(part)
    mime, content, fragment = decoded(shown.one("audio")["src"])
    heard, rate = soundfile.read(BytesIO(content))
    assert (mime, fragment, rate) == ("audio/wav", "", 8000)
    np.testing.assert_allclose(heard, samples[8000:16000, 0] / 2, atol=1e-4)
    assert "1.0-2.0 s alone, in one channel: browsers do not play audio/aiff" in shown.words


# What is large, gone or cannot be decoded


def test_of_a_large_sound_the_part_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player, "MOST_BYTES", 70_000)
    attachment = Attachment(MEDIA / "bell.wav")  # 96,044 bytes
    part = Access().cite(None, attachment, 1).model_copy(update={"start": 1.0, "end": 2.0})
    shown = page(part)
    assert len(soundfile.read(BytesIO(decoded(shown.one("audio")["src"])[1]))[0]) == 16000
    assert "96,044 bytes, at most 70,000 are laid into a notebook" in shown.words


def test_a_sound_that_is_too_large_is_a_waveform_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player, "MOST_BYTES", 70_000)
    shown = page(Attachment(MEDIA / "bell.wav"))
    assert shown.all("audio") == []
    assert shown.one("img")
    assert "at most 70,000 are laid into a notebook" in shown.words


def test_a_video_that_is_too_large_is_a_still_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player, "MOST_BYTES", 10_000)
    shown = page(Attachment(MEDIA / "helicopter.mp4"))
    assert shown.all("video") == []
    assert shown.one("img")
    assert "45,989 bytes, at most 10,000" in shown.words


def test_large_bytes_are_not_kept_alive(assistant: Assistant) -> None:
    samples = np.sin(np.arange(KEPT_BYTES // 4 + 1) / 20).astype(np.float32)
    attachment = Attachment(samples, modality="audio", sample_rate=48000)
    evidence = assistant.access.cite(attachment, attachment, 1)
    assert "without a file" in page(evidence).words


def test_a_file_that_has_gone_is_a_line(tmp_path: Path, assistant: Assistant) -> None:
    path = write_image(tmp_path / "a.png")
    attachment, answer = Attachment(path), assistant.ask("What is it?", path)
    with MediaLibrary.open(None, embedder=assistant.embedder) as library:
        library.add(path)
        hit = library.search("red")[0]
    path.unlink()
    for thing in (attachment, answer, hit):
        shown = page(thing)
        assert shown.all("img") == []
        assert "no such file" in shown.words


def test_a_file_that_has_changed_is_a_line(tmp_path: Path, assistant: Assistant) -> None:
    path = write_image(tmp_path / "a.png")
    attachment, answer = Attachment(path), assistant.ask("What is it?", path)
    with MediaLibrary.open(None, embedder=assistant.embedder) as library:
        library.add(path)
        hit = library.search("red")[0]
    write_image(path, (0, 0, 200))
    for thing in (attachment, answer, hit):
        shown = page(thing)
        assert shown.all("img") == []
        assert "has changed since" in shown.words


def test_what_lies_outside_the_roots_is_a_line(tmp_path: Path, assistant: Assistant) -> None:
    path = write_image(tmp_path / "a.png")
    with MediaLibrary.open(tmp_path / "library", embedder=assistant.embedder) as library:
        library.add(path)
    with MediaLibrary.open(tmp_path / "library", embedder=assistant.embedder, roots=[tmp_path / "other"]) as library:
        hit = library.search("red")[0]
    shown = page(hit)
    assert shown.all("img") == []
    assert "outside the allowed folders" in shown.words


def test_the_limits_of_whoever_opened_it_hold(assistant: Assistant) -> None:
    cited = Access(limits=Limits(max_pixels=10)).cite(None, Attachment(MEDIA / "car.png"), 1)
    assert "the limit is 10" in page(cited).words


@pytest.mark.parametrize("write", [write_nan_mesh, write_gltf_without_buffer])
def test_what_is_damaged_is_a_line(write: object, tmp_path: Path) -> None:
    suffix = ".ply" if write is write_nan_mesh else ".gltf"
    shown = page(Attachment(write(tmp_path / f"a{suffix}")))
    assert shown.all("iframe") == []
    assert f"a{suffix}" in shown.words


def test_damaged_pictures_are_a_line() -> None:
    whole = (MEDIA / "bell.png").read_bytes()
    shown = page(Attachment(whole[: len(whole) // 2]))
    assert shown.all("img") == []
    assert "not a readable image" in shown.words


@pytest.mark.parametrize(
    ("package", "name", "element", "extra"),
    [
        ("trimesh", "duck.glb", None, "mesh"),
        ("av", "helicopter.mp4", "video", "video"),
        ("soundfile", "bell.wav", "audio", "audio"),
    ],
)
def test_a_missing_extra_is_a_line_with_the_command(
    package: str, name: str, element: str | None, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attachment = Attachment(MEDIA / name)
    monkeypatch.setitem(sys.modules, package, None)
    shown = page(attachment)
    assert f"pip install 'ibllm-tools[{extra}]'" in shown.words
    assert shown.all("iframe") == []
    assert element is None or shown.one(element)


# How a thing knows its bytes


def test_where_it_came_from_is_in_no_json(assistant: Assistant, library: MediaLibrary) -> None:
    answer, hit = assistant.ask("What is it?", MEDIA / "car.png"), library.search("a car")[0]
    again = Answer.model_validate_json(answer.model_dump_json())
    assert again == answer
    assert Hit.model_validate_json(hit.model_dump_json()) == hit
    assert "origin" not in str(Evidence.model_json_schema())
    assert "read from JSON" in page(again).words


def test_copies_know_it_and_pickles_do_not(library: MediaLibrary) -> None:
    hit = library.search("a car")[0]
    assert page(copy.deepcopy(hit)).one("img")
    assert page(hit.model_copy(update={"caption": "mine"})).one("img")
    sent = pickle.loads(pickle.dumps(hit))
    assert sent == hit
    assert "comes from another process" in page(sent).words


def test_plain_text_stays_as_it_was(library: MediaLibrary) -> None:
    assert "origin" not in repr(library.search("a car")[0])
    assert html.unescape(repr(Attachment(MEDIA / "car.png"))).startswith("Attachment(modality='image'")


def test_whoever_needs_no_notebook_loads_none_of_it() -> None:
    code = "import sys; from ibllm_tools import Answer, Attachment, Hit; print('ibllm_tools.notebook' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
