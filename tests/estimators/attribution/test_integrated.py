from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from faultlines.estimators.attribution import integrated_gradients
from faultlines.estimators.attribution.averaged_gradients import RULES


@pytest.mark.parametrize("rule", RULES)
def test_it_is_captums(rule: str, smooth: nn.Module, x: Tensor, target: Tensor) -> None:
    found = integrated_gradients(smooth.float(), x.float(), target, steps=7, rule=rule)
    theirs = IntegratedGradients(smooth).attribute(x.float(), target=target, n_steps=7, method=rule)
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-6)


def test_it_is_captums_with_a_baseline(smooth: nn.Module, x: Tensor, target: Tensor) -> None:
    baseline = x.flip(0) / 2
    theirs = IntegratedGradients(smooth).attribute(
        x, baseline, target=target, n_steps=5, method="riemann_right"
    )
    found = integrated_gradients(smooth, x, target, steps=5, baseline=baseline, rule="riemann_right")
    torch.testing.assert_close(found, theirs, rtol=1e-6, atol=1e-8)  # captum's weights are float32


@pytest.mark.parametrize(
    ("rule", "tolerance"), [("riemann_middle", 2e-6), ("riemann_right", 2e-3), ("gausslegendre", 1e-12)]
)
def test_completeness(rule: str, tolerance: float, smooth: nn.Module, x: Tensor, target: Tensor) -> None:
    baseline = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
    total = integrated_gradients(smooth, x, target, steps=64, baseline=baseline, rule=rule).sum(dim=(1, 2, 3))
    rise = (smooth(x) - smooth(baseline)).gather(1, target[:, None]).squeeze(1)
    assert (total - rise).abs().max() <= tolerance
    if rule == "riemann_right":
        assert (total - rise).abs().max() > 2e-6  # the rules do differ


def test_it_is_exact_for_a_linear_model(linear: nn.Module, x: Tensor, target: Tensor) -> None:
    found = integrated_gradients(linear, x, target, steps=1, baseline=0.25)
    torch.testing.assert_close(found, (x - 0.25) * linear[1].weight[target].view(3, 2, 8, 8))


def test_chunks_change_nothing(smooth: nn.Module, x: Tensor, target: Tensor) -> None:
    whole = integrated_gradients(smooth, x, target, steps=5)
    for chunk in (1, 6, 7):
        torch.testing.assert_close(integrated_gradients(smooth, x, target, steps=5, chunk=chunk), whole)


def test_second_derivative(smooth: nn.Module, x: Tensor) -> None:
    x = x[:1].clone().requires_grad_()

    def score(x: Tensor) -> Tensor:
        return integrated_gradients(smooth, x, 1, steps=3, chunk=2, create_graph=True).square().sum()

    assert torch.autograd.gradcheck(score, (x,))


def test_a_pixel_at_the_baseline_gets_nothing(smooth: nn.Module, x: Tensor, target: Tensor) -> None:
    x[:, :, 2:4] = 0
    found = integrated_gradients(smooth, x, target)
    assert (found[:, :, 2:4] == 0).all()
    assert (found[:, :, :2] != 0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, r"steps=0 must be an integer, at least 1"),
        ({"steps": 2.0}, r"steps=2.0 must be"),
        ({"rule": "simpson"}, r"rule='simpson' is not one of \('riemann_middle'"),
        ({"baseline": torch.zeros(3, 8, 8)}, r"baseline has shape \(3, 8, 8\)"),
        ({"baseline": torch.zeros(2, 1, 1, 1, 1, 1)}, r"baseline has shape"),
        ({"baseline": float("nan")}, r"baseline holds nan; every entry must be finite in torch.float64"),
        ({"baseline": torch.full((8, 8), -torch.inf)}, r"baseline holds -inf; every entry"),
        ({"chunk": 0}, r"chunk=0 must be"),
    ],
)
def test_bad_input(options: dict, message: str, smooth: nn.Module, x: Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        integrated_gradients(smooth, x, 0, **options)
