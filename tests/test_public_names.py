"""What ``from ibllm_tools import ...`` offers, and what importing it costs."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import ibllm_tools

NAMES = [
    "Access",
    "Answer",
    "AnswerStream",
    "Assistant",
    "Attachment",
    "AttachmentStore",
    "Embedder",
    "Entry",
    "Evidence",
    "Hit",
    "IbllmError",
    "ImageBindConfig",
    "ImageBindLlmConfig",
    "ImageBindLlmForConditionalGeneration",
    "ImageBindLlmProcessor",
    "ImageBindModel",
    "ImageBindProcessor",
    "IndexReport",
    "JointEmbedder",
    "Limits",
    "MediaLibrary",
    "Question",
    "Usage",
    "VisualCache",
    "__version__",
]


def test_the_public_names_are_these() -> None:
    assert ibllm_tools.__all__ == NAMES == sorted(NAMES)
    assert dir(ibllm_tools) == NAMES


@pytest.mark.parametrize("name", NAMES[:-1])
def test_every_name_leads_to_what_it_says(name: str) -> None:
    assert getattr(ibllm_tools, name).__name__ == name


def test_the_version_is_that_of_the_installation() -> None:
    assert ibllm_tools.__version__ == version("ibllm-tools")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Asistant"):
        _ = ibllm_tools.Asistant


@pytest.mark.parametrize(
    "statement",
    ["import ibllm_tools", "from ibllm_tools import Answer, Question, Attachment, Limits", "import ibllm_tools.cli"],
)
def test_importing_is_light(statement: str) -> None:
    heavy = "{'torch', 'transformers', 'chromadb', 'soundfile', 'av', 'trimesh'}"
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
