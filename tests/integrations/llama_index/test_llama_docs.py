"""docs/llama-index.md cannot lie: its Python runs, from top to bottom, and prints what it says it prints."""

from pathlib import Path

import pytest
from documented_code import blocks, folder_with_examples, run
from llama_scripts import ScriptedAgentLLM

from ibllm_tools import Assistant

# LlamaIndex's workflows look at every attribute of an agent, pydantic's old ones as well.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")


def test_the_page_runs(assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_with_examples(tmp_path))
    names = {"__name__": "page", "your_llm": ScriptedAgentLLM()}
    found = blocks("docs/llama-index.md", "python")
    assert len(found) >= 6
    for code in found:
        run(code, names)
