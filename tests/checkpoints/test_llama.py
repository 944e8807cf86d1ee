"""The base LLaMA: one model, whatever its files are, and clear words when they are not its."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from golden_adapter import Golden
from official_files import llama_weights, write_llama, write_llama_hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from ibllm_tools.checkpoints import llama
from ibllm_tools.checkpoints.llama import LlamaSource, norm_drift, open_llama
from ibllm_tools.checkpoints.llama_tokenizer import load_llama_tokenizer
from ibllm_tools.checkpoints.llama_weights import LlamaWeights, official_shapes
from ibllm_tools.checkpoints.reading import OfficialFile
from ibllm_tools.errors import CheckpointError, IncompatibleModelError, InvalidRequestError, ModelNotFoundError

TEXT = "Describe the 3D object in detail."


@pytest.fixture(scope="module")
def original(reference: Path) -> dict[str, Tensor]:
    return llama_weights(Golden.load(reference))


@pytest.fixture
def meta(reference: Path, tmp_path: Path) -> Path:
    """The folder 7B, with the tokenizer above it."""
    return write_llama(reference, tmp_path / "LLaMA") / "7B"


@pytest.fixture
def shards(reference: Path, tmp_path: Path) -> Path:
    return write_llama(reference, tmp_path / "LLaMA", shards=2) / "7B"


@pytest.fixture
def hugging_face(reference: Path, tmp_path: Path) -> Path:
    return write_llama_hf(reference, tmp_path / "llama-hf")


def assert_original(source: LlamaSource, original: dict[str, Tensor]) -> None:
    assert set(source.weights) == set(original)
    for name, tensor in original.items():
        assert source.weights.shapes[name] == tuple(tensor.shape)
        assert source.weights.dtypes[name] == source.weights[name].dtype == tensor.dtype
        assert torch.equal(source.weights[name], tensor)


def edit(file: Path, **changes: Any) -> None:
    """Change settings in a JSON file; ``None`` removes one."""
    settings = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def rewrite(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the weights in a file."""
    zipped = file.suffix != ".safetensors"
    weights = torch.load(file) if zipped else load_file(file)
    change(weights)
    (torch.save if zipped else save_file)(weights, file)


# One model from every layout


@pytest.mark.parametrize("count", [1, 2, 4])
def test_metas_files_give_the_weights(count: int, reference: Path, tmp_path: Path, original: dict[str, Tensor]) -> None:
    folder = write_llama(reference, tmp_path / "LLaMA", shards=count)
    assert_original(open_llama(folder / "7B"), original)


def test_a_folder_of_transformers_gives_the_weights(hugging_face: Path, original: dict[str, Tensor]) -> None:
    assert_original(open_llama(hugging_face), original)


def test_so_does_its_pickled_form(hugging_face: Path, original: dict[str, Tensor]) -> None:
    torch.save(load_file(hugging_face / "model.safetensors"), hugging_face / "pytorch_model.bin")
    (hugging_face / "model.safetensors").unlink()
    assert_original(open_llama(hugging_face), original)


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_so_do_its_shards(kind: str, hugging_face: Path, original: dict[str, Tensor]) -> None:
    split(hugging_face, kind)
    assert_original(open_llama(hugging_face), original)


def split(folder: Path, kind: str) -> None:
    """One safetensors file -> two files of a kind and their index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, suffix = kind.split(".")
    listed = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), 1):
        part = f"{stem}-{number:05d}-of-00002.{suffix}"
        (save_file if suffix == "safetensors" else torch.save)({name: weights[name] for name in names}, folder / part)
        listed |= dict.fromkeys(names, part)
    (folder / f"{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))


@pytest.mark.parametrize("write", [write_llama, write_llama_hf])
def test_half_precision_stays_as_it_is(
    write: Callable[..., Path], reference: Path, tmp_path: Path, original: dict[str, Tensor]
) -> None:
    folder = write(reference, tmp_path / "llama", dtype=torch.float16)
    assert_original(open_llama(folder), {name: tensor.half() for name, tensor in original.items()})


def test_a_buffer_of_early_conversions_is_ignored(hugging_face: Path, original: dict[str, Tensor]) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(hugging_face / "model.safetensors", lambda weights: weights.update({name: torch.ones(8)}))
    assert_original(open_llama(hugging_face), original)


def test_it_can_be_read_again_after_the_release(shards: Path, original: dict[str, Tensor]) -> None:
    source = open_llama(shards)
    assert_original(source, original)
    source.weights.release()
    assert_original(source, original)


def test_an_unknown_weight_is_a_key_error(meta: Path) -> None:
    with pytest.raises(KeyError):
        open_llama(meta).weights["rope.freqs"]


@pytest.mark.parametrize(("layout", "positions"), [("meta", None), ("hugging_face", 2048)])
def test_its_settings_are_read(layout: str, positions: int | None, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(layout)
    if positions:
        edit(folder / "config.json", max_position_embeddings=positions)
    source = open_llama(folder)
    assert (source.num_attention_heads, source.norm_eps, source.max_position_embeddings) == (4, 1e-5, positions)


# Its tokenizer


@pytest.mark.parametrize("layout", ["meta", "hugging_face"])
def test_the_sentencepiece_tokenizer_is_read(layout: str, reference: Path, request: pytest.FixtureRequest) -> None:
    expected = load_llama_tokenizer(reference / "adapter" / "tokenizer.model")(TEXT)["input_ids"]
    assert open_llama(request.getfixturevalue(layout)).load_tokenizer()(TEXT)["input_ids"] == expected


def test_without_it_the_one_of_transformers_is(hugging_face: Path) -> None:
    expected = load_llama_tokenizer(hugging_face / "tokenizer.model")
    expected.save_pretrained(hugging_face)
    (hugging_face / "tokenizer.model").unlink()
    assert open_llama(hugging_face).load_tokenizer()(TEXT)["input_ids"] == expected(TEXT)["input_ids"]


def test_the_tokenizer_may_lie_beside_metas_files(meta: Path) -> None:
    (meta.parent / "tokenizer.model").rename(meta / "tokenizer.model")
    assert len(open_llama(meta).load_tokenizer()) == 512


def test_a_missing_tokenizer_is_named(meta: Path) -> None:
    (meta.parent / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"7B: no tokenizer\.model in it or in the folder above"):
        open_llama(meta)


def test_a_tokenizer_that_is_none_is_named(hugging_face: Path) -> None:
    (hugging_face / "tokenizer.model").unlink()
    (hugging_face / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer of LLaMA"):
        open_llama(hugging_face)


@pytest.mark.parametrize(
    "content", [b"\x81" * 100, b"\x0a\x02\x08\x01", b"\x0a\x05\x0a\x01a"], ids=["endless", "number", "cut"]
)
def test_a_damaged_sentencepiece_file_is_named(content: bytes, meta: Path) -> None:
    (meta.parent / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: not a SentencePiece model"):
        open_llama(meta)


def test_another_vocabulary_is_named(hugging_face: Path) -> None:
    def widen(weights: dict[str, Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            weights[name] = torch.cat([weights[name], torch.zeros(1, 64)])

    rewrite(hugging_face / "model.safetensors", widen)
    edit(hugging_face / "config.json", vocab_size=513)
    with pytest.raises(IncompatibleModelError, match=r"tokenizer\.model: 512 tokens, but 513 rows in the embedding"):
        open_llama(hugging_face)


def test_a_tokenizer_with_other_marks_is_named(hugging_face: Path) -> None:
    load_llama_tokenizer(hugging_face / "tokenizer.model").save_pretrained(hugging_face)
    (hugging_face / "tokenizer.model").unlink()
    settings = json.loads((hugging_face / "tokenizer.json").read_text())
    settings["model"]["vocab"] |= {"<s>": 2, "</s>": 1}
    settings["added_tokens"] = []
    (hugging_face / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(IncompatibleModelError, match="begin and end are the tokens 2 and 1, expected 1 and 2"):
        open_llama(hugging_face)


# Where it lies


def test_the_folder_above_one_model_is_enough(meta: Path, original: dict[str, Tensor]) -> None:
    assert_original(open_llama(meta.parent), original)
    assert_original(open_llama(str(meta.parent)), original)


def test_of_several_models_one_has_to_be_named(reference: Path, tmp_path: Path) -> None:
    write_llama(reference, tmp_path / "LLaMA")
    (write_llama(reference, tmp_path / "other") / "7B").rename(tmp_path / "LLaMA" / "7B_chinese")
    with pytest.raises(InvalidRequestError, match=r"several LLaMAs lie in it: 7B, 7B_chinese; name one"):
        open_llama(tmp_path / "LLaMA")
    assert len(open_llama(tmp_path / "LLaMA" / "7B_chinese").weights) == 39


def test_a_folder_without_a_model_says_what_it_expects(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no LLaMA in it, expected consolidated\.00\.pth with params\.json"):
        open_llama(tmp_path)


@pytest.mark.parametrize("source", ["nowhere", "./no/where", "~/no_such_llama"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(source: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no such folder; expected that of a LLaMA or a hub id"):
        open_llama(source)


def test_a_file_is_no_folder(meta: Path) -> None:
    with pytest.raises(InvalidRequestError, match="this is a file; name the folder that it lies in"):
        open_llama(meta / "consolidated.00.pth")


@pytest.fixture
def hub(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own cache with one repository, ``someone/llama``, and no connection."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--someone--llama"
    snapshot = write_llama_hf(reference, repository / "snapshots" / "0123456789")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456789")
    return snapshot


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_id_is_read_from_the_hubs_cache(kind: str, hub: Path, original: dict[str, Tensor]) -> None:
    split(hub, kind)
    source = open_llama("someone/llama")
    assert_original(source, original)
    assert [file.name for file in source.sources()] == [
        f"someone/llama/{kind.replace('.', '-00001-of-00002.')}",
        f"someone/llama/{kind.replace('.', '-00002-of-00002.')}",
        "someone/llama/config.json",
        "someone/llama/tokenizer.model",
    ]


@pytest.mark.usefixtures("hub")
def test_a_hub_id_out_of_reach_says_so() -> None:
    with pytest.raises(ModelNotFoundError, match="someone/else: neither a folder nor reachable on the hub"):
        open_llama("someone/else")


def test_the_model_card_names_every_file_but_no_folder(shards: Path) -> None:
    files = [
        shards / "consolidated.00.pth",
        shards / "consolidated.01.pth",
        shards / "params.json",
        shards.parent / "tokenizer.model",
    ]
    sources = open_llama(shards).sources()
    assert [file.name for file in sources] == [file.name for file in files]
    assert [file.sha256 for file in sources] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


# Weights that do not fit


LAYER = "layers.1.attention.wk.weight"
THEIR_LAYER = "model.layers.1.self_attn.k_proj.weight"


def test_a_missing_weight_is_named(meta: Path, hugging_face: Path) -> None:
    rewrite(meta / "consolidated.00.pth", lambda weights: weights.pop(LAYER))
    with pytest.raises(CheckpointError, match=rf"consolidated\.00\.pth: missing weights: {LAYER}"):
        open_llama(meta)
    rewrite(hugging_face / "model.safetensors", lambda weights: weights.pop(THEIR_LAYER))
    with pytest.raises(CheckpointError, match=rf"llama-hf: missing weights: {THEIR_LAYER}"):
        open_llama(hugging_face)


def test_an_unexpected_weight_is_named(meta: Path, hugging_face: Path) -> None:
    rewrite(meta / "consolidated.00.pth", lambda weights: weights.update({"layers.1.attention.gate": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"unexpected weights: layers\.1\.attention\.gate"):
        open_llama(meta)
    name = "model.layers.1.self_attn.q_proj.bias"
    rewrite(hugging_face / "model.safetensors", lambda weights: weights.update({name: torch.ones(64)}))
    with pytest.raises(CheckpointError, match=rf"unexpected weights: {name}"):
        open_llama(hugging_face)


def test_settings_of_another_size_are_named(meta: Path, hugging_face: Path) -> None:
    edit(meta / "params.json", multiple_of=256)
    with pytest.raises(
        CheckpointError, match=r"w1\.weight has the shape \(192, 64\), expected \(256, 64\) by params\.json"
    ):
        open_llama(meta)
    edit(hugging_face / "config.json", intermediate_size=256)
    with pytest.raises(
        CheckpointError, match=r"w1\.weight has the shape \(192, 64\), expected \(256, 64\) by config\.json"
    ):
        open_llama(hugging_face)


def test_settings_with_fewer_layers_are_named(meta: Path) -> None:
    edit(meta / "params.json", n_layers=3)
    with pytest.raises(CheckpointError, match=r"unexpected weights: layers\.3\.attention\.wk\.weight"):
        open_llama(meta)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8])
def test_quantised_weights_are_named(kind: torch.dtype, meta: Path) -> None:
    rewrite(meta / "consolidated.00.pth", lambda weights: weights.update({LAYER: weights[LAYER].to(kind)}))
    with pytest.raises(CheckpointError, match=f"{LAYER} is stored as {kind}; expected LLaMA's weights before"):
        open_llama(meta)


def test_a_missing_last_shard_is_noticed(shards: Path) -> None:
    (shards / "consolidated.01.pth").unlink()
    with pytest.raises(CheckpointError, match=r"7B: 1 of the 2 files consolidated\.\*\.pth are there"):
        open_llama(shards)


def test_a_missing_first_shard_is_named(shards: Path) -> None:
    (shards / "consolidated.00.pth").unlink()
    with pytest.raises(CheckpointError, match=r"7B: consolidated\.00\.pth is missing between consolidated\.01\.pth"):
        open_llama(shards)


def test_a_surplus_shard_is_noticed(shards: Path) -> None:
    (shards / "consolidated.02.pth").write_bytes((shards / "consolidated.01.pth").read_bytes())
    with pytest.raises(CheckpointError, match=r"has the shape \(512, 96\), expected \(512, 64\)"):
        open_llama(shards)


def test_shards_of_two_models_are_noticed(shards: Path) -> None:
    rewrite(shards / "consolidated.01.pth", lambda weights: weights["norm.weight"].add_(1))
    with pytest.raises(CheckpointError, match=r"norm\.weight does not fit that of consolidated\.00\.pth"):
        open_llama(shards)


def test_a_missing_shard_of_an_index_is_named(hugging_face: Path) -> None:
    split(hugging_face, "model.safetensors")
    (hugging_face / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: no such file, but .* lists it"):
        open_llama(hugging_face)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../model.bin"}}'])
def test_a_broken_index_is_named(content: str, hugging_face: Path) -> None:
    (hugging_face / "model.safetensors").unlink()
    (hugging_face / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json: not the index of a model's files"):
        open_llama(hugging_face)


def test_a_folder_of_transformers_without_weights_says_so(hugging_face: Path) -> None:
    (hugging_face / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no weights beside config\.json, expected model\.safetensors"):
        open_llama(hugging_face)


# Settings that are not LLaMA's


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_kv_heads": 2}, "n_kv_heads is 2, but 4 in LLaMA 1"),
        ({"rope_theta": 500000.0}, r"rope_theta is 500000\.0, but 10000\.0 in LLaMA 1"),
        ({"use_scaled_rope": True}, "use_scaled_rope is True"),
        ({"ffn_dim_multiplier": 1.3}, r"ffn_dim_multiplier is 1\.3"),
    ],
)
def test_a_later_model_of_meta_is_named(changes: dict[str, Any], expected: str, meta: Path) -> None:
    edit(meta / "params.json", **changes)
    with pytest.raises(IncompatibleModelError, match=rf"params\.json: {expected}"):
        open_llama(meta)


def test_as_many_heads_for_keys_as_for_queries_are_llama(meta: Path, original: dict[str, Tensor]) -> None:
    edit(meta / "params.json", n_kv_heads=4, rope_theta=10000)
    assert_original(open_llama(meta), original)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral', but 'llama' in LLaMA 1"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2, but 4"),
        ({"head_dim": 32}, "head_dim is 32, but 16"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"rope_theta": 1e6}, r"rope_theta is 1000000\.0, but 10000\.0"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}, r"rope_theta is 500000\.0"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "the type of rope scaling is 'llama3', but 'default'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "the type of rope scaling is 'linear'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is 'set', but 'none'"),
    ],
)
def test_another_architecture_of_transformers_is_named(
    changes: dict[str, Any], expected: str, hugging_face: Path
) -> None:
    edit(hugging_face / "config.json", **changes)
    with pytest.raises(IncompatibleModelError, match=rf"config\.json: {expected}"):
        open_llama(hugging_face)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dim": None}, "dim: Field required"),
        ({"n_layers": -1}, "n_layers: Input should be greater than 0"),
        ({"norm_eps": "small"}, "norm_eps: Input should be a valid number"),
        ({"n_heads": 3}, "n_heads is 3, which cannot share a dim of 64"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], expected: str, meta: Path) -> None:
    edit(meta / "params.json", **changes)
    with pytest.raises(CheckpointError, match=rf"params\.json: {expected}"):
        open_llama(meta)


def test_missing_and_damaged_settings_are_named(meta: Path, hugging_face: Path) -> None:
    (meta / "params.json").unlink()
    with pytest.raises(CheckpointError, match=r"params\.json: No such file"):
        open_llama(meta)
    (hugging_face / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: the file: Invalid JSON"):
        open_llama(hugging_face)


# What only content can tell


def of_7b(reference: Path, folder: Path, *, eps: float = 1e-6, rows: int = 32000, norm: float = 1.5) -> LlamaSource:
    """A LLaMA-7B, of which only the names, the shapes and the last norm are real."""
    folder.mkdir()
    torch.save({"rope.freqs": torch.ones(64)}, folder / "consolidated.00.pth")
    tokenizer = folder / "tokenizer.model"
    tokenizer.write_bytes((reference / "adapter" / "tokenizer.model").read_bytes())
    shapes = official_shapes(dim=4096, hidden=11008, layers=32, vocabulary=rows)
    weights = LlamaWeights(
        shapes,
        dict.fromkeys(shapes, torch.float16),
        [OfficialFile(folder / "consolidated.00.pth")],
        lambda name: torch.full(shapes[name], norm, dtype=torch.float16),
    )
    return LlamaSource(
        weights, 32, eps, None, folder / "params.json", tokenizer, load_llama_tokenizer(tokenizer), _hub_id=None
    )


def publish(source: LlamaSource, monkeypatch: pytest.MonkeyPatch, *, weights: bool = True) -> None:
    """Take the files for the published ones."""
    folder = source.weights.files[0].path.parent
    monkeypatch.setattr(llama, "LLAMA_TOKENIZER", hashlib.sha256((folder / "tokenizer.model").read_bytes()).hexdigest())
    if weights:
        monkeypatch.setattr(llama, "LLAMA_7B_WEIGHTS", source.weights.files[0].sha256())


@pytest.mark.parametrize("layout", ["meta", "shards", "hugging_face"])
def test_other_sizes_are_nobodys_published_model(layout: str, request: pytest.FixtureRequest) -> None:
    assert open_llama(request.getfixturevalue(layout)).warnings() == ()


def test_the_english_llama_is_not_that_of_the_published_adapter(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = of_7b(reference, tmp_path / "7B")
    publish(source, monkeypatch)
    (warning,) = source.warnings()
    assert "this is Meta's English LLaMA-7B" in warning
    assert "name the merged 7B_chinese instead" in warning
    assert str(tmp_path) not in warning  # warnings go into the model card


def test_a_merged_llama_is_nothing_to_warn_of(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = of_7b(reference, tmp_path / "7B_chinese")
    torch.save({"norm.weight": torch.ones(64)}, source.weights.files[0].path)  # merging drops rope.freqs
    publish(source, monkeypatch, weights=False)
    assert source.warnings() == ()


def test_another_file_in_metas_form_is_warned_of_with_both_hashes(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = of_7b(reference, tmp_path / "7B")
    publish(source, monkeypatch, weights=False)
    (warning,) = source.warnings()
    assert str(tmp_path) not in warning
    assert llama.LLAMA_7B_WEIGHTS in warning
    assert source.weights.files[0].sha256() in warning


def test_another_tokenizer_is_warned_of_with_both_hashes(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = of_7b(reference, tmp_path / "7B")
    published = llama.LLAMA_TOKENIZER
    publish(source, monkeypatch)
    monkeypatch.setattr(llama, "LLAMA_TOKENIZER", published)
    (warning,) = (warning for warning in source.warnings() if published in warning)
    assert hashlib.sha256((tmp_path / "7B" / "tokenizer.model").read_bytes()).hexdigest() in warning


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"eps": 1e-5}, "the norms' epsilon is 1e-05; LLaMA-7B has 1e-06"),
        ({"rows": 49953}, "a vocabulary of 49953 tokens; the published adapters were tuned on one of 32000"),
        ({"norm": 0.01}, "differences (7B_chinese_delta), not weights"),
    ],
)
def test_what_llama_7b_is_not_is_warned_of(
    changes: dict[str, Any], expected: str, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = of_7b(reference, tmp_path / "7B", **changes)
    torch.save({"norm.weight": torch.ones(64)}, source.weights.files[0].path)
    publish(source, monkeypatch, weights=False)
    (warning,) = source.warnings()
    assert expected in warning
    assert str(tmp_path) not in warning


def norms(seed: int) -> dict[str, Tensor]:
    """As those of a LLaMA: below 1, each layer and channel with its own."""
    generator = torch.Generator().manual_seed(seed)
    names = [f"layers.{index}.{kind}.weight" for index in range(4) for kind in ("attention_norm", "ffn_norm")]
    return {name: 0.4 + 0.1 * torch.randn(256, generator=generator) for name in [*names, "norm.weight"]}


def adapter(base: dict[str, Tensor], change: Callable[[Tensor], Tensor] = lambda norm: norm) -> dict[str, Tensor]:
    return {f"llama.{name}": change(norm) for name, norm in base.items()}


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_norms_of_the_base_are_its_own_in_any_precision(dtype: torch.dtype, tuned: bool) -> None:
    assert norm_drift(norms(0), adapter(norms(0), lambda norm: norm.to(dtype)), tuned=tuned) is None


def test_pretraining_leaves_no_difference() -> None:
    changed = adapter(norms(0))
    changed["llama.layers.2.ffn_norm.weight"] = changed["llama.layers.2.ffn_norm.weight"] + 0.001
    warning = norm_drift(norms(0), changed, tuned=False)
    assert warning is not None
    assert "1 of 9 norms of the adapter are not the base's, e.g. layers.2.ffn_norm.weight" in warning


def test_finetuning_leaves_a_resemblance() -> None:
    generator = torch.Generator().manual_seed(1)
    tuned = adapter(norms(0), lambda norm: norm + 0.03 * torch.randn(256, generator=generator))
    assert norm_drift(norms(0), tuned, tuned=True) is None


def test_norms_without_resemblance_are_anothers() -> None:
    warning = norm_drift(norms(0), adapter(norms(1)), tuned=True)
    assert warning is not None
    assert "the adapter's norms do not resemble the base's" in warning


def test_norms_that_hardly_vary_are_judged_by_their_distance() -> None:
    flat = {name: torch.ones(256) for name in norms(0)}
    assert norm_drift(flat, adapter(flat, lambda norm: norm + 0.01), tuned=True) is None
    assert norm_drift(flat, adapter(flat, lambda norm: norm + 0.5), tuned=True) is not None


def test_an_adapter_without_norms_says_nothing() -> None:
    assert norm_drift(norms(0), {"prefix_query.weight": torch.ones(2)}, tuned=True) is None
