from __future__ import annotations

import pytest
import torch

from faultlines.estimators.ntk import KernelRidge, finite_relu_ntk
from faultlines.models import LinearisedTwoLayer, Representation, TwoLayerReLU, linear_attention
from faultlines.training.two_layer import _slope, descend, fit_adam, fit_adversarial, laziness


def problem(n=10, d=4, t=5):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n + t, d, generator=draw, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    return x[:n], x[n:], torch.where(x[:n, 0] > 0, 1.0, -1.0).double()


def network(width=32, **options):
    return TwoLayerReLU(4, width, generator=torch.Generator().manual_seed(1), **options)


@pytest.mark.parametrize("ridge", [0.05, 1.0])
def test_the_linearised_twin_ends_at_kernel_ridge(ridge):
    x, z, y = problem()
    twin = LinearisedTwoLayer(network(antisymmetric=True))
    end = descend(twin, x, y, ridge=ridge, tolerance=1e-10)
    assert end.converged and end.gradient <= 1e-10
    weight = twin.initial
    expected = KernelRidge(finite_relu_ntk(x, weight=weight), y, ridge)(finite_relu_ntk(z, x, weight=weight))
    torch.testing.assert_close(twin(z).detach(), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("linearised", [False, True])
def test_slope_is_autograds(linearised):
    x, _, y = problem()
    net = network()
    net = LinearisedTwoLayer(net) if linearised else net
    with torch.no_grad():
        net.weight += 0.3 * torch.randn(
            net.weight.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
        )
    loss = (net(x) - y).square().sum() / 2 + 0.1 * (net.weight - net.initial).square().sum() / 2
    gates = (x @ net.initial.T > 0).double() if linearised else None
    value, slope = _slope(net.weight.detach(), x, y, net.signs[0], net.initial, 0.1, gates)
    assert value == pytest.approx(loss.item())
    torch.testing.assert_close(slope, torch.autograd.grad(loss, net.weight)[0])


def test_descent_lowers_the_networks_loss_and_says_where_it_stopped():
    x, _, y = problem()
    net = network(antisymmetric=True)
    end = descend(net, x, y, ridge=0.1, tolerance=1e-12, max_steps=50)
    loss = (net(x) - y).square().sum() / 2 + 0.05 * (net.weight - net.initial).square().sum()
    assert end.steps == 50 and not end.converged and loss.item() < 0.5 * float(y.square().sum()) / 2


def test_a_wide_network_is_lazy():
    x, z, y = problem()
    gaps = {}
    for width in (64, 16384):
        net = network(width, antisymmetric=True)
        descend(net, x, y, ridge=0.3, tolerance=1e-3, max_steps=300)
        fit = KernelRidge(finite_relu_ntk(x, weight=net.initial), y, 0.3)
        gaps[width] = float((net(z).detach() - fit(finite_relu_ntk(z, x, weight=net.initial))).norm())
    assert gaps[16384] < gaps[64] / 4


def test_laziness_counts_switches():
    x, _, _ = problem()
    net = network(6)
    start = laziness(net, x)
    assert start.movement == start.flips == start.kernel_change == 0
    gates = (x @ net.initial.T > 0).double()
    pairs = [(gates[i] != gates[j]).double().mean() for i in range(10) for j in range(10) if i != j]
    assert start.spread == pytest.approx(float(sum(pairs) / len(pairs)))
    with torch.no_grad():
        net.weight[0] *= -1  # every row switches this unit: one in six
    moved = laziness(net, x)
    assert moved.flips == pytest.approx(1 / 6) and moved.movement == pytest.approx(
        2 * float(net.initial[0].norm())
    )


def test_the_recipe_fits_the_targets():
    x, _, y = problem()
    net = network(128, init_scale=0.01)
    fit_adam(net, x, y, epochs=300, lr=0.01, batch_size=5, generator=torch.Generator().manual_seed(0))
    assert bool((net(x).sign() == y).all())


@pytest.mark.parametrize("attention", [None, linear_attention])
def test_adversarial_training_learns(attention):
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(16) % 2
    x = 0.3 + 0.1 * torch.rand(16, 1, 2, 2, generator=draw, dtype=torch.float64)
    x[y == 1, :, 0] += 0.4
    x[y == 0, :, 1] += 0.4
    representation = Representation(attention)
    net = network(64, init_scale=0.1)
    fit_adversarial(
        net, representation, x, y, eps=0.03, epochs=40, lr=0.02, batch_size=8, steps=2,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert bool(((net(representation(x, x)) > 0) == (y == 1)).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: descend(network(), x, y, ridge=0.0), "ridge=0.0 must be above 0"),
        (
            lambda x, y: fit_adversarial(
                network(), Representation(), x.abs(), torch.arange(10), eps=0.1, epochs=1, generator=None
            ),
            "a binary task must have 0 and 1",
        ),
        (
            lambda x, y: fit_adversarial(
                network(),
                Representation(),
                x.abs(),
                torch.arange(10) % 2,
                eps=0.1,
                epochs=1,
                ramp=0,
                generator=None,
            ),
            "ramp=0 must lie in",
        ),
    ],
)
def test_bad_input(call, message):
    x, _, y = problem()
    with pytest.raises(ValueError, match=message):
        call(x, y)
