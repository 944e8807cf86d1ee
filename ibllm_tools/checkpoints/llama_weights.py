"""The base LLaMA's weights under Meta's names, each read or put together when it is asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from ibllm_tools.checkpoints.reading import OfficialFile, OfficialWeight
from ibllm_tools.errors import CheckpointError
from ibllm_tools.imagebind.official_weights import names_listed

Shapes = Mapping[str, tuple[int, ...]]
_Settings = TypeVar("_Settings", bound=BaseModel)


class LlamaWeights(Mapping[str, Tensor]):
    """Meta's names (``tok_embeddings.weight``, ``layers.0.attention.wq.weight``, …) -> tensors, of which none is kept.

    Attributes:
        shapes: of every weight, in the order of the model.
        dtypes: of every weight.
        files: what they are read from.
    """

    def __init__(
        self,
        shapes: Shapes,
        dtypes: Mapping[str, torch.dtype],
        files: Sequence[OfficialFile],
        read: Callable[[str], Tensor],
    ) -> None:
        self.shapes = shapes
        self.dtypes = dtypes
        self.files = tuple(files)
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def lazily(self) -> dict[str, OfficialWeight]:
        """All of them, none of them read yet."""
        origin = ", ".join(str(file.path) for file in self.files)
        return {
            name: OfficialWeight(shape, self.dtypes[name], partial(self._read, name), origin)
            for name, shape in self.shapes.items()
        }

    def release(self) -> None:
        """Let go of the files; the next access opens them again."""
        for file in self.files:
            file.release()


@dataclass(frozen=True)
class LlamaFolder:
    """What a folder of either layout says.

    Attributes:
        weights: under Meta's names.
        num_attention_heads: of each layer.
        norm_eps: of the RMS norms.
        max_position_embeddings: in tokens, if the folder says it.
        settings: the file that says all this.
    """

    weights: LlamaWeights
    num_attention_heads: int
    norm_eps: float
    max_position_embeddings: int | None
    settings: Path


def official_shapes(*, dim: int, hidden: int, layers: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight, as Meta's code has them; without ``rope.freqs``, which is computed."""
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (vocabulary, dim)}
    for index in range(layers):
        layer = f"layers.{index}"
        shapes |= {f"{layer}.attention.{name}.weight": (dim, dim) for name in ("wq", "wk", "wv", "wo")}
        shapes |= {f"{layer}.feed_forward.{name}.weight": (hidden, dim) for name in ("w1", "w3")}
        shapes[f"{layer}.feed_forward.w2.weight"] = (dim, hidden)
        shapes |= {f"{layer}.{name}.weight": (dim,) for name in ("attention_norm", "ffn_norm")}
    return shapes | {"norm.weight": (dim,), "output.weight": (vocabulary, dim)}


def require_names(place: Path, found: set[str], expected: set[str]) -> None:
    """Raise a CheckpointError that names what is missing and what should not be there."""
    if missing := expected - found:
        raise CheckpointError(f"{place}: missing weights: {names_listed(sorted(missing))}; is this a whole LLaMA?")
    if unexpected := found - expected:
        raise CheckpointError(
            f"{place}: unexpected weights: {names_listed(sorted(unexpected))}; LLaMA has none of that name"
        )


def require_shapes(place: Path, found: Shapes, expected: Shapes, settings: Path) -> None:
    """Raise a CheckpointError that names the first weight of another shape than the settings ask for."""
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{place}: {name} has the shape {found[name]}, expected {shape} by {settings.name}; keep the files of "
                "one model together"
            )


def require_floating(place: Path, dtypes: Mapping[str, torch.dtype]) -> None:
    """Raise a CheckpointError that names the first weight that is not of floating point."""
    for name, dtype in dtypes.items():
        if not dtype.is_floating_point:
            raise CheckpointError(f"{place}: {name} is stored as {dtype}; expected LLaMA's weights before quantisation")


def read_settings(path: Path, kind: type[_Settings]) -> _Settings:
    """A JSON file of settings.

    Raises:
        CheckpointError: it cannot be read, or a setting is missing or wrong.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; expected the settings of a LLaMA") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CheckpointError(f"{path}: {where}: {first['msg']}; expected the settings of a LLaMA") from error
