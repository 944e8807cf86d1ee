"""transformers' auto classes find ours, whoever is imported first."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import saved_tiny_model

from ibllm_tools import ImageBindLlmForConditionalGeneration, ImageBindProcessor

ORDERS = {
    "ours, then the auto classes one by one": (
        "import ibllm_tools; from transformers import AutoConfig; AutoConfig.for_model('imagebind')"
    ),
    "the auto classes, then ours": (
        "from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor; import ibllm_tools"
    ),
    "one file of ours alone": "import ibllm_tools.imagebind.configuration_imagebind",
    "a model that imports the auto classes halfway": "import ibllm_tools; from transformers import LlamaForCausalLM",
}
FIND = """
import sys
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor
imagebind, llm = sys.argv[1:]
print(type(AutoConfig.from_pretrained(imagebind)).__name__)
print(type(AutoProcessor.from_pretrained(imagebind)).__name__)
print(type(AutoModel.from_pretrained(imagebind)).__name__)
print(type(AutoModelForCausalLM.from_pretrained(llm)).__name__)
"""
CLEAN = """
from importlib.machinery import SourceFileLoader
assert not [finder for finder in sys.meta_path if type(finder).__module__ == "ibllm_tools.auto_classes"]
assert type(sys.modules[AutoModel.__module__].__loader__) is SourceFileLoader
"""


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_tiny_model(tmp_path_factory)


@pytest.fixture(scope="module")
def imagebind(llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the joint embedding alone."""
    folder = tmp_path_factory.mktemp("imagebind")
    ImageBindLlmForConditionalGeneration.from_pretrained(llm).imagebind.save_pretrained(folder)
    ImageBindProcessor.from_pretrained(llm / "imagebind").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("order", ORDERS)
def test_the_auto_classes_find_ours_in_every_order_of_imports(order: str, imagebind: Path, llm: Path) -> None:
    code = ORDERS[order] + FIND + CLEAN
    result = subprocess.run([sys.executable, "-c", code, imagebind, llm], capture_output=True, text=True, check=False)
    assert result.stdout.split() == [
        "ImageBindConfig",
        "ImageBindProcessor",
        "ImageBindModel",
        "ImageBindLlmForConditionalGeneration",
    ], result.stderr
    assert result.returncode == 0, result.stderr
