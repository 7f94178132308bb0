"""Paired arms against networks trained and attacked one by one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from faultlines.attacks import PGD
from faultlines.data import Task
from faultlines.models import ViT
from faultlines.studies import own_outcomes, shared_rates, train_arms
from faultlines.studies.robustness_profiles import Outcomes, attack_outcomes
from faultlines.training import TrackLambda, fit, seeded

VIT = partial(ViT, image_size=4, patch_size=2, channels=1, classes=2, dim=8, depth=1, heads=2)
SETTINGS = {"batch_size": 10, "lr": 0.02}


def halves(seed, n=30):
    """Images whose upper or lower half is the brighter one."""
    x = torch.rand(2 * n, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) / 4
    y = torch.arange(2 * n) % 2
    x[y == 0, :, :2] += 0.5
    x[y == 1, :, 2:] += 0.5
    return Task(x[:n].double(), y[:n], x[n:].double(), y[n:])


def test_a_network_is_what_fit_makes_of_its_seed():
    tasks = {seed: halves(seed) for seed in (3, 5)}
    arms = {"ViT": VIT, "DiffViT": partial(VIT, attention="differential")}
    trained = train_arms(arms, tasks, loss=0.69, epochs=6, **SETTINGS)
    alone = seeded(VIT, 5)
    fit(
        alone,
        tasks[5].x,
        tasks[5].y,
        seed=5,
        epochs=6,
        stop_at_loss=0.69,
        objective=TrackLambda(),
        **SETTINGS,
    )
    assert torch.equal(trained["ViT"].networks[1](halves(9).x.float()), alone(halves(9).x.float()))
    loss = nn.functional.cross_entropy(alone(tasks[5].x.float()), tasks[5].y).item()
    assert trained["ViT"].loss[1].item() == pytest.approx(loss)
    assert "lambda 0" in trained["DiffViT"].histories[0].terms


def test_a_network_short_of_its_loss_gets_more_epochs_or_an_error():
    tasks = {0: halves(0)}
    found = train_arms({"ViT": VIT}, tasks, loss=0.1, epochs=4, **SETTINGS)["ViT"]
    assert found.epochs[0] > 4 and found.loss[0] <= 0.1
    with pytest.raises(ValueError, match=r"'ViT', seed 0: loss .* after 4 epochs"):
        train_arms({"ViT": VIT}, tasks, loss=1e-9, epochs=1, **SETTINGS)
    with pytest.raises(ValueError, match="at least one"):
        train_arms({}, tasks, loss=0.1, epochs=1)


def test_every_network_meets_its_own_images():
    networks = [seeded(VIT, seed).eval() for seed in (0, 1)]
    tests = [(task.x_test.float(), task.y_test) for task in (halves(0), halves(1))]
    attacks = {"pgd": PGD(eps=0.1, steps=3)}
    found = own_outcomes(networks, tests, attacks, seed=4)
    for row, (network, (x, y)) in enumerate(zip(networks, tests, strict=True)):
        alone = attack_outcomes([network], x, y, attacks, seed=4)
        assert torch.equal(found.correct[row], alone.correct[0])
        assert torch.equal(found.fooled["pgd"][row], alone.fooled["pgd"][0])
    with pytest.raises(ValueError, match="one of equal size"):
        own_outcomes(networks, tests[:1], attacks, seed=4)


def outcomes(correct, fooled):
    correct, fooled = torch.tensor(correct), torch.tensor(fooled)
    return Outcomes(correct, {"a": fooled}, {"a": fooled.float()})


def test_shared_rates_count_images_that_all_have_right():
    first = outcomes([[True, True, True, False]], [[True, False, True, True]])
    second = outcomes([[True, True, False, True]], [[False, True, True, True]])
    rates, count = shared_rates([first, second], "a")
    assert (rates.tolist(), count.tolist()) == ([[0.5], [0.5]], [2])  # images 0 and 1
    third = outcomes([[True, False, True, True]], [[False, True, True, True]])
    assert shared_rates([first, second, third], "a")[0].tolist() == [[1.0], [0.0], [0.0]]  # image 0
    assert shared_rates([first], "a")[0][0].tolist() == first.rate("a").tolist()
    with pytest.raises(ValueError, match="no image right in common"):
        shared_rates([first, outcomes([[False, False, False, True]], [[True] * 4])], "a")
    with pytest.raises(ValueError, match="must agree"):
        shared_rates([first, outcomes([[True]], [[True]])], "a")
