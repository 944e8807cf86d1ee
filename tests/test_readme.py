"""The README cannot lie: its Python runs, its commands run, and both print what it says they print."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from documented_code import blocks, folder_with_examples, run

from ibllm_tools.cli import main

IBLLM = Path(sys.executable).with_name("ibllm")


def commands(block: str) -> list[tuple[str, str]]:
    """Each ``$ ibllm ...`` with the output shown below it, which may be left out."""
    parts = (part.partition("\n") for part in block.split("$ ")[1:])
    return [(command, shown) for command, _, shown in parts if command.startswith("ibllm ")]


@pytest.fixture(autouse=True)
def in_a_folder_with_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_with_examples(tmp_path))


@pytest.mark.parametrize("code", blocks("README.md", "python"))
def test_python_runs_and_prints_what_its_comments_say(code: str) -> None:
    run(code)


@pytest.mark.parametrize("block", blocks("README.md", "console"))
def test_commands_run_one_after_the_other_and_print_what_is_shown(
    block: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, but for the first: each would load torch again."""
    first, *others = commands(block)
    words = [IBLLM, *shlex.split(first[0])[1:]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (first[0], done.returncode, done.stderr) == (first[0], 0, "")
    assert not first[1] or done.stdout == first[1]
    for command, shown in others:
        code = main(shlex.split(command)[1:])
        out, err = capsys.readouterr()
        assert (command, code, err) == (command, 0, "")
        assert not shown or out == shown


def test_readme_has_code_and_commands() -> None:
    assert len(blocks("README.md", "python")) >= 3
    assert sum(len(commands(block)) for block in blocks("README.md", "console")) >= 7
