"""``ibllm cache``: build a visual cache from what there is, and look at it."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest
from sample_files import png, write_image, write_sound
from tiny_model import saved_tiny_model

from ibllm_tools import VisualCache
from ibllm_tools.assistant.embedding import JointEmbedder
from ibllm_tools.checkpoints import convert_visual_cache
from ibllm_tools.cli import main
from ibllm_tools.library import MediaLibrary
from ibllm_tools.mini.architecture import PROJECTION_DIM
from ibllm_tools.store import visual_cache
from ibllm_tools.store.cache_info import CacheInfo, IndexState
from ibllm_tools.store.chroma import VectorDatabase
from ibllm_tools.store.sharded_collection import Scale
from ibllm_tools.store.visual_cache import AddReport

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved_tiny_model(tmp_path_factory))


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture
def small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches that are large from 40 features on."""
    opened = VisualCache.open.__func__
    monkeypatch.setattr(
        VisualCache,
        "open",
        classmethod(lambda cls, *args, **named: opened(cls, *args, **{"scale": Scale(20, 40), **named})),
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images in two folders, beside what is none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for place, colour in zip((folder / "a.png", folder / "b.PNG", folder / "more" / "c.png"), COLOURS, strict=True):
        write_image(place, colour)
    (folder / "notes.txt").write_text("no image")
    write_sound(folder / "bell.wav")
    return folder


def features(count: int, width: int = PROJECTION_DIM) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, width)).astype(np.float32)


def saved_features(folder: Path, count: int, width: int = PROJECTION_DIM) -> Path:
    np.save(folder / "features.npy", features(count, width))
    return folder / "features.npy"


def build(*arguments: str | Path) -> int:
    return main(["cache", "build", *map(str, arguments)])


def info(cache: Path, capsys: pytest.CaptureFixture[str], *options: str) -> CacheInfo:
    capsys.readouterr()
    assert main(["cache", "info", str(cache), "--json", *options]) == 0
    return CacheInfo.model_validate_json(capsys.readouterr().out)


def assert_one_error(text: str, *parts: str) -> None:
    assert text.startswith("ibllm: error: ")
    assert text.count("\n") == 1
    for part in parts:
        assert part in text


class TestImages:
    def test_the_images_of_a_folder_and_single_ones(
        self, photos: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        single = write_image(tmp_path / "d.png", (1, 2, 3))
        assert build(photos, single, "-o", tmp_path / "cache", "--model", model) == 0
        output = capsys.readouterr().out
        assert f"4 image features of width {PROJECTION_DIM}, 4 new" in output
        assert f"--cache {tmp_path / 'cache'} --model {model}" in output
        found = info(tmp_path / "cache", capsys)
        assert (found.features, found.collections) == (4, {"visual_cache": 4})
        assert found.fingerprint == JointEmbedder.load(model, device="cpu").fingerprint

    def test_again_adds_nothing(
        self, photos: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for new in (3, 0):
            assert build(photos, "-o", tmp_path / "cache", "--model", model) == 0
            assert f"3 image features of width {PROJECTION_DIM}, {new} new" in capsys.readouterr().out

    def test_a_bad_image_is_reported_and_left_out(
        self, photos: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (photos / "broken.png").write_bytes(png()[:40])
        assert build(photos, "-o", tmp_path / "cache", "--model", model) == 2
        assert_one_error(capsys.readouterr().err, "broken.png")
        assert info(tmp_path / "cache", capsys).features == 3

    def test_images_outside_the_roots_are_reported(
        self, photos: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = (photos, "-o", tmp_path / "cache", "--model", model, "--root", photos / "more")
        assert build(*command) == 2
        assert capsys.readouterr().err.count("ibllm: error") == 2
        assert info(tmp_path / "cache", capsys).features == 1

    def test_questions_can_be_asked_with_it(
        self, photos: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        build(photos, "-o", tmp_path / "cache", "--model", model)
        capsys.readouterr()
        command = [
            "ask",
            "What?",
            str(photos / "bell.wav"),
            "--model",
            model,
            "--cache",
            str(tmp_path / "cache"),
            "--json",
        ]
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out)["cache"] is True

    def test_a_folder_without_images(self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty").mkdir()
        assert build(tmp_path / "empty", "-o", tmp_path / "cache", "--model", model) == 2
        assert_one_error(capsys.readouterr().err, "no images in it")
        assert not (tmp_path / "cache").exists()


class TestFeatures:
    def test_a_file_of_features(self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        for new in (30, 0):
            assert build(saved_features(tmp_path, 30), "-o", tmp_path / "cache", "--model", model) == 0
            assert f"30 image features of width {PROJECTION_DIM}, {new} new" in capsys.readouterr().out

    def test_another_width_is_refused_before_anything_is_made(
        self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert build(saved_features(tmp_path, 5, width=7), "-o", tmp_path / "cache", "--model", model) == 2
        assert_one_error(capsys.readouterr().err, "width 7", f"width {PROJECTION_DIM}")
        assert not (tmp_path / "cache").exists()

    def test_a_bad_row_is_one_line(self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        rows = features(5)
        rows[2] = np.nan
        np.save(tmp_path / "features.npy", rows)
        assert build(tmp_path / "features.npy", "-o", tmp_path / "cache", "--model", model) == 2
        assert_one_error(capsys.readouterr().err, "row 2")

    @pytest.mark.usefixtures("small_scale")
    def test_a_large_one_gets_its_index(self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert build(saved_features(tmp_path, 70), "-o", tmp_path / "cache", "--model", model) == 0
        found = info(tmp_path / "cache", capsys, "--verify")
        assert list(found.collections.values()) == [20, 20, 20, 10]
        assert (found.index.state, found.index.features, found.index.needed) == (IndexState.FRESH, 70, True)
        assert main(["cache", "info", str(tmp_path / "cache")]) == 0
        text = capsys.readouterr().out
        assert "4, the largest of 20 features" in text
        assert "fresh, 70 features" in text

    @pytest.mark.usefixtures("small_scale")
    def test_questions_are_asked_of_a_large_one(
        self, photos: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        build(saved_features(tmp_path, 70), "-o", tmp_path / "cache", "--model", model)
        capsys.readouterr()
        command = [
            "ask",
            "What?",
            str(photos / "a.png"),
            "--model",
            model,
            "--cache",
            str(tmp_path / "cache"),
            "--json",
        ]
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out)["cache"] is True


class TestPrototypes:
    def test_only_they_are_kept(self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        command = (saved_features(tmp_path, 90), "-o", tmp_path / "cache", "--model", model, "--prototypes", "12")
        assert build(*command) == 0
        assert info(tmp_path / "cache", capsys).features == 12
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "features.npy"]

    def test_a_build_that_was_stopped_goes_on(
        self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command = (saved_features(tmp_path, 90), "-o", tmp_path / "cache", "--model", model, "--prototypes", "12")
        reports: list[AddReport] = []
        add_batches = VisualCache.add_batches

        def recorded(self: VisualCache, *args: object, **named: object) -> AddReport:
            reports.append(add_batches(self, *args, **named))
            return reports[-1]

        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(VisualCache, "add_batches", recorded)
        with monkeypatch.context() as patch:
            patch.setattr(visual_cache, "condense", stop)
            assert build(*command) == 130
        assert build(*command) == 0
        assert [(report.added, report.known) for report in reports] == [(90, 0), (0, 90)]
        assert info(tmp_path / "cache", capsys).features == 12

    def test_a_cache_that_is_there_is_left_alone(
        self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = saved_features(tmp_path, 30)
        build(file, "-o", tmp_path / "cache", "--model", model)
        capsys.readouterr()
        assert build(file, "-o", tmp_path / "cache", "--model", model, "--prototypes", "5") == 2
        assert_one_error(capsys.readouterr().err, "a cache already")
        assert info(tmp_path / "cache", capsys).features == 30

    def test_more_than_there_are_features(self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        command = (saved_features(tmp_path, 5), "-o", tmp_path / "cache", "--model", model, "--prototypes", "5")
        assert build(*command) == 2
        assert_one_error(capsys.readouterr().err, "5 prototypes of 5 features")


class TestLibrary:
    def test_its_images_go_in(
        self, photos: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with MediaLibrary.open(tmp_path / "library", embedder=JointEmbedder.load(model, device="cpu")) as library:
            library.add(photos, progress=False)
        for new in (3, 0):
            command = ("--library", tmp_path / "library", "-o", tmp_path / "cache", "--model", model)
            assert build(*command) == 0
            assert f"3 image features of width {PROJECTION_DIM}, {new} new" in capsys.readouterr().out

    def test_a_library_of_another_encoder(
        self, tmp_path: Path, photos: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with MediaLibrary.open(tmp_path / "library", embedder=JointEmbedder.load("mini", device="cpu")) as library:
            library.add(photos / "a.png", progress=False)
        assert build("--library", tmp_path / "library", "-o", tmp_path / "cache", "--model", model) == 2
        assert_one_error(capsys.readouterr().err, "a library of encoder")


class TestRequests:
    def test_nothing_to_build_from(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert build("-o", tmp_path / "cache") == 2
        assert_one_error(capsys.readouterr().err, "nothing to build from")

    def test_the_embedded_model_is_the_default(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from ibllm_tools.assistant.loading import read_cache_features
        from ibllm_tools.assistant.model_folder import CACHE_FILE, mini_folder

        shipped = mini_folder() / CACHE_FILE
        assert build(shipped, "-o", tmp_path / "cache") == 0
        assert info(tmp_path / "cache", capsys).features == len(read_cache_features(shipped))

    def test_no_model_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert build(saved_features(tmp_path, 3), "-o", tmp_path / "cache", "--model", tmp_path / "nothing") == 2
        assert_one_error(capsys.readouterr().err, "nothing")

    def test_info_of_nothing_makes_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["cache", "info", str(tmp_path / "cache")]) == 2
        assert_one_error(capsys.readouterr().err, "no visual cache")
        assert not (tmp_path / "cache").exists()

    def test_info_of_another_database(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        VectorDatabase.open(tmp_path).close()
        assert main(["cache", "info", str(tmp_path)]) == 2
        assert_one_error(capsys.readouterr().err, "no visual cache in it")

    def test_info_of_a_small_one(self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        build(saved_features(tmp_path, 30), "-o", tmp_path / "cache", "--model", model)
        capsys.readouterr()
        assert main(["cache", "info", str(tmp_path / "cache")]) == 0
        text = capsys.readouterr().out
        assert f"30 of width {PROJECTION_DIM}" in text
        assert "none, and none is needed" in text


@pytest.mark.usefixtures("small_scale")
def test_a_converted_index_gets_collections_and_an_index(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index = faiss.IndexFlatIP(PROJECTION_DIM)
    rows = features(70)
    index.add(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    faiss.write_index(index, str(tmp_path / "knn.index"))
    convert_visual_cache(tmp_path / "knn.index", tmp_path / "cache", model=model, progress=False)
    found = info(tmp_path / "cache", capsys)
    assert list(found.collections.values()) == [20, 20, 20, 10]
    assert found.index.state is IndexState.FRESH
