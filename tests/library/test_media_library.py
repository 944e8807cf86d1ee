"""Adding: what is encoded and what is not, what is replaced, moved, reported, and what entries say."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drawn_embedder import DrawnEmbedder
from sample_files import write_image, write_mesh, write_sound, write_video

from ibllm_tools import Attachment, AttachmentStore, MediaLibrary
from ibllm_tools.errors import (
    AttachmentAccessError,
    AttachmentNotFoundError,
    CorruptMediaError,
    EncoderMismatchError,
    InvalidRequestError,
    StoreError,
)
from ibllm_tools.library import catalogue, encoding, media_library
from ibllm_tools.library.indexing import Indexing
from ibllm_tools.library.scanning import Task
from ibllm_tools.store.segments import SegmentSettings


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    (folder / "deep").mkdir(parents=True)
    write_image(folder / "red.png")
    write_sound(folder / "tone.wav", seconds=23)
    write_video(folder / "deep" / "clip.mp4")
    write_mesh(folder / "deep" / "box.glb")
    (folder / "notes.md").write_text("# Bells\n\nA bell rings in the tower.\n")
    (folder / "program.py").write_text("print(1)")
    (folder / ".hidden.png").write_bytes(b"x")
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


@pytest.fixture
def embedder() -> DrawnEmbedder:
    return DrawnEmbedder()


@pytest.fixture
def library(tmp_path: Path, embedder: DrawnEmbedder) -> Iterator[MediaLibrary]:
    with MediaLibrary.open(tmp_path / "library", embedder=embedder) as library:
        yield library


def ids(library: MediaLibrary) -> list[str]:
    return sorted(entry.id for entry in library.list())


class TestAdding:
    def test_a_folder_becomes_entries_of_every_modality(self, library: MediaLibrary, media: Path) -> None:
        report = library.add(media)
        assert (report.added, report.ignored, report.failures) == (5, 1, ())
        assert library.stats().entries == {"image": 1, "video": 1, "audio": 4, "text": 1, "point": 1}
        assert report.entries == len(library) == 8

    def test_windows_are_entries_with_their_times(self, library: MediaLibrary, media: Path) -> None:
        library.add(media / "tone.wav")
        entries = sorted(library.list(modality="audio"), key=lambda entry: entry.index)
        assert [(entry.start, entry.end) for entry in entries] == [(0, 10), (5, 15), (10, 20), (13, 23)]
        assert {entry.duration for entry in entries} == {23.0}
        assert entries[1].citation == "tone.wav@5.0-15.0s"

    def test_an_entry_says_what_it_is(self, library: MediaLibrary, media: Path) -> None:
        library.add(media / "red.png", tags=["warm", "warm", "flat"], metadata={"year": 2024, "people": ["Ada", "Bo"]})
        (entry,) = library.list()
        assert (entry.source, entry.title, entry.mime) == (str(media / "red.png"), "red", "image/png")
        assert (entry.width, entry.height, entry.start, entry.caption) == (64, 48, None, None)
        assert entry.tags == ("warm", "flat")
        assert entry.metadata == {"year": 2024, "people": ["Ada", "Bo"]}
        assert entry.sha256 == Attachment(media / "red.png").sha256
        assert library.get(entry.id) == entry

    def test_a_thumbnail_lies_in_the_attachment_store(self, library: MediaLibrary, media: Path) -> None:
        library.add(media)
        shown = {entry.modality: entry.thumbnail for entry in library.list()}
        assert shown.pop("text") is None
        assert library.attachments is not None
        for handle in shown.values():
            assert handle is not None
            assert Attachment(handle, store=library.attachments).mime == "image/webp"

    def test_a_text_is_found_with_its_words(self, library: MediaLibrary, media: Path) -> None:
        library.add(media / "notes.md")
        (entry,) = library.list(modality="text")
        assert entry.text == "# Bells\n\nA bell rings in the tower."
        assert (entry.char_start, entry.char_end) == (0, 35)

    def test_literal_texts_and_bytes_are_kept_in_the_store(self, library: MediaLibrary, media: Path) -> None:
        library.add(Attachment((media / "red.png").read_bytes(), name="sent.png"), texts=["a bell in the fog"])
        by_modality = {entry.modality: entry for entry in library.list()}
        assert by_modality["text"].title == by_modality["text"].name == "a bell in the fog"
        assert by_modality["image"].source == by_modality["image"].handle
        assert library.attachment(by_modality["image"]).read_bytes() == (media / "red.png").read_bytes()
        assert library.add(texts=["a bell in the fog"]).unchanged == 1

    def test_without_a_store_bytes_are_refused(self, embedder: DrawnEmbedder) -> None:
        with MediaLibrary.open(None, embedder=embedder) as library, pytest.raises(StoreError, match="attachments="):
            library.add(texts=["a bell"])

    def test_globs_and_lists_of_paths(self, library: MediaLibrary, media: Path) -> None:
        report = library.add([str(media / "**" / "*.glb"), media / "red.png"], str(media / "*.py"))
        assert (report.added, report.ignored) == (2, 1)

    def test_a_link_to_itself_does_not_end_a_glob(self, library: MediaLibrary, media: Path) -> None:
        (media / "a.png").symlink_to("a.png")
        report = library.add(media / "*.png")
        assert (report.added, [Path(failure.source).name for failure in report.failures]) == (1, ["a.png"])

    def test_a_given_caption_is_stored(self, library: MediaLibrary, media: Path) -> None:
        library.add(media / "red.png", caption="A red square.")
        assert next(library.list()).caption == "A red square."

    def test_a_captioner_writes_captions_from_the_vectors(self, tmp_path: Path, media: Path) -> None:
        class Counting:
            def captions(self, embeddings: np.ndarray) -> list[str]:
                return [f"vector {row[0]:.3f}" for row in embeddings]

        embedder = DrawnEmbedder()
        with MediaLibrary.open(tmp_path / "other", embedder=embedder, captioner=Counting()) as library:
            library.add(media, caption=True)
            for entry in library.list():
                drawn = embedder.draw(entry.sha256, entry.modality, entry.index)
                expected = None if entry.modality == "text" else f"vector {drawn[0]:.3f}"
                assert entry.caption == expected

    def test_captions_want_a_captioner(self, library: MediaLibrary, media: Path) -> None:
        with pytest.raises(InvalidRequestError, match="captioner"):
            library.add(media, caption=True)

    def test_metadata_can_depend_on_the_source(self, library: MediaLibrary, media: Path) -> None:
        library.add(media, metadata=lambda source: {"suffix": Path(source).suffix})
        assert {entry.metadata["suffix"] for entry in library.list()} == {".png", ".wav", ".mp4", ".glb", ".md"}

    def test_metadata_that_cannot_be_stored_costs_its_source_alone(self, library: MediaLibrary, media: Path) -> None:
        report = library.add(media, metadata=lambda source: {"x": [] if source.endswith(".glb") else [1]})
        assert (report.added, Path(report.failures[0].source).name) == (4, "box.glb")

    def test_there_is_something_to_read_of_every_entry(self, library: MediaLibrary, media: Path) -> None:
        library.add(media / "red.png", media / "notes.md")
        library.add(media / "tone.wav", caption="A high tone.")
        assert {entry.readable for entry in library.list()} == {
            "red (image)",
            "# Bells\n\nA bell rings in the tower.",
            "A high tone.",
        }


class TestAddingAgain:
    def test_unchanged_files_are_not_opened(
        self, library: MediaLibrary, media: Path, embedder: DrawnEmbedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library.add(media)
        before, opened = ids(library), len(embedder.encoded)
        monkeypatch.setattr("ibllm_tools.library.encoding.Attachment", None)  # what opens a file
        report = library.add(media)
        assert (report.unchanged, report.added, report.entries) == (5, 0, 0)
        assert (ids(library), len(embedder.encoded)) == (before, opened)

    def test_a_touched_file_is_read_and_not_encoded(
        self, library: MediaLibrary, media: Path, embedder: DrawnEmbedder
    ) -> None:
        library.add(media)
        count = len(embedder.encoded)
        os.utime(media / "red.png", (1_700_000_100, 1_700_000_100))
        assert library.add(media).unchanged == 5
        assert len(embedder.encoded) == count

    def test_a_changed_file_replaces_its_entries(self, library: MediaLibrary, media: Path) -> None:
        library.add(media)
        old = {entry.sha256 for entry in library.list(modality="audio") if entry.name == "tone.wav"}
        write_sound(media / "tone.wav", seconds=3)
        report = library.add(media)
        assert (report.changed, report.unchanged, report.entries) == (1, 4, 1)
        sounds = [entry for entry in library.list(modality="audio") if entry.name == "tone.wav"]
        assert [(entry.start, entry.end) for entry in sounds] == [(0, 3)]
        assert {entry.sha256 for entry in sounds}.isdisjoint(old)

    def test_a_file_of_the_same_size_and_a_new_time_is_noticed(self, library: MediaLibrary, media: Path) -> None:
        library.add(media / "notes.md")
        (media / "notes.md").write_text("# Bells\n\nA drum rings in the tower.\n")
        assert library.add(media / "notes.md").changed == 1
        assert "drum" in str(next(library.list()).text)

    def test_a_file_written_just_now_is_read_again(self, library: MediaLibrary, media: Path) -> None:
        path = media / "notes.md"
        path.write_text("one bell")
        library.add(path)
        status = path.stat()
        path.write_text("two bell")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a clock of coarse ticks leaves it
        assert library.add(path).changed == 1

    def test_a_moved_file_keeps_its_entries(self, library: MediaLibrary, media: Path, embedder: DrawnEmbedder) -> None:
        library.add(media, tags=["mine"])
        before, count = ids(library), len(embedder.encoded)
        (media / "red.png").rename(media / "crimson.png")
        report = library.add(media)
        assert (report.moved, report.unchanged, report.added) == (1, 4, 0)
        assert (ids(library), len(embedder.encoded)) == (before, count)
        (image,) = library.list(modality="image")
        assert (image.name, image.title, image.tags) == ("crimson.png", "crimson", ("mine",))
        assert sorted(Path(record.source).name for record in library.sources())[1] == "clip.mp4"
        assert len(list(library.sources())) == 5

    def test_a_copy_shares_the_entries_until_both_are_gone(self, library: MediaLibrary, media: Path) -> None:
        library.add(media / "red.png")
        shutil.copy(media / "red.png", media / "copy.png")
        assert library.add(media / "copy.png").added == 1
        assert len(library) == 1
        both = library.entries(media / "red.png", media / "copy.png")
        assert [entry.name for entry in both] == ["red.png", "copy.png"]
        assert library.delete(media / "red.png") == 1
        assert len(library) == 1
        assert library.delete(media / "copy.png") == 1
        assert len(library) == 0

    @pytest.mark.parametrize("path", ["a\0b", "~nobody-of-that-name/a", "a" * 5000])
    def test_what_cannot_be_a_path_names_no_source(self, library: MediaLibrary, path: str) -> None:
        assert (library.delete(path), library.entries(path)) == (0, [])

    def test_new_labels_need_no_encoding(self, library: MediaLibrary, media: Path, embedder: DrawnEmbedder) -> None:
        library.add(media / "red.png", tags=["old"], metadata={"year": 1999, "gone": True})
        library.add(media / "red.png", tags=["new"], metadata={"year": 2024})
        (entry,) = library.list()
        assert (entry.tags, entry.metadata) == (("new",), {"year": 2024})
        assert entry.thumbnail is not None
        assert len(embedder.encoded) == 1

    def test_each_label_stays_until_another_is_given(self, library: MediaLibrary, media: Path) -> None:
        picture = media / "red.png"
        library.add(picture, title="A square", tags=["old"], metadata={"year": 1999})
        library.add(picture, caption="A red square.")
        library.add(picture, tags=["new"])
        (entry,) = library.list()
        assert (entry.title, entry.tags, entry.metadata) == ("A square", ("new",), {"year": 1999})
        assert entry.caption == "A red square."
        assert library.add(picture, title="A square", caption="A red square.").unchanged == 1
        library.add(picture, title="", tags=[], metadata={})
        (entry,) = library.list()
        assert (entry.title, entry.tags, entry.metadata) == ("red", (), {})
        assert entry.caption == "A red square."

    def test_a_label_of_its_own_goes_with_a_file_that_is_moved(self, library: MediaLibrary, media: Path) -> None:
        library.add(media / "red.png", title="A square", tags=["mine"])
        (media / "red.png").rename(media / "crimson.png")
        assert library.add(media / "crimson.png", metadata={"year": 2024}).moved == 1
        (entry,) = library.list()
        assert (entry.name, entry.title, entry.tags) == ("crimson.png", "A square", ("mine",))
        assert entry.metadata == {"year": 2024}
        library.add(media / "crimson.png", tags=["new"])
        (entry,) = library.list()
        assert (entry.title, entry.tags) == ("A square", ("new",))

    def test_a_caption_does_not_outlive_what_it_describes(self, library: MediaLibrary, media: Path) -> None:
        library.add(media / "red.png", title="A square", caption="A red square.")
        write_image(media / "red.png", colour=(0, 0, 255))
        assert library.add(media / "red.png").changed == 1
        (entry,) = library.list()
        assert (entry.title, entry.caption) == ("A square", None)
        library.add(media / "red.png", caption="A red square.")
        assert next(library.list()).caption == "A red square."

    def test_what_is_cut_anew_gets_captions_anew(self, tmp_path: Path, media: Path, embedder: DrawnEmbedder) -> None:
        for window in (10.0, 5.0):
            settings = SegmentSettings(window_seconds=window)
            with MediaLibrary.open(tmp_path / "library", embedder=embedder, settings=settings) as library:
                library.add(media / "tone.wav")
                assert {entry.caption for entry in library.list()} == {None}
                library.add(media / "tone.wav", caption="A tone.")
                assert {entry.caption for entry in library.list()} == {"A tone."}

    def test_labels_stay_when_nothing_is_said(self, library: MediaLibrary, media: Path) -> None:
        library.add(media / "notes.md", tags=["kept"], title="Bells")
        (media / "notes.md").write_text("Another text.")
        assert library.add(media).changed == 1
        (entry,) = library.list(modality="text")
        assert (entry.text, entry.tags, entry.title) == ("Another text.", ("kept",), "Bells")
        assert library.add(media).unchanged == 5

    def test_a_file_that_is_taken_as_something_else_replaces_what_it_was(
        self, library: MediaLibrary, media: Path
    ) -> None:
        library.add(media / "red.png")
        assert library.add(Attachment(media / "red.png", modality="depth")).changed == 1
        (entry,) = library.list()
        assert entry.modality == "depth"
        assert library.verify().ok
        assert library.delete(media / "red.png") == 1
        assert len(library) == 0

    def test_a_kept_attachment_is_indexed_by_its_handle(
        self, library: MediaLibrary, media: Path, tmp_path: Path
    ) -> None:
        elsewhere = AttachmentStore(tmp_path / "elsewhere")
        handle = elsewhere.put(media / "red.png")
        (media / "red.png").unlink()
        library.add(Attachment(handle, store=elsewhere))
        (entry,) = library.list()
        assert (entry.source, entry.title) == (handle, "red")
        assert library.attachment(entry).sha256 == entry.sha256
        assert library.prune() == []
        assert library.add(Attachment(handle, store=library.attachments)).unchanged == 1

    def test_other_windows_replace_the_old_ones(self, tmp_path: Path, media: Path, embedder: DrawnEmbedder) -> None:
        for step in (5.0, 10.0):
            settings = SegmentSettings(step_seconds=step)
            with MediaLibrary.open(tmp_path / "library", embedder=embedder, settings=settings) as library:
                library.add(media)
                starts = sorted(entry.start for entry in library.list(modality="audio") if entry.start is not None)
        assert starts == [0, 10]
        assert [name for name, _, _ in embedder.encoded].count("red.png") == 1

    def test_vanished_files_are_pruned_on_request(self, library: MediaLibrary, media: Path) -> None:
        library.add(media)
        (media / "tone.wav").unlink()
        assert library.add(media).unchanged == 4
        assert len(list(library.list(modality="audio"))) == 4
        assert library.prune() == [str(media / "tone.wav")]
        assert list(library.list(modality="audio")) == []


class TestFailures:
    def test_one_bad_file_is_reported_and_the_rest_is_there(self, library: MediaLibrary, media: Path) -> None:
        (media / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
        (media / "empty.wav").touch()
        report = library.add(media, media / "missing.png")
        assert report.added == 5
        assert sorted(Path(failure.source).name for failure in report.failures) == [
            "bad.png",
            "empty.wav",
            "missing.png",
        ]
        assert all("\n" not in failure.reason for failure in report.failures)

    def test_a_damaged_window_costs_no_other(self, tmp_path: Path, media: Path) -> None:
        embedder = DrawnEmbedder(damaged=["tone.wav#1"])
        with MediaLibrary.open(tmp_path / "library", embedder=embedder) as library:
            report = library.add(media / "tone.wav")
            assert (report.added, report.entries) == (1, 3)
            assert [failure.reason for failure in report.failures] == [
                "tone.wav: segment 1 is damaged; export it again"
            ]
            assert [entry.index for entry in library.list()] == [0, 2, 3]

    def test_a_file_without_any_usable_segment_is_tried_again(self, tmp_path: Path, media: Path) -> None:
        embedder = DrawnEmbedder(damaged=["red.png"])
        with MediaLibrary.open(tmp_path / "library", embedder=embedder) as library:
            assert library.add(media / "red.png").added == 0
            embedder.damaged.clear()
            assert library.add(media / "red.png").added == 1

    def test_strict_raises_the_first_failure_and_keeps_what_came_before(
        self, library: MediaLibrary, media: Path
    ) -> None:
        (media / "z.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
        with pytest.raises(CorruptMediaError, match=r"z\.png"):
            library.add(media / "red.png", media / "z.png", media / "deep" / "box.glb", strict=True)
        assert [entry.name for entry in library.list()] == ["red.png"]

    def test_a_file_that_changes_meanwhile_is_reported(self, tmp_path: Path, media: Path) -> None:
        class Meddling(DrawnEmbedder):
            def embed_segments(self, parts):  # type: ignore[no-untyped-def]
                for vector in super().embed_segments(parts):
                    if self.encoded[-1][0] == "tone.wav":
                        write_sound(media / "tone.wav", seconds=2)
                    yield vector

        with MediaLibrary.open(tmp_path / "library", embedder=Meddling()) as library:
            report = library.add(media / "red.png", media / "tone.wav")
            assert report.added == 1
            assert "changed while it was indexed" in report.failures[0].reason
            assert [entry.name for entry in library.list()] == ["red.png"]

    def test_what_is_no_text_and_what_has_gone_are_reported(self, library: MediaLibrary, media: Path) -> None:
        opened = Attachment(media / "red.png")
        (media / "red.png").unlink()
        report = library.add(opened, texts=["a bell in the fog", ""])
        assert report.added == 1
        assert [failure.source for failure in report.failures] == [str(media / "red.png"), ""]
        assert "it has gone since it was opened" in report.failures[0].reason

    def test_many_files_that_are_known_are_told_of_as_they_come(
        self, library: MediaLibrary, media: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pictures = [write_image(media / f"{index}.png", (index, 0, 0)) for index in range(9)]
        library.add(*pictures)
        for path in pictures:
            os.utime(path, (1_800_000_000, 1_800_000_000))
        monkeypatch.setattr(encoding, "AHEAD", 2)
        open_ = Task.open
        begun, told = [], []
        monkeypatch.setattr(Task, "open", lambda task, limits: begun.append(task.source) or open_(task, limits))
        begin = Indexing._begin
        monkeypatch.setattr(Indexing, "_begin", lambda run, event: told.append(len(begun)) or begin(run, event))
        assert library.add(*pictures).unchanged == 9
        assert told == [2, 2, 4, 4, 6, 6, 8, 8, 9]

    def test_paths_outside_the_roots_are_refused(self, tmp_path: Path, media: Path, embedder: DrawnEmbedder) -> None:
        (media / "deep" / "link.png").symlink_to(write_image(tmp_path / "secret.png"))
        with MediaLibrary.open(tmp_path / "library", embedder=embedder, roots=media) as library:
            report = library.add(media, tmp_path / "secret.png")
            assert [failure.reason.split(";")[0] for failure in report.failures] == [
                f"{media / 'deep' / 'link.png'}: outside the allowed folders, expected a file below {media}",
                f"{tmp_path / 'secret.png'}: outside the allowed folders, expected a file below {media}",
            ]
            with pytest.raises(AttachmentAccessError):
                library.search(tmp_path / "secret.png")

    @pytest.mark.parametrize(
        ("labels", "reason"),
        [
            ({"tags": "bell"}, "a list of texts"),
            ({"tags": [""]}, "not empty"),
            ({"metadata": {"source": "x"}}, "one of the entry's own"),
            ({"metadata": {"$x": 1}}, r"without \$"),
            ({"metadata": {"x": float("nan")}}, "finite"),
            ({"metadata": {"x": [1, "a"]}}, "of one type"),
            ({"metadata": {"x": []}}, "1 to 64"),
            ({"metadata": {"x": list(range(65))}}, "1 to 64"),
            ({"metadata": {f"k{index}": 1 for index in range(65)}}, "unusable"),
            ({"metadata": {"x": 2**63}}, "64 bits"),
            ({"metadata": {"x": {"nested": 1}}}, "of type dict"),
            ({"metadata": {"x": "a" * 5000}}, "characters"),
            ({"title": 5}, "type int, expected text"),
            ({"caption": 5}, "type int, expected text"),
            ({"title": "a" * 5000}, "characters"),
            ({"tags": ["\udcff"]}, "no valid Unicode"),
            ({"title": "\udcff"}, "no valid Unicode"),
        ],
    )
    def test_labels_that_cannot_be_stored_are_refused_before_anything_is_written(
        self, library: MediaLibrary, media: Path, labels: dict[str, object], reason: str
    ) -> None:
        with pytest.raises(InvalidRequestError, match=reason):
            library.add(media, **labels)
        assert len(library) == 0


class TestStanding:
    def test_it_is_there_after_it_was_closed(self, tmp_path: Path, media: Path, embedder: DrawnEmbedder) -> None:
        with MediaLibrary.open(tmp_path / "library", embedder=embedder) as library:
            library.add(media)
            before = list(library.list())
        with MediaLibrary.open(tmp_path / "library", embedder=embedder) as library:
            assert list(library.list()) == before
            assert library.add(media).unchanged == 5

    def test_another_encoder_is_refused(self, tmp_path: Path, media: Path, embedder: DrawnEmbedder) -> None:
        with MediaLibrary.open(tmp_path / "library", embedder=embedder) as library:
            library.add(media)
        with pytest.raises(EncoderMismatchError, match=r"'drawn'.*'other'"):
            MediaLibrary.open(tmp_path / "library", embedder=DrawnEmbedder("other"))

    @pytest.mark.parametrize("location", ["~nosuchuser/library", "x" * 300])
    @pytest.mark.parametrize("create", [False, True])
    def test_a_place_that_cannot_be_is_said(self, embedder: DrawnEmbedder, location: str, create: bool) -> None:
        with pytest.raises(StoreError, match="cannot be used"):
            MediaLibrary.open(location, embedder=embedder, create=create)

    def test_its_own_folder_is_not_indexed(self, tmp_path: Path, media: Path, embedder: DrawnEmbedder) -> None:
        with MediaLibrary.open(media / "library", embedder=embedder) as library:
            library.add(media)
            assert library.add(media).added == 0

    def test_listing_in_pages_gives_everything_once(self, library: MediaLibrary, media: Path) -> None:
        library.add(media)
        whole = [entry.id for entry in library.list()]
        paged = [entry.id for offset in range(0, 9, 3) for entry in library.list(limit=3, offset=offset)]
        assert paged == whole
        assert [entry.modality for entry in library.list(modality=["audio", "image"], limit=2)] == ["image", "audio"]

    @pytest.mark.parametrize("where", [None, {"odd": True}])
    def test_what_is_listed_may_be_deleted_meanwhile(
        self, library: MediaLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: dict[str, bool] | None
    ) -> None:
        monkeypatch.setattr(media_library, "PAGE", 2)
        paths = [write_image(tmp_path / f"{index}.png", (index, 9, 9)) for index in range(8)]
        library.add(paths, metadata=lambda source: {"odd": int(Path(source).stem) % 2 == 1})
        for entry in library.list(where=where):
            library.delete(entry)
        left = [] if where is None else ["0.png", "2.png", "4.png", "6.png"]
        assert [entry.name for entry in library.list()] == left
        assert sum(len(ids) for ids, _ in library.vectors("image", batch=3)) == len(left)

    def test_a_database_that_fails_is_no_failure_of_a_file(
        self, library: MediaLibrary, media: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lost(*_: object) -> set[str]:
            raise StoreError("reading failed")

        monkeypatch.setattr(library, "_known", lost)
        with pytest.raises(StoreError, match="reading failed"):
            library.add(media)

    def test_a_deletion_that_was_cut_off_is_made_good_by_adding_again(
        self, library: MediaLibrary, media: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(sources: object) -> None:
            raise StoreError("killed")

        library.add(media)
        entries = len(library)
        with monkeypatch.context() as patch:
            patch.setattr(library.catalogue, "forget", killed)
            with pytest.raises(StoreError, match="killed"):
                library.delete(*media.iterdir())
        assert not library.verify(progress=False).ok
        library.add(media)
        assert library.verify(progress=False).ok
        assert len(library) == entries

    def test_sources_may_be_deleted_while_they_are_gone_through(
        self, library: MediaLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(catalogue, "PAGE", 2)
        library.add([write_image(tmp_path / f"{index}.png", (index, 9, 9)) for index in range(5)])
        assert sum(library.delete(record.source) for record in library.sources()) == 5

    def test_an_offset_passes_over_what_passes_the_filter(self, library: MediaLibrary, media: Path) -> None:
        library.add(media, metadata=lambda source: {"kept": not source.endswith(".wav")})
        kept = [entry.id for entry in library.list(where={"kept": True})]
        assert len(kept) == len(library) - 4
        for offset in range(len(kept) + 2):
            paged = library.list(where={"kept": True}, limit=2, offset=offset)
            assert [entry.id for entry in paged] == kept[offset : offset + 2]

    @pytest.mark.parametrize("number", [{"limit": -1}, {"offset": -5}, {"limit": 1.5}])
    def test_numbers_that_mean_nothing_are_refused(self, library: MediaLibrary, number: dict[str, int]) -> None:
        with pytest.raises(InvalidRequestError, match="of at least 0"):
            library.list(**number)  # type: ignore[arg-type]

    def test_without_its_store_an_attachment_is_not_found(self, library: MediaLibrary, embedder: DrawnEmbedder) -> None:
        library.add(texts=["a bell in the fog"])
        bare = MediaLibrary(library.catalogue, embedder, None)
        with pytest.raises(AttachmentNotFoundError, match="pass attachments=FOLDER"):
            bare.attachment(next(bare.list()))

    def test_a_changed_source_is_not_handed_out(self, library: MediaLibrary, media: Path) -> None:
        library.add(media / "notes.md")
        (entry,) = library.list()
        (media / "notes.md").write_text("other")
        with pytest.raises(AttachmentNotFoundError, match="changed since"):
            library.attachment(entry)

    def test_an_unknown_id_is_refused(self, library: MediaLibrary) -> None:
        with pytest.raises(InvalidRequestError, match="no such entry"):
            library.get("nothing")

    def test_stats_count_what_there_is(self, library: MediaLibrary, media: Path) -> None:
        library.add(media)
        stats = library.stats()
        assert stats.sources == 5
        assert stats.seconds == {"audio": 23.0, "video": 2.0}
        assert stats.source_bytes == sum(Path(record.source).stat().st_size for record in library.sources())
        assert stats.database_bytes is not None
        assert stats.attachments > 0

    def test_every_change_is_told(self, library: MediaLibrary, media: Path) -> None:
        versions = [library.catalogue.version]
        library.add(media)
        versions.append(library.catalogue.version)
        library.delete(media / "red.png")
        versions.append(library.catalogue.version)
        assert len(set(versions)) == 3


def test_adding_in_two_threads_loses_nothing(library: MediaLibrary, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    folders = [tmp_path / name for name in ("a", "b")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        for index in range(20):
            write_image(folder / f"{index}.png", (number * 100, index, 9))
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(library.add, folders))
    assert [report.added for report in reports] == [20, 20]
    assert len(library) == 40
