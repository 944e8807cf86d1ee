"""Random weights in the official formats and at the official sizes, for measuring with what cannot be shipped.

A file is laid out without its weights first, which costs neither memory nor time, and then filled through a memory map.
"""

import itertools
import json
import string
import struct
from collections.abc import Mapping
from mmap import MAP_SHARED
from pathlib import Path

import torch
from torch import Tensor

from ibllm_tools.checkpoints.adapter_weights import AdapterSizes, adapter_shapes
from ibllm_tools.imagebind import ImageBindConfig, ImageBindModel
from ibllm_tools.imagebind.official_weights import official_shapes

SIZES_7B = AdapterSizes(
    vocabulary=32_000,
    width=4096,
    intermediate_width=11_008,
    layers=32,
    heads=32,
    embedding_width=1024,
    prefix_layers=32,
    lora_rank=16,
)
PARAMS_7B = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1}
_TUNED = (".bias", ".gate", "lora_", "norm")
"""What an adapter checkpoint has of the language model."""
_POOL = 1 << 24
_STD = 0.02
_UNKNOWN, _CONTROL, _BYTE, _NORMAL = 2, 3, 6, 1
"""SentencePiece's types of a piece."""


def random_imagebind(dtype: str) -> ImageBindModel:
    """The model itself, filled with small numbers."""
    with torch.device("meta"):
        model = ImageBindModel(ImageBindConfig.huge())
    model = model.to(getattr(torch, dtype)).to_empty(device="cpu").eval()
    filling = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * _STD
    with torch.no_grad():
        for weights in model.state_dict().values():
            flat = weights.view(-1)
            for start in range(0, len(flat), len(filling)):
                flat[start : start + len(filling)] = filling[: len(flat) - start]
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm | torch.nn.BatchNorm1d):
            module.reset_parameters()
    return model


def write_imagebind(path: Path) -> None:
    """``imagebind_w3D.pth``: 1.2 B parameters in float32."""
    shapes = official_shapes(ImageBindConfig.huge())
    dtypes = {"num_batches_tracked": torch.long}
    _write(path, {key: torch.empty(shape, dtype=dtypes.get(key.rsplit(".", 1)[1])) for key, shape in shapes.items()})


def write_llama(folder: Path) -> None:
    """Meta's layout of LLaMA-7B: 6.7 B parameters in float16, and a tokenizer of 32,000 pieces."""
    model = folder / "7B"
    model.mkdir(parents=True)
    weights = {
        key.removeprefix("llama."): torch.empty(shape, dtype=torch.float16)
        for key, shape in adapter_shapes(SIZES_7B).items()
        if key.startswith("llama.") and not any(mark in key for mark in (".bias", ".gate", "lora_"))
    }
    _write(model / "consolidated.00.pth", weights)
    (model / "params.json").write_text(json.dumps(PARAMS_7B))
    (folder / "tokenizer.model").write_bytes(_sentencepiece(_pieces(SIZES_7B.vocabulary)))


def write_adapter(path: Path) -> None:
    """``7B.pth``: the 650 M parameters that training changed, in float32."""
    weights = {
        key: torch.empty(shape)
        for key, shape in adapter_shapes(SIZES_7B).items()
        if not key.startswith("llama.") or any(mark in key for mark in _TUNED)
    }
    _write(path, weights, entry="model")


def _write(path: Path, weights: Mapping[str, Tensor], *, entry: str | None = None) -> None:
    with torch.serialization.skip_data():
        torch.save({entry: weights} if entry else weights, path)
    with torch.serialization.set_default_mmap_options(MAP_SHARED):
        content = torch.load(path, mmap=True, weights_only=True)
    pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(0)).mul_(_STD)
    for key, weight in (content[entry] if entry else content).items():
        _fill(key, weight, pool)


def _fill(key: str, weight: Tensor, pool: Tensor) -> None:
    """Sane values: scales of norms around 1, variances positive, the causal mask, small normals elsewhere."""
    if key.endswith("text.mask"):
        weight.copy_(torch.full(weight.shape, float("-inf")).triu(1))
    elif not weight.is_floating_point():
        weight.zero_()
    else:
        flat = weight.view(-1)
        for start in range(0, len(flat), len(pool)):
            part = flat[start : start + len(pool)]
            part.copy_(pool[: len(part)])
        if key.endswith("running_var") or (weight.ndim == 1 and key.endswith("weight")):
            weight.add_(1)


def _pieces(count: int) -> list[tuple[str, float, int]]:
    """Text, score and type: special pieces, bytes, joined letters, the short ones first, and single characters."""
    special = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
    special += [(f"<0x{value:02X}>", 0.0, _BYTE) for value in range(256)]
    singles = "▁" + string.ascii_letters + string.digits + string.punctuation
    letters = "▁" + string.ascii_lowercase
    joined = itertools.chain.from_iterable(itertools.product(letters, repeat=size) for size in (2, 3, 4))
    texts = itertools.islice(map("".join, joined), count - len(special) - len(singles))
    return special + [(text, -float(rank), _NORMAL) for rank, text in enumerate([*texts, *singles])]


def _sentencepiece(pieces: list[tuple[str, float, int]]) -> bytes:
    """The pieces as a SentencePiece model: field 1 of the message repeats text (1), score (2) and type (3)."""
    message = bytearray()
    for text, score, kind in pieces:
        encoded = text.encode()
        piece = bytes([0x0A, len(encoded)]) + encoded + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind])
        message += bytes([0x0A, len(piece)]) + piece
    return bytes(message)
