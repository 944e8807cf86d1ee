"""The type of the weights, the quantisation of the language model, and the kernel of ImageBind's attention."""

import importlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from sample_files import write_image
from tiny_model import saved_tiny_model
from torch import Tensor
from transformers import BitsAndBytesConfig

from ibllm_tools import Assistant
from ibllm_tools.assistant.hub_kernels import no_hub_kernels
from ibllm_tools.assistant.precision import LARGE_MODEL_BYTES, loading_dtype
from ibllm_tools.cli import main
from ibllm_tools.errors import IncompatibleModelError, InvalidRequestError, MissingExtraError
from ibllm_tools.imagebind import ImageBindConfig, ImageBindModel
from ibllm_tools.imagebind_llm import ImageBindLlmForConditionalGeneration

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LAYERS = "language_model.model.layers."
TOLERANCES = {"int8": 0.05, "int4": 0.25}
"""How far a result may be off, relative to its length."""
SAVED_TOLERANCE = 1e-3
"""The same for a model before and after it was saved: bitsandbytes rounds 4-bit scales once more."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_tiny_model(tmp_path_factory)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image(tmp_path_factory.mktemp("media") / "bell.png")


@pytest.fixture(scope="module")
def full(folder: Path) -> Iterator[Assistant]:
    with Assistant.load(folder, device="cpu") as assistant:
        yield assistant


@pytest.fixture(scope="module", params=["int8", "int4"])
def quantization(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("bitsandbytes")
    return str(request.param)


@pytest.fixture(scope="module")
def quantised(quantization: str, folder: Path) -> Iterator[Assistant]:
    with Assistant.load(folder, device="cpu", quantization=quantization) as assistant:
        yield assistant


@pytest.fixture(scope="module")
def embeddings(full: Assistant) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(4, full.embedder.dimension, generator=generator), dim=-1)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


# ---- the type of the weights


@pytest.mark.parametrize(
    ("stored", "device", "size", "expected"),
    [
        (torch.float16, CPU, 1, torch.float32),
        (torch.float16, CPU, LARGE_MODEL_BYTES + 1, torch.bfloat16),
        (torch.float16, CUDA, LARGE_MODEL_BYTES + 1, torch.float16),
        (torch.bfloat16, CPU, 1, torch.bfloat16),
        (torch.float32, CPU, LARGE_MODEL_BYTES + 1, torch.float32),
        (None, CPU, 1, torch.float32),
    ],
)
def test_weights_keep_their_type_but_float16_on_a_cpu(
    tmp_path: Path, stored: torch.dtype | None, device: torch.device, size: int, expected: torch.dtype
) -> None:
    with (tmp_path / "model-00001-of-00002.safetensors").open("wb") as file:
        file.truncate(size)  # takes no room on disk
    (tmp_path / "visual_cache.safetensors").write_bytes(b"no weights")
    assert loading_dtype(tmp_path, stored, device, None) == expected


@pytest.mark.parametrize("wanted", ["float16", torch.float16])
def test_the_type_that_is_asked_for_is_taken(tmp_path: Path, wanted: str | torch.dtype) -> None:
    assert loading_dtype(tmp_path, torch.float32, CPU, wanted) == torch.float16


@pytest.mark.parametrize("wanted", ["int8", "auto", "float8_e4m3fn", torch.float64])
def test_other_types_are_refused(folder: Path, wanted: str | torch.dtype) -> None:
    with pytest.raises(InvalidRequestError, match="expected float32, float16, bfloat16"):
        Assistant.load(folder, device="cpu", dtype=wanted)


def test_bfloat16_answers_alike(folder: Path, full: Assistant, embeddings: Tensor, image: Path) -> None:
    with Assistant.load(folder, device="cpu", dtype="bfloat16") as half:
        assert {weights.dtype for weights in half.model.parameters()} == {torch.bfloat16}
        assert (half.embed(image) * full.embed(image)).sum() > 0.99
        with torch.no_grad():
            assert relative_error(half.model.layer_vectors(embeddings), full.model.layer_vectors(embeddings)) < 0.02
        assert half.ask("What is this?", image).text


# ---- quantisation


def test_the_decoder_layers_are_quantised_and_nothing_else(quantised: Assistant) -> None:
    whole = {name for name, weights in quantised.model.named_parameters() if not weights.is_floating_point()}
    layers = len(quantised.model.language_model.model.layers)
    linear = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    linear += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert whole == {f"{LAYERS}{layer}.{name}.weight" for layer in range(layers) for name in linear}


def test_the_injected_vectors_stay_close(
    quantised: Assistant, quantization: str, full: Assistant, embeddings: Tensor
) -> None:
    with torch.no_grad():
        found, expected = (each.model.layer_vectors(embeddings) for each in (quantised, full))
    assert relative_error(found, expected) < TOLERANCES[quantization]


def test_closed_gates_still_add_nothing(quantised: Assistant, embeddings: Tensor) -> None:
    gates = quantised.model.gates.detach().clone()
    try:
        quantised.model.gates.data.zero_()
        with torch.no_grad():
            assert quantised.model.layer_vectors(embeddings).count_nonzero() == 0
    finally:
        quantised.model.gates.data.copy_(gates)


def test_the_logits_stay_close(quantised: Assistant, quantization: str, full: Assistant, embeddings: Tensor) -> None:
    prompt = full.processor("What is this?")["input_ids"]
    with torch.no_grad():
        found, expected, plain = (
            model(input_ids=prompt, embeddings=given).logits
            for model, given in (
                (quantised.model, embeddings[:1]),
                (full.model, embeddings[:1]),
                (full.model, None),
            )
        )
    error = relative_error(found, expected)
    assert error < TOLERANCES[quantization]
    assert error < relative_error(plain, expected)  # the attachment weighs more than the rounding


def test_the_encoder_is_the_same(quantised: Assistant, full: Assistant, image: Path) -> None:
    assert (quantised.embed(image) == full.embed(image)).all()
    assert quantised.embedder.fingerprint == full.embedder.fingerprint


def test_several_threads_may_ask_at_once(quantised: Assistant, image: Path) -> None:
    alone = quantised.ask("What is this?", image).text
    with ThreadPoolExecutor(4) as pool:
        together = [pool.submit(quantised.ask, "What is this?", image) for _ in range(4)]
    assert {answer.result().text for answer in together} == {alone}


def test_a_configuration_is_applied_as_it_is(folder: Path, image: Path) -> None:
    pytest.importorskip("bitsandbytes")
    left_out = ["imagebind", "bind_network", "lm_head", "gate_proj", "up_proj", "down_proj", "q_proj", "k_proj"]
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=left_out)
    with Assistant.load(folder, device="cpu", quantization=config) as assistant:
        whole = {name for name, weights in assistant.model.named_parameters() if weights.dtype == torch.int8}
        assert {name.split(".")[-2] for name in whole} == {"v_proj", "o_proj"}
        assert assistant.ask("What is this?", image).text


@torch.no_grad()
def test_a_quantised_model_that_was_saved_loads_quantised(quantised: Assistant, image: Path, tmp_path: Path) -> None:
    question = quantised.processor("What is this?")["input_ids"]
    expected = quantised.model(input_ids=question).logits
    quantised.model.save_pretrained(tmp_path)
    quantised.processor.save_pretrained(tmp_path)
    kept = quantised.model(input_ids=question).logits
    assert relative_error(kept, expected) < SAVED_TOLERANCE
    with Assistant.load(tmp_path, device="cpu") as again:
        assert not again.model.language_model.model.layers[0].mlp.up_proj.weight.is_floating_point()
        assert torch.equal(again.model(input_ids=question).logits, kept)
        assert again.ask("What is this?", image).text == quantised.ask("What is this?", image, use_cache=False).text


@pytest.mark.parametrize("quantization", ["int3", "nf4", ""])
def test_an_unknown_quantisation_is_refused(folder: Path, quantization: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected int8, int4 or a configuration"):
        Assistant.load(folder, device="cpu", quantization=quantization)


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_a_missing_library_says_which_extra_installs_it(
    folder: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"quantisation needs .* pip install 'ibllm-tools\[quantize\]'"):
        Assistant.load(folder, device="cpu", quantization="int8")


def test_layers_that_cannot_compute_are_reported_when_the_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("N must be divisible by block_n")

    monkeypatch.setattr(ImageBindLlmForConditionalGeneration, "forward", fail)
    with pytest.raises(IncompatibleModelError, match=r"with this quantisation here \(N must be divisible"):
        Assistant.load(folder, device="cpu", quantization="int4")


def test_bitsandbytes_finds_no_loader_of_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = ModuleType("kernels")
    monkeypatch.setitem(sys.modules, "kernels", loader)
    with no_hub_kernels(), pytest.raises(ImportError):
        importlib.import_module("kernels")
    assert importlib.import_module("kernels") is loader  # others find it


# ---- in the terminal


def test_the_options_of_the_command_line(folder: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bitsandbytes")
    arguments = ["--model", str(folder), "--device", "cpu", "--dtype", "bfloat16", "--quantize", "int8"]
    assert main(["ask", "What is this?", str(image), *arguments]) == 0
    with Assistant.load(folder, device="cpu", dtype="bfloat16", quantization="int8") as assistant:
        assert capsys.readouterr() == (assistant.ask("What is this?", image).text + "\n", "")


@pytest.mark.parametrize("option", ["--dtype", "--quantize"])
def test_other_values_are_wrong_usage(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["ask", "What?", option, "int3"])
    assert exit_.value.code == 2
    assert "int3" in capsys.readouterr().err


# ---- attention


TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
INPUTS: dict[str, Callable[[], Tensor]] = {
    "image": lambda: torch.randn(2, 3, 28, 28),
    "audio": lambda: torch.randn(2, 1, 32, 26),  # with a learned key and value
    "text": lambda: torch.randint(1, 60, (2, 8)),  # causal
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ImageBindConfig(
        projection_dim=16,
        vision_config={**TOWER, "image_size": 28},
        audio_config={**TOWER, "num_mel_bins": 32, "target_length": 26},
        text_config={**TOWER, "vocab_size": 64, "max_position_embeddings": 8},
    )
    folder = tmp_path_factory.mktemp("encoder")
    ImageBindModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("modality", INPUTS)
def test_eager_attention_equals_sdpa(encoder: Path, modality: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = INPUTS[modality]()
    fused = ImageBindModel.from_pretrained(encoder, attn_implementation="sdpa").encode(modality, values)
    default = ImageBindModel.from_pretrained(encoder).encode(modality, values)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    eager = ImageBindModel.from_pretrained(encoder, attn_implementation="eager").encode(modality, values)
    assert relative_error(eager.detach(), fused.detach()) < 1e-6  # sounds are 20 long
    assert torch.equal(default, fused)
