"""One-dimensional fits against autograd, an exact slope, and the edge of stability."""

from __future__ import annotations

import pytest
import torch

from faultlines.studies import fit_lines
from faultlines.studies.line_fits import (
    descend_lines,
    evaluate,
    initial_weights,
    line_data,
    measure_lines,
)


def test_descent_follows_autograd_run_by_run():
    x, y = line_data([0, 1], n=7, noise=0.3)
    flat, eta = torch.stack([initial_weights(5, 0), initial_weights(5, 1)]), torch.tensor([[0.05], [0.2]])
    found = descend_lines(flat, x, y, eta, steps=3)
    for run in range(2):
        weights = flat[run].clone().requires_grad_()
        for _ in range(3):
            loss = (evaluate(weights, x[run]) - y[run]).square().mean()
            (gradient,) = torch.autograd.grad(loss, weights)
            weights = (weights - eta[run] * gradient).detach().requires_grad_()
        assert torch.allclose(found[run], weights, atol=1e-6)


def test_descent_leaves_the_initial_weights_alone():
    flat = initial_weights(5, 0)[None]
    before = flat.clone()
    descend_lines(flat, *line_data([0], n=7, noise=0.3), torch.tensor([[0.1]]), steps=2)
    assert torch.equal(flat, before)


def test_variation_and_slope_change_of_a_hat():
    # f(x) = relu(x + 1) - 2 relu(x), slopes 1 then -1: one kink of size 2 inside (-1, 1), and one unit at its end
    flat = torch.tensor([[1.0, 1.0, 1.0, 0.0, 1.0, -2.0, 0.0]], dtype=torch.float64)
    x = torch.tensor([[-0.5, 0.5]], dtype=torch.float64)
    loss, _, _, variation, change = measure_lines(flat, x, x, radius=0.05)
    assert variation.item() == 2
    assert change.item() == 2
    assert loss.item() == pytest.approx(((0.5 + 0.5) ** 2 + (0.5 - 0.5) ** 2) / 2)


def test_sharpness_of_a_network_with_its_hidden_layer_shut_off_is_that_of_its_bias():
    # w x + b < 0 everywhere, so only c moves the loss, with second derivative 2
    flat = torch.tensor([[0.1, -1.0, 3.0, 0.5]], dtype=torch.float64)
    x = torch.tensor([[-0.5, 0.5]], dtype=torch.float64)
    assert measure_lines(flat, x, x, radius=0.05)[2].item() == pytest.approx(2.0)


def test_descent_of_a_larger_step_ends_at_two_over_the_step():
    fits = fit_lines([0.01, 0.15], [0, 1], n=20, width=50, steps=6000)
    assert (fits.stability[0] < 0.5).all()
    assert (fits.stability[1] > 2 * fits.stability[0]).all()
    assert fits.stability[1].max() < 1.3


def test_a_step_too_large_is_nan_and_no_error():
    fits = fit_lines([50.0, 0.01], [0], n=10, width=20, steps=100)
    assert fits.loss[0].isnan().all()
    assert fits.sharpness[0].isnan().all()
    assert fits.loss[1].isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": []}, "lr="),
        ({"lr": [0.1, -1.0]}, r"lr=-1\.0"),
        ({"seeds": []}, "seeds="),
        ({"steps": 0}, "steps=0"),
        ({"width": True}, "width=True"),
        ({"radius": 0.0}, r"radius=0\.0"),
        ({"radius": 3.0}, r"radius=3\.0"),
        ({"radius": float("nan")}, "radius=nan"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"noise": -1.0}, r"noise=-1\.0"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        fit_lines(**{"lr": [0.1], "seeds": [0]} | change)
