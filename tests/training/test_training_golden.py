"""Equality with the research code (OpenGVLab/LLaMA-Adapter, imagebind_LLM) where it trains its tiny LLaMA_adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_adapter import official_part
from training_fixture import RandomItems

from ibllm_tools.training import BindingTrainer, Recipe, Stage

CASES: list[tuple[Stage, int]] = [("finetune", 4), ("pretrain", 4), ("pretrain", 2)]
RECIPE = Recipe(base_learning_rate=0.128, epochs=1, warmup_epochs=0, weight_decay=0.05, max_words=20, batch_size=2)


@pytest.mark.parametrize(("phase", "layers"), CASES)
def test_losses_gradients_and_three_updates(golden: Any, tmp_path: Path, phase: Stage, layers: int) -> None:
    facts = golden.facts["training"][f"{phase}_{'full' if layers == 4 else 'part'}"]
    model = golden.model(phase, layers)
    trainer = BindingTrainer(model, RandomItems(), RECIPE, tmp_path, disable_tqdm=True)
    optimiser = trainer.create_optimizer()
    assert optimiser.param_groups[0]["lr"] == facts["adamw"]["lr"]
    model.train()
    losses = []
    for update in range(4):
        loss = trainer.compute_loss(model, golden.batch())
        losses.append(loss.item())
        if update == 3:
            break
        loss.backward()
        if update == 0:
            for name, expected in facts["grads"].items():
                found = official_part(model, name, gradient=True)
                assert found.norm().item() == pytest.approx(expected["l2"], rel=1e-4), name
                assert found.double().sum().item() == pytest.approx(expected["sum"], abs=1e-4 * expected["l2"]), name
        optimiser.step()
        optimiser.zero_grad()
    assert losses == pytest.approx(facts["adamw"]["losses"], rel=1e-5)
    for name, expected in facts["adamw"]["param_l2_after"].items():
        if layers == 2 and name.startswith(("llama.layers.0.", "llama.layers.1.")):
            continue  # gates of layers that receive no prefix: the research code has them, we do not
        assert official_part(model, name).norm().item() == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize(("phase", "layers"), CASES)
def test_loss_without_any_label_is_zero(golden: Any, tmp_path: Path, phase: Stage, layers: int) -> None:
    model = golden.model(phase, layers)
    trainer = BindingTrainer(model, RandomItems(), RECIPE, tmp_path, disable_tqdm=True)
    batch = golden.batch() | {"labels": torch.full_like(golden.training["labels"], -100)}
    assert trainer.compute_loss(model, batch).item() == 0
