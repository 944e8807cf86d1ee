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


def commands() -> list[tuple[str, str]]:
    """Each ``$ ibllm ...`` with the output shown below it, which may be left out."""
    parts = (part.partition("\n") for block in blocks("console") for part in block.split("$ ")[1:])
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


@pytest.mark.parametrize(("command", "shown"), commands())
def test_commands_run_and_print_what_is_shown(command: str, shown: str) -> None:
    done = subprocess.run([IBLLM, *shlex.split(command)[1:]], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not shown or done.stdout == shown


def test_readme_has_code_and_commands() -> None:
    assert len(blocks("python")) >= 3
    assert len(commands()) >= 4
