"""The identity of an encoder: its weights, and everything that happens to an input before they see it.

Vectors of two fingerprints do not compare, so stores keep it beside their vectors. Hashing a huge model takes seconds,
and loading it in half precision rounds its weights; so a converted folder carries the fingerprint of the weights as
they lie in its files, in ``encoder.json``, and has it whatever type they are loaded as.
"""

import hashlib
import inspect
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibllm_tools.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel
    from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor

ENCODER_FILE = "encoder.json"
DIGEST_KEY = "encoder_digest"
"""What a file of weights says, in its metadata, about the encoder's weights up to its end. Whatever else writes a file
of that name and size leaves it out, so that a stored fingerprint never outlives the weights that it was made of."""

PROCESSOR_FOLDER = "imagebind"
"""Where the folder of an ImageBind-LLM keeps the processor of its encoder."""

ENCODER_PREFIX = "imagebind."
"""What stands before the names of the encoder's weights in an ImageBind-LLM."""

PROCESSOR_FILES = ("processor_config.json", "tokenizer.json")
"""What makes a processor what it is."""

_WEIGHT_FILES = "model*.safetensors"


class EncoderDigest:
    """The fingerprint of an encoder whose weights come by one at a time, sorted by name.

    Args:
        processor: its processor.
    """

    def __init__(self, processor: "ImageBindProcessor") -> None:
        self._digest = hashlib.sha256(json.dumps(_settings(processor), sort_keys=True).encode())
        self._last = ""

    def update(self, name: str, weights: "Tensor") -> None:
        """Add the next weight, as float32 where it is a floating one.

        Raises:
            ValueError: its name does not come after the last one's.
        """
        if name <= self._last:
            raise ValueError(f"{name!r} after {self._last!r}: the weights of an encoder are hashed sorted by name")
        self._last = name
        values = weights.detach().float() if weights.is_floating_point() else weights.detach()
        self._digest.update(f"{name} {tuple(values.shape)}".encode())
        self._digest.update(values.cpu().contiguous().reshape(-1).numpy().data)

    def hexdigest(self) -> str:
        """The fingerprint of what was added so far."""
        return self._digest.hexdigest()


def fingerprint_of(model: "ImageBindModel", processor: "ImageBindProcessor") -> str:
    """SHA-256 over the processor's settings and vocabulary, and the weights as float32.

    The same on every device, and for weights stored in half precision that were loaded as float32.
    """
    digest = EncoderDigest(processor)
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name, weights)
    return digest.hexdigest()


def processor_home(folder: Path) -> Path:
    """Where the folder of an ImageBind or an ImageBind-LLM keeps the processor of its encoder."""
    inner = folder / PROCESSOR_FOLDER
    return inner if inner.is_dir() else folder


def store_fingerprint(folder: Path, fingerprint: str) -> None:
    """Write down the fingerprint of a model's folder, whose other files are complete.

    Raises:
        CheckpointError: a file of weights that says nothing about the encoder.
    """
    files = _files(folder)
    if files is None:
        raise CheckpointError(f"{folder}: weights that were not written by a conversion; convert the model again")
    content = json.dumps({"fingerprint": fingerprint, "files": files}, indent=2)
    (folder / ENCODER_FILE).write_text(content + "\n", encoding="utf-8")


def stored_fingerprint(folder: Path) -> str | None:
    """The fingerprint that a conversion wrote into a model's folder.

    Returns:
        ``None`` where there is none, or the files are no longer those that it was computed for; it is then to be
        computed from the loaded model.
    """
    try:
        stored = json.loads((folder / ENCODER_FILE).read_text(encoding="utf-8"))
        return str(stored["fingerprint"]) if stored["files"] == _files(folder) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(folder: Path) -> dict[str, list[int | str]] | None:
    """Size and mark of each file that makes the encoder what it is; ``None`` where one has no mark."""
    files: dict[str, list[int | str]] = {}
    for file in sorted(folder.glob(_WEIGHT_FILES)):
        mark = _metadata(file).get(DIGEST_KEY)
        if mark is None:
            return None
        files[file.name] = [file.stat().st_size, str(mark)]
    home = processor_home(folder)
    for name in PROCESSOR_FILES:
        content = (home / name).read_bytes()
        files[(home / name).relative_to(folder).as_posix()] = [len(content), hashlib.sha256(content).hexdigest()]
    return files


def _metadata(file: Path) -> dict[str, Any]:
    """What a safetensors file says about itself: a number of 8 bytes, then that many bytes of JSON."""
    with file.open("rb") as content:
        try:
            (length,) = struct.unpack("<Q", content.read(8))
            if length > file.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(content.read(length))
            metadata: dict[str, Any] = header.get("__metadata__", {})
        except (struct.error, AttributeError) as error:
            raise ValueError(f"{file}: not a safetensors file") from error
    return metadata


def _settings(processor: "ImageBindProcessor") -> dict[str, Any]:
    names = [
        name for name in inspect.signature(type(processor).__init__).parameters if name not in ("self", "tokenizer")
    ]
    vocabulary = sorted(processor.tokenizer.get_vocab().items())
    return {**{name: getattr(processor, name) for name in names}, "vocabulary": vocabulary}
