from __future__ import annotations

import pytest
import torch

from faultlines.estimators.influence import hessian_scores, tracin_scores, trak_scores
from faultlines.estimators.influence.kernel import influence_sensitivity
from faultlines.estimators.ntk import finite_relu_ntk, relu_ntk
from faultlines.models import LinearisedTwoLayer, TwoLayerReLU


def problem(n=10, t=5, d=4):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n + t, d, generator=draw, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    net = TwoLayerReLU(d, 16, antisymmetric=True, generator=draw)
    with torch.no_grad():
        net.weight += 0.1 * torch.randn(net.weight.shape, generator=draw, dtype=torch.float64)
    return net, x[:n], torch.randn(n, generator=draw, dtype=torch.float64).sign(), x[n:]


def twin(net):
    linearised = LinearisedTwoLayer(net)
    return linearised, net.initial


@pytest.mark.parametrize("linearised", [False, True])
def test_scores_are_their_closed_forms(linearised):
    # the network is piecewise linear in its weights: its Hessian is J^T J, and all scores are kernel expressions
    net, x, y, z = problem()
    weight = net.weight.detach()
    if linearised:
        net, weight = twin(net)
    residual = (y - net(x)).detach()
    kernel, test = finite_relu_ntk(x, weight=weight), finite_relu_ntk(z, x, weight=weight)
    found = tracin_scores(net, x, y, z)
    torch.testing.assert_close(found, test.T * residual[:, None], atol=1e-12, rtol=0)
    found = hessian_scores(net, x, y, z, ridge=0.3)
    expected = torch.linalg.solve(kernel + 0.3 * torch.eye(10, dtype=torch.float64), test.T)
    torch.testing.assert_close(found, expected * residual[:, None], atol=1e-10, rtol=0)
    assert torch.get_default_dtype() == torch.float32


def test_trak_is_its_formula_on_the_projected_gradients():
    from dattri.func.projection import random_project

    net, x, y, z = problem()
    gates = [(rows @ net.weight.T > 0).double() for rows in (x, z)]
    features = [
        (g[:, :, None] * net.signs[0][:, None] * rows[:, None]).flatten(1).detach() / 4
        for g, rows in zip(gates, (x, z), strict=True)
    ]
    project = random_project(features[0], 10, proj_dim=6, proj_max_batch_size=32, proj_seed=3, device="cpu")
    phi, phi_test = (project(f, ensemble_id=0).double() for f in features)
    expected = phi @ torch.linalg.solve(phi.T @ phi, phi_test.T) * (y - net(x)).detach()[:, None]
    found = trak_scores(net, x, y, z, dimension=6, seed=3)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)
    assert not torch.allclose(found, trak_scores(net, x, y, z, dimension=6, seed=4))


def test_sensitivity_bounds_the_change_and_is_attained():
    _, x, y, _ = problem()
    kernel = relu_ntk(x)
    for size in (1e-3, 1e-1):
        step = size * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        moved = relu_ntk(x + step)
        found = influence_sensitivity(kernel, moved, y, ridge=0.1, size=float(step.norm()))
        inverse = [torch.linalg.inv(k + 0.1 * torch.eye(10, dtype=torch.float64)) for k in (kernel, moved)]
        assert found.change == pytest.approx(abs(float(y @ (inverse[1] - inverse[0]) @ y)), rel=1e-8)
        assert 0 < found.change <= found.bound
        assert found.bound == pytest.approx(found.slope * float(step.norm()) * float(y @ y) / 0.01)
    # no kernel, and one that appears along y: to first order there is nothing to spare
    along = 1e-9 * torch.outer(y, y) / float(y @ y)
    found = influence_sensitivity(torch.zeros_like(along), along, y, ridge=0.1, size=1.0)
    assert found.change / found.bound == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x, y, z: tracin_scores(net, x, y[:3], z), r"must be \[n, d\], \[n\] and \[t, d\]"),
        (lambda net, x, y, z: hessian_scores(net, x, y, z, ridge=-1.0), "ridge=-1.0 must be"),
        (lambda net, x, y, z: hessian_scores(net, x, y, z[:, :2], ridge=1.0), r"must be \[n, d\]"),
        (lambda net, x, y, z: trak_scores(net, x, y, z, dimension=11), "dimension=11 must lie in 1 to 10"),
        (
            lambda net, x, y, z: influence_sensitivity(x @ x.T, x @ x.T, y, ridge=0.0, size=1.0),
            "ridge=0.0 must be above 0",
        ),
        (
            lambda net, x, y, z: influence_sensitivity(x @ x.T, x @ x.T, y, ridge=1.0, size=0.0),
            "size=0.0 must be above 0",
        ),
        (
            lambda net, x, y, z: influence_sensitivity(x @ x.T, z @ z.T, y, ridge=1.0, size=1.0),
            "they must agree",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*problem())
