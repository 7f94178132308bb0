from __future__ import annotations

import pytest
import torch

from faultlines.training.optimizer import Settings, learning_rate


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0.3), (100, 0.25), (7, 0.5), (60, 0.05)])
def test_onecycle_is_torchs(steps, warmup):
    settings = Settings(epochs=1, lr=0.3, warmup=warmup, schedule="onecycle")
    stepper = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = torch.optim.lr_scheduler.OneCycleLR(
        stepper, max_lr=0.3, total_steps=steps, pct_start=warmup, cycle_momentum=False
    )
    for step in range(steps):
        assert learning_rate(step, steps, settings) == pytest.approx(stepper.param_groups[0]["lr"], rel=1e-9)
        stepper.step()
        if step + 1 < steps:
            peer.step()


def test_cosine_without_warmup_is_torchs():
    settings = Settings(epochs=1, lr=0.3, warmup=0.0)
    stepper = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(stepper, T_max=20)
    for step in range(20):
        assert learning_rate(step, 20, settings) == pytest.approx(stepper.param_groups[0]["lr"], rel=1e-9)
        stepper.step()
        peer.step()


@pytest.mark.parametrize("schedule", ["cosine", "constant", "onecycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_the_rate_is_positive_peaks_once_and_never_exceeds_lr(schedule, warmup, steps):
    settings = Settings(epochs=1, lr=0.1, warmup=warmup, schedule=schedule)
    rates = [learning_rate(step, steps, settings) for step in range(steps)]
    assert all(0 < rate <= 0.1 + 1e-12 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
