"""Training from end to end, interrupted and resumed."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_fixture import WIDTH, RandomItems
from transformers import TrainerCallback, TrainerControl

from ibllm_tools.errors import CheckpointError, InvalidRequestError, MissingExtraError
from ibllm_tools.imagebind_llm import ImageBindLlmForConditionalGeneration
from ibllm_tools.training import (
    BindingTrainer,
    Recipe,
    Stage,
    load_trainable,
    merge_lora,
    prepare_for_stage,
    save_trainable,
)

Build = Callable[..., ImageBindLlmForConditionalGeneration]
RECIPE = Recipe(base_learning_rate=0.3, epochs=5, warmup_epochs=1, weight_decay=0.02, max_words=20, batch_size=8)


class StopAt(TrainerCallback):
    """Ends the run after an update, as an interruption would, with a checkpoint behind it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        control.should_save = control.should_training_stop = state.global_step == self.step
        return control


def train(
    model: Any, items: RandomItems, folder: Path, *, recipe: Recipe = RECIPE, stop: int | None = None, **options: Any
) -> list[float]:
    """Train and return the logged losses."""
    options = {"logging_steps": 4, "disable_tqdm": True} | options
    trainer = BindingTrainer(model, items, recipe, folder, **options)
    if stop is not None:
        trainer.add_callback(StopAt(stop))
    trainer.run()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


class NamedThings(RandomItems):
    """Four kinds of things: the embedding decides the first word, and the first word the second."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        kind = index % 4
        ids = [1, 10 + kind, 20 + kind, 2]
        return {"input_ids": ids, "labels": [-100, *ids[1:]], "embedding": torch.eye(WIDTH)[kind]}


class UnreadItems(RandomItems):
    """Items that nobody may ask for."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise AssertionError("an item was read")


def test_each_stage_learns_its_part(tiny_model: Build, tmp_path: Path) -> None:
    """Words from text, which word from the embedding; then the two together."""
    model, items, recipe = tiny_model(), NamedThings(), replace(RECIPE, base_learning_rate=1.0, epochs=12)
    final = {}
    for stage in get_args(Stage):
        prepare_for_stage(model, stage, lora_rank=4)
        final[stage] = train(model, items, tmp_path / stage, recipe=recipe)[-1]
    assert final["language"] == pytest.approx(math.log(4) / 3, abs=0.1)  # the kind cannot be known
    assert final["pretrain"] < math.log(4) / 3 - 0.01  # out of reach without the embedding
    assert final["finetune"] < 0.2
    assert not any("lora" in name for name in merge_lora(model).state_dict())


def test_only_what_trains_changes_and_is_saved(tiny_model: Build, items: RandomItems, tmp_path: Path) -> None:
    model = prepare_for_stage(tiny_model(), "pretrain")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, items, tmp_path)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])} == names
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-20"
    assert set(load_file(checkpoint / "model.safetensors")) == names


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("step", [4, 6])
def test_a_resumed_run_equals_an_uninterrupted_one(
    tiny_model: Build, items: RandomItems, tmp_path: Path, stage: Stage, step: int
) -> None:
    whole = prepare_for_stage(tiny_model(), stage)
    train(whole, items, tmp_path / "whole")
    train(prepare_for_stage(tiny_model(), stage), items, tmp_path / "halves", stop=step)
    resumed = prepare_for_stage(tiny_model(), stage)
    train(resumed, items, tmp_path / "halves")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_sub_epochs_are_resumed_too(tiny_model: Build, items: RandomItems, tmp_path: Path) -> None:
    recipe = Recipe(
        base_learning_rate=0.3,
        epochs=6,
        warmup_epochs=1,
        weight_decay=0.0,
        max_words=20,
        batch_size=4,
        accumulation=2,
        split_epoch=2,
    )
    whole, first, resumed = (prepare_for_stage(tiny_model(), "pretrain") for _ in range(3))
    train(whole, items, tmp_path / "whole", recipe=recipe)
    train(first, items, tmp_path / "halves", recipe=recipe, stop=7)
    train(resumed, items, tmp_path / "halves", recipe=recipe)
    assert (tmp_path / "halves" / "checkpoint-12").is_dir()
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_half_written_checkpoint_is_passed_over(tiny_model: Build, items: RandomItems, tmp_path: Path) -> None:
    whole = prepare_for_stage(tiny_model(), "pretrain")
    train(whole, items, tmp_path)
    (tmp_path / "checkpoint-99").mkdir()
    resumed = prepare_for_stage(tiny_model(), "pretrain")
    train(resumed, items, tmp_path)
    assert torch.equal(resumed.gates, whole.gates)


def test_a_finished_run_is_only_loaded(tiny_model: Build, items: RandomItems, tmp_path: Path) -> None:
    whole = prepare_for_stage(tiny_model(), "pretrain")
    train(whole, items, tmp_path)
    again = prepare_for_stage(tiny_model(), "pretrain")
    train(again, UnreadItems(), tmp_path)
    assert torch.equal(again.bind_network.proj.weight, whole.bind_network.proj.weight)


def test_padding_does_not_change_the_loss(tiny_model: Build, items: RandomItems, tmp_path: Path) -> None:
    model = prepare_for_stage(tiny_model(), "pretrain")
    model.gates.data.normal_()
    trainer = BindingTrainer(model, items, RECIPE, tmp_path, disable_tqdm=True)
    model.eval()
    rows = [items[index] for index in range(8)]
    counts = [sum(label != -100 for label in row["labels"][1:]) for row in rows]
    with torch.no_grad():
        together = trainer.compute_loss(model, trainer.data_collator(rows))
        alone = [
            trainer.compute_loss(model, trainer.data_collator([row])) * n for row, n in zip(rows, counts, strict=True)
        ]
    assert together.item() == pytest.approx(sum(alone).item() / sum(counts), rel=1e-5)


def test_embeddings_never_run_the_joint_embedding(tiny_model: Build, items: RandomItems, tmp_path: Path) -> None:
    model = prepare_for_stage(tiny_model(), "pretrain")

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("the joint embedding was run")

    model.imagebind.encode = refuse  # type: ignore[method-assign, assignment]
    assert train(model, items, tmp_path)


def test_images_without_an_attachment_between_them(golden: Any, tmp_path: Path) -> None:
    model = golden.model("pretrain")
    trainer = BindingTrainer(model, RandomItems(), RECIPE, tmp_path, disable_tqdm=True)
    batch = golden.batch()
    mixed = batch | {"pixel_values": golden.inputs["vision"][1:], "embedding_mask": torch.tensor([False, True])}
    rows = [{key: value[index : index + 1] for key, value in batch.items()} for index in range(2)]
    rows[0] = {key: rows[0][key] for key in ("input_ids", "labels")}
    counts = [int((row["labels"][:, 1:] != -100).sum()) for row in rows]
    with torch.no_grad():
        losses = [trainer.compute_loss(model, row).item() for row in rows]
        found = trainer.compute_loss(model, mixed).item()
    expected = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_language_model_alone_trains_as_well(tiny_model: Build, items: RandomItems, tmp_path: Path) -> None:
    class Texts(RandomItems):
        def __getitem__(self, index: int) -> dict[str, Any]:
            item = super().__getitem__(index)
            return {key: item[key] for key in ("input_ids", "labels")}

    model = tiny_model(tie_word_embeddings=True).language_model
    losses = train(model, Texts(), tmp_path)
    assert losses[-1] < losses[0]
    assert model.config.use_cache


def test_half_precision_trains_under_autocast(tiny_model: Build, items: RandomItems, tmp_path: Path) -> None:
    model = prepare_for_stage(tiny_model().to(torch.bfloat16), "finetune")
    losses = train(model, items, tmp_path)
    assert losses[-1] < losses[0]
    assert model.injected_attentions()[0].q_proj.base_layer.weight.dtype == torch.bfloat16


def test_the_learning_rate_follows_from_the_effective_batch(
    tiny_model: Build, items: RandomItems, tmp_path: Path
) -> None:
    recipe = Recipe(
        base_learning_rate=1e-3,
        epochs=1,
        warmup_epochs=0,
        weight_decay=0,
        max_words=8,
        batch_size=4,
        accumulation=8,
    )
    model = prepare_for_stage(tiny_model(), "pretrain")
    assert BindingTrainer(model, items, recipe, tmp_path).args.learning_rate == pytest.approx(1.25e-4)
    assert BindingTrainer(model, items, recipe, tmp_path, learning_rate=7e-4).args.learning_rate == 7e-4


def test_fewer_items_than_a_batch_are_refused(tiny_model: Build, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="3 items, expected at least one batch of 8"):
        BindingTrainer(prepare_for_stage(tiny_model(), "pretrain"), RandomItems(3), RECIPE, tmp_path)


def test_a_model_without_trainable_weights_is_refused(tiny_model: Build, items: RandomItems, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="call prepare_for_stage first"):
        BindingTrainer(tiny_model().requires_grad_(False), items, RECIPE, tmp_path)


def test_without_accelerate_the_extra_is_named(
    tiny_model: Build, items: RandomItems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match=r"ibllm-tools\[train\]"):
        BindingTrainer(prepare_for_stage(tiny_model(), "pretrain"), items, RECIPE, tmp_path)


def test_weights_of_another_stage_are_refused(tiny_model: Build, tmp_path: Path) -> None:
    save_trainable(prepare_for_stage(tiny_model(), "pretrain"), tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="is it of this stage"):
        load_trainable(prepare_for_stage(tiny_model(), "language"), tmp_path / "weights.safetensors")


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    save_trainable(nn.Linear(3, 2), tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"weight is \(2, 3\), expected \(2, 4\)"):
        load_trainable(nn.Linear(4, 2), tmp_path / "weights.safetensors")


@pytest.mark.parametrize("content", [None, b"", b"no safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_trainable(nn.Linear(3, 2), path)
