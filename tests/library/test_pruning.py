"""prune: what nothing refers to leaves the library's own attachment store, and nothing else does."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn_embedder import DrawnEmbedder
from sample_files import write_image

from ibllm_tools import AttachmentStore, MediaLibrary

OLD = (1_600_000_000, 1_600_000_000)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for number in range(3):
        write_image(folder / f"{number}.png", colour=(number * 90, 10, 10))
    return folder


@pytest.fixture
def library(tmp_path: Path, media: Path) -> Iterator[MediaLibrary]:
    with MediaLibrary.open(tmp_path / "library", embedder=DrawnEmbedder()) as library:
        library.add(media, texts=["a bell in the fog"])
        yield library


def age(store: AttachmentStore) -> None:
    """Have nobody have used anything for years."""
    for path in store.folder.rglob("*"):
        if path.is_file():
            os.utime(path, OLD)


def store_of(library: MediaLibrary) -> AttachmentStore:
    assert library.attachments is not None
    return library.attachments


def test_thumbnails_of_what_has_gone_are_removed(library: MediaLibrary, media: Path) -> None:
    store = store_of(library)
    age(store)
    gone = media / "1.png"
    (thumbnail,) = [entry.thumbnail for entry in library.list() if entry.source == str(gone)]
    gone.unlink()
    assert len(list(store)) == 4
    assert library.prune() == [str(gone)]
    assert thumbnail not in store
    assert len(list(store)) == 3  # two thumbnails, and the text
    assert library.verify(progress=False).ok


def test_what_was_used_of_late_stays(library: MediaLibrary, media: Path) -> None:
    (media / "1.png").unlink()
    library.prune()
    assert len(list(store_of(library))) == 4


def test_what_other_libraries_of_the_folder_refer_to_stays(library: MediaLibrary, media: Path, tmp_path: Path) -> None:
    with MediaLibrary.open(tmp_path / "library", embedder=DrawnEmbedder("another"), name="second") as second:
        second.add(media)
    library.delete(*media.iterdir())
    age(store_of(library))
    library.prune()
    assert len(list(store_of(library))) == 4


def test_a_store_that_others_may_use_is_left_alone(tmp_path: Path, media: Path) -> None:
    store = AttachmentStore(tmp_path / "shared")
    kept = store.put(media / "0.png")
    age(store)
    with MediaLibrary.open(tmp_path / "library", embedder=DrawnEmbedder(), attachments=store) as library:
        library.add(media)
        library.prune()
    assert kept in store
