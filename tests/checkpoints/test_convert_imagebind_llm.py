"""The official files of ImageBind-LLM -> a folder that answers."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from converted_models import converted_folder
from golden_adapter import Golden
from official_files import (
    llama_weights,
    tiny_imagebind_config,
    write_adapter,
    write_imagebind,
    write_llama,
    write_llama_hf,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from ibllm_tools import Assistant
from ibllm_tools.checkpoints import Conversion, convert_imagebind, convert_imagebind_llm
from ibllm_tools.checkpoints.reading import OfficialFile
from ibllm_tools.errors import CheckpointError, IbllmError, MissingExtraError
from ibllm_tools.imagebind_llm import ImageBindLlmForConditionalGeneration
from ibllm_tools.training import merge_lora, prepare_for_stage

Convert = Callable[..., Conversion]
BPE = "bpe_simple_vocab_16e6.txt.gz"
Q_PROJ = "language_model.model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def golden(reference: Path) -> Golden:
    return Golden.load(reference)


@pytest.fixture(scope="module")
def files(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the official files: 7B.pth, raw.pth, imagebind_w3D.pth, imagebind_huge.pth and llama."""
    folder = tmp_path_factory.mktemp("official")
    write_adapter(reference, folder / "7B.pth")
    write_adapter(reference, folder / "raw.pth", raw=True)
    write_imagebind(reference, folder / "imagebind_w3D.pth")
    write_imagebind(reference, folder / "imagebind_huge.pth", point=False)
    write_llama(reference, folder / "llama")
    return folder


@pytest.fixture
def convert(reference: Path, files: Path, tmp_path: Path) -> Convert:
    """Convert the tiny files, or others where they are named, into a new folder."""

    def converted(adapter: Path = files / "7B.pth", folder: str = "model", **options: Any) -> Conversion:
        sources = {"llama": files / "llama", "imagebind": files / "imagebind_w3D.pth", "tokenizer": reference / BPE}
        sources["imagebind_config"] = tiny_imagebind_config(reference)
        return convert_imagebind_llm(adapter, tmp_path / folder, progress=False, **sources | options)

    return converted


@pytest.fixture
def edited(files: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Tensor]], Any]], Path]:
    """7B.pth, or another file, after a change of its weights."""

    def edit(change: Callable[[dict[str, Tensor]], Any], name: str = "7B.pth") -> Path:
        weights = dict(OfficialFile(files / name))
        change(weights)
        torch.save({"model": weights}, tmp_path / "edited.pth")
        return tmp_path / "edited.pth"

    return edit


@pytest.fixture(scope="module")
def encoder(reference: Path, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a converted ImageBind."""
    checkpoint, folder = files / "imagebind_w3D.pth", tmp_path_factory.mktemp("encoder") / "imagebind"
    config = tiny_imagebind_config(reference)
    return convert_imagebind(checkpoint, folder, tokenizer=reference / BPE, config=config, progress=False).folder


@pytest.fixture(scope="module")
def kept(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted_folder(reference, tmp_path_factory, keep_lora=True)


@pytest.fixture(scope="module")
def merged(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted_folder(reference, tmp_path_factory)


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    mine, theirs = weights_of(one), weights_of(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def logits(golden: Golden, model: ImageBindLlmForConditionalGeneration) -> Tensor:
    embeddings = golden.visual["visual.image+audio.embed"][:, 0]
    with torch.no_grad():
        return model.eval()(golden.inference["tokens"], embeddings=embeddings).logits


# --- the sources ---


def test_every_layout_of_the_llama_gives_the_same_weights(
    convert: Convert, merged: Path, reference: Path, tmp_path: Path
) -> None:
    for name, llama in {
        "two shards": write_llama(reference, tmp_path / "two-shards", shards=2),
        "its inner folder": write_llama(reference, tmp_path / "inner") / "7B",
        "hugging face": write_llama_hf(reference, tmp_path / "hugging-face"),
    }.items():
        assert same_weights(merged, convert(folder=name, llama=llama).folder), name


def test_a_raw_training_checkpoint_brings_its_own_imagebind(convert: Convert, files: Path, merged: Path) -> None:
    raw = convert(files / "raw.pth", imagebind=None)
    assert same_weights(merged, raw.folder)
    assert "the one in the adapter's checkpoint" in (raw.folder / "README.md").read_text()


def test_a_named_imagebind_wins_over_the_adapters_own(
    convert: Convert, files: Path, merged: Path, tmp_path: Path
) -> None:
    other, key = dict(OfficialFile(files / "imagebind_w3D.pth")), "modality_preprocessors.vision.cls_token"
    other[key] = other[key] + 1
    torch.save(other, tmp_path / "other.pth")
    made = convert(files / "raw.pth", imagebind=tmp_path / "other.pth")
    name = "imagebind.vision_model.class_embedding"
    assert torch.equal(weights_of(made.folder)[name], weights_of(merged)[name] + 1)
    assert "that in the adapter's checkpoint was left out" in (made.folder / "README.md").read_text()


def test_a_converted_imagebind_does_as_well(convert: Convert, encoder: Path, merged: Path) -> None:
    given = {"imagebind": encoder, "tokenizer": None, "imagebind_config": None}
    assert same_weights(merged, convert(**given).folder)
    with pytest.raises(IbllmError, match="has its tokenizer and its configuration with it"):
        convert(folder="another", imagebind=encoder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", None),
        ("tokenizer.json", "{}"),
        ("processor_config.json", None),
        ("processor_config.json", "[1"),
    ],
)
def test_a_converted_imagebind_without_its_processor_is_refused(
    convert: Convert, encoder: Path, tmp_path: Path, name: str, content: str | None
) -> None:
    damaged = shutil.copytree(encoder, tmp_path / "encoder")
    if content is None:
        (damaged / name).unlink()
    else:
        (damaged / name).write_text(content)
    with pytest.raises(IbllmError, match=f"{damaged}.*(convert it again|copy the model's folder whole)"):
        convert(imagebind=damaged, tokenizer=None, imagebind_config=None)


def test_a_converted_imagebind_with_the_configuration_of_another_is_refused(
    convert: Convert, encoder: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(encoder, tmp_path / "encoder")
    config = json.loads((damaged / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] -= 1
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"{damaged}: weights do not fit .* unexpected: vision_model"):
        convert(imagebind=damaged, tokenizer=None, imagebind_config=None)


def test_names_of_early_checkpoints_are_understood(convert: Convert, edited: Any, merged: Path) -> None:
    def early(weights: dict[str, Tensor]) -> None:
        for key in [key for key in weights if key.startswith("llama.")]:
            weights[key.replace("llama.", "llma.")] = weights.pop(key)
        weights["prefix_projector_norm.weight"] = torch.zeros(64)

    assert same_weights(merged, convert(edited(early)).folder)


def test_the_adapters_norms_win_over_the_llamas(convert: Convert, edited: Any, merged: Path) -> None:
    def longer(weights: dict[str, Tensor]) -> None:
        weights["llama.norm.weight"] = 1.5 * weights["llama.norm.weight"]

    name = "language_model.model.norm.weight"
    assert torch.equal(weights_of(convert(edited(longer)).folder)[name], 1.5 * weights_of(merged)[name])


def test_without_points_there_is_a_model_that_says_so(convert: Convert, reference: Path, files: Path) -> None:
    config = tiny_imagebind_config(reference, point=False)
    made = convert(imagebind=files / "imagebind_huge.pth", imagebind_config=config)
    assert any("no point tower" in warning for warning in made.warnings)
    assert "no point tower" in (made.folder / "README.md").read_text()
    assert not any("point_model" in name for name in weights_of(made.folder))


# --- what comes out ---


def test_the_folder_says_what_the_shapes_do_not(merged: Path) -> None:
    config = json.loads((merged / "config.json").read_text())
    text = config["text_config"]
    assert (text["num_attention_heads"], text["rms_norm_eps"]) == (4, 1e-5)
    assert text["max_position_embeddings"] == 2048
    assert (config["num_prefix_layers"], config["prefix_value_rank"]) == (4, 16)
    generation = json.loads((merged / "generation_config.json").read_text())
    assert (generation["temperature"], generation["top_p"], generation["max_new_tokens"]) == (0.1, 0.75, 256)
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (1, 2)


def test_the_report_and_the_card_name_sources_and_licences(convert: Convert, tmp_path: Path) -> None:
    made = convert()
    card = (made.folder / "README.md").read_text()
    assert [source.name for source in made.sources] == [
        *("7B.pth", "consolidated.00.pth", "params.json", "tokenizer.model", "imagebind_w3D.pth", BPE)
    ]
    assert all(source.sha256 in card for source in made.sources)
    assert all(licence in card for licence in made.licences)
    assert len(made.licences) == 5
    assert made.warnings == ()
    assert made.parameters == sum(weight.numel() for weight in weights_of(made.folder).values())
    assert str(tmp_path) not in card


def test_save_and_load_gives_the_same_outputs(golden: Golden, merged: Path, tmp_path: Path) -> None:
    model = ImageBindLlmForConditionalGeneration.from_pretrained(merged)
    model.save_pretrained(tmp_path / "again")
    again = ImageBindLlmForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(golden, again), logits(golden, model))


@pytest.mark.parametrize("keep_lora", [False, True])
def test_a_chosen_type_holds_for_every_weight(convert: Convert, keep_lora: bool) -> None:
    folder = convert(dtype="bfloat16", keep_lora=keep_lora).folder
    written = [weights_of(folder)] + ([load_file(folder / "adapter_model.safetensors")] if keep_lora else [])
    assert {value.dtype for weights in written for value in weights.values() if value.is_floating_point()} == {
        torch.bfloat16
    }
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert ImageBindLlmForConditionalGeneration.from_pretrained(folder).gates.dtype == torch.bfloat16


def test_weights_keep_their_types_until_they_are_loaded(convert: Convert, reference: Path, tmp_path: Path) -> None:
    folder = convert(llama=write_llama(reference, tmp_path / "half", dtype=torch.float16)).folder
    stored = weights_of(folder)
    assert stored[Q_PROJ].dtype == stored["language_model.lm_head.weight"].dtype == torch.float16
    assert stored["bind_network.proj.weight"].dtype == stored["language_model.model.norm.weight"].dtype == torch.float32
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32"  # that of most bytes; of a 7 B LLaMA in half precision it is float16
    loaded = ImageBindLlmForConditionalGeneration.from_pretrained(folder, dtype="auto")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


# --- LoRA kept apart ---


def test_kept_lora_gives_the_same_outputs_as_merged(golden: Golden, kept: Path, merged: Path) -> None:
    one, other = (ImageBindLlmForConditionalGeneration.from_pretrained(folder) for folder in (kept, merged))
    torch.testing.assert_close(logits(golden, one), logits(golden, other), atol=2e-5, rtol=0)


def test_the_lora_is_on_the_language_model_alone(golden: Golden, kept: Path) -> None:
    model = ImageBindLlmForConditionalGeneration.from_pretrained(kept)
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert len(adapted) == 4 * 7
    assert all(name.startswith("language_model.model.layers.") for name in adapted)
    base = weights_of(kept)["language_model.model.layers.2.mlp.down_proj.weight"]
    assert torch.equal(base, llama_weights(golden)["layers.2.feed_forward.w2.weight"])


def test_assistants_with_kept_and_merged_lora_answer_alike(kept: Path, merged: Path, reference: Path) -> None:
    picture = reference / "media" / "dog_image.jpg"
    assistants = [Assistant.load(folder) for folder in (kept, merged)]
    answers = [one.ask("What is it?", picture, max_new_tokens=12, temperature=0).text for one in assistants]
    assert answers[0] == answers[1]
    assert answers[0]


def test_without_peft_a_kept_lora_is_not_left_out(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"whose LoRA is kept apart, needs 'peft'.*ibllm-tools\[train\]"):
        Assistant.load(kept)


@pytest.mark.parametrize("broken", ["missing", "unexpected", "mismatched"])
def test_weights_below_a_kept_lora_are_checked_when_loaded(kept: Path, tmp_path: Path, broken: str) -> None:
    folder = shutil.copytree(kept, tmp_path / "copy")
    weights = weights_of(folder)
    gates = weights.pop("gates")
    instead = {
        "missing": {},
        "unexpected": {"gates": gates, "doors": gates.clone()},
        "mismatched": {"gates": gates[:2]},
    }
    save_file(weights | instead[broken], folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"1 {broken} weights"):
        Assistant.load(folder)


def test_a_lora_without_all_of_its_weights_is_refused(kept: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(kept, tmp_path / "copy")
    weights = load_file(folder / "adapter_model.safetensors")
    weights.popitem()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 missing weights"):
        Assistant.load(folder)


def test_a_kept_lora_can_be_merged_later(golden: Golden, kept: Path, merged: Path) -> None:
    model = merge_lora(ImageBindLlmForConditionalGeneration.from_pretrained(kept))
    expected = ImageBindLlmForConditionalGeneration.from_pretrained(merged)
    assert model.state_dict().keys() == expected.state_dict().keys()
    torch.testing.assert_close(logits(golden, model), logits(golden, expected), atol=2e-5, rtol=0)


def test_a_kept_lora_merged_later_is_saved_as_a_whole_model(golden: Golden, kept: Path, tmp_path: Path) -> None:
    model = merge_lora(ImageBindLlmForConditionalGeneration.from_pretrained(kept))
    model.save_pretrained(tmp_path)
    again = ImageBindLlmForConditionalGeneration.from_pretrained(tmp_path)
    weights = again.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(logits(golden, again), logits(golden, model))


def test_a_kept_lora_trains_on(kept: Path) -> None:
    model = prepare_for_stage(ImageBindLlmForConditionalGeneration.from_pretrained(kept), "finetune")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(".lora_" in name for name in trained) == 2 * 4 * 7


def test_a_pretrained_adapter_has_no_lora_to_keep(convert: Convert, reference: Path, tmp_path: Path) -> None:
    made = convert(write_adapter(reference, tmp_path / "pretrained.pth", "pretrain"), keep_lora=True)
    assert not (made.folder / "adapter_config.json").exists()
    assert "LoRA: none" in (made.folder / "README.md").read_text()
    assert made.warnings == ()


# --- what does not fit ---


def test_norms_of_another_llama_are_warned_about(convert: Convert, reference: Path, tmp_path: Path) -> None:
    adapter = write_adapter(reference, tmp_path / "pretrained.pth", "pretrain")
    weights = dict(OfficialFile(adapter))
    weights["llama.layers.1.ffn_norm.weight"] = weights["llama.layers.1.ffn_norm.weight"] + 0.1
    torch.save({"model": weights}, adapter := tmp_path / "pretrained-elsewhere.pth")
    made = convert(adapter)
    assert re.search(r"pretrained-elsewhere\.pth: 1 of 9 norms .* layers\.1\.ffn_norm\.weight", made.warnings[0])
    assert made.warnings[0] in (made.folder / "README.md").read_text()


def test_without_an_imagebind_one_is_asked_for(convert: Convert) -> None:
    with pytest.raises(IbllmError, match=r"7B\.pth: there is no ImageBind in it; pass imagebind_w3D\.pth"):
        convert(imagebind=None)


def legacy(weights: dict[str, Tensor]) -> None:
    weights["image_bind_norm_1.bias"] = weights["image_bind_f1_1.bias"] = torch.zeros(64)


def wider(weights: dict[str, Tensor]) -> None:
    for key, value in weights.items():
        if key.startswith(("image_bind_", "prefix_query")):
            weights[key] = torch.cat([value, value], dim=-1)


def deeper(weights: dict[str, Tensor]) -> None:
    weights["llama.layers.4.attention.gate"] = weights["llama.layers.0.attention.gate"]


def more_heads(weights: dict[str, Tensor]) -> None:
    for key in [key for key in weights if key.endswith("gate")]:
        weights[key] = torch.zeros(1, 8, 1, 1)


def another_joint_embedding(weights: dict[str, Tensor]) -> None:
    weights["image_bind_proj.weight"] = torch.zeros(64, 33)


def without(*keys: str) -> Callable[[dict[str, Tensor]], None]:
    def remove(weights: dict[str, Tensor]) -> None:
        for key in keys:
            del weights[key]

    return remove


def with_one_more(weights: dict[str, Tensor]) -> None:
    weights["llama.layers.0.attention.wq.scale"] = torch.zeros(64)


def not_finite(weights: dict[str, Tensor]) -> None:
    weights["llama.layers.0.attention.lora_wq_l1.weight"][0, 0] = float("nan")


def more_queries_than_layers(weights: dict[str, Tensor]) -> None:
    weights["prefix_query.weight"] = torch.zeros(6, 64)


def flat(key: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda weights: weights.update({key: weights[key].flatten()})


MISFITS = [
    (legacy, r"legacy one .*image_bind_f1_1\.bias, image_bind_norm_1\.bias.*7B-beta\.pth.*use 7B\.pth"),
    (wider, "made for a LLaMA 128 wide, but this one is 64 wide"),
    (deeper, "made for a LLaMA of 5 layers, but this one has 4"),
    (more_heads, r"gates are of shape \(1, 8, 1, 1\), but this LLaMA has 4 attention heads"),
    (another_joint_embedding, "takes embeddings 33 wide, but this ImageBind's are"),
    (without("image_bind_f2_3.weight"), r"missing.*image_bind_f2_3\.weight"),
    (without("llama.layers.2.ffn_norm.weight"), r"norms are missing.*llama\.layers\.2\.ffn_norm\.weight"),
    (without("llama.layers.3.attention.lora_wo_l1.weight"), r"missing.*llama\.layers\.3\.attention\.lora_wo_l1"),
    (
        without("llama.layers.0.attention.lora_wq_l1.weight"),
        r"llama\.layers\.0\.attention\.lora_wq_l1\.weight is missing",
    ),
    (without("prefix_query.weight"), r"no prefix_query\.weight in it"),
    (flat("prefix_query.weight"), r"prefix_query\.weight is of shape \(256,\), expected \(layers, width\)"),
    (flat("image_bind_proj.weight"), r"image_bind_proj\.weight is of shape .*expected 2 dimensions"),
    (more_queries_than_layers, r"edited\.pth: prefix_query\.weight is for 6 of 4 layers"),
    (with_one_more, r"unexpected.*llama\.layers\.0\.attention\.wq\.scale"),
    (not_finite, r"not all values of .*q_proj.* are finite"),
]


@pytest.mark.parametrize(("change", "message"), MISFITS)
def test_an_adapter_that_does_not_fit_is_refused(
    convert: Convert, edited: Any, tmp_path: Path, change: Callable[..., Any], message: str
) -> None:
    with pytest.raises(IbllmError, match=message) as caught:
        convert(edited(change))
    assert "\n" not in str(caught.value)
    assert "edited.pth" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edited.pth"]


def test_a_lora_that_is_not_finite_is_refused_when_kept(convert: Convert, edited: Any) -> None:
    with pytest.raises(CheckpointError, match=r"edited\.pth: not all values of .*q_proj\.lora_A\.weight are finite"):
        convert(edited(not_finite), keep_lora=True)


def test_a_raw_checkpoint_with_another_vocabulary_is_refused(convert: Convert, edited: Any) -> None:
    def longer(weights: dict[str, Tensor]) -> None:
        weights["llama.tok_embeddings.weight"] = torch.zeros(600, 64)

    with pytest.raises(IbllmError, match=r"tok_embeddings\.weight is \(600, 64\) in the adapter, but \(512, 64\)"):
        convert(edited(longer, "raw.pth"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "imagebind_w3D.pth",
            r"imagebind_w3D\.pth: no adapter of ImageBind-LLM, but ImageBind's weights: pass them as imagebind",
        ),
        ("llama/7B/consolidated.00.pth", r"no adapter of ImageBind-LLM, but a LLaMA: pass its folder as llama"),
        ("model/model.safetensors", r"no adapter of ImageBind-LLM, but converted already: load its folder"),
    ],
)
def test_another_file_instead_of_the_adapter_is_named(
    convert: Convert, files: Path, merged: Path, name: str, message: str
) -> None:
    adapter = merged / "model.safetensors" if name.startswith("model") else files / name
    with pytest.raises(CheckpointError, match=message):
        convert(adapter)


def test_an_adapter_instead_of_imagebind_or_llama_is_refused(convert: Convert, files: Path) -> None:
    with pytest.raises(IbllmError, match=r"7B\.pth.*is this an ImageBind checkpoint"):
        convert(imagebind=files / "7B.pth")
    with pytest.raises(IbllmError, match=r"7B\.pth.*name the folder"):
        convert(llama=files / "7B.pth")
