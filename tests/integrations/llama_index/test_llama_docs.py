"""docs/llama-index.md cannot lie: its Python runs, from top to bottom, and prints what it says it prints."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from llama_scripts import ScriptedAgentLLM

from ibllm_tools import Assistant

REPOSITORY = Path(__file__).parents[3]
PAGE = (REPOSITORY / "docs" / "llama-index.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

# LlamaIndex's workflows look at every attribute of an agent, pydantic's old ones as well.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")


def test_the_page_runs(assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page", "your_llm": ScriptedAgentLLM()}
    assert len(BLOCKS) >= 6
    for code in BLOCKS:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, "llama-index.md", "exec"), namespace)
        assert output.getvalue().splitlines() == re.findall(r"^ *print\(.*\)  # (.+)$", code, re.MULTILINE)
