"""The four tiny models of the golden fixtures, converted from official files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from official_files import tiny_imagebind_config, write_adapter, write_imagebind, write_llama

from ibllm_tools.checkpoints.imagebind_llm import convert_imagebind_llm


def converted_folder(
    reference: Path,
    folders: pytest.TempPathFactory,
    phase: str = "finetune",
    prefix_layers: int = 4,
    *,
    keep_lora: bool = False,
) -> Path:
    """The folder of one of them; made by the first test of the session that asks for it."""
    place = folders.getbasetemp() / "golden-models"
    folder = place / f"{phase}-{prefix_layers}{'-lora' if keep_lora else ''}"
    place.mkdir(exist_ok=True)
    if not folder.exists():
        convert_imagebind_llm(
            write_adapter(reference, place / f"{folder.name}.pth", phase, prefix_layers),
            folder,
            llama=_once(place / "llama", lambda path: write_llama(reference, path)),
            imagebind=_once(place / "imagebind_w3D.pth", lambda path: write_imagebind(reference, path)),
            tokenizer=reference / "bpe_simple_vocab_16e6.txt.gz",
            imagebind_config=tiny_imagebind_config(reference),
            keep_lora=keep_lora,
            progress=False,
        )
    return folder


def _once(path: Path, write: Callable[[Path], Path]) -> Path:
    return path if path.exists() else write(path)
