"""The code of a page of documentation: its Python runs, and prints what its comments say it prints."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
    """The blocks of code in one language of a page, named from the repository's root."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(code: str, names: dict[str, Any] | None = None) -> None:
    """Run Python in a namespace, its own by default, and compare what it prints with what it says it prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "documentation", "exec"), {"__name__": "page"} if names is None else names)
    assert output.getvalue().splitlines() == re.findall(r"^ *print\(.*\)  # (.+)$", code, re.MULTILINE)


def folder_with_examples(folder: Path) -> Path:
    """A folder like the repository's root for whoever reads; what is written does not stay there."""
    (folder / "examples").symlink_to(REPOSITORY / "examples", target_is_directory=True)
    return folder
