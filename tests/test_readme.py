"""The README cannot lie: its Python runs, its commands run, and both print what it says they print."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
IBLLM = Path(sys.executable).with_name("ibllm")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[tuple[str, str]]:
    """Each ``$ ibllm ...`` with the output shown below it, which may be left out."""
    parts = (part.partition("\n") for part in block.split("$ ")[1:])
    return [(command, shown) for command, _, shown in parts if command.startswith("ibllm ")]


@pytest.fixture(autouse=True)
def folder_with_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like the repository's root for whoever reads, and what is written does not stay there."""
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples", target_is_directory=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs_and_prints_what_its_comments_say(code: str) -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert output.getvalue().splitlines() == re.findall(r"^ *print\(.*\)  # (.+)$", code, re.MULTILINE)


@pytest.mark.parametrize("block", blocks("console"))
def test_commands_run_one_after_the_other_and_print_what_is_shown(block: str) -> None:
    for command, shown in commands(block):
        words = [IBLLM, *shlex.split(command)[1:]]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert (command, done.returncode, done.stderr) == (command, 0, "")
        assert not shown or done.stdout == shown


def test_readme_has_code_and_commands() -> None:
    assert len(blocks("python")) >= 3
    assert sum(len(commands(block)) for block in blocks("console")) >= 7
