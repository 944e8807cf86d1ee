"""LLaMA as Meta published it: a folder with ``params.json`` and ``consolidated.00.pth``, ``.01``, … .

More than one such file are the shards of a model that was cut for several GPUs: each holds a part of every matrix and
all of every norm.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, Field, FiniteFloat, PositiveInt
from torch import Tensor

from ibllm_tools.checkpoints.llama_weights import (
    LlamaFolder,
    LlamaWeights,
    official_shapes,
    read_settings,
    require_floating,
    require_names,
    require_shapes,
)
from ibllm_tools.checkpoints.reading import OfficialFile
from ibllm_tools.errors import CheckpointError, IncompatibleModelError

SHARDS = "consolidated.[0-9][0-9].pth"
COMPUTED = "rope.freqs"
"""A buffer that follows from the sizes; Meta's files hold it."""

_PARTS = (2, 4, 8)
"""How many shards Meta's larger models come in."""
_ALONG_COLUMNS = re.compile(r"tok_embeddings\.weight|.*\.(attention\.wo|feed_forward\.w2)\.weight")
_PLAIN: dict[str, object] = {"rope_theta": 10000.0, "use_scaled_rope": False, "ffn_dim_multiplier": 1.0}
"""Settings of later models, with the values at which they are LLaMA."""


class _Params(BaseModel, extra="allow"):
    dim: PositiveInt
    n_layers: Annotated[int, Field(gt=0, le=1024)]
    n_heads: PositiveInt
    multiple_of: PositiveInt
    norm_eps: Annotated[FiniteFloat, Field(gt=0)]
    vocab_size: int = -1

    @property
    def hidden(self) -> int:
        """Two thirds of four widths, rounded up."""
        return -(-int(2 * 4 * self.dim / 3) // self.multiple_of) * self.multiple_of


def read_meta(folder: Path) -> LlamaFolder:
    """The weights in ``consolidated.*.pth``, joined where there are several.

    Raises:
        CheckpointError: a shard is missing or does not fit the others, or the weights do not fit ``params.json``.
        IncompatibleModelError: ``params.json`` is that of another architecture.
    """
    settings = folder / "params.json"
    params = _plain(settings)
    files = _shards(folder)
    first = files[0]
    embedding = first.shapes.get("tok_embeddings.weight", ())
    # Meta leaves the vocabulary to the tokenizer and writes -1.
    vocabulary = params.vocab_size if params.vocab_size > 0 else embedding[0] if embedding else 0
    expected = official_shapes(dim=params.dim, hidden=params.hidden, layers=params.n_layers, vocabulary=vocabulary)
    for file in files:
        require_names(file.path, set(file) - {COMPUTED}, set(expected))
    # Every matrix is cut into as many parts as the embedding is.
    parts = next((parts for parts in _PARTS if embedding[-1:] == (params.dim // parts,)), 1)
    if parts > len(files):
        raise CheckpointError(
            f"{folder}: {len(files)} of the {parts} files consolidated.*.pth are there; copy the others too"
        )
    require_shapes(folder, {name: _joined_shape(files, name) for name in expected}, expected, settings)
    dtypes = {name: first.dtypes[name] for name in expected}
    require_floating(first.path, dtypes)
    _require_like_shards(files, dtypes)
    weights = LlamaWeights(expected, dtypes, files, lambda name: _joined(files, name))
    return LlamaFolder(weights, params.n_heads, params.norm_eps, None, settings)


def _plain(settings: Path) -> _Params:
    """The settings, refused if they are of another architecture."""
    params = read_settings(settings, _Params)
    for name, plain in {"n_kv_heads": params.n_heads, **_PLAIN}.items():
        if (value := (params.model_extra or {}).get(name)) not in (None, plain):
            raise IncompatibleModelError(
                f"{settings}: {name} is {value!r}, but {plain!r} in LLaMA 1, which the adapter was made for; use that"
            )
    if params.dim % (2 * params.n_heads):
        raise CheckpointError(f"{settings}: n_heads is {params.n_heads}, which cannot share a dim of {params.dim}")
    return params


def _shards(folder: Path) -> list[OfficialFile]:
    found = sorted(path.name for path in folder.glob(SHARDS))
    expected = [f"consolidated.{number:02d}.pth" for number in range(len(found))]
    if found != expected:
        missing = next(name for name in expected if name not in found)
        raise CheckpointError(f"{folder}: {missing} is missing between {', '.join(found)}; copy it too")
    return [OfficialFile(folder / name) for name in found]


def _split_dimension(name: str) -> int | None:
    """Along which dimension shards cut a weight; norms are whole in each."""
    if name.endswith("norm.weight"):
        return None
    return 1 if _ALONG_COLUMNS.fullmatch(name) else 0


def _joined_shape(files: Sequence[OfficialFile], name: str) -> tuple[int, ...]:
    shape, cut = files[0].shapes[name], _split_dimension(name)
    if cut is None or len(shape) != 2:
        return shape
    size = sum(file.shapes[name][cut] for file in files if len(file.shapes[name]) == 2)
    return (size, shape[1]) if cut == 0 else (shape[0], size)


def _joined(files: Sequence[OfficialFile], name: str) -> Tensor:
    cut = _split_dimension(name)
    if len(files) == 1 or cut is None:
        return files[0][name]
    return torch.cat([file[name] for file in files], dim=cut)


def _require_like_shards(files: Sequence[OfficialFile], dtypes: dict[str, torch.dtype]) -> None:
    """Shards of one model: parts of one size and type, and equal norms."""
    first = files[0]
    for file in files[1:]:
        for name, dtype in dtypes.items():
            same = file.shapes[name] == first.shapes[name] and file.dtypes[name] == dtype
            if not same or (_split_dimension(name) is None and not torch.equal(file[name], first[name])):
                raise CheckpointError(
                    f"{file.path}: {name} does not fit that of {first.path.name}; they are not shards of one model"
                )
