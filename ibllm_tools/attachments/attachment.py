"""What a user hands in: a path, bytes, a data URI, an array, a handle or a URL, as one checked `Attachment`.

An attachment knows its modality (by content), its MIME type and the sha256 of its bytes, and hands the decoders of
`ibllm_tools.media` a path or the bytes.
"""

import base64
import binascii
import hashlib
import mimetypes
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, Self, get_args
from urllib.parse import unquote, unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from ibllm_tools.errors import (
    AttachmentAccessError,
    AttachmentNotFoundError,
    CorruptMediaError,
    InvalidRequestError,
    LimitExceededError,
    UnsupportedMediaError,
    one_line,
)
from ibllm_tools.media.arrays import encode_array, encode_image
from ibllm_tools.media.fetch import fetch
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import NPY, UNWRITTEN, MediaType, Modality, sniff, sniff_text
from ibllm_tools.media.source import Source, open_source, source_size

if TYPE_CHECKING:
    from ibllm_tools.attachments.store import AttachmentStore

SCHEME = re.compile(r"(data(?=:)|[a-z][a-z0-9+.-]+(?=://))", re.IGNORECASE)
PIECE_BYTES = 1 << 20
SUFFIXES = {"model/gltf-binary": ".glb", "model/obj": ".obj", "model/ply": ".ply", "audio/wav": ".wav", NPY: ".npy"}


Roots = str | Path | Sequence[str | Path] | None
"""The folder or folders that paths must lie in; ``None`` is anywhere."""


class Attachment(BaseModel):
    """One thing to look at, listen to or read; immutable, and checked when it is made.

    ``Attachment("bell.glb")``, ``Attachment(png_bytes)``, ``Attachment("data:image/png;base64,...")``,
    ``Attachment(array, modality="image")``, ``Attachment("att://...", store=store)``,
    ``Attachment("https://...", allow_fetch=True)``, and literal text with ``Attachment.from_text("a ringing bell")``.
    """

    model_config = ConfigDict(frozen=True)

    modality: Modality = Field(description="What it is to be taken as; 'point' is everything 3D.")
    mime: str = Field(description="MIME type, by content.")
    sha256: str = Field(description="SHA-256 of its bytes, hexadecimal: its identity.")
    name: str = Field(description="File name, for messages and citations.")
    size: int = Field(description="Size in bytes.")
    _source: Source = PrivateAttr()

    def __init__(
        self,
        source: "str | Path | bytes | np.ndarray[Any, Any] | Image.Image | Attachment",
        *,
        modality: Modality | None = None,
        name: str | None = None,
        sample_rate: int | None = None,
        roots: Roots = None,
        store: "AttachmentStore | None" = None,
        limits: Limits = DEFAULT_LIMITS,
        allow_fetch: bool = False,
    ) -> None:
        """Open, check and identify the source.

        Args:
            source: what is handed in.
            modality: what it is to be taken as. Needed for arrays; otherwise the content decides, and an announced
                modality must agree with it: images may be announced as depth or thermal, videos as audio, arrays in
                .npy files as anything of their shape.
            name: a file name for messages and citations, and to break ties between types.
            sample_rate: of a sound given as array, (n,) or (channels, n), in Hz.
            roots: folder or folders that paths must lie in, symbolic links resolved; anywhere by default.
            store: where handles are looked up.
            limits: the size is checked before anything is read.
            allow_fetch: whether URLs are fetched.

        Raises:
            AttachmentNotFoundError, AttachmentAccessError, UnsupportedMediaError, CorruptMediaError, LimitExceededError
            InvalidRequestError: the call itself is wrong, e.g. an array without a modality.
        """
        if modality is not None and modality not in get_args(Modality):
            raise InvalidRequestError(f"modality {modality!r}, expected one of {', '.join(get_args(Modality))}")
        if sample_rate is not None and not isinstance(source, np.ndarray):
            raise InvalidRequestError("sample_rate is given without an array of samples; leave it out")
        if isinstance(source, Attachment):
            opened = _Opened(source.source, source.name, source.modality)
        elif isinstance(source, str):
            opened = _open_text(source, roots, store, limits, allow_fetch)
        elif isinstance(source, Path):
            opened = _Opened(allowed_path(source, roots), source.name)
        elif isinstance(source, bytes):
            opened = _Opened(source)
        elif isinstance(source, np.ndarray):
            opened = _Opened(encode_array(source, modality, sample_rate), None, modality)
        elif isinstance(source, Image.Image):
            opened = _Opened(encode_image(source))
        else:
            raise InvalidRequestError(
                f"attachment of type {type(source).__name__}, expected a path, URL, data URI, handle, bytes, NumPy "
                "array or Pillow image; convert it"
            )
        sha256, size = _identify(opened.source, limits)
        announced = modality or opened.modality
        kind = (sniff_text if announced == "text" else sniff)(opened.source, name or opened.name)
        wanted = announced or kind.modality
        chosen = _clean_name(name or opened.name or sha256[:12] + _suffix(kind.mime))
        if not _agrees(wanted, kind):
            raise UnsupportedMediaError(
                f"{chosen}: announced as {wanted}, but its content is {kind.mime} ({kind.modality}); pass another "
                "file or another modality"
            )
        super().__init__(modality=wanted, mime=kind.mime, sha256=sha256, name=chosen, size=size)
        self._source = opened.source

    @classmethod
    def of(cls, source: Any, **settings: Any) -> Self:
        """The source itself when it is an attachment already, otherwise ``Attachment(source, **settings)``."""
        return source if isinstance(source, cls) else cls(source, **settings)

    @classmethod
    def from_text(cls, text: str, *, name: str = "text", limits: Limits = DEFAULT_LIMITS) -> Self:
        """Text given literally, such as a search query. Raises InvalidRequestError when it is blank or no text.

        Control characters, which texts out of PDF files often hold, become blanks.
        """
        if not isinstance(text, str):
            raise InvalidRequestError(f"{one_line(repr(text))} of type {type(text).__name__}, expected text")
        text = UNWRITTEN.sub(" ", text)
        if not text.strip():
            raise InvalidRequestError("blank text, expected some words; pass a text with content")
        return cls(text.encode("utf-8", errors="replace"), modality="text", name=name, limits=limits)

    @property
    def source(self) -> Source:
        """The path or the bytes, for the decoders of `ibllm_tools.media`."""
        return self._source

    @property
    def handle(self) -> str:
        """``att://<sha256>``, by which a store finds it again."""
        return f"att://{self.sha256}"

    def reopened(self, *, limits: Limits = DEFAULT_LIMITS) -> Self:
        """It itself, once its file has been looked at again.

        Raises:
            AttachmentNotFoundError: its file has gone or has changed.
            AttachmentError: it cannot be used any more.
        """
        if isinstance(self._source, Path):
            now = Attachment(self._source, modality=self.modality, name=self.name, limits=limits)
            if now.sha256 != self.sha256:
                raise AttachmentNotFoundError(f"{self.name}: its file has changed since; open it again")
        return self

    def read_bytes(self) -> bytes:
        """Its bytes. Raises AttachmentNotFoundError when the file has gone since."""
        with open_source(self._source, Limits(max_bytes=self.size)) as file:
            return file.read()

    def _repr_html_(self) -> str:
        from ibllm_tools.attachments.origin import Origin
        from ibllm_tools.notebook.cards import card, size_in_words

        facts = (self.modality, self.mime, size_in_words(self.size))
        return card(self.name, facts, medium=lambda: Origin(self.reopened).medium(self.modality))


class _Opened(NamedTuple):
    """What was handed in, as path or bytes, with what its carrier said about it."""

    source: Source
    name: str | None = None
    modality: Modality | None = None


def _open_text(text: str, roots: Roots, store: "AttachmentStore | None", limits: Limits, allow_fetch: bool) -> _Opened:
    match = SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    if scheme == "":
        return _Opened(allowed_path(Path(text), roots), Path(text).name)
    if scheme == "data":
        return _Opened(_data_uri_bytes(text, limits))
    if scheme == "file":
        path = _file_url_path(text)
        return _Opened(allowed_path(path, roots), path.name)
    if scheme == "att":
        return _open_handle(text, store)
    if scheme not in ("http", "https"):
        raise InvalidRequestError(
            f"{one_line(text)}: unknown scheme, expected att://, data:, file:// or http(s)://; pass the file's path"
        )
    if not allow_fetch:
        raise AttachmentAccessError(
            f"{one_line(text)}: fetching URLs is switched off; allow it (allow_fetch=True, --allow-fetch), or download "
            "it and pass its path"
        )
    return _Opened(fetch(text, limits), unquote(PurePosixPath(urlsplit(text).path).name) or None)


def allowed_path(path: Path, roots: Roots) -> Path:
    """The path, resolved, if it lies in one of the roots; whether there is anything is not looked at.

    Raises:
        AttachmentAccessError: it lies outside, or is no usable path.
    """
    allowed = None if roots is None else _listed_roots(roots)
    try:
        resolved = path.expanduser().resolve()
        folders = None if allowed is None else _resolved(allowed)
    except (OSError, ValueError, RuntimeError) as error:
        raise AttachmentAccessError(f"{one_line(path)}: not a usable path ({one_line(error)}); check it") from error
    if allowed is not None and folders is not None and not _within(resolved, folders):
        if not allowed:
            raise AttachmentAccessError(
                f"{one_line(path)}: outside the allowed folders, of which there are none; allow its folder "
                "(roots=, --root)"
            )
        raise AttachmentAccessError(
            f"{one_line(path)}: outside the allowed folders, expected a file below "
            f"{', '.join(map(str, allowed))}; move it there or allow its folder"
        )
    return resolved


def common_roots(some: Roots, others: Roots) -> Roots:
    """The folders in which everything lies in a root of both."""
    if some is None or others is None:
        return others if some is None else some
    first, second = (_resolved(_listed_roots(roots)) for roots in (some, others))
    narrower = [*(root for root in first if _within(root, second)), *(root for root in second if _within(root, first))]
    return list(dict.fromkeys(narrower))


def _listed_roots(roots: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    # A text is a sequence of texts too: taken as one, "/srv/media" would allow "/", and with it everything.
    return [roots] if isinstance(roots, str | Path) else roots


def _resolved(roots: Sequence[str | Path]) -> list[Path]:
    return [Path(root).expanduser().resolve() for root in roots]


def _within(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _file_url_path(url: str) -> Path:
    """The path of ``file:///srv/bell.wav`` (RFC 8089)."""
    try:
        host, path = urlsplit(url)[1:3]
    except ValueError as error:
        raise InvalidRequestError(f"{one_line(url)}: not a usable URL ({one_line(error)}); pass the path") from error
    if host.lower() not in ("", "localhost") or not path:
        raise InvalidRequestError(f"{one_line(url)}: a file of another machine, expected file:///path; pass the path")
    return Path(url2pathname(path))


def _open_handle(handle: str, store: "AttachmentStore | None") -> _Opened:
    if store is None:
        raise InvalidRequestError(f"{one_line(handle)}: a handle without a store to look it up; pass store=...")
    record = store.meta(handle)
    store.touch(handle)
    return _Opened(store.path(handle), record.name, record.modality)


def _data_uri_bytes(uri: str, limits: Limits) -> bytes:
    """The bytes of ``data:[type][;base64],...`` (RFC 2397)."""
    label = one_line(uri, 40)
    if len(uri) > 4 * limits.max_bytes:  # base64 takes 4/3, percent encoding 3 characters per byte
        raise LimitExceededError(
            f"{label}: {len(uri):,} characters, the limit is {limits.max_bytes:,} bytes; pass a file or a handle"
        )
    kind, comma, payload = uri.partition(",")
    if not comma:
        raise CorruptMediaError(f"{label}: no comma, expected data:<type>;base64,<content>; build it again")
    if not kind.endswith(";base64"):
        return unquote_to_bytes(payload)
    try:
        return base64.b64decode("".join(unquote(payload).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise CorruptMediaError(f"{label}: not valid base64 ({one_line(error)}); encode it again") from error


def _identify(source: Source, limits: Limits) -> tuple[str, int]:
    """The sha256 of the bytes and their number, read in pieces."""
    with open_source(source, limits) as file:
        digest = hashlib.sha256()
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest(), source_size(source)


def _agrees(announced: Modality, kind: MediaType) -> bool:
    """Whether content of this type can be taken as the announced modality."""
    if kind.mime == NPY:
        return announced in ("depth", "thermal", "imu", "point")
    if kind.mime.startswith("image/"):
        return announced in ("image", "depth", "thermal")
    return announced == kind.modality or (announced == "audio" and kind.modality == "video")


def _clean_name(name: str) -> str:
    return one_line(PurePosixPath(name.replace("\\", "/")).name) or "attachment"


def _suffix(mime: str) -> str:
    return SUFFIXES.get(mime) or mimetypes.guess_extension(mime) or ""
