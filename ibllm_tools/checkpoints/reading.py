"""One official file, opened safely and lazily: PyTorch's ``.pth`` in both of its formats, or safetensors.

What a file is shows in its first bytes, whatever its name says. Nothing in it is ever executed: PyTorch's files are
read with ``weights_only=True``, and of all classes beyond tensors and plain Python only ``argparse.Namespace`` is let
through, in which training keeps its settings.
"""

import argparse
import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pydantic import BaseModel
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from ibllm_tools.errors import CheckpointError

_ENTRIES = ("model", "state_dict")
"""Where training checkpoints keep the weights, beside the optimizer and the like."""
_PARALLEL = "module."
"""What torch.nn.DataParallel puts before every name."""

_HEAD = 512
_PICKLE = b"\x80"
_LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"
_CHUNK = 2**23
_LONGEST_SAFETENSORS_HEADER = 100_000_000
_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}
_FOREIGN = (
    (0, b"version https://git-lfs", "a Git LFS pointer, which only names the file: run 'git lfs pull', or download it"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (0, b"Rar!", "a RAR archive: unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (0, b"GGUF", "a GGUF file of llama.cpp, whose weights are quantised: get the original ones"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"%PDF", "a PDF"),
)
_EXPECTED = "expected a PyTorch file of weights (.pth, .pt, .bin) or .safetensors"
_AGAIN = "it is truncated or damaged: download or copy it again"


class SourceFile(BaseModel, frozen=True):
    """A file that a converted model was made from, as the model card names it.

    Attributes:
        name: of the file, without its folder; a file of the hub is preceded by its repository.
        sha256: of its bytes, in hexadecimal.
        bytes: its size.
        what: what it holds, e.g. ``"ImageBind's weights"``.
    """

    name: str
    sha256: str
    bytes: int
    what: str


@dataclass(frozen=True)
class OfficialWeight:
    """One weight of an official file; ``read`` brings it into memory, ``origin`` is what to call the file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    origin: str = "the checkpoint"


class OfficialFile(Mapping[str, Tensor]):
    """The tensors of one official file by their names, memory-mapped, opened on first use.

    The weights are the file's dictionary itself, or its entry ``model`` or ``state_dict`` if it is a training
    checkpoint; a ``module.`` before all names is dropped. PyTorch's format from before 2020 cannot be mapped and is
    read into memory, until :meth:`release`.

    Every access, also to the names, can raise a CheckpointError that names file and reason: something that is no file
    of weights, truncated or damaged, with more in it than tensors, or with tensors that are not plain ones.

    Args:
        path: the file.

    Raises:
        CheckpointError: there is no such file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if self.path.is_dir():
            raise CheckpointError(f"{path}: this is a folder; name the file in it")
        if not self.path.is_file():
            raise CheckpointError(f"{path}: no such file; {_EXPECTED}")
        self._weights: dict[str, Tensor] | None = None
        self._shapes: Mapping[str, tuple[int, ...]] | None = None
        self._dtypes: Mapping[str, torch.dtype] | None = None
        self._sha256: str | None = None

    def __getitem__(self, key: str) -> Tensor:
        return self._opened()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __contains__(self, key: object) -> bool:
        return key in self.shapes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor; still known after :meth:`release`."""
        if self._shapes is None:
            self._opened()
        assert self._shapes is not None
        return self._shapes

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """The type of every tensor; still known after :meth:`release`."""
        if self._dtypes is None:
            self._opened()
        assert self._dtypes is not None
        return self._dtypes

    def weights(self) -> dict[str, OfficialWeight]:
        """All of them by their names, none of them read yet."""
        return {
            name: OfficialWeight(shape, self.dtypes[name], partial(self.__getitem__, name), str(self.path))
            for name, shape in self.shapes.items()
        }

    def release(self) -> None:
        """Let go of the file. Its pages leave memory once no tensor handed out refers to it; the next access opens it
        again.
        """
        self._weights = None

    def sha256(self, *, progress: bool = False) -> str:
        """The file's hash in hexadecimal, computed once.

        Args:
            progress: draw a bar, on terminals only.
        """
        if self._sha256 is None:
            self._sha256 = _sha256(self.path, progress=progress)
        return self._sha256

    def source(self, what: str, *, progress: bool = False) -> SourceFile:
        """The entry of the model card."""
        digest = self.sha256(progress=progress)
        return SourceFile(name=self.path.name, sha256=digest, bytes=self.path.stat().st_size, what=what)

    def _opened(self) -> dict[str, Tensor]:
        if self._weights is None:
            weights = _read(self.path)
            shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
            if self._shapes is not None and self._shapes != shapes:
                raise CheckpointError(f"{self.path}: it was changed while it was being read; start again")
            self._shapes = MappingProxyType(shapes)
            self._dtypes = MappingProxyType({name: tensor.dtype for name, tensor in weights.items()})
            self._weights = weights
        return self._weights


def source_file(path: Path, what: str, *, progress: bool = False) -> SourceFile:
    """The model card's entry of a file that holds no weights, such as a tokenizer's.

    Raises:
        CheckpointError: it cannot be read.
    """
    digest = _sha256(path, progress=progress)
    return SourceFile(name=path.name, sha256=digest, bytes=path.stat().st_size, what=what)


class _Format(Enum):
    ZIPPED = auto()
    LEGACY = auto()
    SAFETENSORS = auto()


def _read(path: Path) -> dict[str, Tensor]:
    """The file's weights, mapped where its format allows it."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        kind = _sniffed(path, head)
        content = _read_safetensors(path) if kind is _Format.SAFETENSORS else _read_torch(path, kind)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; {_EXPECTED}") from error
    return _state_dict(path, content)


def _sniffed(path: Path, head: bytes) -> _Format:
    """What the file is, by its first bytes; a CheckpointError says what else it is."""
    if not head:
        raise CheckpointError(f"{path}: the file is empty; download or copy it again")
    if head.startswith(b"PK"):
        return _Format.ZIPPED
    if head.startswith(_PICKLE):
        if _LEGACY_MAGIC in head[:32]:
            return _Format.LEGACY
        raise CheckpointError(
            f"{path}: this is a pickle, but none of PyTorch's; it was not opened, nothing was executed; {_EXPECTED}"
        )
    for offset, magic, name in _FOREIGN:
        if head[offset:].startswith(magic):
            raise CheckpointError(f"{path}: this is {name}; {_EXPECTED}")
    # The size of the header, 8 bytes, then the header in JSON.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_SAFETENSORS_HEADER:
        return _Format.SAFETENSORS
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path}: this is a web page, saved instead of the file; open its address in a browser to see what it asks "
            "for (a login, a confirmation), and download again"
        )
    raise CheckpointError(f"{path}: not a file of weights (it starts with {head[:8]!r}); {_EXPECTED}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except Exception as error:  # whatever the library makes of damaged bytes
        raise CheckpointError(f"{path}: safetensors cannot read it ({type(error).__name__}); {_AGAIN}") from error


def _read_torch(path: Path, kind: _Format) -> object:
    if path.suffix == ".safetensors":  # torch.load goes by this name
        raise CheckpointError(f"{path}: this is a PyTorch file under another name; rename it to {path.stem}.pth")
    if kind is _Format.ZIPPED:
        _require_torch_archive(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", mmap=kind is _Format.ZIPPED, weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path}: there is more in it than tensors, it asks for Python's {refused[1]!r:.80}; that was refused, "
                "and nothing was executed. If this is a whole pickled model, and you trust where it is from, save it "
                "again as torch.save(model.state_dict(), …) where its code is installed"
            ) from error
        raise CheckpointError(f"{path}: PyTorch cannot read it ({type(error).__name__}); {_AGAIN}") from error
    except Exception as error:  # whatever the library makes of damaged bytes
        raise CheckpointError(f"{path}: PyTorch cannot read it ({type(error).__name__}); {_AGAIN}") from error


def _require_torch_archive(path: Path) -> None:
    """A whole zip archive, and PyTorch's. Its entries are stored as they are, so that they can be mapped."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile has no error of its own for much that can be damaged
        raise CheckpointError(f"{path}: it cannot be unpacked ({type(error).__name__}); {_AGAIN}") from error
    names = [entry.filename for entry in entries]
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(f"{path}: this is a zip archive, but not one of PyTorch's; {_EXPECTED}")
    if any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(f"{path}: this is a TorchScript program; expected the weights alone, as a state dict")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path}: its content is compressed, as PyTorch never does; {_EXPECTED}")


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """The weights in what the file holds, checked, under their names."""
    for entry in _ENTRIES:
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
            break
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: it holds a {type(content).__name__}; expected a state dict, names with tensors")
    if not content:
        raise CheckpointError(f"{path}: there are no tensors in it; expected a state dict, names with tensors")
    size = path.stat().st_size
    for name, value in content.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: {name!r:.80} is no name of a tensor; expected a state dict")
        if reason := _refused(value, size):
            raise CheckpointError(f"{path}: {name!r:.80} is {reason}")
    parallel = all(name.startswith(_PARALLEL) for name in content)
    return {name.removeprefix(_PARALLEL) if parallel else name: value.detach() for name, value in content.items()}


def _refused(value: Any, file_size: int) -> str | None:
    """Why a value cannot be used as a weight, if it cannot."""
    if not isinstance(value, Tensor):
        entries = " or ".join(f"'{entry}'" for entry in _ENTRIES)
        return f"a {type(value).__name__}, not a tensor; expected a state dict, alone or under {entries}"
    if type(value) not in (Tensor, torch.nn.Parameter):
        return f"a {type(value).__name__}; expected a plain tensor"
    for kind, present in (
        ("nested", value.is_nested),
        ("quantised", value.is_quantized),
        ("meta", value.is_meta),
        ("sparse", value.layout is not torch.strided),
    ):
        if present:
            return f"a {kind} tensor; expected the plain weights, as they were published"
    if value.dtype not in _DTYPES:
        return f"stored as {value.dtype}; expected floating point numbers of 16, 32 or 64 bits, or integers"
    # A damaged size can make PyTorch allot memory that no byte of the file fills.
    if value.nbytes > value.untyped_storage().nbytes() or value.untyped_storage().nbytes() > file_size:
        return f"larger than its data in the file; {_AGAIN}"
    return None


def _sha256(path: Path, *, progress: bool) -> str:
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        drawn = None if progress else True  # as `disable`: None draws on terminals only
        bar = tqdm(total=size, desc=f"sha256 {path.name}", unit="B", unit_scale=True, disable=drawn)
        with path.open("rb") as file, bar:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                bar.update(len(chunk))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; its hash is needed for the model card") from error
    return digest.hexdigest()
