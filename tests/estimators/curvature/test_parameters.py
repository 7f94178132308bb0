"""Hessians in the parameters against dense ones in float64, closed forms and curvlinops."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from curvlinops import HessianLinearOperator
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from faultlines.estimators.curvature import hessian_top, hessian_trace
from faultlines.estimators.curvature.hessian_vector import HessianProduct
from faultlines.models import MLP, ViT


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def net(kind):
    torch.manual_seed(0)
    if kind == "mlp":
        model = MLP(image_shape=(1, 3, 3), classes=3, widths=(4, 4), norm="hidden", activation="gelu")
        model(torch.rand(20, 1, 3, 3, generator=rng(9)))  # running statistics that are not 0 and 1
    else:
        sizes = {
            "image_size": 4,
            "patch_size": 2,
            "channels": 1,
            "classes": 3,
            "dim": 4,
            "depth": 1,
            "heads": 2,
        }
        model = ViT(**sizes, fused="always", qk_gain=3)
    return model.double().eval()


def data(kind, n=12):
    side = 3 if kind == "mlp" else 4
    x = torch.rand(n, 1, side, side, dtype=torch.float64, generator=rng(1))
    return x, torch.randint(3, (n,), generator=rng(2))


def dense(model, x, y, loss=F.cross_entropy):
    model = copy.deepcopy(model)
    if isinstance(model, ViT):
        for block in model.blocks:
            block.attention.fused = "never"
    named = dict(model.named_parameters())

    def value(flat):
        pieces = flat.split([p.numel() for p in named.values()])
        given = {name: piece.view_as(p) for (name, p), piece in zip(named.items(), pieces, strict=True)}
        return loss(functional_call(model, given, (x,)), y)

    # not torch.func.hessian: in torch 2.14.1 it is wrong in the gain of a layer norm, by finite differences
    return torch.autograd.functional.hessian(value, torch.cat([p.detach().flatten() for p in named.values()]))


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("kind", ["mlp", "vit"])
def test_products_are_those_of_the_dense_hessian(kind, chunk_size):
    model, (x, y) = net(kind), data(kind)
    h = dense(model, x, y)
    product = HessianProduct(model, x, y, chunk_size=chunk_size)
    v = torch.randn(product.like.shape, dtype=torch.float64, generator=rng(3))
    torch.testing.assert_close(product(v)[0], h @ v[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(product(2 * v), 2 * product(v))  # the graph is still there


@pytest.mark.parametrize("kind", ["mlp", "vit"])
def test_products_are_differences_of_gradients(kind):
    """No second derivative of torch's: a layer norm's was seen to be wrong under vectorised transforms."""
    model, (x, y) = net(kind), data(kind)
    product = HessianProduct(model, x, y)
    v = torch.randn(product.like.shape, dtype=torch.float64, generator=rng(3))
    found = product(v)[0]
    pieces = v[0].split([p.numel() for p in model.parameters()])
    ends = []
    for h in (1e-6, -2e-6):  # each from where the last one stopped
        with torch.no_grad():
            for p, piece in zip(model.parameters(), pieces, strict=True):
                p += h * piece.view_as(p)
        slopes = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        ends.append(torch.cat([slope.flatten() for slope in slopes]))
    with torch.no_grad():
        for p, piece in zip(model.parameters(), pieces, strict=True):
            p += 1e-6 * piece.view_as(p)
    torch.testing.assert_close(found, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["mlp", "vit"])
def test_top_eigenvalues_of_an_indefinite_hessian(kind):
    model, (x, y) = net(kind), data(kind)
    h = dense(model, x, y)
    expected = torch.linalg.eigvalsh(h)
    assert expected[0] < -1e-3 * expected[-1]  # indefinite, or the test says little
    found = hessian_top(model, x, y, k=3, tol=1e-10, steps=200)
    torch.testing.assert_close(found.values, expected.flip(0)[:3], rtol=1e-8, atol=0)
    torch.testing.assert_close(found.lowest, expected[0], rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(found.vectors @ h, found.values[:, None] * found.vectors, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        found.vectors @ found.vectors.T, torch.eye(3, dtype=torch.float64), atol=1e-8, rtol=0
    )
    loose = hessian_top(model, x, y, tol=1e-2)
    assert 0 <= 1 - loose.values[0] / expected[-1] <= 1e-2
    assert loose.steps < found.steps


def test_curvlinops_agrees():
    model, (x, y) = net("mlp"), data("mlp")
    pieces = [(x[:7], y[:7]), (x[7:], y[7:])]
    peer = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), pieces)
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64, generator=rng(4))
    torch.testing.assert_close(HessianProduct(model, x, y)(v[None])[0], peer @ v, rtol=1e-9, atol=1e-12)
    eigenvalues = np.linalg.eigvalsh((peer @ torch.eye(len(v), dtype=torch.float64)).numpy())
    assert hessian_top(model, x, y, tol=1e-10, steps=200).values[0].item() == pytest.approx(eigenvalues[-1])


def test_linear_regression_in_closed_form():
    x = torch.randn(30, 6, dtype=torch.float64, generator=rng(5))
    y = torch.randn(30, 1, dtype=torch.float64, generator=rng(6))
    model = nn.Linear(6, 1, bias=False).double()
    h = 2 / 30 * x.T @ x
    found = hessian_top(model, x, y, loss=F.mse_loss, k=6, tol=0)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(h).flip(0), rtol=1e-9, atol=0)
    trace = hessian_trace(model, x, y, loss=F.mse_loss, probes=400)
    assert abs(trace.mean - h.trace()) < 4 * trace.standard_error
    # Hutchinson's variance with signs, 2 sum of the squares off the diagonal
    exact = (2 * (h - h.diag().diag()).square().sum() / 400).sqrt()
    torch.testing.assert_close(trace.standard_error, exact, rtol=0.15, atol=0)


def test_a_loss_that_is_linear_in_the_parameters_has_no_curvature():
    x, y = torch.randn(4, 3, generator=rng()), torch.zeros(4)
    found = hessian_top(nn.Linear(3, 1), x, y, loss=lambda out, _: out.mean())
    assert found.values.item() == found.errors.item() == 0


def test_seeded_and_leaves_network_and_generator_alone():
    model, (x, y) = net("mlp"), data("mlp")
    state, before = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    with torch.no_grad():  # an estimate inside no_grad is a common slip
        one, two = (hessian_trace(model, x, y, probes=3) for _ in range(2))
    assert one.mean == two.mean
    assert one.mean != hessian_trace(model, x, y, probes=3, generator=rng(5)).mean
    hessian_top(model, x, y)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_frozen_parameters_are_no_part_of_the_hessian():
    model, (x, y) = net("mlp"), data("mlp")
    whole = dense(model, x, y)
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    size = sum(p.numel() for p in model.head.parameters())
    expected = torch.linalg.eigvalsh(whole[-size:, -size:])[-1]
    torch.testing.assert_close(hessian_top(model, x, y, tol=0).values[0], expected, rtol=1e-9, atol=0)


def test_bad_arguments_are_named():
    model, (x, y) = net("mlp"), data("mlp")
    for call, message in (
        (lambda: hessian_top(model, x, y, k=0), "k=0 must lie between 1 and"),
        (lambda: hessian_top(model, x, y, steps=0), "steps=0"),
        (lambda: hessian_top(model, x, y, tol=-1.0), r"tol=-1\.0"),
        (lambda: hessian_top(model, x, y, chunk_size=0), "chunk_size=0"),
        (lambda: hessian_top(model, x, y[:3]), "x has 12 samples and y 3"),
        (lambda: hessian_top(model, x, y, loss=lambda out, _: out.sum(1)), r"loss returned shape \(12,\)"),
        (lambda: hessian_top(copy.deepcopy(model).train(), x, y), "model has BatchNorm1d in training mode"),
        (lambda: hessian_top(copy.deepcopy(model).requires_grad_(False), x, y), "parameters holds none"),
        (lambda: hessian_trace(model, x, y, probes=0), "probes=0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
