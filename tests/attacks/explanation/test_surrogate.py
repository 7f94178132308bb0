"""The softplus surrogate against one made by hand, and that the model comes back."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.attacks.explanation import count_relu, softplus_surrogate


def softplus(t, beta=5.0):
    return F.softplus(t, beta)


def forgets_the_result(t):
    t.relu_()
    return t


BY_HAND = {
    "module": (nn.ReLU(), softplus),
    "module in place": (nn.ReLU(inplace=True), softplus),
    "function": (F.relu, softplus),
    "function in place": (lambda t: F.relu(t, inplace=True), softplus),
    "torch": (torch.relu, softplus),
    "torch in place": (lambda t: torch.relu_(t), softplus),
    "method": (lambda t: t.relu(), softplus),
    "method in place": (lambda t: t.relu_(), softplus),
    "result not used": (forgets_the_result, softplus),
    "leaky": (nn.LeakyReLU(0.2), lambda t: 0.2 * t + 0.8 * softplus(t)),
    "leaky in place": (nn.LeakyReLU(0.2, inplace=True), lambda t: 0.2 * t + 0.8 * softplus(t)),
    "leaky by name": (
        lambda t: F.leaky_relu(input=t, negative_slope=0.2),
        lambda t: 0.2 * t + 0.8 * softplus(t),
    ),
    "relu6": (nn.ReLU6(), lambda t: softplus(t) - softplus(t - 6)),
    "relu6 function": (F.relu6, lambda t: softplus(t) - softplus(t - 6)),
    "hardtanh": (nn.Hardtanh(-2, 3), lambda t: -2 + softplus(t + 2) - softplus(t - 3)),
    "gelu": (nn.GELU(), F.gelu),
    "silu": (nn.SiLU(), F.silu),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_way_to_write_it(name):
    activation, expected = BY_HAND[name]
    torch.manual_seed(0)
    first, last = nn.Linear(4, 9).double(), nn.Linear(9, 2).double()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = first, last
            self.activation = activation if isinstance(activation, nn.Module) else None

        def forward(self, x):
            return last((self.activation or activation)(3 * first(x)))

    net, x = Net(), torch.randn(5, 4, dtype=torch.float64)
    before = net(x)
    for model in (net, lambda z: net(z)):
        with softplus_surrogate(model, 5) as smooth:
            z = x.clone().requires_grad_()
            out = smooth(z)
            (gradient,) = torch.autograd.grad(out[:, 0].sum(), z, create_graph=True)
            (second,) = torch.autograd.grad(gradient.square().sum(), z)
        by_hand = last(expected(3 * first(x)))
        assert torch.allclose(out, by_hand, atol=1e-12)
        z = x.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(last(expected(3 * first(z)))[:, 0].sum(), z, create_graph=True)
        assert torch.allclose(gradient, wanted, atol=1e-12)
        assert torch.allclose(second, torch.autograd.grad(wanted.square().sum(), z)[0], atol=1e-12)
        assert second.abs().max() > 0
    assert torch.equal(net(x), before)
    assert count_relu(net, x) == (name not in ("gelu", "silu"))


def test_a_layer_asked_alone_is_smooth_and_what_is_outside_is_not():
    features, x = nn.Sequential(nn.Linear(4, 9), nn.ReLU()), torch.randn(5, 4)
    model = nn.Sequential(features, nn.Linear(9, 2))
    with softplus_surrogate(model, 5):
        assert torch.allclose(features(x), softplus(features[0](x)))
        assert (torch.relu(-features(x)) == 0).all()  # Grad-CAM's own ReLU stays
    assert torch.equal(features(x), features[0](x).relu())


def test_a_forward_pass_of_the_instance_comes_back():
    model, x = nn.Sequential(nn.Linear(4, 9), nn.ReLU()), torch.randn(5, 4)
    own = model.forward
    model.forward = patched = lambda z: own(z) + 1
    with pytest.raises(RuntimeError, match="inside"), softplus_surrogate(model, 5):
        raise RuntimeError("inside")
    assert model.forward is patched
    assert torch.equal(model(x), copy.deepcopy(model[0])(x).relu() + 1)


def test_sharpness_bounds_the_error():
    t = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    for beta in (1, 10, 100):
        with softplus_surrogate(torch.relu, beta) as smooth:
            error = (smooth(t) - t.relu()).abs().max()
        assert error.item() == pytest.approx(math.log(2) / beta, rel=1e-6)


@pytest.mark.parametrize("beta", [0, -1, float("inf"), "30", True])
def test_bad_beta(beta):
    with pytest.raises(ValueError, match="surrogate_beta="), softplus_surrogate(nn.ReLU(), beta):
        pass
