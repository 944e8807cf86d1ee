"""Learning rates, recipes and epochs of the research code."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.training import RECIPES, Recipe, SubEpochSampler, warmup_cosine
from ibllm_tools.training.schedule import warmup_cosine_schedule


def test_learning_rates_are_the_official_ones(golden: Any) -> None:
    for case in golden.facts["lr_schedule"]:
        for epoch, expected in case["points"]:
            found = warmup_cosine(epoch, case["lr"], case["min_lr"], case["warmup_epochs"], case["epochs"])
            assert found == pytest.approx(expected, rel=1e-12, abs=1e-20)


def test_without_an_epoch_after_the_warm_up_it_ends_at_the_peak() -> None:
    assert [warmup_cosine(epoch, 0.2, 0.01, 1, 1) for epoch in (0, 0.5, 1)] == [0, 0.1, 0.2]


def test_the_optimiser_follows_the_schedule_update_by_update() -> None:
    recipe = Recipe(
        base_learning_rate=1,
        epochs=4,
        warmup_epochs=1,
        weight_decay=0,
        max_words=8,
        min_learning_rate=0.01,
    )
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    schedule = warmup_cosine_schedule(optimiser, recipe, steps=20)  # five updates per epoch
    for update in range(21):
        expected = warmup_cosine(update / 5, 0.2, 0.01, 1, 4)
        assert optimiser.param_groups[0]["lr"] == pytest.approx(expected)
        optimiser.step()
        schedule.step()


def test_the_peak_is_in_proportion_to_the_effective_batch() -> None:
    assert RECIPES["pretrain"].learning_rate(32) == pytest.approx(1.25e-5)
    assert RECIPES["finetune"].learning_rate(32) == pytest.approx(1.25e-4)


def test_sub_epochs_are_the_official_ones(golden: Any) -> None:
    for case in golden.facts["sub_epoch_sampler"]:
        sampler = SubEpochSampler(
            case["n"], case["split_epoch"], seed=case["seed"], replicas=case["replicas"], rank=case["rank"]
        )
        sampler.set_epoch(case["epoch"])
        assert list(sampler) == case["indices"]
        assert len(sampler) == len(case["indices"])


def test_sub_epochs_of_one_pass_share_nothing() -> None:
    sampler = SubEpochSampler(20, 4)
    seen = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        seen.append(set(sampler))
    assert set.union(*seen) == set(range(20))
    assert all(not (first & second) for first, second in pairwise(seen))


@pytest.mark.parametrize("options", [{"size": 3, "split_epoch": 4}, {"size": 9, "split_epoch": 0}])
def test_an_empty_epoch_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be split"):
        SubEpochSampler(**options)


def test_an_unknown_rank_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="rank 2 of 2 replicas"):
        SubEpochSampler(9, 1, replicas=2, rank=2)
