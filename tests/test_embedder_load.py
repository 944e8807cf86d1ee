"""An encoder alone: from an ImageBind model's folder, or out of an ImageBind-LLM, without its language model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sample_files import write_image, write_mesh, write_sound
from tiny_model import saved_tiny_model
from torch import Tensor

from ibllm_tools import Assistant, Attachment, Limits
from ibllm_tools.assistant import JointEmbedder
from ibllm_tools.cli import main
from ibllm_tools.errors import CheckpointError, IncompatibleModelError, LimitExceededError
from ibllm_tools.imagebind.fingerprint import DIGEST_KEY, store_fingerprint

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an ImageBind-LLM."""
    return saved_tiny_model(tmp_path_factory)


@pytest.fixture(scope="module")
def embedding(answering: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an ImageBind model, with the weights of the other's encoder."""
    folder = tmp_path_factory.mktemp("imagebind")
    with Assistant.load(answering, device="cpu") as assistant:
        assistant.model.imagebind.half().save_pretrained(folder, max_shard_size="5MB")
        assistant.processor.imagebind_processor.save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture(scope="module")
def attachments(tmp_path_factory: pytest.TempPathFactory) -> list[Attachment]:
    here = tmp_path_factory.mktemp("media")
    files = [write_image(here / "bell.png"), write_sound(here / "bell.wav"), write_mesh(here / "bell.glb")]
    return [Attachment(file) for file in files]


@pytest.fixture
def changed(answering: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Tensor]], object]], Path]:
    """A copy of the ImageBind-LLM whose weights a function has changed."""

    def copy(change: Callable[[dict[str, Tensor]], object]) -> Path:
        folder = Path(shutil.copytree(answering, tmp_path / "changed"))
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, {"format": "pt"})
        return folder

    return copy


@pytest.mark.parametrize("kind", ["answering", "embedding"])
def test_either_folder_gives_the_vectors_and_the_fingerprint_of_the_whole_model(
    kind: str, answering: Path, attachments: list[Attachment], request: pytest.FixtureRequest
) -> None:
    embedder = JointEmbedder.load(request.getfixturevalue(kind), device="cpu")
    with Assistant.load(answering, device="cpu") as assistant:
        np.testing.assert_array_equal(embedder.embed(attachments), assistant.embedder.embed(attachments))
        assert embedder.fingerprint == assistant.embedder.fingerprint


def test_the_language_model_is_not_read(
    changed: Callable[..., Path], answering: Path, attachments: list[Attachment]
) -> None:
    def only_the_encoder(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if not name.startswith("imagebind.")]:
            del weights[name]

    without = JointEmbedder.load(changed(only_the_encoder), device="cpu")
    whole = JointEmbedder.load(answering, device="cpu")
    np.testing.assert_array_equal(without.embed(attachments), whole.embed(attachments))


def test_the_embedded_model_is_the_default() -> None:
    embedder = JointEmbedder.load(device="cpu")
    with Assistant.load(device="cpu") as assistant:
        assert embedder.fingerprint == assistant.embedder.fingerprint


def test_limits_are_kept(answering: Path, attachments: list[Attachment]) -> None:
    embedder = JointEmbedder.load(answering, device="cpu", limits=Limits(max_pixels=10))
    with pytest.raises(LimitExceededError):
        embedder.embed(attachments[:1])


def test_another_type_gives_vectors_that_compare(embedding: Path, attachments: list[Attachment]) -> None:
    full, half = (JointEmbedder.load(embedding, device="cpu", dtype=dtype) for dtype in ("float32", torch.bfloat16))
    assert (full.model.dtype, half.model.dtype) == (torch.float32, torch.bfloat16)
    assert (full.embed(attachments) * half.embed(attachments)).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("load", [JointEmbedder.load, Assistant.load])
def test_a_stored_fingerprint_holds_for_every_type(
    load: Callable[..., Assistant | JointEmbedder], changed: Callable[..., Path]
) -> None:
    folder = changed(lambda weights: None)
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, {"format": "pt", DIGEST_KEY: "a digest"})
    store_fingerprint(folder, "the fingerprint of the stored weights")
    loaded = load(folder, device="cpu", dtype="bfloat16")
    embedder = loaded.embedder if isinstance(loaded, Assistant) else loaded
    assert embedder.fingerprint == "the fingerprint of the stored weights"


# ---- damaged and foreign folders

NAME = "imagebind.vision_model.projection.weight"


def keep_no_weight(weights: dict[str, Tensor]) -> None:
    weights.clear()
    weights["gates"] = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda weights: weights.pop(NAME), "1 missing weights .vision_model.projection.weight"),
        (lambda weights: weights.update({"imagebind.taste": torch.ones(1)}), "1 unexpected weights .taste"),
        (lambda weights: weights.update({NAME: torch.ones(3, 5)}), r"1 mismatched weights .* of shape \(3, 5\)"),
        (keep_no_weight, "missing weights .audio_model"),
    ],
    ids=["missing", "unexpected", "of another shape", "none at all"],
)
def test_weights_that_do_not_fit_are_named(
    change: Callable[[dict[str, Tensor]], object], complaint: str, changed: Callable[..., Path]
) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        JointEmbedder.load(changed(change), device="cpu")


def test_an_answering_model_of_another_shape_is_refused_too(changed: Callable[..., Path]) -> None:
    folder = changed(lambda weights: weights.update({NAME: torch.ones(3, 5)}))
    with pytest.raises(CheckpointError, match=r"1 mismatched weights .* of shape \(3, 5\)"):
        Assistant.load(folder, device="cpu")


def test_a_truncated_file_is_named(embedding: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(embedding, tmp_path / "cut"))
    shard = max(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=f"{shard.name}.* truncated"):
        JointEmbedder.load(folder, device="cpu")


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(IncompatibleModelError, match="type 'llama', expected 'imagebind' or 'imagebind_llm'"):
        JointEmbedder.load(tmp_path, device="cpu")


def test_asking_an_encoder_says_what_it_is_good_for(embedding: Path) -> None:
    with pytest.raises(IncompatibleModelError, match="answers no questions; use it with `ibllm embed`"):
        Assistant.load(embedding, device="cpu")


# ---- in the terminal


def test_ibllm_embed_takes_an_encoder(embedding: Path, attachments: list[Attachment], tmp_path: Path) -> None:
    files = [str(item.source) for item in attachments]
    arguments = ["--model", str(embedding), "--device", "cpu", "--dtype", "bfloat16"]
    assert main(["embed", *files, "-o", str(tmp_path / "out.npy"), *arguments]) == 0
    embedder = JointEmbedder.load(embedding, device="cpu", dtype="bfloat16")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), embedder.embed(attachments))
    summary = json.loads((tmp_path / "out.json").read_text())
    assert (summary["model"], summary["fingerprint"]) == (str(embedding), embedder.fingerprint)


def test_ibllm_ask_refuses_an_encoder_in_one_line(embedding: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "What?", "--model", str(embedding), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "ibllm embed" in error
