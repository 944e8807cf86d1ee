"""The package: what it offers, and what it says where LangChain is not installed."""

import re
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


def run(code: str) -> list[str]:
    """What a program prints, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_importing_the_package_loads_neither_torch_nor_chroma_nor_langchain() -> None:
    heavy = {"torch", "transformers", "chromadb", "langchain_core"}
    assert run(f"import sys, langchain_ibllm; print({heavy} & set(sys.modules))") == ["set()"]


def test_its_classes_load_neither_torch_nor_chroma_before_they_are_used() -> None:
    heavy = {"torch", "transformers", "chromadb", "langgraph", "langchain"}
    code = (
        "import sys, langchain_ibllm as package\n"
        "for name in package.__all__: name == 'AttachmentMiddleware' or getattr(package, name)\n"
        "package.ImageBindEmbeddings(), package.ChatImageBindLLM(), package.ImageBindLLM()\n"
        f"print({heavy} & set(sys.modules))"
    )
    assert run(code) == ["set()"]


@pytest.mark.parametrize(
    ("missing", "extra", "names"),
    [
        ("langchain_core", "langchain", [name for name in langchain_ibllm.__all__ if name != "AttachmentMiddleware"]),
        ("langchain_core", "agents", ["AttachmentMiddleware"]),
        ("langchain", "agents", ["AttachmentMiddleware"]),
    ],
)
def test_without_langchain_it_says_what_to_install(missing: str, extra: str, names: list[str]) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; import langchain_ibllm\n"
        f"for name in {names}:\n"
        "    try: getattr(langchain_ibllm, name)\n"
        "    except ImportError as error: print(type(error).__name__, error)"
    )
    told = run(code)
    assert len(told) == len(names)
    for line in told:
        assert re.fullmatch(
            rf"MissingExtraError \S+ needs '{missing}', which is not installed: "
            rf"pip install 'ibllm-tools\[{extra}\]'",
            line,
        )
