"""``ibllm mcp``, as far as it goes without a client; and what ibllm_mcp offers and costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ibllm_mcp
from ibllm_mcp.tools import TOOLS
from ibllm_tools.cli import command_parser, main, parsed

CaptureFixture = pytest.CaptureFixture[str]
DOCS = Path(__file__).parents[3] / "docs"
NAMES = ["LazyToolbox", "MediaServer", "create_server", "serve_http", "serve_stdio"]


def test_the_public_names_are_these() -> None:
    assert ibllm_mcp.__all__ == NAMES == sorted(NAMES)
    assert dir(ibllm_mcp) == NAMES
    assert all(getattr(ibllm_mcp, name).__name__ == name for name in NAMES)
    with pytest.raises(AttributeError, match="creat_server"):
        _ = ibllm_mcp.creat_server


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import ibllm_mcp", "{'torch', 'transformers', 'chromadb', 'mcp', 'pydantic'}"),
        # so that clients are greeted at once
        ("import ibllm_mcp.server, ibllm_mcp.transports", "{'torch', 'transformers', 'chromadb'}"),
    ],
)
def test_importing_is_light(statement: str, heavy: str) -> None:
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_without_the_sdk_the_command_says_what_installs_it() -> None:
    code = "import sys; sys.modules['mcp'] = None; from ibllm_tools.cli import main; sys.exit(main(['mcp']))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == (
        "ibllm: error: ibllm mcp needs 'mcp', which is not installed: pip install 'ibllm-tools[mcp]'\n"
    )
    code = "import sys; sys.modules['mcp'] = None; from ibllm_mcp import create_server"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: ibllm_mcp needs 'mcp'" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--root", "/no/such/folder"], "/no/such/folder: no such folder"),
        (["--root", __file__], "not a folder"),
        (["--transport", "http", "--host", "0.0.0.0"], "no authentication"),
        (["--transport", "smoke"], "--transport"),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_anything_is_served(
    options: list[str], said: str, capsys: CaptureFixture
) -> None:
    try:
        code = main(["mcp", *options])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""


def documented(language: str) -> str:
    """The first example of the documentation in this language."""
    text = (DOCS / "mcp.md").read_text(encoding="utf-8")
    return text.partition(f"```{language}\n")[2].partition("```")[0]


def test_the_documented_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: CaptureFixture) -> None:
    (tmp_path / "examples").symlink_to(DOCS.parent / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(documented("python"), "docs/mcp.md", "exec"), {})
    assert "It is a bell. [bell.wav@0.0-3.0s]" in capsys.readouterr().out


def test_the_documented_configuration_starts_the_command() -> None:
    (server,) = json.loads(documented("json"))["mcpServers"].values()
    assert server["command"] == "ibllm"
    name, *words = server["args"]
    options = parsed(command_parser(name), words)
    assert (options.roots, options.library) == (["/home/me/media"], "/home/me/library")


def test_the_documentation_names_every_tool_and_every_argument() -> None:
    text = (DOCS / "mcp.md").read_text(encoding="utf-8")
    for tool in TOOLS:
        assert f"`{tool.name}`" in text
        for argument in tool.arguments.model_fields:
            assert f"`{argument}`" in text, argument
    assert "`ibllm mcp" in (DOCS / "cli.md").read_text(encoding="utf-8")
