"""Where the files of an exported library are on this machine.

Both ways look at a path and nothing else, so that every run of an import agrees with the one before.
"""

import hashlib
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import AttachmentAccessError, CorruptMediaError, InvalidRequestError, one_line
from ibllm_tools.library.entry import is_path
from ibllm_tools.library.places import followed
from ibllm_tools.media.limits import Limits
from ibllm_tools.media.source import open_source

PIECE_BYTES = 1 << 20


class Relocation:
    """Maps the paths of an export to those that its files have here; handles and names stay.

    Args:
        root: folder that all files of the export lay below; empty where they lay on several drives.
        separator: between the folders of a path there.
        rebase: folders there, and which they are here; the longest one that fits decides.
        media: folder here which the exported files are written below, as they lay below ``root``; not those that
            ``rebase`` knows the place of.

    Raises:
        InvalidRequestError: a folder there that is not absolute, or one here that cannot be used.
    """

    def __init__(
        self,
        root: str,
        separator: str,
        *,
        rebase: Mapping[str, str | Path] | None = None,
        media: str | Path | None = None,
    ) -> None:
        self._flavour = PureWindowsPath if separator == "\\" else PurePosixPath
        self._root = self._flavour(root) if root else None
        places = {self._flavour(old): _here(new) for old, new in (rebase or {}).items()}
        if relative := [old for old in places if not old.is_absolute()]:
            raise InvalidRequestError(f"rebase of {relative[0]}, expected the full path that the folder had")
        self._places = sorted(places.items(), key=lambda item: -len(item[0].parts))
        self.media = None if media is None else _here(media)

    def __call__(self, source: str) -> str:
        """The name of a source here.

        Raises:
            AttachmentAccessError: a path that leaves its folder.
        """
        path = self._path(source)
        if path is None:
            return source
        for old, new in self._places:
            if path.is_relative_to(old):
                return str(new.joinpath(*path.relative_to(old).parts))
        return source if self.media is None else str(self.media.joinpath(*self._below_root(path)))

    def restored(self, source: str) -> Path | None:
        """Where the file of a source is to be written; ``None`` if it is not."""
        path = self._path(source)
        if path is None or self.media is None or any(path.is_relative_to(old) for old, _ in self._places):
            return None
        return self.media.joinpath(*self._below_root(path))

    def _path(self, source: str) -> PurePath | None:
        path = self._flavour(source)
        if not is_path(source) or not path.is_absolute():
            return None
        if ".." in path.parts:
            raise AttachmentAccessError(f"{one_line(source)}: expected a path without '..'; export the library again")
        return path

    def _below_root(self, path: PurePath) -> tuple[str, ...]:
        if self._root is None:
            return tuple(part for part in (path.drive.strip(":\\/").replace("\\", "_"), *path.parts[1:]) if part)
        if not path.is_relative_to(self._root):
            raise AttachmentAccessError(f"{one_line(path)}: not below {one_line(self._root)}; export the library again")
        return path.relative_to(self._root).parts


def restore(attachment: Attachment, target: Path, below: Path, modified: int) -> bool:
    """Write an attachment's bytes to their place, unless they are there; whether anything was written.

    Args:
        attachment: what is written.
        target: its place.
        below: folder that must not be left, also not through a symbolic link.
        modified: when the file was last changed, in nanoseconds, by which it is known; -1 where that says nothing.

    Raises:
        AttachmentAccessError: something else is there, or it cannot be written.
        CorruptMediaError: the bytes are not what they were.
    """
    name = one_line(target)
    draft = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        if not target.parent.resolve().is_relative_to(below.resolve()):
            raise AttachmentAccessError(f"{name}: leads out of {below}, expected a place below it; choose another one")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            with target.open("rb") as there:
                if hashlib.file_digest(there, "sha256").hexdigest() == attachment.sha256:
                    return False
            raise AttachmentAccessError(f"{name}: another file is there, so it stays; choose another folder")
        _copy(attachment, draft)
        if modified >= 0:
            os.utime(draft, ns=(modified, modified))
        draft.replace(target)
    except (OSError, OverflowError, RuntimeError) as error:  # the latter two by the file's time, and links in a circle
        reason = one_line(getattr(error, "strerror", None) or error)
        raise AttachmentAccessError(
            f"{name}: cannot be written ({reason}); free space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink()
    return True


def _copy(attachment: Attachment, draft: Path) -> None:
    digest = hashlib.sha256()
    with draft.open("xb") as file, open_source(attachment.source, Limits(max_bytes=attachment.size)) as original:
        while piece := original.read(PIECE_BYTES):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != attachment.sha256:
        raise CorruptMediaError(f"{attachment.name}: changed while it was copied; copy it again")


def common_root(root: str | None, file: str) -> str:
    """The deepest folder that holds a file and everything below ``root``, where that is known; empty if none does."""
    folder = str(Path(file).parent)
    if root is None:
        return folder
    try:
        return os.path.commonpath([root, folder]) if root else ""
    except ValueError:  # on several drives
        return ""


def _here(folder: str | Path) -> Path:
    with followed(folder, InvalidRequestError):
        return Path(folder).expanduser().resolve()
