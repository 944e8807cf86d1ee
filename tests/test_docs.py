"""The pages of the documentation cannot lie: their Python runs, block after block, and prints what its comments say."""

from pathlib import Path
from typing import Any

import pytest
from documented_code import blocks, folder_with_examples, run

PAGES = ("structured-answers", "langchain", "langchain-agents", "langchain-retrieval", "notebooks")


@pytest.mark.parametrize("page", PAGES)
def test_python_runs_and_prints_what_its_comments_say(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder_with_examples(tmp_path))
    names: dict[str, Any] = {"__name__": "page"}
    found = blocks(f"docs/{page}.md", "python")
    assert found
    for code in found:
        run(code, names)
