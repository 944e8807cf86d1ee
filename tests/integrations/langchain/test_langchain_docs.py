"""docs/langchain.md: its Python runs and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
PAGE = (REPOSITORY / "docs" / "langchain.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
def test_python_runs_and_prints_what_its_comments_say(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "langchain.md", "exec"), {"__name__": "docs"})
    for said in re.findall(r"^ *print\(.*\)  # (.+)$", code, re.MULTILINE):
        assert said in output.getvalue()
