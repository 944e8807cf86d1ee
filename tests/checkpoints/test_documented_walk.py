"""docs/official-weights.md cannot lie: its commands run, one after the other, on tiny files of the official names."""

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from official_files import tiny_imagebind_config, write_adapter, write_imagebind, write_llama

from ibllm_tools import Answer
from ibllm_tools.cli import main

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "official-weights.md").read_text(encoding="utf-8")
WIDTH = 44
"""Of the tiny joint embedding."""
MEDIA = {"dog.jpg": "bell.png", "bark.wav": "bell.wav", "dog.glb": "duck.glb"}


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["ibllm"]]


@pytest.fixture
def files(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the page asks the reader to bring, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_imagebind(reference, Path("imagebind_huge.pth"), point=False)
    write_imagebind(reference, Path("imagebind_w3D.pth"))
    for name, point in (("imagebind_huge", False), ("imagebind_w3D", True)):
        config = tiny_imagebind_config(reference, point=point)
        Path(f"{name}.json").write_text(json.dumps(config.to_dict()))
    write_llama(reference, Path("llama"))
    Path("llama/7B").rename("llama/7B_chinese")
    write_adapter(reference, Path("7B.pth"))
    shutil.copy(reference / "bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt.gz")
    shutil.copy(reference / "adapter" / "knn.index", "knn.index")
    for name, sample in MEDIA.items():
        shutil.copy(REPOSITORY / "examples" / "media" / sample, name)


def of_tiny_size(words: Sequence[str]) -> list[str]:
    """A command of the page, told that the checkpoint is a small one."""
    name = Path(words[2]).stem if words[0] == "convert" else ""
    if name in ("imagebind_huge", "imagebind_w3D"):
        return [*words, "--config", f"{name}.json"]
    return [*words, "--max-new-tokens", "3"] if words[0] == "ask" else list(words)


@pytest.mark.usefixtures("files")
def test_the_page_leads_from_the_official_files_to_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    done = []
    for words in commands():
        assert main(of_tiny_size(words)) == 0, words
        done.append(words[1] if words[0] == "convert" else words[0])
    assert "error" not in capsys.readouterr().err
    assert set(done) == {"imagebind", "point-bind", "imagebind-llm", "cache", "embed", "ask"}
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(code, "official-weights.md", "exec"), names)
    assert names["features"].shape == (1, WIDTH)
    assert names["vectors"].shape == (2, WIDTH)
    assert [type(answer) for answer in names["answers"]] == [Answer, Answer]
