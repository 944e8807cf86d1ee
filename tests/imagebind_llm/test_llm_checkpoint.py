"""The adapter's official weights: names, shapes, merging; LLaMA's tokenizer; the sampling of the paper."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_adapter import Golden
from torch import Tensor

from ibllm_tools.checkpoints.adapter_weights import (
    AdapterSizes,
    adapter_shapes,
    convert_adapter_state_dict,
    generation_config_of_the_paper,
    imagebind_llm_config,
    plan_adapter_weights,
    sizes_of,
    weights_in_memory,
)
from ibllm_tools.checkpoints.llama_tokenizer import load_llama_tokenizer
from ibllm_tools.errors import CheckpointError
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind_llm import ImageBindLlmForConditionalGeneration

SEVEN_BILLION = AdapterSizes(
    vocabulary=32000,
    width=4096,
    intermediate_width=11008,
    layers=32,
    heads=32,
    embedding_width=1024,
    prefix_layers=32,
    lora_rank=16,
)
PHASES = {"finetune": SEVEN_BILLION, "pretrain": replace(SEVEN_BILLION, lora_rank=0)}


def bound(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LLaMA and adapter, without the joint embedding."""
    return {key: value for key, value in official.items() if not key.startswith("image_bind.")}


def full_size(reference: Path, phase: str) -> dict[str, Tensor]:
    """A 7 B checkpoint without its numbers, as the research code's constructor makes it."""
    listed = json.loads((reference / "keys" / f"adapter_7B_{phase}_full.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        return {key: torch.empty(shape, dtype=getattr(torch, dtype)) for key, (shape, dtype) in listed.items()}


@pytest.mark.parametrize("phase", PHASES)
def test_the_shapes_of_seven_billion_are_the_official_ones(reference: Path, phase: str) -> None:
    official = full_size(reference, phase)
    assert adapter_shapes(PHASES[phase]) == {key: tuple(value.shape) for key, value in official.items()}
    assert sizes_of(weights_in_memory(official)) == PHASES[phase]


@pytest.mark.parametrize("keep_lora", [False, True])
@pytest.mark.parametrize("phase", PHASES)
def test_a_full_size_checkpoint_fills_the_model(reference: Path, phase: str, keep_lora: bool) -> None:
    plan = plan_adapter_weights(weights_in_memory(full_size(reference, phase)), keep_lora=keep_lora)
    config = imagebind_llm_config(PHASES[phase], ImageBindConfig(projection_dim=1024), keep_lora=keep_lora)
    with torch.device("meta"):
        expected = ImageBindLlmForConditionalGeneration(config).state_dict()
    made = {weight.name: tuple(weight.make().shape) for weight in plan.model}
    assert made == {key: tuple(value.shape) for key, value in expected.items()}
    assert made == {weight.name: weight.shape for weight in plan.model}
    assert len(plan.lora) == (2 * 7 * 32 if keep_lora and phase == "finetune" else 0)
    assert all(weight.make().shape == weight.shape for weight in plan.lora)


def test_weights_keep_their_types_and_merged_ones_that_of_the_base(reference: Path) -> None:
    plan = plan_adapter_weights(weights_in_memory(full_size(reference, "finetune")))
    dtypes = {weight.name: weight.dtype for weight in plan.model}
    projection = "language_model.model.layers.3.self_attn.q_proj"
    assert dtypes[f"{projection}.weight"] == dtypes["gates"] == torch.float16
    assert (
        dtypes[f"{projection}.bias"] == dtypes["bind_network.proj.weight"] == dtypes["prefix_value_up"] == torch.float32
    )


def test_lora_is_added_before_rounding(golden: Golden) -> None:
    official = bound(golden.official("finetune", 4))
    key = "llama.layers.0.feed_forward.w1.weight"
    exact = convert_adapter_state_dict(official)["language_model.model.layers.0.mlp.gate_proj.weight"]
    half = {name: value.half() if name == key else value for name, value in official.items()}
    rounded_once = (exact - official[key] + official[key].half()).half()
    merged = convert_adapter_state_dict(half)["language_model.model.layers.0.mlp.gate_proj.weight"]
    assert merged.dtype == torch.float16
    torch.testing.assert_close(merged, rounded_once, atol=0, rtol=1e-3)
    assert not torch.equal(merged, half[key])


def test_a_planned_weight_reads_only_what_it_is_made_of(golden: Golden) -> None:
    reads: Counter[str] = Counter()
    official = weights_in_memory(bound(golden.official("finetune", 4)))

    def counted(key: str) -> Tensor:
        reads[key] += 1
        return official[key].read()

    watched = {key: replace(weight, read=lambda key=key: counted(key)) for key, weight in official.items()}
    plan = plan_adapter_weights(watched)
    assert not reads
    next(weight for weight in plan.model if weight.name.endswith("1.self_attn.k_proj.weight")).make()
    stem = "llama.layers.1.attention"
    assert reads == {f"{stem}.wk.weight": 1, f"{stem}.lora_wk_l1.weight": 1, f"{stem}.lora_wk_l2.weight": 1}


def test_only_the_gates_of_layers_with_a_prefix_are_kept(golden: Golden) -> None:
    official = bound(golden.official("pretrain", 2))
    gates = convert_adapter_state_dict(official)["gates"]
    assert torch.equal(gates, torch.stack([official[f"llama.layers.{i}.attention.gate"].flatten() for i in (2, 3)]))


def test_missing_weights_are_named(golden: Golden) -> None:
    official = bound(golden.official("finetune", 4))
    del official["llama.layers.2.attention.lora_wk_l2.weight"], official["image_bind_f1_2.weight"]
    with pytest.raises(
        CheckpointError, match=r"missing.*image_bind_f1_2\.weight, llama\.layers\.2\.attention\.lora_wk_l2"
    ):
        convert_adapter_state_dict(official)


def test_unexpected_weights_are_named(golden: Golden) -> None:
    official = bound(golden.official("finetune", 4)) | {"llama.layers.1.attention.wq.scale": torch.zeros(64)}
    with pytest.raises(CheckpointError, match=r"unexpected.*llama\.layers\.1\.attention\.wq\.scale"):
        convert_adapter_state_dict(official)


def test_weights_of_another_shape_are_named(golden: Golden) -> None:
    official = bound(golden.official("finetune", 4)) | {"llama.layers.1.attention.gate": torch.zeros(1, 8, 1, 1)}
    with pytest.raises(CheckpointError, match=r"layers\.1\.attention\.gate is \(1, 8, 1, 1\), expected \(1, 4, 1, 1\)"):
        convert_adapter_state_dict(official)


def test_an_adapter_alone_asks_for_the_llama() -> None:
    with pytest.raises(CheckpointError, match=r"llama\.tok_embeddings\.weight is missing"):
        convert_adapter_state_dict({"prefix_query.weight": torch.zeros(2, 4)})


def test_sampling_defaults_are_those_of_the_paper() -> None:
    config = generation_config_of_the_paper()
    assert (config.max_new_tokens, config.do_sample, config.temperature, config.top_p) == (256, True, 0.1, 0.75)
    assert config.top_k == 0


def test_tokenizer_gives_the_official_ids(golden: Golden, tmp_path: Path) -> None:
    tokenizer = load_llama_tokenizer(golden.folder / "tokenizer.model")
    tokenizer.save_pretrained(tmp_path)
    for prompt in golden.facts["prompts"]:
        assert tokenizer(prompt["text"])["input_ids"] == prompt["ids"]
        assert type(tokenizer).from_pretrained(tmp_path)(prompt["text"])["input_ids"] == prompt["ids"]


@pytest.mark.parametrize("content", [b"", b"no such thing", b"\x0a\xff\x01"])
def test_what_is_no_tokenizer_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"expected LLaMA's tokenizer\.model"):
        load_llama_tokenizer(tmp_path / "tokenizer.model")


def test_a_missing_tokenizer_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No such file.*expected LLaMA's tokenizer\.model"):
        load_llama_tokenizer(tmp_path / "tokenizer.model")
