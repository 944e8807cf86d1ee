"""Four namespace packages beside llama-index-core: they import lightly, and say what is missing."""

import subprocess
import sys

import pytest

PACKAGES = ("llms", "embeddings", "retrievers", "tools")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_them_loads_no_model_and_hides_no_part_of_llama_index() -> None:
    code = """
import sys
import llama_index.embeddings.ibllm, llama_index.llms.ibllm, llama_index.retrievers.ibllm, llama_index.tools.ibllm
from llama_index.llms.ibllm import ImageBindLLM
from llama_index.tools.ibllm import ImageBindToolSpec
ImageBindToolSpec(roots="media").to_tool_list()
ImageBindLLM(roots="media").to_json()
print(*sorted({"torch", "transformers", "chromadb", "langchain_core"} & set(sys.modules)))
import llama_index
import llama_index.core
import llama_index.vector_stores.chroma
assert llama_index.__file__ is None and not hasattr(llama_index.llms, "__version__")
"""
    assert run(code) == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_what_it_exports_is_sorted(package: str) -> None:
    module = __import__(f"llama_index.{package}.ibllm", fromlist=["__all__"])
    assert module.__all__ == sorted(module.__all__)
    assert all(getattr(module, name).__module__.startswith(f"llama_index.{package}.ibllm") for name in module.__all__)


def test_without_llama_index_each_says_how_to_install_it() -> None:
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[:2] == ["llama_index", "core"]:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
for package in {PACKAGES!r}:
    try:
        __import__(f"llama_index.{{package}}.ibllm")
    except ImportError as error:
        print(error)
"""
    lines = run(code).splitlines()
    assert len(lines) == len(PACKAGES)
    assert all(line.endswith("which is not installed: pip install 'ibllm-tools[llama-index]'") for line in lines)
