"""``ibllm cache``: build a visual cache from what there is, and look at it."""

import json
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
from chroma_server import served
from sample_files import png, write_image, write_sound
from tiny_model import saved_tiny_model

from ibllm_tools import Assistant, VisualCache
from ibllm_tools.assistant.embedding import JointEmbedder
from ibllm_tools.checkpoints import convert_visual_cache
from ibllm_tools.cli import main
from ibllm_tools.errors import StoreError
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

    def test_a_source_that_is_not_there_makes_nothing(
        self, photos: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for missing in ("phtos", "features.npy"):
            assert build(photos, tmp_path / missing, "-o", tmp_path / "cache", "--model", model) == 2
            assert_one_error(capsys.readouterr().err, f"{missing}: no such file or folder")
        assert not (tmp_path / "cache").exists()

    def test_places_below_the_home_folder(
        self, photos: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("HOME", str(photos.parent))
        monkeypatch.chdir(photos.parent)
        assert build("~/photos", "-o", "~/caches/one", "--model", model) == 0
        assert info(photos.parent / "caches" / "one", capsys).features == 3
        assert not Path("~").exists()

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
        said = capsys.readouterr()
        assert_one_error(said.err, "row 2")
        assert "next:" not in said.out

    def test_a_bad_file_is_reported_and_left_out(
        self, tmp_path: Path, photos: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "broken.npy").write_bytes(b"nonsense")
        command = (tmp_path / "broken.npy", saved_features(tmp_path, 30), photos)
        assert build(*command, "-o", tmp_path / "cache", "--model", model) == 2
        assert_one_error(capsys.readouterr().err, "broken.npy: cannot be read")
        assert info(tmp_path / "cache", capsys).features == 33

    def test_bad_files_alone_make_nothing(self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "broken.npy").write_bytes(b"nonsense")
        assert build(tmp_path / "broken.npy", "-o", tmp_path / "cache", "--model", model) == 2
        assert_one_error(capsys.readouterr().err, "broken.npy: cannot be read")
        assert not (tmp_path / "cache").exists()

    @pytest.mark.usefixtures("small_scale")
    def test_a_damaged_index_is_an_error(self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        build(saved_features(tmp_path, 70), "-o", tmp_path / "cache", "--model", model)
        index = tmp_path / "cache" / "visual_cache.index"
        content = bytearray(index.read_bytes())
        content[-1] ^= 1
        index.write_bytes(content)
        capsys.readouterr()
        assert main(["cache", "info", str(tmp_path / "cache"), "--verify"]) == 2
        said = capsys.readouterr()
        assert_one_error(said.err, "visual_cache.index: the index is damaged; delete it")
        assert "index:        damaged, 0.0" in said.out

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

    @pytest.mark.parametrize("count", ["0", "-3"])
    def test_there_is_at_least_one(
        self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], count: str
    ) -> None:
        command = (saved_features(tmp_path, 5), "-o", tmp_path / "cache", "--model", model, "--prototypes", count)
        assert build(*command) == 2
        assert_one_error(capsys.readouterr().err, f"--prototypes {count}: at least 1")
        assert [path.name for path in tmp_path.iterdir()] == ["features.npy"]

    def test_they_may_go_into_an_empty_folder(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = saved_features(tmp_path, 90)
        (tmp_path / "cache").mkdir()
        monkeypatch.chdir(tmp_path / "cache")
        assert build(file, "-o", ".", "--model", model, "--prototypes", "12") == 0
        assert info(tmp_path / "cache", capsys).features == 12
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "features.npy"]

    def test_what_lies_in_their_place_is_left_alone(
        self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = saved_features(tmp_path, 90)
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "a.txt").write_text("mine")
        for place in (tmp_path / "notes", file):
            assert build(file, "-o", place, "--model", model, "--prototypes", "12") == 2
            assert_one_error(capsys.readouterr().err, "there is something already")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["features.npy", "notes"]

    def test_what_comes_into_their_place_meanwhile_is_left_alone(
        self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        condensed = VisualCache.condensed

        def disturbed(self: VisualCache, *args: object, **named: object) -> VisualCache:
            (tmp_path / "cache").mkdir()
            (tmp_path / "cache" / "a.txt").write_text("mine")
            return condensed(self, *args, **named)

        monkeypatch.setattr(VisualCache, "condensed", disturbed)
        command = (saved_features(tmp_path, 90), "-o", tmp_path / "cache", "--model", model, "--prototypes", "12")
        assert build(*command) == 2
        assert_one_error(capsys.readouterr().err, ".cache.partial: cannot be moved")
        assert (tmp_path / "cache" / "a.txt").read_text() == "mine"

    def test_it_says_how_many_there_are(self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Of many equal features there are fewer prototypes than were asked for."""
        rows = np.tile(features(1), (40, 1))
        rows[:, 0] += np.linspace(0, 1e-6, 40, dtype=np.float32)
        np.save(tmp_path / "features.npy", rows)
        command = (tmp_path / "features.npy", "-o", tmp_path / "cache", "--model", model, "--prototypes", "12")
        assert build(*command) == 0
        said = capsys.readouterr().out
        held = info(tmp_path / "cache", capsys).features
        assert held < 12
        assert f": {held} image features" in said

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

    def test_it_is_found_by_its_name(
        self, photos: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        encoder = JointEmbedder.load(model, device="cpu")
        with MediaLibrary.open(tmp_path / "library", name="holiday", embedder=encoder) as library:
            library.add(photos, progress=False)
        command = ("--library", tmp_path / "library", "-o", tmp_path / "cache", "--model", model)
        assert build(*command) == 2
        assert build(*command, "--name", "holiday") == 0
        assert "3 image features" in capsys.readouterr().out

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
        assert_one_error(capsys.readouterr().err, "no visual cache there", "ibllm cache build")

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


@pytest.mark.usefixtures("small_scale")
class TestOnAServer:
    @pytest.fixture(autouse=True)
    def _server(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with served(tmp_path_factory.mktemp("server")) as (self.url, _):
            yield

    def ask(self, photos: Path, model: str, *options: str | Path) -> int:
        return main(["ask", "What?", str(photos / "a.png"), "--model", model, "--json", *map(str, options)])

    def test_a_large_cache_has_its_index_where_it_is_told(
        self, tmp_path: Path, photos: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        place = ("--cache-index", tmp_path / "index")
        assert build(saved_features(tmp_path, 70), "-o", self.url, "--model", model, *place) == 0
        assert f"--cache-index {tmp_path / 'index'}" in capsys.readouterr().out
        found = info(self.url, capsys, *map(str, place))
        assert (found.index.state, found.index.path) == (IndexState.FRESH, tmp_path / "index" / "visual_cache.index")
        assert self.ask(photos, model, "--cache", self.url, *place) == 0
        assert json.loads(capsys.readouterr().out)["cache"] is True

    def test_without_a_place_for_its_index_it_is_filled_and_says_what_is_needed(
        self,
        tmp_path: Path,
        photos: Path,
        model: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert build(saved_features(tmp_path, 70), "-o", self.url, "--model", model) == 0
        assert f"--cache {self.url} --cache-index DIR" in capsys.readouterr().out
        assert main(["cache", "info", self.url]) == 0
        assert "with whoever asks; name its folder (--cache-index DIR)" in capsys.readouterr().out

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a model is loaded")

        monkeypatch.setattr("ibllm_tools.assistant.assistant.Assistant.load", refuse)
        assert self.ask(photos, model, "--cache", self.url) == 2
        assert_one_error(capsys.readouterr().err, "70 features", "--cache-index DIR")

    def test_asking_and_looking_make_no_cache(
        self, photos: Path, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for command in (("ask", "What?", str(photos / "a.png"), "--cache", self.url), ("cache", "info", self.url)):
            assert main([*command]) == 2
            assert_one_error(capsys.readouterr().err, "no visual cache there", "ibllm cache build")
        with (
            Assistant.load(model, device="cpu", cache=self.url) as assistant,
            pytest.raises(StoreError, match="no visual cache there"),
        ):
            assistant.ask("What?", photos / "a.png")
        with VectorDatabase.open(self.url) as database:
            assert database.names() == []
