"""The package: what it offers, and what it says where LangChain is not installed."""

import subprocess
import sys

import pytest

import langchain_ibllm


def test_every_public_name_is_there_and_listed_in_order() -> None:
    assert sorted(langchain_ibllm._HOMES) == langchain_ibllm.__all__ == dir(langchain_ibllm)
    for name in langchain_ibllm.__all__:
        assert getattr(langchain_ibllm, name).__name__ == name


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'ChatGpt'"):
        _ = langchain_ibllm.ChatGpt


def test_importing_the_package_loads_neither_torch_nor_chroma_nor_langchain() -> None:
    heavy = ("torch", "transformers", "chromadb", "langchain_core")
    code = f"import sys, langchain_ibllm; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_retrieval_classes_load_neither_torch_nor_chroma_before_they_are_used() -> None:
    code = (
        "import sys; from langchain_ibllm import ImageBindEmbeddings, ImageBindRetriever, ImageBindVectorStore; "
        "ImageBindEmbeddings(); print([name for name in ('torch', 'chromadb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_without_langchain_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['langchain_core'] = None; from langchain_ibllm import ImageBindRetriever"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'ibllm-tools[langchain]'" in done.stderr.splitlines()[-1]
