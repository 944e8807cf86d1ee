"""CLIP's tokenizer is the same wherever it is read from, and no other passes for it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
from transformers import CLIPTokenizer

from ibllm_tools.checkpoints.clip_tokenizer import BPE_FILE, load_clip_tokenizer
from ibllm_tools.errors import CheckpointError, IbllmError, InvalidRequestError, ModelNotFoundError
from ibllm_tools.imagebind import ImageBindProcessor, clip_tokenizer_from_bpe

NOWHERE = Path("nowhere/imagebind_huge.pth")


@pytest.fixture(scope="module")
def bpe(reference: Path) -> Path:
    return reference / BPE_FILE


@pytest.fixture(scope="module")
def original(bpe: Path) -> CLIPTokenizer:
    return clip_tokenizer_from_bpe(bpe)


@pytest.fixture(scope="module")
def merges(bpe: Path) -> list[str]:
    with gzip.open(bpe, "rt", encoding="utf-8") as lines:
        return lines.read().splitlines()[1:48_895]


def as_merges_txt(folder: Path, merges: list[str]) -> None:
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def as_tokenizer_json(folder: Path, merges: list[str]) -> None:
    """With the merges as strings, which older files have."""
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"merges": merges}}), encoding="utf-8")


@pytest.mark.parametrize("write", [as_merges_txt, as_tokenizer_json])
def test_a_folder_of_transformers_gives_the_same_tokenizer(
    tmp_path: Path, original: CLIPTokenizer, merges: list[str], write: Callable[[Path, list[str]], None]
) -> None:
    write(tmp_path, merges)
    tokenizer, source = load_clip_tokenizer(tmp_path, checkpoint=NOWHERE)
    assert tokenizer.get_vocab() == original.get_vocab()
    assert tokenizer("Don't panic, 42 ducks!")["input_ids"] == original("Don't panic, 42 ducks!")["input_ids"]
    assert source.name in ("merges.txt", "tokenizer.json")


@pytest.mark.parametrize("home", [".", "imagebind"])
def test_a_converted_folder_gives_the_same_tokenizer(tmp_path: Path, original: CLIPTokenizer, home: str) -> None:
    """The one of ImageBind, not the one that an ImageBind-LLM keeps for its LLaMA."""
    (tmp_path / "tokenizer.json").write_text("{}")
    ImageBindProcessor(original).save_pretrained(tmp_path / home)
    assert load_clip_tokenizer(tmp_path, checkpoint=NOWHERE)[0].get_vocab() == original.get_vocab()


@pytest.mark.parametrize("place", [".", "bpe", "../bpe"])
def test_openais_file_is_found_near_the_checkpoint(tmp_path: Path, bpe: Path, place: str) -> None:
    checkpoint = tmp_path / "checkpoints" / "imagebind_huge.pth"
    checkpoint.parent.mkdir()
    (checkpoint.parent / place).mkdir(exist_ok=True)
    (checkpoint.parent / place / BPE_FILE).write_bytes(bpe.read_bytes())
    assert load_clip_tokenizer(None, checkpoint=checkpoint)[1].name == BPE_FILE


def test_the_file_is_named_with_its_hash(bpe: Path) -> None:
    source = load_clip_tokenizer(bpe, checkpoint=NOWHERE)[1]
    assert (source.name, source.sha256[:8], source.bytes) == (BPE_FILE, "924691ac", bpe.stat().st_size)


def without_the_last(folder: Path, merges: list[str]) -> None:
    as_merges_txt(folder, merges[:-1])


def in_another_order(folder: Path, merges: list[str]) -> None:
    as_merges_txt(folder, [merges[1], merges[0], *merges[2:]])


def no_pairs(folder: Path, merges: list[str]) -> None:
    as_merges_txt(folder, [merges[0] + " x", *merges[1:]])


def no_json(folder: Path, _: list[str]) -> None:
    (folder / "tokenizer.json").write_text("[]")


@pytest.mark.parametrize("write", [without_the_last, in_another_order, no_pairs, no_json])
def test_another_tokenizer_is_refused(
    tmp_path: Path, merges: list[str], write: Callable[[Path, list[str]], None]
) -> None:
    write(tmp_path, merges)
    with pytest.raises(CheckpointError, match=r"expected (the 49,408|those) of CLIP"):
        load_clip_tokenizer(tmp_path, checkpoint=NOWHERE)


@pytest.mark.parametrize(
    ("source", "error", "complaint"),
    [
        (None, InvalidRequestError, "no bpe_simple_vocab_16e6.txt.gz beside it.*openai/CLIP"),
        ("/no/such/place", InvalidRequestError, "no such file or folder"),
        ("{empty}", InvalidRequestError, "expected tokenizer.json or merges.txt"),
        ("owner/name", ModelNotFoundError, "neither a folder nor reachable on the hub"),
    ],
)
def test_where_there_is_none_the_error_says_what_to_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, error: type[IbllmError], complaint: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    source = source and source.format(empty=tmp_path)
    with pytest.raises(error, match=complaint):
        load_clip_tokenizer(source, checkpoint=NOWHERE)
