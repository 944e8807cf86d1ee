"""Where attachments stay: what a store keeps, counts, collects and mends, also beside other processes."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest
from sample_files import png

from ibllm_tools.attachments import Attachment, AttachmentStore, StoreCheck, StoreSize
from ibllm_tools.errors import (
    AttachmentNotFoundError,
    CorruptMediaError,
    InvalidRequestError,
    LimitExceededError,
    StoreError,
)


@pytest.fixture
def store(tmp_path: Path) -> AttachmentStore:
    return AttachmentStore(tmp_path / "store")


def age(store: AttachmentStore, *handles: str) -> None:
    """Make them look as if they were last used years ago."""
    for handle in handles:
        os.utime(store.path(handle).with_suffix(".json"), (0, 0))


def test_a_store_gives_back_what_was_put(store: AttachmentStore, picture: Path) -> None:
    handle = store.put(Attachment(picture, modality="depth"))
    again = Attachment(handle, store=store)
    assert (again.name, again.modality, again.handle) == ("cat.png", "depth", handle)
    assert again.read_bytes() == png()
    assert store.meta(handle).mime == "image/png"


def test_a_store_takes_bytes_and_keeps_them_once(store: AttachmentStore) -> None:
    assert store.put(png(), name="a.png") == store.put(png(), name="b.png")
    assert store.meta(store.put(png(), name="c.png")).name == "c.png"
    assert store.size() == StoreSize(attachments=1, bytes=len(png()))


def test_a_handle_is_well_formed_and_known(store: AttachmentStore) -> None:
    with pytest.raises(AttachmentNotFoundError, match="not in the store"):
        Attachment("att://" + "0" * 64, store=store)
    for handle in ("att://123", "att://../../etc/passwd", "att://" + "0" * 64 + "/x"):
        with pytest.raises(InvalidRequestError, match="64 hexadecimal digits"):
            Attachment(handle, store=store)
    with pytest.raises(InvalidRequestError, match="pass store="):
        Attachment("att://" + "0" * 64)


def test_a_changed_file_is_not_kept_under_its_old_hash(store: AttachmentStore, picture: Path) -> None:
    attachment = Attachment(picture)
    picture.write_bytes(png("L"))
    with pytest.raises(CorruptMediaError, match="changed"):
        store.put(attachment)


def test_a_store_lists_counts_and_deletes(store: AttachmentStore) -> None:
    handles = sorted(store.put(word.encode()) for word in ("bell", "dog", "rain"))
    assert list(store) == handles
    assert store.size() == StoreSize(attachments=3, bytes=11)
    store.delete(handles[1])
    assert list(store) == [handles[0], handles[2]]
    assert [handle in store for handle in handles] == [True, False, True]
    assert "bell.wav" not in store
    with pytest.raises(AttachmentNotFoundError, match="not in the store"):
        store.delete(handles[1])


def test_collecting_spares_what_is_referred_to_and_what_is_new(store: AttachmentStore) -> None:
    kept, old, new = (store.put(word) for word in (b"kept", b"old one", b"new"))
    age(store, kept, old)
    assert store.collect([kept]) == StoreSize(attachments=1, bytes=7)
    assert [handle in store for handle in (kept, old, new)] == [True, False, True]
    assert store.collect([kept.removeprefix("att://")], older_than=timedelta(0)).attachments == 1
    assert list(store) == [kept]


@pytest.mark.parametrize("use", ["put", "open", "touch"])
def test_what_is_used_again_is_new_again(store: AttachmentStore, use: str) -> None:
    handle = store.put(b"a ringing bell")
    age(store, handle)
    if use == "put":
        store.put(b"a ringing bell")
    elif use == "open":
        Attachment(handle, store=store)
    else:
        store.touch(handle)
    assert store.collect([]).attachments == 0


def test_what_is_touched_stays_where_its_record_is_missing(store: AttachmentStore) -> None:
    handle = store.put(b"a ringing bell")
    store.path(handle).with_suffix(".json").unlink()
    os.utime(store.path(handle), (0, 0))
    store.touch(handle)
    assert store.collect([]).attachments == 0


def test_what_is_removed_while_touching_waits_is_not_found(store: AttachmentStore) -> None:
    handle, raised = store.put(b"bell"), list[Exception]()

    def touch() -> None:
        try:
            store.touch(handle)
        except AttachmentNotFoundError as error:
            raised.append(error)

    with locked(store):
        thread = Thread(target=touch)
        thread.start()
        thread.join(0.1)
        store.path(handle).unlink()
        store._place(handle.removeprefix("att://")).with_suffix(".json").unlink()
    thread.join()
    assert len(raised) == 1


@pytest.mark.parametrize(("code", "reported"), [(errno.EROFS, False), (errno.EACCES, False), (errno.EIO, True)])
def test_touching_fails_in_silence_only_where_nothing_may_be_written(
    store: AttachmentStore, monkeypatch: pytest.MonkeyPatch, code: int, reported: bool
) -> None:
    handle = store.put(b"bell")

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "utime", refuse)
    with pytest.raises(StoreError, match="cannot be written") if reported else nullcontext():
        store.touch(handle)
    with pytest.raises(AttachmentNotFoundError):
        store.touch("att://" + "0" * 64)


@pytest.mark.parametrize("keep", [["att://123"], ["bell.wav"], "att://" + "0" * 64])
def test_a_list_to_keep_that_is_none_removes_nothing(store: AttachmentStore, keep: Iterable[str]) -> None:
    handle = store.put(b"old")
    age(store, handle)
    with pytest.raises(InvalidRequestError, match="nothing was removed"):
        store.collect(keep)
    with pytest.raises(InvalidRequestError, match="expected a time span"):
        store.collect([], older_than=timedelta(-1))
    assert list(store) == [handle]


def test_a_full_store_refuses_and_loses_nothing(tmp_path: Path) -> None:
    store = AttachmentStore(tmp_path, max_bytes=10)
    bell = store.put(b"bell")
    store.put(b"dog")
    with pytest.raises(LimitExceededError, match=r"4 bytes, and the store .* holds 7 of at most 10; collect"):
        store.put(b"rain")
    store.put(b"bell")  # is there already
    assert store.size() == StoreSize(attachments=2, bytes=7)
    store.delete(bell)
    store.put(b"a siren")
    with pytest.raises(InvalidRequestError, match="max_bytes 0"):
        AttachmentStore(tmp_path, max_bytes=0)


def test_the_cap_counts_what_others_put_and_what_they_removed(tmp_path: Path) -> None:
    capped, other = AttachmentStore(tmp_path, max_bytes=10), AttachmentStore(tmp_path)
    handle = other.put(b"8 bytes.")
    with pytest.raises(LimitExceededError):
        capped.put(b"rain")
    capped.path(handle).unlink()
    capped.put(b"rain")
    assert capped.size().bytes == 4


def test_verify_finds_damaged_and_foreign_files(store: AttachmentStore) -> None:
    flipped, cut, anonymous, sound = (store.put(word) for word in (b"flipped", b"cut", b"anonymous", b"sound"))
    store.path(flipped).write_bytes(b"FLIPPED")
    store.path(cut).write_bytes(b"c")
    store.path(anonymous).with_suffix(".json").write_text("{}")
    (store.folder / "notes.txt").write_text("mine")
    (store.folder / "zz").mkdir()
    (store.folder / "zz" / sound.removeprefix("att://")).write_text("misplaced")
    assert store.verify() == StoreCheck(
        checked=4,
        damaged=tuple(sorted((flipped, cut, anonymous))),
        foreign=("notes.txt", "zz/" + sound.removeprefix("att://")),
    )


def test_putting_again_mends_a_cut_file_and_a_lost_record(store: AttachmentStore) -> None:
    handle = store.put(b"a ringing bell")
    store.path(handle).write_bytes(b"a")
    store.path(handle).with_suffix(".json").unlink()
    store.put(b"a ringing bell")
    assert store.verify() == StoreCheck(checked=1, damaged=(), foreign=())


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_modes_that_the_umask_leaves(store: AttachmentStore, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        place = store.path(store.put(b"bell"))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (place, place.with_suffix(".json"))} == {mode}


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder, and this process without the right to write everywhere."""
    if os.name != "posix":
        pytest.skip("needs POSIX permissions")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_folder_that_cannot_be_written_to_is_still_read(unprivileged: Path) -> None:
    mine = os.geteuid()
    os.seteuid(os.getuid())
    handle = AttachmentStore(unprivileged).put(b"bell")
    for path in (unprivileged, *unprivileged.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    os.seteuid(mine)
    store = AttachmentStore(unprivileged)
    assert Attachment(handle, store=store).read_bytes() == b"bell"
    assert store.verify().damaged == ()
    for change in (lambda: store.put(b"dog"), lambda: store.delete(handle), lambda: store.collect([])):
        with pytest.raises(StoreError, match=r"cannot be written \(Permission denied\); free space or permissions"):
            change()
    with pytest.raises(StoreError, match="cannot hold a store"):
        AttachmentStore(unprivileged / "new")


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(store: AttachmentStore) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # fails the write itself, as a full disk does
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            store.put(b"x" * 5000)
        handle = store.put(b"bell")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(store) == [handle]
    assert not list((store.folder / ".drafts").iterdir())


def in_processes(*scripts: str, folder: Path) -> list[int]:
    """Run scripts at the same time, each with a store in the folder; their exit codes."""
    head = "import os, sys\nfrom datetime import timedelta\nfrom pathlib import Path\n"
    head += "from ibllm_tools.attachments import AttachmentStore\nstore = AttachmentStore(sys.argv[1])\n"
    running = [subprocess.Popen([sys.executable, "-c", head + script, str(folder)]) for script in scripts]
    return [process.wait(timeout=60) for process in running]


def test_processes_that_put_the_same_bytes_keep_them_once(store: AttachmentStore) -> None:
    put = "for index in range(60): store.put(b'%d' % index * 5000)"
    assert in_processes(put, put, folder=store.folder) == [0, 0]
    assert store.verify() == StoreCheck(checked=60, damaged=(), foreign=())
    assert not list((store.folder / ".drafts").iterdir())


def test_nothing_just_put_is_collected_by_another_process(store: AttachmentStore) -> None:
    put_old_things_again = """
for index in range(400):
    handle = store.put(b"bell")
    assert store.path(handle).read_bytes() == b"bell"
    assert store.meta(handle).modality == "text"
    os.utime(store.path(handle).with_suffix(".json"), (0, 0))
"""
    collect = "removed = sum(store.collect([]).attachments for _ in range(1500))"
    assert in_processes(put_old_things_again, collect, folder=store.folder) == [0, 0]


@contextmanager
def locked(store: AttachmentStore) -> Iterator[None]:
    """As another process holds it in the middle of a change."""
    fcntl = pytest.importorskip("fcntl")
    with (store.folder / ".lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("change", ["put", "delete", "collect", "touch"])
def test_whoever_changes_the_store_waits_for_the_others(store: AttachmentStore, change: str) -> None:
    handle = store.put(b"bell")
    arguments = {"put": b"dog", "collect": []}.get(change, handle)
    with locked(store):
        thread = Thread(target=getattr(store, change), args=(arguments,))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
    thread.join()


def test_an_attachment_is_as_new_as_its_place_in_the_store_and_not_as_its_draft(store: AttachmentStore) -> None:
    handle = store.put(b"bell")
    with locked(store):
        thread = Thread(target=store.put, args=(b"bell",))
        thread.start()
        while not (drafts := list((store.folder / ".drafts").iterdir())) or drafts[0].stat().st_size == 0:
            thread.join(0.01)
        os.utime(drafts[0], (0, 0))
    thread.join()
    assert store.collect([]).attachments == 0
    assert handle in store


def test_what_is_used_again_while_it_is_collected_stays(store: AttachmentStore) -> None:
    used_by_another_process_once_found_to_be_old = """
record = store.path(store.put(b"bell")).with_suffix(".json")
os.utime(record, (0, 0))
opened = []
def use(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".lock"):
        opened.append(event)
        if len(opened) == 2:  # the first time it asks for the time, the second time it wants to remove
            os.utime(record)
sys.addaudithook(use)
assert store.collect([]).attachments == 0
assert len(opened) >= 2
"""
    assert in_processes(used_by_another_process_once_found_to_be_old, folder=store.folder) == [0]
    assert len(list(store)) == 1


@pytest.mark.skipif(os.name != "posix", reason="kills with a signal")
@pytest.mark.parametrize("rename", [1, 2])
def test_a_killed_put_leaves_nothing_that_lasts(store: AttachmentStore, rename: int) -> None:
    killed = f"""
renames = []
def kill(event, _):
    if event == "os.rename":
        renames.append(event)
        if len(renames) == {rename}:
            os.kill(os.getpid(), 9)
sys.addaudithook(kill)
store.put(b"bell")
"""
    assert in_processes(killed, folder=store.folder) == [-9]
    assert list(store) == []
    leftovers = [path for path in store.folder.rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(leftovers) == 2
    for path in leftovers:
        os.utime(path, (0, 0))
    store.collect([])
    assert [path for path in store.folder.rglob("*") if path.is_file() and path.name != ".lock"] == []
    assert AttachmentStore(store.folder, max_bytes=4).put(b"bell") in store
