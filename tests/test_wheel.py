"""What `pip install ibllm-tools` brings: every package with its types, and nothing that hides those of LlamaIndex."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = [
    "ibllm_mcp",
    "ibllm_tools",
    "langchain_ibllm",
    *(f"llama_index/{kind}/ibllm" for kind in ("embeddings", "llms", "retrievers", "tools")),
]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
USE = """
import sys
sys.path[:0] = sys.argv[1:]
import langchain_ibllm, ibllm_mcp, llama_index, llama_index.core
from llama_index.embeddings.ibllm import ImageBindEmbedding
from llama_index.llms.ibllm import ImageBindLLM
from llama_index.retrievers.ibllm import ImageBindQueryEngine
from llama_index.tools.ibllm import ImageBindToolSpec
assert llama_index.__file__ is None
print(langchain_ibllm.__file__, ibllm_mcp.__file__, *(sys.modules[kind.__module__].__file__ for kind in (
    ImageBindEmbedding, ImageBindLLM, ImageBindQueryEngine, ImageBindToolSpec)), sep="\\n")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what is in the wheel, which is built without the embedded weights: they take seconds to pack."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("ibllm_tools", "integrations"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_it_holds_every_package_with_its_types(installed: Path) -> None:
    typed = sorted(str(file.parent.relative_to(installed)) for file in installed.rglob("py.typed"))
    assert typed == PACKAGES
    assert all((installed / package / "__init__.py").is_file() for package in PACKAGES)


def test_it_hides_no_package_of_llama_index(installed: Path) -> None:
    shared = {installed / "llama_index", *((installed / package).parent for package in PACKAGES if "/" in package)}
    assert not [folder for folder in shared if (folder / "__init__.py").exists()]


def test_it_can_be_used_beside_llama_index(installed: Path) -> None:
    command = [
        sys.executable,
        "-S",
        "-c",
        USE,
        str(installed),
        sysconfig.get_path("purelib"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={}, cwd=installed)
    assert done.returncode == 0, done.stderr
    assert all(Path(file).is_relative_to(installed) for file in done.stdout.splitlines())
