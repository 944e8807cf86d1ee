"""``ibllm convert``: licences first, one line per error, and nothing half-made, whatever ends it."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from official_files import tiny_imagebind_config, write_adapter, write_imagebind, write_llama

from ibllm_tools.checkpoints import writing
from ibllm_tools.cli import command_parser, main
from ibllm_tools.imagebind import ImageBindModel
from ibllm_tools.imagebind_llm import ImageBindLlmForConditionalGeneration, ImageBindLlmProcessor

KINDS = ("imagebind", "point-bind", "imagebind-llm", "cache")
HEAVY = ("torch", "transformers", "chromadb", "numpy", "pydantic")


@pytest.fixture(scope="module")
def files(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official files of a tiny model, and its configurations."""
    here = tmp_path_factory.mktemp("official")
    write_imagebind(reference, here / "imagebind_w3D.pth")
    write_imagebind(reference, here / "imagebind_huge.pth", point=False)
    write_adapter(reference, here / "7B.pth")
    write_llama(reference, here / "llama")
    bpe = reference / "bpe_simple_vocab_16e6.txt.gz"
    (here / bpe.name).write_bytes(bpe.read_bytes())
    for name, point in (("w3D", True), ("huge", False)):
        config = tiny_imagebind_config(reference, point=point).to_dict()
        (here / f"{name}.json").write_text(json.dumps(config))
    return here


def convert_imagebind(files: Path, output: Path, *options: str) -> list[str]:
    checkpoint, config = str(files / "imagebind_huge.pth"), str(files / "huge.json")
    return ["convert", "imagebind", checkpoint, "--config", config, "-o", str(output), *options]


def one_error(text: str) -> str:
    """The line of the only error; before it there is nothing but licences."""
    *before, last = text.splitlines()
    assert all(line.startswith("licence: ") for line in before), text
    assert last.startswith("ibllm: error: "), text
    return last


# ---- what it does


def test_imagebind_is_converted(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(convert_imagebind(files, tmp_path / "model", "--dtype", "bfloat16")) == 0
    out, err = capsys.readouterr()
    assert str(ImageBindModel.from_pretrained(tmp_path / "model").dtype) == "torch.bfloat16"
    assert [line.partition(":")[0] for line in err.splitlines()] == ["licence"] * 3
    assert out.splitlines()[0].startswith(f"{tmp_path / 'model'}: ")
    assert out.splitlines()[1] == f"next: ibllm embed FILE... --model {tmp_path / 'model'} -o vectors.npy"


def test_licences_are_stated_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "imagebind", str(tmp_path / "nowhere.pth"), "-o", str(tmp_path / "model")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "CC-BY-NC-SA 4.0" in err.splitlines()[0]
    assert "nowhere.pth: no such file" in one_error(err)


def test_points_are_added(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(convert_imagebind(files, tmp_path / "model")) == 0
    arguments = [
        str(files / "imagebind_w3D.pth"),
        "--into",
        str(tmp_path / "model"),
        "--config",
        str(files / "w3D.json"),
    ]
    assert main(["convert", "point-bind", *arguments]) == 0
    assert "point" in ImageBindModel.from_pretrained(tmp_path / "model").modalities
    assert "no licence stated" in capsys.readouterr().err


def test_imagebind_llm_is_converted(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = ["--llama", str(files / "llama"), "--imagebind", str(files / "imagebind_huge.pth")]
    options = ["--config", str(files / "huge.json"), "-o", str(tmp_path / "model")]
    assert main(["convert", "imagebind-llm", str(files / "7B.pth"), *sources, *options]) == 0
    assert isinstance(
        ImageBindLlmForConditionalGeneration.from_pretrained(tmp_path / "model"), ImageBindLlmForConditionalGeneration
    )
    assert ImageBindLlmProcessor.from_pretrained(tmp_path / "model").format_prompt("What?")
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in err.splitlines()[:5]] == ["licence"] * 5
    assert "ibllm: warning: this ImageBind has no point tower" in err
    assert f'next: ibllm ask "What is this?" FILE --model {tmp_path / "model"}' in out


def test_the_cache_is_converted(
    reference: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, apart = tmp_path / "my model", tmp_path / "my cache"
    convert = ["convert", "cache", str(reference / "adapter" / "knn.index")]
    assert main(convert_imagebind(files, model)) == 0
    assert main([*convert, "--model", str(model), "-o", str(apart)]) == 0
    assert f"FILE --model MODEL_OF_THIS_ENCODER --cache '{apart}'" in capsys.readouterr().out
    assert main([*convert, "-o", str(model)]) == 0
    out = capsys.readouterr().out
    assert f"{model / 'visual_cache'}: " in out
    assert out.endswith(f"FILE --model MODEL_OF_THIS_ENCODER --cache '{model / 'visual_cache'}'\n")


def test_a_model_is_overwritten_on_demand(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(convert_imagebind(files, tmp_path / "model")) == 0
    capsys.readouterr()
    assert main(convert_imagebind(files, tmp_path / "model")) == 2
    assert "not empty" in one_error(capsys.readouterr().err)
    assert main(convert_imagebind(files, tmp_path / "model", "--overwrite")) == 0


# ---- what is wrong


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert"],
        ["convert", "everything"],
        ["convert", "imagebind"],
        ["convert", "imagebind", "x.pth"],
        ["convert", "imagebind", "x.pth", "-o", "model", "--dtype", "int8"],
        ["convert", "point-bind", "x.pth"],
        ["convert", "imagebind-llm", "7B.pth", "-o", "model"],
        ["convert", "cache", "knn.index", "--loud", "-o", "model"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--help" in one_error(err)


def test_what_is_no_checkpoint_is_one_line_and_exit_code_2(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "half.pth").write_bytes((files / "imagebind_huge.pth").read_bytes()[:100_000])
    for name in ("page.pth", "half.pth", "."):
        assert main(["convert", "imagebind", str(tmp_path / name), "-o", str(tmp_path / "model")]) == 2
        assert str(tmp_path) in one_error(capsys.readouterr().err)
    assert main([*convert_imagebind(files, tmp_path / "model"), "--config", str(tmp_path / "page.pth")]) == 2
    assert "no configuration" in one_error(capsys.readouterr().err)
    assert not (tmp_path / "model").exists()


# ---- help


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_help_with_an_example(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["convert", kind, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"  ibllm convert {kind} " in text
    assert kind in command_parser("convert").format_help()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ibllm_tools.cli import main\n"
        "for words in (['convert', '--help'], ['convert', 'imagebind-llm', '--help'], ['convert', 'imagebind']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


# ---- what ends it early


KILLED_AFTER_THE_WEIGHTS = """
import os, signal, sys
from ibllm_tools.checkpoints import writing
from ibllm_tools.cli import main

save = writing.save_file

def save_and_die(*arguments, **options):
    save(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

writing.save_file = save_and_die
main(sys.argv[1:])
"""


def test_ctrl_c_leaves_nothing(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = writing.save_file

    def save_and_interrupt(*arguments: Any, **options: Any) -> None:
        save(*arguments, **options)
        signal.raise_signal(signal.SIGINT)  # to this thread: os.kill lets the system choose one, and time pass

    monkeypatch.setattr(writing, "save_file", save_and_interrupt)
    assert main(convert_imagebind(files, tmp_path / "model")) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_after_a_kill_the_next_run_starts_clean(files: Path, tmp_path: Path) -> None:
    arguments = convert_imagebind(files, tmp_path / "model")
    killed = subprocess.run([sys.executable, "-c", KILLED_AFTER_THE_WEIGHTS, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / ".model.partial" / "new" / "model.safetensors").is_file()  # what it was writing
    assert not (tmp_path / "model").exists()
    assert main(arguments) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    _, info = ImageBindModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info.values()), info
