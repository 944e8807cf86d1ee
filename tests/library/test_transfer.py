"""Export and import: nothing changes on the way, nothing is done twice, and nothing foreign is believed."""

import builtins
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn_embedder import DrawnEmbedder
from sample_files import write_image, write_mesh, write_sound, write_video

from ibllm_tools import Attachment, Entry, MediaLibrary
from ibllm_tools.errors import (
    AttachmentAccessError,
    EncoderMismatchError,
    InvalidRequestError,
    MissingExtraError,
    StoreError,
)
from ibllm_tools.library import export_format, exporting, importing
from ibllm_tools.library.catalogue import Catalogue, SourceRecord
from ibllm_tools.library.importing import exported_encoder
from ibllm_tools.library.relocation import Relocation, restore
from ibllm_tools.store.chroma import VectorCollection
from ibllm_tools.store.segments import SegmentSettings

OLD = 1_700_000_000
TEXT = "A bell rings in the tower,\nand somebody counts."


class Captions:
    def captions(self, embeddings: np.ndarray) -> list[str]:
        return [f"Something at {row[0]:.3f}." for row in embeddings]


@dataclass(frozen=True)
class Filled:
    """A library in a folder of its own, with the media that it was made from, and an export of it."""

    folder: Path
    library: MediaLibrary

    @property
    def media(self) -> Path:
        return self.folder / "media"

    @property
    def export(self) -> Path:
        return self.folder / "export"


@contextmanager
def filled(folder: Path) -> Iterator[Filled]:
    media = folder / "media"
    (media / "deep").mkdir(parents=True)
    write_image(media / "red.png")
    shutil.copy(media / "red.png", media / "deep" / "same.png")
    write_sound(media / "tone.wav", seconds=23)
    write_video(media / "deep" / "clip.mp4")
    write_mesh(media / "deep" / "box.glb")
    (media / "notes.md").write_text("# Bells\n\nA bell rings in the tower.\n")
    for path in media.rglob("*"):
        os.utime(path, (OLD, OLD))
    said: Any = {"tags": ["a", "ü"], "metadata": {"year": 2024, "who": ["Ann", "Bo"], "x": 1.0, "yes": True}}
    with MediaLibrary.open(folder / "library", embedder=DrawnEmbedder(), captioner=Captions()) as library:
        library.add(media, **said)
        library.add(media / "tone.wav", title="A \u202etone", caption=True, **said)
        library.add(texts=[TEXT])
        assert library.export(folder / "export", files=True).failures == ()
        yield Filled(folder, library)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """For tests that only read it."""
    with filled(tmp_path_factory.mktemp("shared")) as shared:
        yield shared


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Filled]:
    """For tests that change it."""
    with filled(tmp_path) as own:
        yield own


@pytest.fixture
def library(shared: Filled) -> MediaLibrary:
    return shared.library


@pytest.fixture
def media(shared: Filled) -> Path:
    return shared.media


@pytest.fixture
def export(tmp_path: Path, shared: Filled) -> Path:
    """A copy, which may be changed."""
    return Path(shutil.copytree(shared.export, tmp_path / "copy"))


@pytest.fixture
def other(tmp_path: Path) -> Iterator[MediaLibrary]:
    with MediaLibrary.open(None, embedder=DrawnEmbedder(), attachments=tmp_path / "kept") as other:
        yield other


def content(library: MediaLibrary) -> dict[str, tuple[Entry, bytes]]:
    """Every entry with its vector, in order."""
    vectors = {
        id_: row.tobytes()
        for modality in library.catalogue.modalities()
        for ids, rows in library.vectors(modality)
        for id_, row in zip(ids, rows, strict=True)
    }
    return {entry.id: (entry, vectors[entry.id]) for entry in library.list()}


def same(first: MediaLibrary, second: MediaLibrary) -> bool:
    one, two = content(first), content(second)
    return list(one) == list(two) and one == two and [*first.sources()] == [*second.sources()]


def manifest(export: Path, **changed: Any) -> dict[str, Any]:
    """The manifest, changed."""
    stored: dict[str, Any] = json.loads((export / "manifest.json").read_text())
    stored |= changed
    (export / "manifest.json").write_text(json.dumps(stored))
    return stored


def rewrite(export: Path, kind: str, change: Callable[[list[dict[str, Any]]], object], **options: Any) -> None:
    """Change the rows of a table, and make the manifest say that this is right."""
    path = export / f"{kind}-00000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=options.pop("schema", table.schema)), path, **options)
    bless(export, path)


def bless(export: Path, path: Path) -> None:
    stored = manifest(export)
    for table in stored["tables"]:
        if table["name"] == path.name:
            table |= {"bytes": path.stat().st_size, "sha256": export_format._sha256(path)}
    manifest(export, **stored)


class TestRoundTrip:
    def test_entries_vectors_and_sources_are_the_same(
        self, library: MediaLibrary, other: MediaLibrary, export: Path
    ) -> None:
        report = other.import_(export)
        assert same(library, other)
        assert report.failures == ()
        assert report.sources == library.stats().sources == 7
        assert report.entries == report.written == len(library) == 9
        entry = next(entry for entry in other.list(modality="audio") if entry.title == "A \u202etone")
        assert entry.caption is not None
        assert entry.metadata == {"year": 2024, "who": ["Ann", "Bo"], "x": 1.0, "yes": True}
        assert isinstance(entry.metadata["x"], float)

    @pytest.mark.parametrize("ranking", ["similarity", "words", "hybrid"])
    def test_hits_are_the_same(self, library: MediaLibrary, other: MediaLibrary, export: Path, ranking: str) -> None:
        other.import_(export)
        options: Any = {"ranking": ranking, "where": {"year": {"$gte": 2000}}}
        assert library.search("bell", **options) == other.search("bell", **options) != []

    def test_thumbnails_and_attachments_come_along(
        self, library: MediaLibrary, other: MediaLibrary, export: Path
    ) -> None:
        other.import_(export)
        assert library.attachments is not None
        assert other.attachments is not None
        assert list(other.attachments) == list(library.attachments)
        assert other.attachments.verify().damaged == ()
        (text,) = (entry for entry in other.list() if entry.source.startswith("att://"))
        assert other.attachment(text).read_bytes() == TEXT.encode()

    def test_what_was_imported_is_unchanged_when_it_is_indexed(
        self, other: MediaLibrary, export: Path, media: Path
    ) -> None:
        other.import_(export)
        assert (other.add(media).unchanged, other.embedder.encoded) == (6, [])  # type: ignore[attr-defined]

    def test_any_reader_of_parquet_reads_it(self, library: MediaLibrary, export: Path) -> None:
        table = pq.read_table(export / "audio-00000.parquet")
        assert table.schema.field("vector").type.list_size == 32
        assert table.column("end").to_pylist() == [entry.end for entry in library.list(modality="audio")]
        rows = np.stack(table.column("vector").to_numpy())
        np.testing.assert_array_equal(rows, next(library.vectors("audio"))[1])

    def test_every_field_is_a_column(self) -> None:
        assert set(export_format.ENTRY_COLUMNS) == set(Entry.model_fields)
        assert set(export_format.SOURCE_COLUMNS) == set(SourceRecord.model_fields)

    def test_many_pages_and_files(
        self, tmp_path: Path, library: MediaLibrary, other: MediaLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exporting, "ROWS", 2)
        monkeypatch.setattr(export_format, "TABLE_ROWS", 3)
        library.export(tmp_path / "parts")
        assert len(sorted((tmp_path / "parts").glob("audio-*.parquet"))) == 1
        assert len(sorted((tmp_path / "parts").glob("sources-*.parquet"))) == 2
        other.import_(tmp_path / "parts")
        assert same(library, other)

    def test_an_empty_library(self, tmp_path: Path, other: MediaLibrary) -> None:
        assert other.export(tmp_path / "nothing").entries == 0
        with MediaLibrary.open(None, embedder=exported_encoder(tmp_path / "nothing")) as third:
            assert third.import_(tmp_path / "nothing").sources == 0

    def test_a_library_is_made_from_an_export_without_a_model(self, tmp_path: Path, export: Path) -> None:
        with MediaLibrary.open(tmp_path / "new", embedder=exported_encoder(export)) as new:
            new.import_(export)
            assert new.stats().dimension == 32
            with pytest.raises(InvalidRequestError, match="opened without its encoder 'drawn'"):
                new.search("bell")


class TestExport:
    def test_a_folder_that_is_not_empty_is_left_alone(self, tmp_path: Path, library: MediaLibrary) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.txt").write_text("mine")
        with pytest.raises(InvalidRequestError, match="full: not empty"):
            library.export(tmp_path / "full")
        with pytest.raises(InvalidRequestError, match=r"no exported library.* stays"):
            library.export(tmp_path / "full", overwrite=True)
        assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]

    def test_an_export_is_replaced_when_that_is_wanted(self, export: Path, other: MediaLibrary) -> None:
        library = other
        library.import_(export)
        library.delete(*library.list(modality="audio"))
        library.export(export, overwrite=True)
        assert not (export / "audio-00000.parquet").exists()
        (export / "thesis.txt").write_text("mine")
        with pytest.raises(InvalidRequestError, match=r"thesis\.txt"):
            library.export(export, overwrite=True)

    def test_a_library_that_changes_meanwhile_is_not_exported(
        self, tmp_path: Path, library: MediaLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = exporting.write_manifest

        def change(*arguments: Any) -> None:
            written(*arguments)
            library.catalogue.changed()

        monkeypatch.setattr(exporting, "write_manifest", change)
        with pytest.raises(StoreError, match="changed while it was exported"):
            library.export(tmp_path / "export")
        assert list(tmp_path.iterdir()) == []

    def test_files_that_have_gone_or_changed_are_reported(self, tmp_path: Path, own: Filled) -> None:
        (own.media / "tone.wav").unlink()
        (own.media / "deep" / "box.glb").write_bytes(write_mesh(tmp_path / "b.ply").read_bytes())
        report = own.library.export(tmp_path / "second", files=True)
        assert {Path(failure.source).name for failure in report.failures} == {"tone.wav", "box.glb"}
        assert manifest(tmp_path / "second")["files"] == 4

    def test_missing_thumbnails_are_reported(self, tmp_path: Path, own: Filled, other: MediaLibrary) -> None:
        assert own.library.attachments is not None
        for entry in own.library.list(modality="video"):
            own.library.attachments.delete(str(entry.thumbnail))
        report = own.library.export(tmp_path / "second")
        assert [failure.source for failure in report.failures] == ["thumbnails"]
        other.import_(tmp_path / "second")
        assert [entry.thumbnail for entry in other.list(modality="video")] == [None]

    def test_without_pyarrow_the_extra_is_named(
        self, tmp_path: Path, library: MediaLibrary, export: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        imported = builtins.__import__

        def refuse(name: str, *arguments: Any) -> Any:
            if name.partition(".")[0] == "pyarrow":
                raise ImportError(name)
            return imported(name, *arguments)

        monkeypatch.setattr(builtins, "__import__", refuse)
        for call in (lambda: library.export(tmp_path / "second"), lambda: library.import_(export)):
            with pytest.raises(MissingExtraError, match=r"pip install 'ibllm-tools\[parquet\]'"):
                call()


class TestImport:
    def test_the_second_time_nothing_is_written(self, other: MediaLibrary, export: Path) -> None:
        other.import_(export)
        again = other.import_(export)
        assert (again.written, again.copied, again.failures) == (0, 0, ())

    def test_it_goes_on_where_it_was_stopped(
        self, library: MediaLibrary, other: MediaLibrary, export: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken = importing._Importing._take_entries

        def stop(self: Any, modality: str, *arguments: Any) -> None:
            if modality == "point":
                raise KeyboardInterrupt
            taken(self, modality, *arguments)  # type: ignore[arg-type]

        with monkeypatch.context() as stopped:
            stopped.setattr(importing._Importing, "_take_entries", stop)
            with pytest.raises(KeyboardInterrupt):
                other.import_(export)
        assert 0 < len(other) < len(library)
        assert list(other.sources()) == []
        before = len(other)
        assert other.import_(export).written == len(library) - before
        assert same(library, other)

    def test_it_goes_beside_what_is_there(
        self, tmp_path: Path, library: MediaLibrary, other: MediaLibrary, export: Path
    ) -> None:
        other.add(write_image(tmp_path / "blue.png", (0, 0, 200)))
        other.import_(export)
        assert len(other) == len(library) + 1

    def test_what_it_says_replaces_what_was_said(
        self, library: MediaLibrary, other: MediaLibrary, export: Path, media: Path
    ) -> None:
        other.add(media, tags=["mine"], metadata={"gone": 1})
        assert other.import_(export).written > 0
        assert content(library) == content(other)

    def test_a_source_that_had_another_content_loses_its_entries(self, own: Filled, other: MediaLibrary) -> None:
        tone, notes = own.media / "tone.wav", own.media / "notes.md"
        write_sound(tone, seconds=41)
        shutil.copy(own.media / "red.png", notes)  # what is the content of another source in the export
        other.add(tone, notes)
        other.import_(own.export)
        assert content(own.library).keys() == content(other).keys()

    @pytest.mark.parametrize(("step", "before"), [("give_up", 0), ("with_content", 1), ("record", 1)])
    def test_stopped_at_any_step_it_leaves_nothing_of_what_was_replaced(
        self, own: Filled, other: MediaLibrary, monkeypatch: pytest.MonkeyPatch, step: str, before: int
    ) -> None:
        write_sound(own.media / "tone.wav", seconds=41)
        (own.media / "notes.md").write_text("Something else.")
        other.add(own.media)
        calls, done = iter(range(before)), getattr(Catalogue, step)

        def stop(catalogue: Catalogue, *arguments: Any, **options: Any) -> Any:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return done(catalogue, *arguments, **options)

        with monkeypatch.context() as stopped:
            stopped.setattr(Catalogue, step, stop)
            with pytest.raises(KeyboardInterrupt):
                other.import_(own.export)
        other.import_(own.export)
        assert content(own.library).keys() == content(other).keys()

    def test_two_united_sources_of_other_contents_leave_those_of_one(self, tmp_path: Path, own: Filled) -> None:
        one, two = tmp_path / "one" / "a.txt", tmp_path / "two" / "a.txt"
        for path in (one, two):
            path.parent.mkdir()
            path.write_text(f"What was in {path.parent.name}.")
            own.library.add(path)
        own.library.export(tmp_path / "second")
        with MediaLibrary.open(None, embedder=DrawnEmbedder(), attachments=tmp_path / "kept") as library:
            (tmp_path / "here").mkdir()
            (tmp_path / "here" / "a.txt").write_text("What was here.")
            library.add(tmp_path / "here")
            library.import_(tmp_path / "second", rebase={str(path.parent): tmp_path / "here" for path in (one, two)})
            texts = [entry.text for entry in library.list() if entry.source == str(tmp_path / "here" / "a.txt")]
        assert texts == ["What was in two."]

    def test_another_encoder_is_refused(self, tmp_path: Path, export: Path) -> None:
        for encoder in (DrawnEmbedder("another"), DrawnEmbedder(dimension=16)):
            with (
                MediaLibrary.open(None, embedder=encoder) as other,
                pytest.raises(EncoderMismatchError, match="'drawn'"),
            ):
                other.import_(export)

    def test_a_place_without_a_store_says_that_thumbnails_are_left_out(
        self, tmp_path: Path, own: Filled, other: MediaLibrary
    ) -> None:
        own.library.delete(*(entry for entry in own.library.list() if entry.source.startswith("att://")))
        own.library.export(tmp_path / "second")
        with MediaLibrary.open(None, embedder=DrawnEmbedder()) as bare:
            (failure,) = bare.import_(tmp_path / "second").failures
            shown = sum(entry.thumbnail is not None for entry in own.library.list())
            assert failure.reason.startswith(f"{shown} are left out, as there is no store")

    def test_a_place_without_a_store_takes_no_attachments(self, export: Path) -> None:
        with (
            MediaLibrary.open(None, embedder=DrawnEmbedder()) as other,
            pytest.raises(StoreError, match="no store to keep them in"),
        ):
            other.import_(export)
        assert len(list(export.iterdir())) > 1

    def test_into_a_server(self, tmp_path: Path, library: MediaLibrary, export: Path, server: str) -> None:
        with MediaLibrary.open(server, embedder=DrawnEmbedder(), attachments=tmp_path / "kept") as other:
            assert other.import_(export).failures == ()
            assert same(library, other)
            assert library.search("bell") == other.search("bell")
            assert other.import_(export).written == 0
        with MediaLibrary.open(server) as other:
            assert other.stats().sources == 7


class TestPlaces:
    def test_files_are_written_where_media_says(self, tmp_path: Path, own: Filled, other: MediaLibrary) -> None:
        shutil.rmtree(own.media)
        there = tmp_path / "there"
        assert other.import_(own.export, media=there).failures == ()
        names = {Path(record.source) for record in other.sources() if not record.source.startswith("att://")}
        assert names == {path for path in there.rglob("*") if path.is_file()}
        assert (there / "deep" / "same.png").read_bytes() == (there / "red.png").read_bytes()
        for entry in other.list():
            assert other.attachment(entry).sha256 == entry.sha256
        assert other.prune() == []
        assert (other.add(there).unchanged, other.embedder.encoded) == (6, [])  # type: ignore[attr-defined]
        assert other.import_(own.export, media=there).copied == 0

    def test_rebase_says_where_files_are(self, tmp_path: Path, own: Filled, other: MediaLibrary) -> None:
        own.media.rename(tmp_path / "moved")
        places = {str(own.media): tmp_path / "moved", str(own.media / "deep"): tmp_path / "deeper"}
        other.import_(own.export, rebase=places)
        (tmp_path / "moved" / "deep").rename(tmp_path / "deeper")
        assert other.prune() == []
        assert other.add(tmp_path / "moved", tmp_path / "deeper").unchanged == 6

    def test_rebase_can_unite_two_folders(self, own: Filled, other: MediaLibrary) -> None:
        (own.media / "deep" / "same.png").rename(own.media / "deep" / "red.png")
        own.library.add(own.media)
        export = own.folder / "second"
        own.library.export(export)
        other.import_(export, rebase={str(own.media): "/one", str(own.media / "deep"): "/one"})
        names = {record.source for record in other.sources() if record.source.startswith("/")}
        assert names == {"/one/red.png", "/one/tone.wav", "/one/clip.mp4", "/one/box.glb", "/one/notes.md"}

    def test_a_file_that_is_there_stays(self, tmp_path: Path, other: MediaLibrary, export: Path, media: Path) -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "notes.md").write_text("mine")
        (failure,) = other.import_(export, media=tmp_path / "there").failures
        assert "another file is there" in failure.reason
        assert (tmp_path / "there" / "notes.md").read_text() == "mine"

    @pytest.mark.parametrize("name", ["deep/x.png", f"{'x' * 300}.png"])
    def test_a_file_that_cannot_be_written_is_reported_and_the_others_are_there(
        self, tmp_path: Path, other: MediaLibrary, export: Path, media: Path, name: str
    ) -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "deep").write_text("mine")
        rewrite(export, "sources", lambda rows: rows[0].update(source=str(media / name)))
        reports = other.import_(export, media=tmp_path / "there")
        assert str(tmp_path / "there" / name) in {failure.source for failure in reports.failures}
        assert {"cannot be written" in failure.reason for failure in reports.failures} == {True}
        assert (tmp_path / "there" / "tone.wav").exists()
        assert len(list(other.sources())) == 7

    def test_no_folder_is_made_behind_a_link_that_leads_out(self, tmp_path: Path, media: Path) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "link").symlink_to(tmp_path / "outside")
        target = tmp_path / "there" / "link" / "new" / "red.png"
        with pytest.raises(AttachmentAccessError, match="leads out"):
            restore(Attachment(media / "red.png"), target, tmp_path / "there", -1)
        assert list((tmp_path / "outside").iterdir()) == []

    def test_a_link_that_leads_out_is_not_followed(self, tmp_path: Path, other: MediaLibrary, export: Path) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "deep").symlink_to(tmp_path / "outside")
        report = other.import_(export, media=tmp_path / "there")
        assert {"leads out" in failure.reason for failure in report.failures} == {True}
        assert list((tmp_path / "outside").iterdir()) == []

    def test_an_export_without_files_has_none_to_write(
        self, tmp_path: Path, library: MediaLibrary, other: MediaLibrary
    ) -> None:
        library.export(tmp_path / "bare")
        report = other.import_(tmp_path / "bare", media=tmp_path / "there")
        assert len(report.failures) == 6
        assert all("files=True" in failure.reason for failure in report.failures)

    @pytest.mark.parametrize(
        ("root", "separator", "source", "expected"),
        [
            ("/a/b", "/", "/a/b/c/d.png", "/media/c/d.png"),
            ("/a/b", "/", "att://0", "att://0"),
            ("/a/b", "/", "a name", "a name"),
            ("/", "/", "/a/b.png", "/media/a/b.png"),
            (r"C:\a", "\\", r"C:\a\b\c.png", "/media/b/c.png"),
            ("", "\\", r"D:\a\c.png", "/media/D/a/c.png"),
            ("", "\\", r"\\host\share\c.png", "/media/host_share/c.png"),
        ],
    )
    def test_below_media(self, root: str, separator: str, source: str, expected: str) -> None:
        relocation = Relocation(root, separator, media="/media")
        assert relocation(source) == expected
        assert str(relocation.restored(source)) == (expected if expected.startswith("/media") else "None")

    @pytest.mark.parametrize("source", ["/a/b/../../etc/x.png", "/elsewhere/x.png"])
    def test_a_path_cannot_leave_media(self, source: str) -> None:
        with pytest.raises(AttachmentAccessError):
            Relocation("/a/b", "/", media="/media")(source)

    def test_rebase_wants_full_paths(self) -> None:
        with pytest.raises(InvalidRequestError, match="full path"):
            Relocation("/a", "/", rebase={"b": "/c"})


HOSTILE_ENTRIES: dict[str, dict[str, Any]] = {
    "an id of another content": {"id": f"{'0' * 64}-{'0' * 12}-image-0"},
    "an id of another modality": {"modality": "audio"},
    "an id that is none": {"id": "x"},
    "a place that does not fit": {"index": 5},
    "a negative place": {"index": -1},
    "an unknown modality": {"modality": "smell"},
    "a vector with NaN": {"vector": [float("nan")] * 32},
    "a vector of length 0": {"vector": [0.0] * 32},
    "a long vector": {"vector": [9.0] * 32},
    "metadata that is no JSON": {"metadata": "{"},
    "metadata that is nested": {"metadata": '{"a": {"b": 1}}'},
    "metadata without end": {"metadata": "[" * 100_000},
    "metadata with a key of ours": {"metadata": '{"sha256": "x"}'},
    "thousands of keys": {"metadata": json.dumps({f"k{index}": 1 for index in range(2000)})},
    "an empty tag": {"tags": [""]},
    "a time that is not finite": {"start": float("inf")},
    "a thumbnail that is a path": {"thumbnail": "/etc/passwd"},
    "no source": {"source": ""},
    "a source with a NUL": {"source": "/a\0b"},
    "a source that climbs": {"source": "/a/../../b.png"},
    "a handle of another content": {"source": f"att://{'0' * 64}"},
}
HOSTILE_SOURCES: dict[str, dict[str, Any]] = {
    "no hash": {"sha256": "../../etc"},
    "an unknown modality": {"modality": "smell"},
    "a huge count": {"counts": '{"image": 1000000000000}'},
    "more segments than settings allow": {"counts": '{"image": 10001}'},
    "more failures than segments": {"failed": 1000},
    "fewer failures than none": {"failed": -1},
    "a negative count": {"counts": '{"image": -1}'},
    "a count of what there is not": {"counts": '{"smell": 1}'},
    "counts that are no JSON": {"counts": "x"},
    "a key that is none": {"key": "../x"},
    "a length that is not finite": {"seconds": float("nan")},
    "a source that climbs": {"source": "/a/../../b.png"},
}


class TestHostile:
    @pytest.fixture(autouse=True)
    def _nothing_is_written(self, other: MediaLibrary) -> Iterator[None]:
        yield
        assert len(other) == 0
        assert list(other.sources()) == []

    @pytest.mark.parametrize("changed", HOSTILE_ENTRIES.values(), ids=list(HOSTILE_ENTRIES))
    def test_entries_that_no_export_has(self, other: MediaLibrary, export: Path, changed: dict[str, Any]) -> None:
        rewrite(export, "image", lambda rows: rows[0].update(changed))
        with pytest.raises(StoreError):
            other.import_(export)

    @pytest.mark.parametrize("changed", HOSTILE_SOURCES.values(), ids=list(HOSTILE_SOURCES))
    def test_sources_that_no_export_has(self, other: MediaLibrary, export: Path, changed: dict[str, Any]) -> None:
        rewrite(export, "sources", lambda rows: rows[0].update(changed))
        with pytest.raises(StoreError):
            other.import_(export)

    def test_an_id_that_is_there_twice(self, other: MediaLibrary, export: Path) -> None:
        rewrite(export, "audio", lambda rows: rows.__setitem__(1, rows[0]))
        with pytest.raises(StoreError, match="twice"):
            other.import_(export)

    def test_a_source_that_is_there_twice(self, other: MediaLibrary, export: Path) -> None:
        rewrite(export, "sources", lambda rows: rows.__setitem__(1, rows[0]))
        with pytest.raises(StoreError, match="twice"):
            other.import_(export)

    @pytest.mark.parametrize(
        "changed",
        [
            {"format": "zip"},
            {"schema_version": 0},
            {"dimension": -1},
            {"dimension": 10**9},
            {"sources": 3},
            {"entries": {"image": 1}},
            {"entries": {"smell": 1}},
            {"tables": []},
            {"surprise": 1},
            {"separator": "x"},
        ],
    )
    def test_a_manifest_that_contradicts_itself(
        self, other: MediaLibrary, export: Path, changed: dict[str, Any]
    ) -> None:
        manifest(export, **changed)
        with pytest.raises(StoreError):
            other.import_(export)

    def test_a_manifest_of_a_later_version(self, other: MediaLibrary, export: Path) -> None:
        manifest(export, schema_version=2, surprise=1)
        with pytest.raises(StoreError, match="later version"):
            other.import_(export)

    @pytest.mark.parametrize("name", ["../image-00000.parquet", "/etc/passwd", "image.parquet", "manifest.json"])
    def test_a_table_elsewhere(self, other: MediaLibrary, export: Path, name: str) -> None:
        stored = manifest(export)
        stored["tables"][0]["name"] = name
        manifest(export, **stored)
        with pytest.raises(StoreError):
            other.import_(export)

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
    def test_a_manifest_that_is_none(self, other: MediaLibrary, export: Path, text: str) -> None:
        (export / "manifest.json").write_text(text)
        with pytest.raises(StoreError):
            other.import_(export)

    def test_no_export(self, tmp_path: Path, other: MediaLibrary) -> None:
        with pytest.raises(StoreError, match="no exported library"):
            other.import_(tmp_path / "nowhere")
        with pytest.raises(StoreError, match="no exported library"):
            exported_encoder(tmp_path)

    @pytest.mark.parametrize("folder", ["x" * 300, "~nosuchuser/export"])
    def test_no_folder(self, other: MediaLibrary, export: Path, folder: str) -> None:
        for read in (other.import_, exported_encoder):
            with pytest.raises(StoreError, match="cannot be used"):
                read(folder)
        with pytest.raises(InvalidRequestError):
            other.export(folder)
        with pytest.raises(InvalidRequestError):
            other.import_(export, media=f"~nosuchuser/{folder}")

    def test_a_huge_manifest(self, other: MediaLibrary, export: Path) -> None:
        with (export / "manifest.json").open("r+b") as file:
            file.truncate(1 << 30)
        with pytest.raises(StoreError, match="the limit is"):
            other.import_(export)

    def test_a_damaged_table(self, other: MediaLibrary, export: Path) -> None:
        path = export / "audio-00000.parquet"
        damaged = bytearray(path.read_bytes())
        damaged[100] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="not what manifest"):
            other.import_(export)

    def test_a_missing_table(self, other: MediaLibrary, export: Path) -> None:
        (export / "audio-00000.parquet").unlink()
        with pytest.raises(StoreError, match="missing"):
            other.import_(export)

    def test_a_table_that_is_a_link(self, tmp_path: Path, other: MediaLibrary, export: Path) -> None:
        path = export / "audio-00000.parquet"
        path.rename(tmp_path / "audio.parquet")
        path.symlink_to(tmp_path / "audio.parquet")
        with pytest.raises(StoreError, match="missing"):
            other.import_(export)

    @pytest.mark.parametrize("size", [0, 4, 100, -20])
    def test_a_table_that_is_cut_and_blessed(self, other: MediaLibrary, export: Path, size: int) -> None:
        path = export / "audio-00000.parquet"
        path.write_bytes(path.read_bytes()[:size])
        bless(export, path)
        with pytest.raises(StoreError, match="no part of an exported library"):
            other.import_(export)

    def test_noise_in_a_table(self, other: MediaLibrary, export: Path) -> None:
        """Every outcome but a wrong library or another error than ours."""
        path = export / "audio-00000.parquet"
        intact, random = path.read_bytes(), np.random.default_rng(0)
        for _ in range(60):
            damaged = bytearray(intact)
            for place in random.integers(4, len(damaged), 8):
                damaged[place] = random.integers(256)
            path.write_bytes(damaged)
            bless(export, path)
            table = next(item for item in export_format.read_manifest(export).tables if item.name == path.name)
            try:
                for entries, vectors in export_format.read_entries(export, table, "audio", 32):
                    assert len(entries) == len(vectors)
                    assert np.isfinite(vectors).all()
            except StoreError:
                continue

    def test_other_columns(self, other: MediaLibrary, export: Path) -> None:
        def drop(rows: list[dict[str, Any]]) -> None:
            for row in rows:
                del row["caption"]

        schema = pq.read_schema(export / "image-00000.parquet")
        rewrite(export, "image", drop, schema=schema.remove(schema.get_field_index("caption")))
        with pytest.raises(StoreError, match="columns"):
            other.import_(export)

    def test_vectors_of_another_width(self, other: MediaLibrary, export: Path) -> None:
        def cut(rows: list[dict[str, Any]]) -> None:
            for row in rows:
                row["vector"] = row["vector"][:16]

        schema = export_format.entry_schema(16)
        rewrite(export, "image", cut, schema=schema)
        with pytest.raises(StoreError, match="columns"):
            other.import_(export)

    def test_a_row_group_that_unpacks_to_gigabytes(
        self, other: MediaLibrary, export: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export_format, "GROUP_BYTES", 1 << 20)

        def inflate(rows: list[dict[str, Any]]) -> None:
            rows[0]["text"] = "x" * (5 << 20)

        rewrite(export, "image", inflate, compression="zstd", use_dictionary=False)
        assert (export / "image-00000.parquet").stat().st_size < 100_000
        with pytest.raises(StoreError, match="row group"):
            other.import_(export)


class TestDamage:
    def test_a_damaged_thumbnail_is_left_out(self, library: MediaLibrary, other: MediaLibrary, export: Path) -> None:
        thumbnail = next(library.list(modality="video")).thumbnail
        assert thumbnail is not None
        sha256 = thumbnail.removeprefix("att://")
        write_image(export / "attachments" / sha256[:2] / sha256)
        report = other.import_(export)
        assert [failure.source for failure in report.failures] == ["thumbnails"]
        assert [entry.thumbnail for entry in other.list(modality="video")] == [None]
        assert other.attachments is not None
        assert other.attachments.verify().damaged == ()

    def test_an_attachment_that_leads_out_is_left_out(
        self, tmp_path: Path, library: MediaLibrary, other: MediaLibrary, export: Path
    ) -> None:
        handle = next(entry.source for entry in library.list() if entry.source.startswith("att://"))
        sha256 = handle.removeprefix("att://")
        file = export / "attachments" / sha256[:2] / sha256
        file.rename(tmp_path / "secret")
        file.symlink_to(tmp_path / "secret")
        (failure,) = other.import_(export).failures
        assert "outside the allowed folders" in failure.reason

    def test_a_source_without_its_entries_is_left_to_indexing(
        self, other: MediaLibrary, export: Path, media: Path
    ) -> None:
        rewrite(export, "audio", lambda rows: rows.pop())
        stored = manifest(export)
        audio = next(table for table in stored["tables"] if table["kind"] == "audio")
        audio["rows"] -= 1
        manifest(export, entries={**stored["entries"], "audio": audio["rows"]}, tables=stored["tables"])
        (failure,) = other.import_(export).failures
        assert failure.source == str(media / "tone.wav")
        assert "lacks some of its entries" in failure.reason
        assert [record.source for record in other.sources() if not record.complete] == [failure.source]
        report = other.add(media)
        assert (report.entries, report.unchanged) == (1, 6)
        assert all(record.complete for record in other.sources())

    def test_more_segments_than_the_export_holds_are_not_looked_for(
        self, other: MediaLibrary, export: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked_for: list[str] = []
        monkeypatch.setattr(VectorCollection, "known", lambda self, ids: looked_for.extend(ids) or set(ids))
        rewrite(export, "sources", lambda rows: rows[0].update(counts='{"image": 9999}'))
        (failure,) = other.import_(export).failures
        assert "lacks some of its entries" in failure.reason
        assert len(looked_for) < 20

    def test_the_most_segments_are_those_of_the_library(self, tmp_path: Path, library: MediaLibrary) -> None:
        library.export(tmp_path / "second")
        few = SegmentSettings(max_segments=2)
        with (
            MediaLibrary.open(None, embedder=DrawnEmbedder(), attachments=tmp_path / "kept", settings=few) as other,
            pytest.raises(StoreError, match="4 segments, the limit is 2; open"),
        ):
            other.import_(tmp_path / "second")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chroma = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(tmp_path / "srv"), "--port", str(port)]
    with subprocess.Popen(chroma, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        process.kill()
