"""``ibllm`` in the terminal: answers on stdout, one line per error on stderr, exit codes."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sample_files import broken_files, write_image, write_mesh, write_sound, write_video
from tiny_model import saved_tiny_model

import ibllm_tools
from ibllm_tools import Answer, Assistant, Evidence, ImageBindConfig, ImageBindModel, Limits, Usage
from ibllm_tools.assistant.access import Access
from ibllm_tools.cli import COMMANDS, command_parser, main
from ibllm_tools.cli.doctor import Report
from ibllm_tools.cli.options import split_weight

HEAVY = ("torch", "transformers", "chromadb", "numpy", "pydantic")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved_tiny_model(tmp_path_factory))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    here = tmp_path_factory.mktemp("media")
    return SimpleNamespace(
        image=str(write_image(here / "bell.png")),
        audio=str(write_sound(here / "bell.wav")),
        video=str(write_video(here / "bell.mp4")),
        mesh=str(write_mesh(here / "bell.glb")),
    )


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def pipe_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def assert_one_error(text: str) -> None:
    assert text.startswith("ibllm: error: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")


# ---- ask


def test_ask_prints_the_answer(model: str, media: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "What is this?", media.image, "--model", model]) == 0
    out, err = capsys.readouterr()
    assert out == Assistant.load(model).ask("What is this?", media.image).text + "\n"
    assert err == ""


def test_ask_with_json_prints_an_answer_with_evidence(
    model: str, media: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [media.image, f"{media.audio}=3"]
    assert main(["ask", "--json", "What?", files[0], "--no-cache", files[1], "--model", model]) == 0
    answer = Answer.model_validate_json(capsys.readouterr().out)
    assert [(item.name, item.weight) for item in answer.evidence] == [("bell.png", 0.25), ("bell.wav", 0.75)]
    assert not answer.cache


def test_ask_without_a_file_asks_the_language_model(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "What is a bell?", "--model", model, "--json", "--max-new-tokens", "3"]) == 0
    answer = Answer.model_validate_json(capsys.readouterr().out)
    assert (answer.evidence, answer.usage.completion_tokens) == ((), 3)


def test_a_dash_reads_a_file_from_stdin(
    model: str, media: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe_in(monkeypatch, Path(media.audio).read_bytes())
    assert main(["ask", "--model", model, "--json", "What?", "--", "-=2", media.image]) == 0
    answer = Answer.model_validate_json(capsys.readouterr().out)
    assert [(item.name, item.modality) for item in answer.evidence] == [("stdin", "audio"), ("bell.png", "image")]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("bell.wav", ("bell.wav", None)),
        ("bell.wav=0.7", ("bell.wav", 0.7)),
        ("a=b.wav=2", ("a=b.wav", 2.0)),
        ("bell.wav=loud", ("bell.wav=loud", None)),
        ("bell=1", ("bell=1", None)),
        ("-=0.5", ("-", 0.5)),
        ("https://x.org/y.png=2", ("https://x.org/y.png", 2.0)),
        ("https://x.org/y.png?size=2", ("https://x.org/y.png?size=2", None)),
        ("data:image/png;base64,AA==", ("data:image/png;base64,AA==", None)),
        ("data:image/png;base64,AA===0.5", ("data:image/png;base64,AA==", 0.5)),
        ("x" * 5000, ("x" * 5000, None)),
    ],
)
def test_a_weight_follows_the_last_equals_sign(
    argument: str, expected: tuple[str, float | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bell=1").touch()
    assert split_weight(argument) == expected


# ---- what cannot be used


def test_every_unusable_file_is_one_line_and_exit_code_2(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in broken_files(tmp_path).values():
        assert main(["ask", "What?", str(path), "--model", model]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert_one_error(err)
        assert path.name in err or "nowhere.bin" in err


@pytest.mark.parametrize("seconds", [0.01, 0.5])
def test_short_and_silent_sounds_are_answered(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: float
) -> None:
    assert main(["describe", str(write_sound(tmp_path / "quiet.wav", seconds, 0.0)), "--model", model]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", " "],
        ["ask", "What?", "{image}=-1"],
        ["ask", "What?", "{image}=0"],
        ["ask", "What?", "-", "-"],
        ["ask", "What?", "{image}", "--root", "{elsewhere}"],
        ["ask", "What?", "https://example.com/bell.png"],
        ["ask", "What?", "{image}", "--temperature", "-1"],
        ["ask", "What?", "{image}", "--device", "toaster"],
        ["ask", "What?", "{image}", "--max-new-tokens", "0"],
        ["embed", "{image}", "-o", "out.txt"],
        ["embed", "{image}", "-o", "{elsewhere}/no/such/folder/out.npy"],
    ],
)
def test_a_request_that_is_wrong_is_one_line_and_exit_code_2(
    arguments: list[str], model: str, media: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(image=media.image, elsewhere=tmp_path) for word in arguments]
    assert main([*words, "--model", model]) == 2
    assert_one_error(capsys.readouterr().err)


def test_a_missing_model_is_one_line_and_exit_code_2(
    media: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "What?", media.image, "--model", "/nowhere"]) == 2
    assert_one_error(capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["ask"], ["sing"], ["ask", "What?", "--loud"], ["embed", "a.png"], ["--loud"]])
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    assert_one_error(err)
    assert "--help" in err


@pytest.mark.parametrize("content", [b"", b"\x00\x01nothing known"])
def test_unusable_stdin_is_one_line_and_exit_code_2(
    content: bytes, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe_in(monkeypatch, content)
    assert main(["ask", "What?", "-", "--model", model]) == 2
    assert_one_error(capsys.readouterr().err)


def test_no_more_of_stdin_is_read_than_allowed(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe_in(monkeypatch, b"word " * 1000)
    monkeypatch.setattr("ibllm_tools.cli.options.access", lambda _: Access(limits=Limits(max_bytes=100)))
    assert main(["ask", "What?", "-", "--model", model]) == 2
    assert "the limit is 100" in capsys.readouterr().err
    assert sys.stdin.buffer.tell() == 101


# ---- describe


def test_describe_answers_what_it_can_and_reports_the_rest(
    model: str, media: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = broken_files(tmp_path)
    files = [media.image, str(broken["truncated image"]), media.mesh, str(broken["missing"])]
    assert main(["describe", *files, "--model", model]) == 2
    out, err = capsys.readouterr()
    assert [line.partition(": ")[0] for line in out.splitlines()] == [media.image, media.mesh]
    assert all(line.startswith("ibllm: error: ") for line in err.splitlines())
    assert len(err.splitlines()) == 2


def test_describe_prints_json_lines(model: str, media: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", media.video, media.audio, "--json", "--model", model]) == 0
    answers = [Answer.model_validate_json(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer.evidence[0].modality for answer in answers] == ["video", "audio"]


# ---- embed


def test_embed_writes_rows_and_what_they_are(model: str, media: SimpleNamespace, tmp_path: Path) -> None:
    assert main(["embed", media.image, media.audio, "-o", str(tmp_path / "out.npy"), "--model", model]) == 0
    rows, summary = np.load(tmp_path / "out.npy"), json.loads((tmp_path / "out.json").read_text())
    assistant = Assistant.load(model)
    np.testing.assert_allclose(rows, assistant.embed(media.image, media.audio), atol=1e-6)
    assert summary["fingerprint"] == assistant.embedder.fingerprint
    assert [row["source"] for row in summary["rows"]] == [media.image, media.audio]


def test_embed_leaves_out_and_reports_what_cannot_be_used(
    model: str, media: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = broken_files(tmp_path)
    files = [str(broken["truncated sound"]), media.mesh, str(broken["missing"])]
    assert main(["embed", *files, "-o", str(tmp_path / "out.npy"), "--model", model]) == 2
    assert len(np.load(tmp_path / "out.npy")) == len(json.loads((tmp_path / "out.json").read_text())["rows"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_embed_writes_nothing_where_nothing_can_be_used(model: str, tmp_path: Path) -> None:
    assert main(["embed", "nowhere.png", "-o", str(tmp_path / "out.npy"), "--model", model]) == 2
    assert list(tmp_path.iterdir()) == []


# ---- doctor


def test_doctor_shows_packages_extras_and_the_model(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--model", model]) == 0
    report = Report.model_validate_json(capsys.readouterr().out)
    assert {"torch", "transformers", "chromadb"} <= set(report.packages)
    media = ["audio", "video", "mesh"]
    more = ["train", "quantize", "faiss", "parquet", "ray", "structured"]
    extras = [*media, *more, "langchain", "agents", "llama-index", "mcp"]
    assert [extra.name for extra in report.extras] == extras
    assert report.model is not None
    assert report.model.cached_images == 32
    loaded = Assistant.load(model).model
    assert report.model.parameters == sum(tensor.numel() for tensor in loaded.state_dict().values())


def test_doctor_says_how_to_install_a_missing_extra(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ibllm_tools.cli import doctor

    found = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "trimesh" else found(package))
    assert main(["doctor", "--model", model]) == 0
    assert "mesh: missing trimesh: pip install 'ibllm-tools[mesh]'" in capsys.readouterr().out


def test_doctor_reports_an_unusable_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    assert main(["doctor", "--model", str(tmp_path)]) == 2
    assert "PROBLEM" in capsys.readouterr().out


def test_doctor_says_what_an_encoder_alone_is_good_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ImageBindModel(ImageBindConfig(imu_config={"hidden_size": 8, "num_attention_heads": 2})).save_pretrained(tmp_path)
    assert main(["doctor", "--model", str(tmp_path)]) == 2
    assert "of type 'imagebind', which answers no questions; `ibllm embed`" in capsys.readouterr().out


def test_ctrl_c_while_libraries_are_imported_ends_at_once() -> None:
    code = (
        "import signal\nfrom ibllm_tools.cli.terminal import interrupted_at_once\n"
        "with interrupted_at_once():\n"
        "    try: signal.raise_signal(signal.SIGINT)\n"
        "    except BaseException: pass\n"
        "    print('swallowed')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")


# ---- the program


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"ibllm-tools {ibllm_tools.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    text = command_parser(command).format_help()
    assert f"  ibllm {command} " in text
    assert "examples:" in text


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["describe", "--help"], ["embed", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom ibllm_tools.cli import main\n"
        f"try: main({arguments!r})\n"
        f"except SystemExit: print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"


def test_an_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ibllm_tools.cli.doctor.run", interrupt)
    assert main(["doctor"]) == 130
    assert capsys.readouterr() == ("", "\n")


def test_the_module_runs_and_a_closed_pipe_is_quiet(model: str, media: SimpleNamespace) -> None:
    command = [sys.executable, "-m", "ibllm_tools", "describe", media.image, media.mesh, "--model", model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_the_documentation_names_every_field_of_the_json() -> None:
    documented = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    for model in (Answer, Evidence, Usage):
        for field in model.model_fields:
            assert f"`{field}`" in documented
