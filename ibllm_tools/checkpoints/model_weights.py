"""The weights of a model's folder, each read when it is asked for."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ibllm_tools.checkpoints.reading import OfficialFile, OfficialWeight
from ibllm_tools.errors import CheckpointError, ModelNotFoundError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class ModelWeights(Mapping[str, Tensor]):
    """Names -> tensors of a folder that ``from_pretrained`` loads, memory-mapped.

    Args:
        folder: the folder.

    Attributes:
        files: those with weights, by their name.
        homes: the name of the file that a weight is in.

    Raises:
        ModelNotFoundError: there are no weights in safetensors.
        CheckpointError: they cannot be read, or a file is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {name: OfficialFile(folder / name) for name in _file_names(folder)}
        self.homes = {weight: name for name, file in self.files.items() for weight in file}

    def __getitem__(self, name: str) -> Tensor:
        return self.files[self.homes[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.homes)

    def __len__(self) -> int:
        return len(self.homes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight."""
        return self.files[self.homes[name]].shapes[name]

    def lazily(self) -> dict[str, OfficialWeight]:
        """All of them, none of them read yet."""
        return {name: weight for file in self.files.values() for name, weight in file.weights().items()}

    def release(self) -> None:
        """Let go of the files; the next access opens them again."""
        for file in self.files.values():
            file.release()


def _file_names(folder: Path) -> list[str]:
    """The files with weights, found as transformers finds them."""
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    index = folder / INDEX_FILE
    if not index.is_file():
        raise ModelNotFoundError(f"{folder}: neither {WEIGHTS_FILE} nor {INDEX_FILE} in it; expected a converted model")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not the index of a model's files; convert the model again") from error
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index}: not the index of a model's files; convert the model again")
    return names
