"""ImageBind at its true size: procedural weights in the official format, converted, give the research code's outputs.

The weights (1.22 B parameters) follow from a formula in the golden fixtures, which hold what the official code makes of
them. Needs 10 GB of disk below pytest's temporary folder and 7 GiB of memory at its peak; takes 2 to 4 minutes.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ibllm_tools.checkpoints import convert_imagebind
from ibllm_tools.imagebind import ImageBindModel, ImageBindProcessor
from ibllm_tools.media.sniff import Modality

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
MODALITIES: dict[str, Modality] = {"vision": "image"}
CASES = ("vision", "video", "text", "audio", "depth", "thermal", "imu", "point")
BLOCKS = {"vision": 32, "text": 24, "audio": 12, "depth": 12, "thermal": 12, "imu": 6, "point": 12}


@pytest.fixture(scope="module")
def facts(reference: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((reference / "huge_procedural" / "fixture.json").read_text(encoding="utf-8"))
    return facts


@pytest.fixture(scope="module")
def formula(reference: Path) -> Any:
    """The module that rebuilds any tensor from its official name, its shape and a seed."""
    spec = importlib.util.spec_from_file_location("procedural", reference / "huge_procedural" / "procedural.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def converted(
    reference: Path, facts: dict[str, Any], formula: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The folder that the converter makes of the procedural ``imagebind_w3D.pth``."""
    folder = tmp_path_factory.mktemp("true-size")
    checkpoint = folder / "imagebind_w3D.pth"
    listing = json.loads((reference / "keys" / "imagebind_w3D.json").read_text(encoding="utf-8"))
    torch.save({key: official(formula, key, shape, facts["seed"]) for key, (shape, _) in listing.items()}, checkpoint)
    target = folder / "imagebind"
    convert_imagebind(checkpoint, target, tokenizer=reference / "bpe_simple_vocab_16e6.txt.gz")
    checkpoint.unlink()
    yield target
    for file in target.glob("*.safetensors"):
        file.unlink()


@pytest.fixture(scope="module")
def model(converted: Path) -> ImageBindModel:
    model, info = ImageBindModel.from_pretrained(converted, output_loading_info=True)
    assert not any(info.values())
    return model.eval()


@pytest.fixture(scope="module")
def inputs(reference: Path, converted: Path, facts: dict[str, Any], formula: Any) -> dict[str, Tensor]:
    processor = ImageBindProcessor.from_pretrained(converted)
    media = {name: reference / "media" / file for name, file in facts["inputs"].items() if name != "texts"}
    images = processor.process("image", [media["image"], media["image2"]], official=True)  # (2, 3, 224, 224)
    values = {
        "vision": images[:1],
        "video": images.transpose(0, 1)[None, None],  # (1, 1, 3, 2, 224, 224)
        "text": processor.process("text", facts["inputs"]["texts"], official=True),
        "audio": processor.process("audio", [media["audio"]], official=True),
        "point": torch.load(media["point"], weights_only=True)[None].float(),
    }
    for name, shape in (("depth", (1, 1, 224, 224)), ("thermal", (1, 1, 224, 224)), ("imu", (1, 6, 2000))):
        values[name] = torch.from_numpy(formula.noise(name, shape, facts["seed"]))
    return values


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_official_ones(
    reference: Path, model: ImageBindModel, inputs: dict[str, Tensor], case: str
) -> None:
    expected = load_file(reference / "huge_procedural" / "outputs.safetensors")
    modality: Modality = MODALITIES.get(case, case)  # type: ignore[call-overload]
    with torch.no_grad():
        prenorm = model.encode(modality, inputs[case], prenorm=True)
        embedding = model.encode(modality, inputs[case])
    torch.testing.assert_close(prenorm, expected[f"prenorm.{case}"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(embedding, expected[f"emb.{case}"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("case", BLOCKS)
def test_every_block_equals_the_official_one(
    facts: dict[str, Any], model: ImageBindModel, inputs: dict[str, Tensor], case: str
) -> None:
    seen: list[Tensor] = []
    tower = model.get_submodule(f"{case}_model")
    layers = tower.point_bert.layers if case == "point" else tower.encoder.layers
    handles = [layer.register_forward_hook(remember_in(seen)) for layer in layers]
    with torch.no_grad():
        model.encode(MODALITIES.get(case, case), inputs[case])  # type: ignore[call-overload]
    for handle in handles:
        handle.remove()
    assert len(seen) == BLOCKS[case]
    for index, stream in enumerate(seen):
        expected = facts["per_block"][f"{case}.block{index}"]
        tolerance = {"abs": 2e-5 * expected["std"]}
        assert stream.mean().item() == pytest.approx(expected["mean"], **tolerance)
        assert stream.std().item() == pytest.approx(expected["std"], rel=1e-5)
        assert stream[0, :8].tolist() == pytest.approx(expected["token0_first8"], **tolerance)
        assert stream[-1, -4:].tolist() == pytest.approx(expected["tokenlast_last4"], **tolerance)


def remember_in(seen: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
    return lambda _module, _args, output: seen.append(output[0].double())  # (L, D) of the first item


def official(formula: Any, key: str, shape: list[int], seed: int) -> Tensor:
    """One official tensor; the two kinds that follow no formula are the causal mask and BatchNorm's counter."""
    values = formula.tensor(key, shape, seed)
    if values is not None:
        return torch.from_numpy(values)
    if key.endswith(".mask"):
        return torch.full(shape, float("-inf")).triu(1)
    return torch.zeros(shape, dtype=torch.long)
