"""Files that give up their content to other files: swapped, rotated, or changed together."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn_embedder import DrawnEmbedder

from ibllm_tools import MediaLibrary

Texts = dict[str, str]


@pytest.fixture
def library(tmp_path: Path) -> Iterator[MediaLibrary]:
    with MediaLibrary.open(tmp_path / "library", embedder=DrawnEmbedder()) as library:
        yield library


def write(folder: Path, texts: Texts, time: int) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
        os.utime(folder / name, (1_700_000_000 + time, 1_700_000_000 + time))
    return folder


def contents(library: MediaLibrary) -> list[str]:
    return sorted(str(entry.text) for entry in library.list())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"a.txt": "first"}, {"a.txt": "second", "b.txt": "first"}, id="rotated"),
        pytest.param({"a.txt": "first", "b.txt": "second"}, {"a.txt": "second", "b.txt": "first"}, id="swapped"),
        pytest.param({"a.txt": "same", "b.txt": "same"}, {"a.txt": "new", "b.txt": "newer"}, id="both of two equal"),
        pytest.param({"a.txt": "same", "b.txt": "same"}, {"a.txt": "new", "b.txt": "same"}, id="one of two equal"),
    ],
)
def test_every_content_that_is_left_can_be_found_and_no_other(
    library: MediaLibrary, tmp_path: Path, before: Texts, after: Texts
) -> None:
    media = write(tmp_path / "media", before, time=0)
    library.add(media)
    assert contents(library) == sorted(set(before.values()))
    write(media, after, time=10)
    library.add(media)
    assert contents(library) == sorted(set(after.values()))
    assert all((media / entry.name).read_text() == entry.text for entry in library.list())
    assert all(entry.title == Path(entry.name).stem for entry in library.list())
    assert all(library.attachment(entry).sha256 == entry.sha256 for entry in library.list())


def test_a_source_that_changes_counts_as_changed_once(library: MediaLibrary, tmp_path: Path) -> None:
    media = write(tmp_path / "media", {"a.txt": "first", "b.txt": "second"}, time=0)
    library.add(media)
    report = library.add(write(media, {"a.txt": "third"}, time=10))
    assert (report.added, report.changed, report.unchanged) == (0, 1, 1)
    assert library.add(media).unchanged == 2


@pytest.mark.parametrize("gone", ["a.txt", "b.txt"])
def test_what_a_removed_copy_shared_is_cited_as_the_one_that_is_left(
    library: MediaLibrary, tmp_path: Path, gone: str
) -> None:
    media = write(tmp_path / "media", {"a.txt": "same", "b.txt": "same"}, time=0)
    library.add(media)
    (media / gone).unlink()
    assert library.prune() == [str(media / gone)]
    (entry,) = library.list()
    assert (media / entry.name).exists()
    assert library.attachment(entry).sha256 == entry.sha256
    assert library.add(media).unchanged == 1
