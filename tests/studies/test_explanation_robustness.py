"""Outcomes of attacks on explanations against attacks run one by one, and likeness where it is not defined."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from scipy import stats
from torch import nn

from faultlines.attacks import ExplanationPGD, TopK
from faultlines.estimators import attribute
from faultlines.models import MLP
from faultlines.studies.explanation_robustness import (
    common_correct,
    explanation_likeness,
    explanation_outcome,
    likeness_of_others,
)
from faultlines.training import seeded

EXPLAIN = partial(attribute, method="gradient", create_graph=True)


@pytest.fixture(scope="module")
def network():
    return seeded(partial(MLP, image_shape=(1, 4, 4), classes=3, widths=(32, 32)), 0).eval()


@pytest.fixture(scope="module")
def batch():
    return torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


def test_likeness_agrees_with_scipy_pair_by_pair():
    a, b = torch.rand(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    found = explanation_likeness(a, b, k=3)
    for row, (one, other) in enumerate(zip(a.flatten(1).numpy(), b.flatten(1).numpy(), strict=True)):
        assert found["spearman"][row].item() == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-6)
        assert found["kendall"][row].item() == pytest.approx(stats.kendalltau(one, other).statistic, abs=1e-6)
        assert found["centred"][row].item() == pytest.approx(stats.pearsonr(one, other).statistic, abs=1e-6)


def test_a_map_with_nothing_to_compare_is_lost_unless_both_are_equal():
    zero, ramp = torch.zeros(1, 2, 2), torch.arange(4.0).view(1, 2, 2)
    for name, value in explanation_likeness(zero, ramp, k=1).items():
        if name != "top-k":
            assert value.item() == 0, name
    assert {v.item() for v in explanation_likeness(zero, zero, k=1).values()} == {1.0}


def test_likeness_of_others_agrees_with_scipy_over_all_pairs():
    maps = torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(3)).round(decimals=1)  # with ties
    y = torch.tensor([0, 0, 1, 1, 1, 2])
    everyone, alike = likeness_of_others(maps, y)
    for i in range(6):
        found = {
            j: stats.spearmanr(maps[i].flatten(), maps[j].flatten()).statistic for j in range(6) if j != i
        }
        assert everyone[i].item() == pytest.approx(sum(found.values()) / 5, abs=1e-6)
        same = [value for j, value in found.items() if y[j] == y[i]]
        assert (
            alike[i].isnan()
            if not same
            else alike[i].item() == pytest.approx(sum(same) / len(same), abs=1e-6)
        )


def test_a_constant_map_is_like_an_equal_one_and_like_no_other():
    levels = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 2, 2)
    everyone, _ = likeness_of_others(
        torch.cat([levels, torch.arange(4.0).view(1, 2, 2)]), torch.zeros(4).long()
    )
    assert everyone.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0])


def test_a_map_that_never_changes_has_no_corrected_robustness(batch):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, y = batch[0], torch.zeros(6, dtype=torch.long)  # one class, one map
    found = explanation_outcome(linear, x, y, EXPLAIN, "spearman", eps=0.1, steps=2, k=4)
    assert found.attacked["spearman"].mean().item() == 1
    assert math.isnan(found.corrected())


@pytest.mark.parametrize("criterion", ["spearman", "cosine", TopK(4)])
def test_the_attack_is_the_library_s_and_at_least_as_bad_as_nothing(network, batch, criterion):
    found = explanation_outcome(network, *batch, EXPLAIN, criterion, eps=0.1, steps=6, k=4, seed=2)
    alone = ExplanationPGD(EXPLAIN, criterion, eps=0.1, steps=6, surrogate_beta=30.0)(
        network, *batch, generator=torch.Generator().manual_seed(2)
    )
    assert torch.equal(found.score, alone.score)
    assert (found.score <= 1).all()
    assert 0 < found.kept_share <= 1
    measured = {"spearman": "spearman", "cosine": "cosine"}.get(
        getattr(criterion, "name", criterion), "top-k"
    )
    assert torch.allclose(found.attacked[measured], alone.score, atol=1e-5)


def test_no_perturbation_changes_nothing(network, batch):
    found = explanation_outcome(network, *batch, EXPLAIN, "spearman", eps=0.0, steps=3, k=4)
    for likeness in (found.attacked, found.noisy):
        assert {name: value.min().item() for name, value in likeness.items()} == pytest.approx(
            dict.fromkeys(likeness, 1.0)
        )


def test_noise_is_the_worst_of_its_draws(network, batch):
    one, many = (
        explanation_outcome(network, *batch, EXPLAIN, "spearman", eps=0.2, steps=2, k=4, draws=draws)
        for draws in (1, 20)
    )
    assert (many.noisy["spearman"] <= one.noisy["spearman"] + 1e-6).all()
    assert many.noisy["spearman"].mean() < one.noisy["spearman"].mean()


class Constant(nn.Module):
    """Says the same class of everything."""

    def __init__(self, says):
        super().__init__()
        self.says = says

    def forward(self, x):
        return nn.functional.one_hot(torch.full((len(x),), self.says), 3).float()


def test_common_images_are_right_for_all():
    x, y = torch.zeros(5, 1), torch.tensor([0, 1, 0, 2, 0])
    assert common_correct([Constant(0)], x, y, limit=2).tolist() == [0, 2]
    with pytest.raises(ValueError, match="no sample of 5 is classified right by all of the 2 networks"):
        common_correct([Constant(0), Constant(1)], x, y, limit=2)
    with pytest.raises(ValueError, match="limit=-1 must be at least 1"):
        common_correct([Constant(0)], x, y, limit=-1)
    with pytest.raises(ValueError, match="networks is empty"):
        common_correct([], x, y, limit=2)
