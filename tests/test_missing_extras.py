"""Whoever lacks an extra is told the command that installs it, when it is needed and not before."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path

import pytest

from ibllm_tools import Assistant, MediaLibrary
from ibllm_tools.checkpoints.faiss_index import FaissIndex
from ibllm_tools.errors import MissingExtraError
from ibllm_tools.training import prepare_for_stage

MEDIA = Path(__file__).parents[1] / "examples" / "media"
COLLECTIONS = ("all", "dev")


def hear() -> None:
    Assistant.load().embed(MEDIA / "bell.wav")


def watch() -> None:
    Assistant.load().embed(MEDIA / "helicopter.mp4")


def turn_around() -> None:
    Assistant.load().embed(MEDIA / "duck.glb")


def train() -> None:
    prepare_for_stage(Assistant.load().model, "finetune")


def quantise() -> None:
    Assistant.load(quantization="int8")


def read_faiss() -> None:
    FaissIndex(MEDIA / "bell.wav")


def export() -> None:
    with MediaLibrary.open(None, embedder=Assistant.load().embedder) as library:
        library.export("exported")


def index_on_ray() -> None:
    with MediaLibrary.open(None, embedder=Assistant.load().embedder) as library:
        library.add(MEDIA, engine="ray")


def answer_in_json() -> None:
    Assistant.load().ask("What is it?", MEDIA / "bell.wav", schema={"type": "object"})


IN_PROCESS: dict[str, tuple[str, Callable[[], None]]] = {
    "audio": ("soundfile", hear),
    "video": ("av", watch),
    "mesh": ("trimesh", turn_around),
    "train": ("peft", train),
    "quantize": ("bitsandbytes", quantise),
    "faiss": ("faiss", read_faiss),
    "parquet": ("pyarrow", export),
    "ray": ("ray", index_on_ray),
    "structured": ("llguidance", answer_in_json),
}
INTEGRATIONS = {
    "langchain": ("langchain_core", "langchain_ibllm", "ChatImageBindLLM"),
    "agents": ("langchain", "langchain_ibllm", "AttachmentMiddleware"),
    "llama-index": ("llama_index.core", "llama_index.llms.ibllm", "ImageBindLLM"),
    "mcp": ("mcp", "ibllm_mcp", "create_server"),
}


def test_no_extra_is_left_out() -> None:
    extras = set(metadata("ibllm-tools").get_all("Provides-Extra") or ()) - set(COLLECTIONS)
    assert extras == {*IN_PROCESS, *INTEGRATIONS}


@pytest.mark.parametrize("extra", IN_PROCESS)
def test_an_extra_of_the_library_is_named_where_it_is_needed(
    extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package, need = IN_PROCESS[extra]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"needs '{package}'.*: pip install 'ibllm-tools\[{extra}\]'"):
        need()


@pytest.mark.parametrize("extra", INTEGRATIONS)
def test_an_integration_names_its_extra_in_one_line(extra: str) -> None:
    package, module, name = INTEGRATIONS[extra]
    code = f"import sys; sys.modules[{package!r}] = None; from {module} import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(
        rf"MissingExtraError: .* needs '{package}', .*: pip install 'ibllm-tools\[{extra}\]'$", done.stderr.strip()
    )


def test_the_command_line_names_the_extra_of_the_server() -> None:
    code = "import sys; sys.modules['mcp'] = None; from ibllm_tools.cli import main; sys.exit(main(['mcp']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("ibllm: error: ")
    assert done.stderr.endswith("pip install 'ibllm-tools[mcp]'\n")


@pytest.mark.parametrize(
    "module",
    [
        "langchain_ibllm",
        "ibllm_mcp",
        "llama_index.llms.ibllm",
        "llama_index.embeddings.ibllm",
        "llama_index.retrievers.ibllm",
        "llama_index.tools.ibllm",
    ],
)
def test_importing_an_integration_loads_neither_torch_nor_chroma(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'chromadb'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
