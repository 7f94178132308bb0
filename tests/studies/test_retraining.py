from __future__ import annotations

import pytest
import torch

from faultlines.estimators.influence import loo_influence
from faultlines.estimators.ntk import finite_relu_ntk
from faultlines.models import LinearisedTwoLayer, TwoLayerReLU
from faultlines.studies.retraining import retrained_influence
from faultlines.training.two_layer import descend


def problem(n=8, t=3, d=4):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n + t, d, generator=draw, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    net = TwoLayerReLU(d, 32, antisymmetric=True, generator=draw)
    return net, x[:n], torch.where(x[:n, 0] > 0, 1.0, -1.0).double(), x[n:]


def test_retraining_the_linearised_twin_is_exact_leave_one_out():
    net, x, y, z = problem()
    twin, options = LinearisedTwoLayer(net), {"ridge": 0.2, "tolerance": 1e-10}
    descend(twin, x, y, **options)
    found = retrained_influence(twin, x, y, z, [0, 5], **options)
    kernel, test = (finite_relu_ntk(a, x, weight=net.initial) for a in (x, z))
    torch.testing.assert_close(found, loo_influence(kernel, test, y, 0.2)[[0, 5]], atol=1e-8, rtol=0)


def test_the_network_is_left_as_it_is():
    net, x, y, z = problem()
    descend(net, x, y, ridge=0.2, max_steps=50)
    weight = net.weight.detach().clone()
    found = retrained_influence(net, x, y, z, [1], ridge=0.2, max_steps=50)
    assert torch.equal(net.weight, weight) and found.shape == (1, 3) and found.abs().max() > 1e-4


def test_bad_input():
    net, x, y, z = problem()
    with pytest.raises(ValueError, match=r"left_out holds \[8\]; it must name rows from 0 to 7"):
        retrained_influence(net, x, y, z, [2, 8], ridge=0.2)
