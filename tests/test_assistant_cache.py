"""The visual cache that an assistant draws its embeddings with: the model's own, another one, or none."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
from chroma_server import served
from sample_files import write_image
from tiny_model import saved_tiny_model

from ibllm_tools import Assistant, VisualCache
from ibllm_tools.checkpoints import convert_visual_cache
from ibllm_tools.checkpoints.visual_cache import CacheConversion
from ibllm_tools.cli import main
from ibllm_tools.cli.doctor import examine
from ibllm_tools.errors import EncoderMismatchError, StoreError, StoreLockedError
from ibllm_tools.mini.architecture import PROJECTION_DIM

SHIPPED, CONVERTED, ELSEWHERE = 32, 50, 40
"""How many features the cache in the model's file holds, the one in its folder, and one in another folder."""

OWN_THE_FOLDER = """if True:
    import pathlib, sys, time
    from ibllm_tools.store.folder_lock import own_folder
    own_folder(pathlib.Path(sys.argv[1]))
    print("owned", flush=True)
    time.sleep(60)
"""


def write_index(path: Path, count: int) -> Path:
    features = np.random.default_rng(count).normal(size=(count, PROJECTION_DIM)).astype(np.float32)
    index = faiss.IndexFlatIP(PROJECTION_DIM)
    index.add(features / np.linalg.norm(features, axis=1, keepdims=True))
    faiss.write_index(index, str(path))
    return path


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its features in a file."""
    return saved_tiny_model(tmp_path_factory)


@pytest.fixture(scope="module")
def model(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a converted cache in its folder, too."""
    folder = tmp_path_factory.mktemp("models") / "model"
    shutil.copytree(shipped, folder)
    convert_visual_cache(write_index(folder.parent / "knn.index", CONVERTED), folder, progress=False)
    return folder


@pytest.fixture
def elsewhere(shipped: Path, tmp_path: Path) -> CacheConversion:
    """A cache of the same encoder in a folder of its own."""
    index = write_index(tmp_path / "knn.index", ELSEWHERE)
    return convert_visual_cache(index, tmp_path / "cache", model=shipped, progress=False)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return write_image(tmp_path / "bell.png")


def used(assistant: Assistant, picture: Path) -> int:
    """How many features are in the cache that a question was answered with."""
    assert assistant.ask("What?", picture).cache
    assert isinstance(assistant._cache, VisualCache)
    return len(assistant._cache)


def test_a_converted_cache_in_the_models_folder_comes_before_the_file(model: Path, picture: Path) -> None:
    with Assistant.load(model, device="cpu") as assistant:
        assert used(assistant, picture) == CONVERTED


def test_without_one_the_file_is_used(shipped: Path, picture: Path) -> None:
    with Assistant.load(shipped, device="cpu") as assistant:
        assert used(assistant, picture) == SHIPPED


def test_an_unfinished_conversion_is_not_used(shipped: Path, picture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(shipped, folder)
    finished = convert_visual_cache(write_index(tmp_path / "knn.index", ELSEWHERE), folder, progress=False).folder
    finished.rename(folder / ".visual_cache.partial")
    with Assistant.load(folder, device="cpu") as assistant:
        assert used(assistant, picture) == SHIPPED


def test_no_cache_at_all(model: Path, picture: Path) -> None:
    with Assistant.load(model, device="cpu", cache=False) as assistant:
        assert not assistant.ask("What?", picture).cache


@pytest.mark.parametrize("kind", [str, Path])
def test_another_cache_may_be_named(model: Path, elsewhere: CacheConversion, picture: Path, kind: type) -> None:
    with Assistant.load(model, device="cpu", cache=kind(elsewhere.folder)) as assistant:
        assert used(assistant, picture) == ELSEWHERE


def test_the_cache_moves_the_embedding(model: Path, elsewhere: CacheConversion, picture: Path) -> None:
    with Assistant.load(model, device="cpu", cache=elsewhere.folder) as assistant:
        plain = assistant.embed(picture)
        assert used(assistant, picture) == ELSEWHERE
        with VisualCache.from_features(features_of(elsewhere), fingerprint=elsewhere.fingerprint) as expected:
            drawn = assistant._cache.enhance(plain)
            np.testing.assert_allclose(drawn, expected.enhance(plain), rtol=0, atol=2e-6)
            assert np.abs(drawn - plain).max() > 0.05


def features_of(conversion: CacheConversion) -> np.ndarray:
    index = faiss.read_index(str(conversion.folder.parent / "knn.index"))
    return index.reconstruct_n(0, index.ntotal)


def test_the_folder_is_free_until_a_question_needs_it(model: Path, picture: Path) -> None:
    with Assistant.load(model, device="cpu") as assistant:
        assistant.ask("What?")
        assistant.ask("What?", picture, use_cache=False)
        with subprocess.Popen(
            [sys.executable, "-c", OWN_THE_FOLDER, str(model / "visual_cache")], stdout=subprocess.PIPE
        ) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"owned\n"
            with pytest.raises(StoreLockedError, match=rf"process {owner.pid} owns .*http://host:port.*--no-cache"):
                assistant.ask("What?", picture)
            assert not assistant.ask("What?", picture, use_cache=False).cache
            owner.kill()
        assert used(assistant, picture) == CONVERTED


def test_the_folder_is_free_again_after_the_assistant(model: Path, picture: Path) -> None:
    with Assistant.load(model, device="cpu") as assistant:
        assert used(assistant, picture) == CONVERTED
    with subprocess.Popen(
        [sys.executable, "-c", OWN_THE_FOLDER, str(model / "visual_cache")], stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"owned\n"
        owner.kill()


def test_the_features_of_another_encoder_are_refused_when_they_are_needed(
    model: Path, picture: Path, tmp_path: Path
) -> None:
    VisualCache.open(tmp_path / "other", fingerprint="another", dimension=PROJECTION_DIM).close()
    with Assistant.load(model, device="cpu", cache=tmp_path / "other") as assistant:
        assert assistant.ask("What?").text
        with pytest.raises(EncoderMismatchError, match="'another'"):
            assistant.ask("What?", picture)


def test_a_place_without_a_cache_is_refused_before_the_model_is_loaded(model: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no visual cache"):
        Assistant.load(model, device="cpu", cache=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.fixture
def server(elsewhere: CacheConversion) -> Iterator[str]:
    """A Chroma server of the cache."""
    with served(elsewhere.folder) as (url, _):
        yield url


def test_a_server_may_be_named(model: Path, server: str, picture: Path) -> None:
    with Assistant.load(model, device="cpu", cache=server) as assistant:
        assert used(assistant, picture) == ELSEWHERE


def test_a_server_that_is_not_there(model: Path, picture: Path) -> None:
    with (
        Assistant.load(model, device="cpu", cache="http://127.0.0.1:9") as assistant,
        pytest.raises(StoreError, match=r"http://127\.0\.0\.1:9: opening failed"),
    ):
        assistant.ask("What?", picture)


# ---- from the terminal


def test_a_cache_is_named_from_the_terminal(
    model: Path, elsewhere: CacheConversion, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["ask", "What?"], ["describe"]):
        arguments = [*command, str(picture), "--json", "--model", str(model), "--cache", str(elsewhere.folder)]
        assert main(arguments) == 0
        assert '"cache":true' in capsys.readouterr().out


def test_a_wrong_place_is_one_line(
    model: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "What?", str(picture), "--model", str(model), "--cache", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr().err
    assert "no visual cache" in said
    assert said.count("\n") == 1


def test_a_cache_and_none_is_refused(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["ask", "What?", str(picture), "--cache", "here", "--no-cache"])
    assert "--no-cache" in capsys.readouterr().err


def test_the_doctor_counts_the_features_of_a_cache_that_was_built(
    shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(shipped, folder)
    np.save(tmp_path / "features.npy", np.eye(7, PROJECTION_DIM, dtype=np.float32))
    place = folder / "visual_cache"
    assert main(["cache", "build", str(tmp_path / "features.npy"), "-o", str(place), "--model", str(folder)]) == 0
    capsys.readouterr()
    main(["doctor", "--model", str(folder)])
    assert "visual cache of 7 images" in capsys.readouterr().out


def test_the_doctor_counts_the_features(model: Path, shipped: Path) -> None:
    found = [examine(str(folder)).model for folder in (model, shipped)]
    assert [files.cached_images for files in found if files is not None] == [CONVERTED, SHIPPED]
