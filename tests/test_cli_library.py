"""``ibllm index``, ``search`` and ``library`` in the terminal."""

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from sample_files import write_image, write_mesh, write_sound, write_video
from tiny_model import saved_tiny_model

from ibllm_tools import Entry, Hit, IndexReport, MediaLibrary
from ibllm_tools.cli import main, options
from ibllm_tools.library import LibraryStats
from ibllm_tools.library.entry import SegmentHit
from ibllm_tools.library.exporting import ExportReport
from ibllm_tools.library.importing import ImportReport
from ibllm_tools.library.verification import LibraryCheck
from ibllm_tools.media.sniff import Modality

IMAGES = 60
HEAVY = ("torch", "transformers", "chromadb", "numpy", "pydantic")
CaptureFixture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved_tiny_model(tmp_path_factory))


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_image(folder / "red bell.png")
    write_sound(folder / "tone.wav", seconds=3)
    write_video(folder / "clip.mp4")
    write_mesh(folder / "box.glb")
    (folder / "notes.md").write_text("# Towers\n\nA bell rings in the tower.\x1b[2J\u202e It is old.\n")
    (folder / "program.py").write_text("print(1)")
    return folder


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, media: Path, model: str) -> str:
    """A library that tests look into and do not change."""
    library = str(tmp_path_factory.mktemp("filled") / "library")
    said = ["--tag", "a", "--tag", "b", "--meta", "year=2024", "--meta", 'who=["Ann", "Bo"]', "--meta", "zip=01234"]
    assert main(["index", str(media), "--library", library, *said, "--model", model]) == 0
    return library


def assert_one_error(text: str) -> None:
    assert text.startswith("ibllm: error: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")


# ---- index


def test_index_says_what_became_of_the_files(media: Path, model: str, tmp_path: Path, capsys: CaptureFixture) -> None:
    command = ["index", str(media), "--library", str(tmp_path / "library"), "--model", model]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out.startswith("5 added, 0 changed, 0 unchanged, 0 moved, 1 ignored, 0 failed; 5 entries in ")
    assert err == ""
    assert main([*command, "--json"]) == 0
    report = IndexReport.model_validate_json(capsys.readouterr().out)
    assert (report.unchanged, report.entries, report.failures) == (5, 0, ())


def test_a_file_that_cannot_be_used_is_reported_and_the_others_are_indexed(
    media: Path, model: str, tmp_path: Path, capsys: CaptureFixture
) -> None:
    (tmp_path / "cut.png").write_bytes((media / "red bell.png").read_bytes()[:60])
    files = [str(tmp_path / "cut.png"), str(media / "tone.wav"), str(tmp_path / "nowhere.wav"), "https://x.org/a.png"]
    assert main(["index", *files, "--library", str(tmp_path / "library"), "--json", "--model", model]) == 2
    out, err = capsys.readouterr()
    report = IndexReport.model_validate_json(out)
    assert (report.added, {failure.source for failure in report.failures}) == (1, {files[0], files[2], files[3]})
    assert len(err.splitlines()) == 3
    assert all(line.startswith("ibllm: error: ") for line in err.splitlines())


def test_strict_stops_at_the_first(media: Path, model: str, tmp_path: Path, capsys: CaptureFixture) -> None:
    for file in (str(tmp_path / "nowhere.wav"), "https://x.org/a.png"):
        words = ["index", file, str(media), "--library", str(tmp_path / "library"), "--strict", "--model", model]
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert_one_error(err)


def test_what_is_said_of_the_files_is_stored_as_what_it_is(filled: str) -> None:
    with MediaLibrary.open(filled) as library:
        entry = next(library.list(modality="image"))
    assert entry.tags == ("a", "b")
    assert entry.metadata == {"year": 2024, "who": ["Ann", "Bo"], "zip": "01234"}


def test_prune_removes_what_has_gone(media: Path, model: str, tmp_path: Path, capsys: CaptureFixture) -> None:
    write_image(tmp_path / "brief.png", (1, 2, 3))
    write_image(tmp_path / "lasting.png", (3, 2, 1))
    command = ["index", str(tmp_path / "*.png"), "--library", str(tmp_path / "library"), "--model", model]
    assert main(command) == 0
    (tmp_path / "brief.png").unlink()
    capsys.readouterr()
    assert main([*command, "--prune", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pruned"], report["unchanged"]) == ([str(tmp_path / "brief.png")], 1)


def test_captions_are_the_models_own_descriptions(
    media: Path, model: str, tmp_path: Path, capsys: CaptureFixture
) -> None:
    words = [str(media / "red bell.png"), str(media / "notes.md"), "--library", str(tmp_path / "library"), "--caption"]
    assert main(["index", *words, "--model", model]) == 0
    assert main(["describe", words[0], "--model", model]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    with MediaLibrary.open(tmp_path / "library") as library:
        assert [entry.caption for entry in library.list(modality=["image", "text"])] == [said, None]


def test_windows_and_chunks_have_the_length_that_is_asked_for(media: Path, model: str, tmp_path: Path) -> None:
    words = [str(media), "--library", str(tmp_path / "library"), "--window", "2", "--chunk-chars", "24"]
    assert main(["index", *words, "--model", model]) == 0
    with MediaLibrary.open(tmp_path / "library") as library:
        assert [(entry.start, entry.end) for entry in library.list(modality="audio")] == [(0, 2), (1, 3)]
        assert max(len(entry.text or "") for entry in library.list(modality="text")) <= 24


def test_a_data_uri_is_kept_in_the_store(media: Path, model: str, tmp_path: Path) -> None:
    words = ["index", "data:text/plain,A%20ringing%20bell", "--library", str(tmp_path / "library"), "--model", model]
    assert main(words) == 0
    with MediaLibrary.open(tmp_path / "library") as library:
        (entry,) = library.list()
        assert (entry.text, entry.source) == ("A ringing bell", entry.handle)
        assert library.attachment(entry).read_bytes() == b"A ringing bell"


@pytest.mark.parametrize(
    "words",
    [
        ["--meta", "year"],
        ["--meta", "year=1", "--meta", "year=2"],
        ["--meta", "sha256=x"],
        ["--meta", 'a={"b": 1}'],
        ["--meta", "a=[]"],
        ["--tag", ""],
        ["--window", "0"],
        ["--window", "nan"],
        ["--window", "2", "--step", "5"],
        ["--chunk-chars", "-1"],
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_made(
    words: list[str], media: Path, tmp_path: Path, capsys: CaptureFixture
) -> None:
    library = tmp_path / "library"
    assert main(["index", str(media), "--library", str(library), *words, "--model", "/nowhere"]) == 2
    err = capsys.readouterr().err
    assert_one_error(err)
    assert "/nowhere" not in err
    assert not library.exists()


INTERRUPTED_AT_THE_21ST = """
import signal, sys
from ibllm_tools.assistant.embedding import JointEmbedder
from ibllm_tools.cli import main

encode = JointEmbedder.embed_segments

def encode_and_interrupt(*arguments, **options):
    for count, vector in enumerate(encode(*arguments, **options)):
        if count == 20:
            signal.raise_signal(signal.SIGINT)
        yield vector

JointEmbedder.embed_segments = encode_and_interrupt
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(
    tmp_path: Path, model: str, capsys: CaptureFixture
) -> None:
    (tmp_path / "media").mkdir()
    for index in range(IMAGES):
        write_image(tmp_path / "media" / f"{index:03}.png", (index, 100, 9))
    library = tmp_path / "library"
    words = ["index", str(tmp_path / "media"), "--library", str(library), "--json", "--model", model]
    run = [sys.executable, "-c", INTERRUPTED_AT_THE_21ST, *words]
    process = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "\n")
    with MediaLibrary.open(library) as opened:
        done = opened.stats().sources
        assert 0 < done < IMAGES
    assert main(words) == 0
    report = IndexReport.model_validate_json(capsys.readouterr().out)
    assert (report.unchanged, report.added, report.failures) == (done, IMAGES - done, ())
    with MediaLibrary.open(library) as opened:
        assert opened.stats().entries == {"image": IMAGES}


# ---- search


def test_search_prints_a_line_per_source(filled: str, model: str, capsys: CaptureFixture) -> None:
    assert main(["search", "a bell", "--library", filled, "--model", model]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = out.splitlines()
    assert [row.split()[0] for row in rows] == ["1", "2", "3", "4", "5"]
    assert all(place in out for place in ("red bell.png", "notes.md@0-", "tone.wav@0.0-3.0s", "clip.mp4@", "box.glb"))
    assert all(letter.isprintable() for row in rows for letter in row)


def test_search_with_json_prints_hits(filled: str, model: str, capsys: CaptureFixture) -> None:
    words = ["--where", '{"tags": {"$contains": "a"}}', "--modality", "image", "--modality", "audio", "-k", "1"]
    assert main(["search", "a bell", "--library", filled, "--json", *words, "--model", model]) == 0
    (hit,) = [Hit.model_validate_json(line) for line in capsys.readouterr().out.splitlines()]
    assert hit.modality in ("image", "audio")
    assert hit.segments[0].id == hit.id


def test_a_name_of_a_file_is_that_file(
    filled: str, model: str, media: Path, capsys: CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(media)

    def best(*words: str) -> tuple[str, float]:
        assert main(["search", *words, "--library", filled, "--json", "-k", "1", "--model", model]) == 0
        hit = Hit.model_validate_json(capsys.readouterr().out)
        return hit.name, round(hit.similarity or 0, 3)

    assert best("tone.wav") == ("tone.wav", 1.0)
    assert best("tone.wav", "--text")[1] < 0.99
    assert best("red bell.png=0.9", "tone.wav=0.1")[0] == "red bell.png"
    assert best("red bell.png", "tone.wav=-0.2")[0] == "red bell.png"
    assert best(f"att://{next(iter(handles(filled, 'box.glb')))}") == ("box.glb", 1.0)


def handles(library: str, name: str) -> list[str]:
    with MediaLibrary.open(library) as opened:
        return [entry.sha256 for entry in opened.list() if entry.name == name]


@pytest.mark.parametrize("wrong", [["-k", "0"], ["--segments", "0"], ["--diversity", "2"]])
def test_a_number_that_cannot_be_is_refused_before_a_model_is_loaded(
    filled: str, wrong: list[str], capsys: CaptureFixture
) -> None:
    assert main(["search", "bell", "--library", filled, *wrong, "--model", "nowhere"]) == 2
    err = capsys.readouterr().err
    assert_one_error(err)
    assert f"{wrong[0].lstrip('-')}={wrong[1]}" in err


def test_words_are_searched_without_a_model(filled: str, capsys: CaptureFixture) -> None:
    words = ["search", "tower", "--library", filled, "--ranking", "words", "--model", "/nowhere"]
    assert main(words) == 0
    assert "A bell rings in the tower." in capsys.readouterr().out
    assert main([*words, "--min-score", "2"]) == 0
    assert capsys.readouterr().out == "nothing found\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["bell", "--library", "nowhere"], "no library there"),
        (["tonne.wav", "--library", "{filled}"], "no such file"),
        (["https://x.org/a.png", "--library", "{filled}"], "fetching URLs is switched off"),
        (["bell", "--library", "{filled}", "--where", "{{"], "not JSON"),
        (["bell", "--library", "{filled}", "--where", "[]", "--ranking", "words"], "expected a filter"),
        (["bell", "--library", "{filled}", "-k", "0", "--ranking", "words"], "at least 1"),
        (["bell", "--library", "{filled}", "--diversity", "2", "--ranking", "words"], "from 0 to 1"),
        (["bell", "--library", "{filled}", "--model", "/nowhere"], "/nowhere"),
    ],
)
def test_a_wrong_search_is_one_line(
    words: list[str], reason: str, filled: str, capsys: CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["search", *(word.format(filled=filled) for word in words)]) == 2
    err = capsys.readouterr().err
    assert_one_error(err)
    assert reason in err
    assert list(tmp_path.iterdir()) == []


def test_another_encoder_is_one_line(filled: str, capsys: CaptureFixture) -> None:
    assert main(["search", "bell", "--library", filled]) == 2
    err = capsys.readouterr().err
    assert_one_error(err)
    assert "holds the vectors of encoder" in err


# ---- library


def test_stats(filled: str, capsys: CaptureFixture) -> None:
    assert main(["library", "stats", filled, "--json"]) == 0
    stats = LibraryStats.model_validate_json(capsys.readouterr().out)
    assert (stats.sources, stats.entries["audio"], stats.seconds["audio"]) == (5, 1, 3.0)
    assert main(["library", "stats", filled]) == 0
    out = capsys.readouterr().out
    assert "\n  audio      1, 0:00:03\n" in out
    assert stats.encoder in out


def test_list(filled: str, capsys: CaptureFixture) -> None:
    assert main(["library", "list", filled, "--json"]) == 0
    entries = [Entry.model_validate_json(line) for line in capsys.readouterr().out.splitlines()]
    assert len(entries) == 5
    assert main(["library", "list", filled, "--modality", "text", "--where", '{"year": 2024}']) == 0
    out = capsys.readouterr().out
    assert out.startswith("text     notes.md@0-")
    assert all(letter.isprintable() for letter in out.rstrip("\n"))
    assert main(["library", "list", filled, "--limit", "2", "--offset", "4", "--json"]) == 0
    assert Entry.model_validate_json(capsys.readouterr().out) == entries[4]


@pytest.mark.parametrize("number", ["--limit", "--offset"])
def test_a_negative_number_is_one_line(filled: str, capsys: CaptureFixture, number: str) -> None:
    assert main(["library", "list", filled, number, "-5"]) == 2
    err = capsys.readouterr().err
    assert_one_error(err)
    assert f"{number[2:]}=-5, expected a whole number of at least 0" in err


def test_verify(filled: str, media: Path, model: str, tmp_path: Path, capsys: CaptureFixture) -> None:
    assert main(["library", "verify", filled, "--json"]) == 0
    assert LibraryCheck.model_validate_json(capsys.readouterr().out).ok
    library = tmp_path / "library"
    assert main(["index", str(media), "--library", str(library), "--model", model]) == 0
    for thumbnail in library.glob("attachments/??/*"):
        thumbnail.unlink()
    capsys.readouterr()
    assert main(["library", "verify", str(library)]) == 2
    assert "thumbnails missing" in capsys.readouterr().out
    assert main(["library", "verify", str(library), "--repair"]) == 0
    assert main(["library", "verify", str(library)]) == 0


def test_export_and_import(filled: str, tmp_path: Path, capsys: CaptureFixture) -> None:
    folder, second = str(tmp_path / "export"), str(tmp_path / "second")
    assert main(["library", "export", filled, folder, "--files", "--json"]) == 0
    assert ExportReport.model_validate_json(capsys.readouterr().out).sources == 5
    assert main(["library", "import", second, folder, "--media", str(tmp_path / "media"), "--json"]) == 0
    assert ImportReport.model_validate_json(capsys.readouterr().out).written == 5
    assert main(["library", "import", second, folder, "--media", str(tmp_path / "media")]) == 0
    assert capsys.readouterr().out.startswith("5 sources, 5 entries, 0 of them written, 0 files copied in ")
    with MediaLibrary.open(second) as library:
        assert {Path(record.source).parent for record in library.sources()} == {tmp_path / "media"}


def test_import_to_another_folder_of_the_same_files(
    filled: str, media: Path, tmp_path: Path, capsys: CaptureFixture
) -> None:
    folder, second = str(tmp_path / "export"), str(tmp_path / "second")
    assert main(["library", "export", filled, folder]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: ibllm library import LIBRARY {folder}"
    assert main(["library", "import", second, folder, "--rebase", str(media), str(tmp_path / "gone")]) == 0
    capsys.readouterr()
    assert main(["library", "prune", second, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["removed"]) == 5
    assert main(["library", "prune", second]) == 0
    assert capsys.readouterr().out == "0 sources removed\n"


def test_what_could_not_be_exported_is_reported(
    media: Path, model: str, tmp_path: Path, capsys: CaptureFixture
) -> None:
    write_image(tmp_path / "brief.png")
    library = str(tmp_path / "library")
    assert main(["index", str(tmp_path / "brief.png"), "--library", library, "--model", model]) == 0
    (tmp_path / "brief.png").unlink()
    capsys.readouterr()
    assert main(["library", "export", library, str(tmp_path / "export"), "--files"]) == 2
    assert_one_error(capsys.readouterr().err)


def test_compact(media: Path, model: str, tmp_path: Path, capsys: CaptureFixture) -> None:
    library = str(tmp_path / "library")
    assert main(["index", str(media / "box.glb"), "--library", library, "--model", model]) == 0
    capsys.readouterr()
    assert main(["library", "compact", library]) == 0
    assert capsys.readouterr().out.startswith("database: ")
    assert main(["library", "compact", library, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vectors"] == 2
    assert main(["library", "list", library]) == 0
    assert capsys.readouterr().out == "point    box.glb\n"


@pytest.mark.parametrize("task", ["stats", "list", "verify", "prune", "compact", "export"])
def test_a_library_that_is_not_there_is_one_line_and_is_not_made(
    task: str, tmp_path: Path, capsys: CaptureFixture
) -> None:
    more = [str(tmp_path / "export")] if task == "export" else []
    assert main(["library", task, str(tmp_path / "library"), *more]) == 2
    err = capsys.readouterr().err
    assert_one_error(err)
    assert "no library there" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("library", ["~nosuchuser/library", "x" * 300])
def test_a_library_that_cannot_be_is_one_line(library: str, tmp_path: Path, capsys: CaptureFixture) -> None:
    for task in (["stats", library], ["export", library, str(tmp_path)], ["import", library, library]):
        assert main(["library", *task]) == 2
        assert_one_error(capsys.readouterr().err)


def test_another_name_is_another_library(filled: str, capsys: CaptureFixture) -> None:
    assert main(["library", "stats", filled, "--name", "second"]) == 2
    assert "no library 'second' there" in capsys.readouterr().err


def test_no_export_makes_no_library(tmp_path: Path, capsys: CaptureFixture) -> None:
    assert main(["library", "import", str(tmp_path / "library"), str(tmp_path)]) == 2
    assert_one_error(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


# ---- the program


@pytest.mark.parametrize("command", ["index", "search", "library"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys\nfrom ibllm_tools.cli import main\n"
        f"try: main([{command!r}, '--help'])\n"
        f"except SystemExit: print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"


def test_looking_into_a_library_imports_no_model(filled: str) -> None:
    code = (
        "import sys\nfrom ibllm_tools.cli import main\n"
        f"main(['library', 'stats', {filled!r}]), main(['library', 'list', {filled!r}])\n"
        f"main(['library', 'prune', {filled!r}])\n"
        "print(sorted({'torch', 'transformers', 'pyarrow', 'ray'} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"


def test_the_modalities_are_those_there_are() -> None:
    assert get_args(Modality) == options.MODALITIES


def test_the_documentation_names_every_field_of_the_json() -> None:
    documented = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    for model in (Hit, SegmentHit, IndexReport, LibraryStats, LibraryCheck, ExportReport, ImportReport):
        for field in model.model_fields:
            assert f"`{field}`" in documented, field


def test_a_library_that_is_not_there_is_named_before_a_model_is_loaded(tmp_path: Path, capsys: CaptureFixture) -> None:
    missing = tmp_path / "missing"
    assert main(["ask", "What rings?", "--library", str(missing), "--model", "/nowhere"]) == 2
    assert f"{missing}: no library there" in capsys.readouterr().err
    assert not missing.exists()
