"""What there is to index: files, folders and globs as tasks, one per source.

In folders and globs only files that are named like media are looked at, and nothing hidden; in folders also no folder
behind a symbolic link. A file that is named itself is always tried.
"""

import glob
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibllm_tools.attachments import SCHEME, Attachment, Roots, allowed_path
from ibllm_tools.errors import AttachmentAccessError, AttachmentError, AttachmentNotFoundError, IbllmError, one_line
from ibllm_tools.media.limits import Limits

MEDIA_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
    | {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".aif", ".aiff", ".au", ".caf"}
    | {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ogv"}
    | {".glb", ".gltf", ".obj", ".ply", ".stl", ".off", ".pcd", ".xyz", ".pts", ".npy"}
    | {".txt", ".text", ".md", ".markdown"}
)
GLOB = frozenset("*?[")
SAME_TICK = 50_000_000
"""Nanoseconds within which a file may change and keep its time."""


@dataclass(frozen=True)
class Task:
    """A source to index.

    Attributes:
        source: how the library calls it.
        path: its file; ``None`` for an attachment that is none.
        attachment: what was handed in, where that was no path.
        size: of the file in bytes.
        modified: time of the file's last change in nanoseconds; -1 where it says nothing.
        fresh: whether that was so short ago that a further change may get the same time.
    """

    source: str
    path: Path | None
    attachment: Attachment | None = None
    size: int = 0
    modified: int = -1
    fresh: bool = False

    def open(self, limits: Limits) -> Attachment:
        """Its file, or what was handed in.

        Raises:
            AttachmentError: it cannot be used.
        """
        return self.attachment or Attachment(self.path or self.source, limits=limits)

    def is_as_it_was(self) -> bool:
        """Whether the file is still the one that was found."""
        if self.path is None:
            return True
        try:
            status = self.path.stat()
        except OSError:
            return False
        return status.st_size == self.size and self.modified in (-1, status.st_mtime_ns)


@dataclass(frozen=True)
class Refusal:
    """Something that was handed in and cannot be a source."""

    source: str
    error: IbllmError


@dataclass
class Scan:
    """What was found.

    Attributes:
        tasks: one per source, each once, in the order in which they were handed in; sorted within folders.
        refusals: what cannot be used, and why.
        ignored: files in folders that are named like no kind of media.
    """

    tasks: list[Task]
    refusals: list[Refusal]
    ignored: int = 0


def scan(sources: Iterable[Any], *, roots: Roots = None, without: Sequence[Path] = ()) -> Scan:
    """Find the files that are meant.

    Args:
        sources: paths, folders, globs, attachments; tasks and refusals are passed on.
        roots: folder or folders that files must lie in, symbolic links resolved; anywhere by default.
        without: folders that are passed over: the library's own.
    """
    found, known = Scan([], []), set[str]()
    for source in sources:
        for item in _expanded(source, roots, without, found):
            if isinstance(item, Refusal):
                found.refusals.append(item)
                continue
            task = _file_task(item, roots) if isinstance(item, Path) else item
            if isinstance(task, Refusal):
                found.refusals.append(task)
            elif task.source not in known:
                known.add(task.source)
                found.tasks.append(task)
    return found


def is_file(attachment: Attachment) -> bool:
    """Whether it is a file of the user's: neither bytes nor something in an attachment store."""
    return isinstance(attachment.source, Path) and attachment.source.name != attachment.sha256


def has_gone(path: str) -> bool:
    """Whether there is no such file; one that cannot be looked at may be there."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def _expanded(source: Any, roots: Roots, without: Sequence[Path], found: Scan) -> Iterator[Path | Task | Refusal]:
    if isinstance(source, Refusal | Task):
        yield source
    elif isinstance(source, Attachment):
        yield _attachment_task(source)
    elif isinstance(source, str) and SCHEME.match(source):
        reason = "handles and URLs are indexed as attachments; pass Attachment(...), which can open them"
        yield Refusal(one_line(source), AttachmentAccessError(f"{one_line(source)}: {reason}"))
    elif isinstance(source, str | os.PathLike):
        yield from _paths(Path(source).expanduser(), roots, without, found)
    else:
        reason = f"{type(source).__name__}, expected a path, a folder, a glob or an Attachment"
        yield Refusal(one_line(source), AttachmentError(f"{one_line(source)}: {reason}"))


def _attachment_task(attachment: Attachment) -> Task | Refusal:
    if not is_file(attachment):
        return Task(attachment.handle, None, attachment, attachment.size)
    path = Path(str(attachment.source))
    try:
        return _with_status(path, attachment)
    except OSError as error:
        reason = f"{attachment.name}: it has gone since it was opened ({error.strerror}); open it again"
        return Refusal(str(path), AttachmentNotFoundError(reason))


def _paths(path: Path, roots: Roots, without: Sequence[Path], found: Scan) -> Iterator[Path | Refusal]:
    try:
        if path.is_dir():
            yield from _files_below(path.resolve(), without, found)
        elif not path.exists() and GLOB & set(str(path)):
            yield from _matches(path, roots, without, found)
        else:
            yield path
    except (OSError, ValueError) as error:
        yield Refusal(one_line(path), AttachmentAccessError(f"{one_line(path)}: not a usable path ({one_line(error)})"))


def _matches(pattern: Path, roots: Roots, without: Sequence[Path], found: Scan) -> Iterator[Path | Refusal]:
    """The files that a glob matches. Links may lead it out of the roots: what is there is not named."""
    matches = sorted(glob.glob(str(pattern), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
    if not matches:
        reason = f"{one_line(pattern)}: nothing matches; check the pattern"
        yield Refusal(str(pattern), AttachmentNotFoundError(reason))
    outside = 0
    for match in map(Path, matches):
        place = _target(match)
        if match.is_dir() or any(place.is_relative_to(folder) for folder in without):
            continue
        if match.suffix.lower() not in MEDIA_SUFFIXES:
            found.ignored += 1
        elif _is_allowed(place, roots):
            yield match
        else:
            outside += 1
    if outside:
        reason = f"{one_line(pattern)}: {outside:,} matches lie outside the allowed folders; allow theirs, too"
        yield Refusal(str(pattern), AttachmentAccessError(reason))


def _target(match: Path) -> Path:
    try:
        return match.resolve()
    except RuntimeError:  # a link to itself, which is refused when it is opened
        return match.absolute()


def _is_allowed(path: Path, roots: Roots) -> bool:
    if path.is_symlink():  # to itself
        return True
    try:
        allowed_path(path, roots)
    except AttachmentAccessError:
        return False
    return True


def _files_below(folder: Path, without: Sequence[Path], found: Scan) -> Iterator[Path | Refusal]:
    closed: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(place, name) not in without)
        for name in sorted(files):
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in MEDIA_SUFFIXES:
                yield Path(place, name)
            else:
                found.ignored += 1
    for error in closed:
        reason = f"{one_line(error.filename)}: cannot be listed ({error.strerror}); change its permissions"
        yield Refusal(one_line(error.filename), AttachmentAccessError(reason))


def _file_task(path: Path, roots: Roots) -> Task | Refusal:
    name = one_line(path)
    try:
        str(path.resolve()).encode("utf-8")
        return _with_status(allowed_path(path.absolute(), roots), None)
    except AttachmentAccessError as error:
        return Refusal(name, error)
    except FileNotFoundError:
        return Refusal(name, AttachmentNotFoundError(f"{name}: no such file; check the path"))
    except UnicodeEncodeError:
        return Refusal(ascii(name), AttachmentAccessError(f"{name!a}: its name is no valid Unicode; rename it"))
    except (OSError, ValueError, RuntimeError) as error:
        return Refusal(name, AttachmentAccessError(f"{name}: cannot be opened ({one_line(error)}); check the path"))


def _with_status(path: Path, attachment: Attachment | None) -> Task:
    status = path.stat()
    fresh = time.time_ns() - status.st_mtime_ns < SAME_TICK
    return Task(str(path), path, attachment, status.st_size, status.st_mtime_ns, fresh)
