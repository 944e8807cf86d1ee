"""From a FAISS index to a visual cache in ChromaDB that holds the same features."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
from official_files import tiny_imagebind_config, write_imagebind
from safetensors.numpy import load_file

from ibllm_tools.assistant.embedding import JointEmbedder
from ibllm_tools.checkpoints import convert_imagebind, convert_visual_cache, visual_cache
from ibllm_tools.checkpoints.faiss_index import FaissIndex
from ibllm_tools.checkpoints.visual_cache import CacheConversion
from ibllm_tools.errors import (
    CheckpointError,
    IbllmError,
    InvalidRequestError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
)
from ibllm_tools.imagebind import ImageBindConfig, ImageBindModel, ImageBindProcessor
from ibllm_tools.mini.world.language.tokenization import train_clip_tokenizer
from ibllm_tools.store.visual_cache import VisualCache

WIDTH, COUNT = 16, 120
CASES = [f"{visual}.{number}" for visual in ("image", "image+audio", "six") for number in range(5)]
EXACT = {
    "Flat": "IndexFlatIP",
    "IVF4,Flat": "IndexIVFFlat",
    "HNSW8": "IndexHNSWFlat",
    "IDMap,Flat": "IndexIDMap > IndexFlatIP",
    "IDMap2,Flat": "IndexIDMap2 > IndexFlatIP",
    "IDMap,IVF4,Flat": "IndexIDMap > IndexIVFFlat",
    "L2norm,IVF4,Flat": "IndexPreTransform > IndexIVFFlat",
    "IVF4,SQ8,RFlat": "IndexRefineFlat > IndexFlatIP",
}


def rows(count: int = COUNT, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def write_index(
    path: Path, kind: str = "Flat", features: np.ndarray | None = None, metric: int = faiss.METRIC_INNER_PRODUCT
) -> Path:
    features = rows() if features is None else features
    index = faiss.index_factory(features.shape[1], kind, metric)
    index.train(features)
    if kind.startswith("IDMap"):
        index.add_with_ids(features, np.arange(len(features))[::-1] * 7)
    else:
        index.add(features)
    faiss.write_index(index, str(path))
    return path


def save_encoder(folder: Path, width: int = WIDTH, logit_scale: float = 2.0) -> Path:
    """The smallest encoder there is: text alone."""
    tokenizer = train_clip_tokenizer(("a bell", "a dog"), 540)
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": len(tokenizer)}
    model = ImageBindModel(ImageBindConfig(projection_dim=width, text_config={**text, "logit_scale_init": logit_scale}))
    model.save_pretrained(folder)
    ImageBindProcessor(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture
def convert(encoder: Path, tmp_path: Path) -> Callable[[Path], CacheConversion]:
    return lambda index: convert_visual_cache(index, tmp_path / "cache", model=encoder, progress=False)


def opened(conversion: CacheConversion) -> VisualCache:
    return VisualCache.open(conversion.folder, fingerprint=conversion.fingerprint, dimension=conversion.dimension)


def require_same_features(conversion: CacheConversion, features: np.ndarray, tolerance: float = 1e-6) -> None:
    queries = rows(20, seed=1)
    with opened(conversion) as cache, VisualCache.from_features(features, fingerprint="any") as expected:
        assert len(cache) == len(features)
        np.testing.assert_allclose(cache.enhance(queries), expected.enhance(queries), rtol=0, atol=tolerance)


# ---- the official index


@pytest.fixture(scope="module")
def official_model(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    checkpoint = write_imagebind(reference, folder / "imagebind_w3D.pth")
    words = reference / "bpe_simple_vocab_16e6.txt.gz"
    config = tiny_imagebind_config(reference)
    convert_imagebind(checkpoint, folder / "model", tokenizer=words, config=config, progress=False)
    return folder / "model"


@pytest.fixture(scope="module")
def conversion(reference: Path, official_model: Path) -> CacheConversion:
    return convert_visual_cache(reference / "adapter" / "knn.index", official_model, progress=False)


class TestGolden:
    def test_every_feature_is_taken_over(self, conversion: CacheConversion, official_model: Path) -> None:
        assert (conversion.folder, conversion.features, conversion.dimension) == (
            official_model / "visual_cache",
            500,
            44,
        )
        assert (conversion.index_type, conversion.bytes, conversion.warnings) == ("IndexFlatIP", 88_045, ())
        with opened(conversion) as cache:
            assert len(cache) == 500

    def test_its_encoder_is_the_model(self, conversion: CacheConversion, official_model: Path) -> None:
        assert conversion.fingerprint == JointEmbedder.load(official_model, device="cpu").fingerprint

    def test_equals_the_research_code(self, conversion: CacheConversion, reference: Path) -> None:
        golden = load_file(reference / "adapter" / "visual.safetensors")
        options = json.loads((reference / "adapter" / "fixture.json").read_text())["visual_knn"]
        with opened(conversion) as cache:
            for case in CASES:
                k, temperature, weight = (options[case][f"cache_{name}"] for name in ("size", "t", "weight"))
                embedding = golden[f"visual.{case.rsplit('.', 1)[0]}.embed"].reshape(-1)
                enhanced = cache.enhance(embedding, k=k, temperature=temperature, weight=weight)
                expected = golden[f"knn.{case}.embed"].reshape(-1)
                np.testing.assert_allclose(enhanced, expected, rtol=0, atol=2e-6, err_msg=case)


# ---- kinds of indices


@pytest.mark.parametrize("kind", EXACT)
def test_an_index_that_keeps_its_vectors_is_taken_over_exactly(
    convert: Callable[[Path], CacheConversion], tmp_path: Path, kind: str
) -> None:
    conversion = convert(write_index(tmp_path / "knn.index", kind))
    assert (conversion.index_type, conversion.warnings) == (EXACT[kind], ())
    require_same_features(conversion, rows())


@pytest.mark.parametrize("kind", ["SQ8", "IVF4,SQ8", "HNSW8,SQ8", "PCA12,Flat"])
def test_a_compressed_index_is_taken_over_approximately(
    convert: Callable[[Path], CacheConversion], tmp_path: Path, kind: str
) -> None:
    conversion = convert(write_index(tmp_path / "knn.index", kind))
    assert "approximately" in conversion.warnings[0]
    require_same_features(conversion, rows(), tolerance=0.5 if "PCA" in kind else 0.02)


def test_equal_vectors_are_all_taken_over(convert: Callable[[Path], CacheConversion], tmp_path: Path) -> None:
    twice = np.repeat(rows(10), 2, axis=0)
    with opened(convert(write_index(tmp_path / "knn.index", features=twice))) as cache:
        assert len(cache) == 20


def test_l2_distance_orders_unit_vectors_alike(convert: Callable[[Path], CacheConversion], tmp_path: Path) -> None:
    conversion = convert(write_index(tmp_path / "knn.index", metric=faiss.METRIC_L2))
    assert "L2" in conversion.warnings[0]
    require_same_features(conversion, rows())


@pytest.mark.parametrize(
    ("metric", "scale", "name"), [(faiss.METRIC_L2, 2, "L2 distance"), (faiss.METRIC_L1, 1, "metric 2")]
)
def test_other_distances_are_refused(
    convert: Callable[[Path], CacheConversion], tmp_path: Path, metric: int, scale: int, name: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"{name}.*expected the inner product"):
        convert(write_index(tmp_path / "knn.index", features=rows() * scale, metric=metric))


def test_vectors_of_any_length_become_unit_vectors(convert: Callable[[Path], CacheConversion], tmp_path: Path) -> None:
    conversion = convert(write_index(tmp_path / "knn.index", features=rows() * 2.5))
    assert "lengths 2.5 to 2.5" in conversion.warnings[0]
    require_same_features(conversion, rows())


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e30])
def test_a_vector_without_direction_is_named(
    convert: Callable[[Path], CacheConversion], tmp_path: Path, value: float
) -> None:
    features = rows()
    features[77] = value
    with pytest.raises(CheckpointError, match="vector 77 is zero, undefined or infinite"):
        convert(write_index(tmp_path / "knn.index", features=features))


def test_lists_with_other_ids_are_refused(convert: Callable[[Path], CacheConversion], tmp_path: Path) -> None:
    index = faiss.index_factory(WIDTH, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(rows())
    index.add_with_ids(rows(), np.arange(COUNT) + 5)
    faiss.write_index(index, str(tmp_path / "knn.index"))
    with pytest.raises(CheckpointError, match="other ids than 0 to 119"):
        convert(tmp_path / "knn.index")


@pytest.mark.parametrize("kind", ["IVF4,FlatDedup", "IVF4,PQ4x4fs"])
def test_an_index_that_gives_no_vectors_back_is_refused(
    convert: Callable[[Path], CacheConversion], tmp_path: Path, kind: str
) -> None:
    with pytest.raises(CheckpointError, match=r"IndexIVF\w+ does not give its vectors back"):
        convert(write_index(tmp_path / "knn.index", kind))


# ---- files that are no index


@pytest.mark.parametrize("kind", ["Flat", "IVF4,Flat", "IDMap,Flat", "SQ8", "HNSW8", "L2norm,Flat"])
def test_a_truncated_index_is_refused(convert: Callable[[Path], CacheConversion], tmp_path: Path, kind: str) -> None:
    whole = write_index(tmp_path / "whole.index", kind).read_bytes()
    for length in [*range(0, 200, 7), len(whole) // 2, len(whole) - 1]:
        (tmp_path / "knn.index").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"knn\.index: .*download or copy it again") as caught:
            convert(tmp_path / "knn.index")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["Flat", "IVF4,Flat", "IDMap,Flat"])
@pytest.mark.parametrize("number", [2**33, 2**40, 2**62, 2**64 - 1])
def test_an_announced_size_is_not_believed(
    convert: Callable[[Path], CacheConversion], tmp_path: Path, kind: str, number: int
) -> None:
    whole = write_index(tmp_path / "whole.index", kind).read_bytes()
    for place in (8, 37):  # the number of vectors, and of what follows the head
        (tmp_path / "knn.index").write_bytes(whole[:place] + number.to_bytes(8, "little") + whole[place + 8 :])
        with pytest.raises(CheckpointError):
            convert(tmp_path / "knn.index")


@pytest.mark.parametrize("content", [b"not an index" * 100, b"PK\3\4" + bytes(1000), b"version https://git-lfs\n"])
def test_a_foreign_file_is_refused(convert: Callable[[Path], CacheConversion], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "knn.index").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"knn\.index: no readable FAISS index"):
        convert(tmp_path / "knn.index")


@pytest.mark.parametrize("kind", ["Flat", "IVF4,Flat", "IDMap,Flat", "PCA8,Flat"])
def test_damage_is_an_error_or_other_numbers(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    whole = write_index(tmp_path / "whole.index", kind).read_bytes()
    outcomes = set()
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[int(random.integers(0, 150))] = int(random.integers(0, 256))
        (tmp_path / "knn.index").write_bytes(damaged)
        try:
            index = FaissIndex(tmp_path / "knn.index")
            index.rows(0, len(index))
            outcomes.add(True)
        except CheckpointError:
            outcomes.add(False)
    assert outcomes == {True, False}


def test_a_missing_file_and_a_folder_are_refused(convert: Callable[[Path], CacheConversion], tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.index", tmp_path):
        with pytest.raises(CheckpointError, match="expected a FAISS index"):
            convert(path)


def test_an_empty_index_is_refused(convert: Callable[[Path], CacheConversion], tmp_path: Path) -> None:
    faiss.write_index(faiss.IndexFlatIP(WIDTH), str(tmp_path / "knn.index"))
    with pytest.raises(CheckpointError, match="an empty index"):
        convert(tmp_path / "knn.index")


def test_nothing_is_written_for_a_refused_file(convert: Callable[[Path], CacheConversion], tmp_path: Path) -> None:
    (tmp_path / "knn.index").write_bytes(b"not an index" * 100)
    with pytest.raises(CheckpointError):
        convert(tmp_path / "knn.index")
    assert [path.name for path in tmp_path.iterdir()] == ["knn.index"]


def test_without_faiss_the_extra_is_named(
    convert: Callable[[Path], CacheConversion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write_index(tmp_path / "knn.index")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ibllm-tools\[faiss\]'"):
        convert(index)


# ---- the encoder


def test_a_models_folder_gets_the_cache_and_is_the_encoder(tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "model")
    conversion = convert_visual_cache(write_index(tmp_path / "knn.index"), model, progress=False)
    assert conversion.folder == model / "visual_cache"
    assert conversion.fingerprint == JointEmbedder.load(model, device="cpu").fingerprint


def test_a_cache_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"name the folder of a converted model, .* or pass"):
        convert_visual_cache(write_index(tmp_path / "knn.index"), tmp_path / "cache")


def test_two_encoders_are_refused(tmp_path: Path, encoder: Path) -> None:
    model = save_encoder(tmp_path / "model")
    with pytest.raises(InvalidRequestError, match="leave out the model"):
        convert_visual_cache(write_index(tmp_path / "knn.index"), model, model=encoder)


def test_an_encoder_of_another_width_is_refused(tmp_path: Path, encoder: Path) -> None:
    index = write_index(tmp_path / "knn.index", features=rows(width=8))
    with pytest.raises(CheckpointError, match=r"features of width 8, .* has width 16"):
        convert_visual_cache(index, tmp_path / "cache", model=encoder)


@pytest.mark.parametrize("config", [None, "{}", '{"model_type": "llama"}'])
def test_a_folder_without_an_encoder_is_refused(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelNotFoundError, match="expected the folder of a converted"):
        convert_visual_cache(write_index(tmp_path / "knn.index"), tmp_path / "cache", model=tmp_path)


@pytest.mark.parametrize(
    ("name", "error"),
    [("config.json", ModelError), ("model.safetensors", CheckpointError), ("tokenizer.json", CheckpointError)],
)
def test_a_damaged_encoder_is_refused(tmp_path: Path, name: str, error: type[IbllmError]) -> None:
    model = save_encoder(tmp_path / "model")
    (model / name).write_bytes(b"damaged")
    with pytest.raises(error, match=str(model)):
        convert_visual_cache(write_index(tmp_path / "knn.index"), model, progress=False)


# ---- where the cache goes


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_converting_again_changes_nothing(convert: Callable[[Path], CacheConversion], tmp_path: Path) -> None:
    index = write_index(tmp_path / "knn.index", features=rows() * 2)
    first = convert(index)
    before = snapshot(tmp_path)
    assert convert(index) == first
    assert snapshot(tmp_path) == before


def test_another_cache_is_not_overwritten(convert: Callable[[Path], CacheConversion], tmp_path: Path) -> None:
    conversion = convert(write_index(tmp_path / "knn.index"))
    with pytest.raises(InvalidRequestError, match="no cache of this index and this encoder"):
        convert(write_index(tmp_path / "other.index", features=rows(seed=9)))
    require_same_features(conversion, rows())


def test_a_folder_with_something_else_is_refused(convert: Callable[[Path], CacheConversion], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "thesis.txt").write_text("dear to somebody")
    with pytest.raises(InvalidRequestError, match="not empty"):
        convert(write_index(tmp_path / "knn.index"))
    assert (tmp_path / "cache" / "thesis.txt").read_text() == "dear to somebody"


def test_an_empty_folder_is_taken(convert: Callable[[Path], CacheConversion], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    assert convert(write_index(tmp_path / "knn.index")).folder == tmp_path / "cache"


KILLED_IN_THE_THIRD_BATCH = """if True:
    import os, signal, sys
    from ibllm_tools.checkpoints import visual_cache
    from ibllm_tools.store.visual_cache import VisualCache

    index, folder, model = sys.argv[1:]
    visual_cache._BATCH = 100
    add = VisualCache.add

    def add_and_die(self, features, ids):
        add(self, features, ids)
        if ids[0] == "faiss-00000200":
            os.kill(os.getpid(), signal.SIGKILL)

    VisualCache.add = add_and_die
    visual_cache.convert_visual_cache(index, folder, model=model, progress=False)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    """A folder in which the conversion of 500 vectors was killed in the third of five batches."""
    folder = tmp_path_factory.mktemp("killed")
    index = write_index(folder / "knn.index", features=rows(500))
    arguments = [str(index), str(folder / "cache"), str(encoder)]
    process = subprocess.run([sys.executable, "-c", KILLED_IN_THE_THIRD_BATCH, *arguments], timeout=100)
    assert process.returncode == -9
    return folder


class TestInterrupted:
    @pytest.fixture
    def index(self, killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(visual_cache, "_BATCH", 100)
        shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
        return tmp_path / "knn.index"

    def test_it_leaves_no_cache(self, index: Path, tmp_path: Path) -> None:
        assert {path.name for path in tmp_path.iterdir()} == {"knn.index", ".cache.partial"}

    def test_it_is_continued_where_it_stopped(
        self, index: Path, convert: Callable[[Path], CacheConversion], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        added, add = [], VisualCache.add
        with monkeypatch.context() as watched:
            watched.setattr(VisualCache, "add", lambda cache, *given: (added.append(given[1][0]), add(cache, *given)))
            conversion = convert(index)
        assert added == ["faiss-00000300", "faiss-00000400"]
        require_same_features(conversion, rows(500))
        assert {path.name for path in index.parent.iterdir()} == {"knn.index", "cache"}

    def test_another_index_does_not_continue_it(self, index: Path, convert: Callable[[Path], CacheConversion]) -> None:
        write_index(index, features=rows(500, seed=9))
        with pytest.raises(InvalidRequestError, match=r"\.cache\.partial: left behind .* delete it"):
            convert(index)
