"""Reading official checkpoints: keys, shapes, tokenizer, sampling defaults."""

import json
import re
from pathlib import Path

import pytest
import torch
from golden_adapter import Golden

from ibllm_tools.checkpoints.imagebind_llm import (
    convert_adapter_state_dict,
    generation_config_of_the_paper,
    imagebind_llm_config_from_state_dict,
    official_state_dict,
)
from ibllm_tools.checkpoints.llama_tokenizer import load_llama_tokenizer
from ibllm_tools.errors import CheckpointError
from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind_llm import ImageBindLlmForConditionalGeneration


@pytest.mark.parametrize("keep_lora", [False, True])
@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_a_full_size_checkpoint_fills_the_model(reference: Path, phase: str, keep_lora: bool) -> None:
    shapes = json.loads((reference / "keys" / f"adapter_7B_{phase}_full.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        official = {key: torch.empty(shape, dtype=getattr(torch, dtype)) for key, (shape, dtype) in shapes.items()}
        config = imagebind_llm_config_from_state_dict(
            official, keep_lora=keep_lora, imagebind_config=ImageBindConfig(projection_dim=1024)
        )
        converted = convert_adapter_state_dict(official, num_attention_heads=32, keep_lora=keep_lora)
        expected = ImageBindLlmForConditionalGeneration(config).state_dict()
    if keep_lora and phase == "finetune":
        lora = {key for key in converted if "lora_" in key}
        assert len(lora) == 2 * 7 * 32
        converted = {key.replace(".base_layer", ""): value for key, value in converted.items() if key not in lora}
    assert {key: value.shape for key, value in converted.items()} == {key: v.shape for key, v in expected.items()}
    assert config.text_config.num_hidden_layers == config.num_prefix_layers == 32
    assert config.text_config.intermediate_size == 11008


def test_missing_weights_are_named(golden: Golden) -> None:
    official = golden.official("finetune", 4)
    del official["llama.layers.2.attention.lora_wk_l2.weight"], official["image_bind_f1_2.weight"]
    with pytest.raises(
        CheckpointError, match=r"missing weights: image_bind_f1_2\.weight, llama\.layers\.2\.att.*wk_l2"
    ):
        convert_adapter_state_dict(official, num_attention_heads=4)


def test_unexpected_weights_are_named(golden: Golden) -> None:
    official = golden.official("finetune", 4) | {"image_bind_norm_1.bias": torch.zeros(64)}
    with pytest.raises(CheckpointError, match=r"unexpected weights: image_bind_norm_1\.bias"):
        convert_adapter_state_dict(official, num_attention_heads=4)


def test_an_adapter_alone_asks_for_the_llama() -> None:
    with pytest.raises(CheckpointError, match="LLaMA"):
        convert_adapter_state_dict({"prefix_query.weight": torch.zeros(2, 4)}, num_attention_heads=2)


def test_heads_that_do_not_fit_are_refused(golden: Golden) -> None:
    with pytest.raises(CheckpointError, match="pass num_attention_heads"):
        convert_adapter_state_dict(golden.official("finetune", 4), num_attention_heads=5)


def test_the_three_official_files_come_together(golden: Golden) -> None:
    official = golden.official("finetune", 4)
    tuned = re.compile(r"bias|gate|lora|norm")
    imagebind = {k.removeprefix("image_bind."): v for k, v in official.items() if k.startswith("image_bind.")}
    adapter = {k: v for k, v in official.items() if not k.startswith("image_bind.")}
    llama = {
        k.removeprefix("llama."): v
        for k, v in adapter.items()
        if k.startswith("llama.") and not re.search("bias|gate|lora", k)
    }
    llama |= {"rope.freqs": torch.zeros(8), "norm.weight": torch.zeros(64)}  # the adapter's norms win
    adapter = {
        k.replace("llama.", "llma."): v for k, v in adapter.items() if not k.startswith("llama.") or tuned.search(k)
    }
    adapter["prefix_projector_norm.weight"] = torch.zeros(64)
    together = official_state_dict(llama, adapter, imagebind)
    assert together.keys() == official.keys()
    assert all(torch.equal(together[key], value) for key, value in official.items())


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
