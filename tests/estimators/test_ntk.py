from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate

from faultlines.estimators.ntk import (
    KernelRidge,
    centred_one_hot,
    component_target,
    empirical_ntk,
    finite_relu_ntk,
    kernel_alignment,
    match_ridge,
    relu_ntk,
    signed_targets,
    width_sweep,
)
from faultlines.estimators.ntk.two_layer import check_kernel_memory, kernels_by_width
from faultlines.models.two_layer import KernelExpansion, LinearisedTwoLayer, TwoLayerReLU

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "neural_tangents.npz")


def fixture(name):
    return torch.from_numpy(FIXTURE[name])


def unit(n, d, seed=0):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def network(width=32, dim=5, outputs=1, **options):
    return TwoLayerReLU(dim, width, outputs, generator=torch.Generator().manual_seed(1), **options)


def test_infinite_ntk_is_that_of_neural_tangents():
    a, b = fixture("a"), fixture("b")
    for test, name in ((None, "train"), (b, "test")):
        first = relu_ntk(a) if test is None else relu_ntk(b, a)
        both = relu_ntk(a, train="both") if test is None else relu_ntk(b, a, train="both")
        # neural-tangents takes the angle from the squared sine, good to about 1e-8 for the nearly collinear pair
        torch.testing.assert_close(both, fixture(f"both_{name}"), atol=2e-8, rtol=0)
        torch.testing.assert_close(both - first, fixture(f"second_{name}"), atol=2e-8, rtol=0)


@pytest.mark.parametrize("angle", [1e-6, 1e-2, 0.3, 1.5, 3.0])
def test_infinite_ntk_is_the_gaussian_expectation(angle):
    # only the plane of the two rows counts: average over the direction of w in it, and E r^2 = 2 for its length
    a = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    b = 3 * torch.tensor([[np.cos(angle), np.sin(angle)]])
    edges = sorted(t % (2 * np.pi) for t in (np.pi / 2, -np.pi / 2, angle + np.pi / 2, angle - np.pi / 2))

    def activities(t):
        return 2 * np.cos(t), 3 * np.cos(t - angle)

    def gates(t):
        u, v = activities(t)
        return float(u > 0 and v > 0) / (2 * np.pi)

    def product(t):
        u, v = activities(t)
        return 2 * max(u, 0) * max(v, 0) / (2 * np.pi)

    spans = list(zip([0, *edges], [*edges, 2 * np.pi], strict=True))
    gate, second = (
        sum(integrate.quad(f, *span, epsabs=1e-13)[0] for span in spans) for f in (gates, product)
    )
    first = 6 * np.cos(angle) * gate
    assert float(relu_ntk(a, b)) == pytest.approx(first, abs=1e-9)
    assert float(relu_ntk(a, b, train="both")) == pytest.approx(first + second, abs=1e-9)


@pytest.mark.parametrize("block", [3, 2048])
def test_infinite_ntk_of_nearly_parallel_rows_is_symmetric(block):
    a = unit(1, 50) + 1e-4 * unit(40, 50, seed=1)
    found = relu_ntk(a / a.norm(dim=1, keepdim=True), block=block)
    assert torch.equal(found, found.T)


def test_infinite_ntk_does_not_depend_on_the_block():
    a = unit(11, 4)
    torch.testing.assert_close(relu_ntk(a, block=3), relu_ntk(a), atol=1e-15, rtol=0)
    assert relu_ntk(a).diagonal().tolist() == pytest.approx([0.5] * 11, abs=1e-15)


def test_infinite_ntk_has_its_gradient():
    a, b = unit(3, 4).requires_grad_(), unit(4, 4, seed=1)
    assert torch.autograd.gradcheck(lambda x: relu_ntk(x, b, train="both"), a)
    same = unit(3, 4).requires_grad_()
    relu_ntk(same, same.detach()).sum().backward()
    assert same.grad.isfinite().all()  # the kink at angle 0


def test_finite_ntk_is_that_of_neural_tangents():
    found = finite_relu_ntk(fixture("b"), fixture("a"), weight=fixture("weight"))
    torch.testing.assert_close(found, fixture("empirical"), atol=1e-13, rtol=0)


@pytest.mark.parametrize("antisymmetric", [False, True])
def test_finite_ntk_is_that_of_torch_func(antisymmetric):
    net, a, b = network(antisymmetric=antisymmetric), unit(6, 5), unit(4, 5, seed=2)
    found = finite_relu_ntk(a, b, weight=net.weight.detach(), block=7)
    torch.testing.assert_close(found, empirical_ntk(net, a, b), atol=1e-12, rtol=0)


def test_full_ntk_of_several_outputs():
    net, a, b = network(outputs=3), unit(4, 5), unit(3, 5, seed=2)
    full = empirical_ntk(net, a, b, trace=False, chunk=2)
    assert full.shape == (4, 3, 3, 3)
    torch.testing.assert_close(
        full.diagonal(dim1=2, dim2=3).mean(dim=2), finite_relu_ntk(a, b, weight=net.weight.detach())
    )
    # by hand: the gradient of output k at w_r is a_kr 1[w_r x > 0] x / sqrt m
    gates = [(x @ net.weight.T > 0).double() for x in (a, b)]
    signs = net.signs
    by_hand = torch.einsum("nr,tr,kr,lr,nt->ntkl", *gates, signs, signs, a @ b.T) / 32
    torch.testing.assert_close(full, by_hand.detach())


def test_ntk_skips_what_is_not_trained():
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1, bias=False)
    ).double()
    model[0].requires_grad_(False)
    x = unit(5, 3)
    hidden = torch.tanh(model[0](x))
    torch.testing.assert_close(empirical_ntk(model, x), (hidden @ hidden.T).detach())
    model[2].requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter"):
        empirical_ntk(model, x)


def test_widths_are_nested_and_do_not_depend_on_the_block():
    a, b = unit(6, 5), unit(4, 5, seed=2)
    runs = [
        dict(
            kernels_by_width(a, b, widths=[3, 10, 64], generator=torch.Generator().manual_seed(0), block=64)
        ),
        dict(kernels_by_width(a, b, widths=[3, 64], generator=torch.Generator().manual_seed(0), block=64)),
    ]
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(runs[0][3], finite_relu_ntk(a, b, weight=weight))
    # a block's draws are not those of a longer one: equal up to where the blocks agree
    torch.testing.assert_close(runs[0][3], runs[1][3])


def test_leading_rows_are_recognised():
    a = unit(6, 5)
    whole, part = (
        dict(kernels_by_width(a, b, widths=[64], generator=torch.Generator().manual_seed(0)))[64]
        for b in (None, a[:2])
    )
    torch.testing.assert_close(whole[:, :2], part, atol=1e-15, rtol=0)
    copy = torch.cat([a[1:3], a[:1]])
    other = dict(kernels_by_width(a, copy, widths=[64], generator=torch.Generator().manual_seed(0)))[64]
    torch.testing.assert_close(other, whole[:, [1, 2, 0]], atol=1e-15, rtol=0)


def test_weights_in_the_span_of_few_rows_are_as_good():
    a, b = unit(3, 40), unit(2, 40, seed=2)
    draws = {"widths": [2**16], "generator": torch.Generator().manual_seed(0)}
    found = dict(kernels_by_width(a, b, **draws))[2**16]
    scale = (a @ b.T).abs() / 2  # of the mean of Bernoulli draws: five standard deviations
    assert ((found - relu_ntk(a, b)).abs() <= 5 * scale / 2**8).all()


def test_finite_ntk_converges_as_one_over_root_m():
    a = unit(10, 5)
    limit, wide = relu_ntk(a), 2**18
    errors = {
        m: float((k - limit).square().mean().sqrt())
        for m, k in kernels_by_width(a, widths=[2**10, wide], generator=torch.Generator().manual_seed(0))
    }
    assert 8 < errors[2**10] / errors[wide] < 32  # sqrt of 256 is 16


def test_ridge_is_that_of_neural_tangents():
    a, b, y = fixture("a"), fixture("b"), fixture("y")
    found = KernelRidge(relu_ntk(a), y, float(FIXTURE["ridge"]))(relu_ntk(b, a))
    torch.testing.assert_close(found, fixture("prediction"), atol=1e-7, rtol=0)


def test_ridge_solves_the_system_for_each_target():
    kernel, y = relu_ntk(unit(8, 5)), torch.randn(8, 3, dtype=torch.float64)
    fit = KernelRidge(kernel, y, 0.2)
    torch.testing.assert_close((kernel + 0.2 * torch.eye(8, dtype=torch.float64)) @ fit.alpha, y)
    torch.testing.assert_close(KernelRidge(kernel, y[:, 1], 0.2).alpha, fit.alpha[:, 1])


def test_linearised_network_trained_to_the_end_is_kernel_ridge():
    net, a, b = network(width=16, antisymmetric=True), unit(6, 5), unit(4, 5, seed=2)
    y, ridge = torch.tensor([1.0, -1, 1, 1, -1, -1], dtype=torch.float64), 0.3
    twin = LinearisedTwoLayer(net)
    optimiser = torch.optim.LBFGS(twin.parameters(), max_iter=200, tolerance_grad=1e-13, tolerance_change=0)

    def loss():
        optimiser.zero_grad()
        value = (twin(a) - y).square().sum() / 2 + ridge * (twin.weight - twin.initial).square().sum() / 2
        value.backward()
        return value

    optimiser.step(loss)
    weight = net.weight.detach()
    fit = KernelRidge(finite_relu_ntk(a, weight=weight), y, ridge)
    expected = fit(finite_relu_ntk(b, a, weight=weight))
    torch.testing.assert_close(twin(b).detach(), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(KernelExpansion(weight, a, fit.alpha)(b), expected)


def test_expansion_of_several_outputs():
    weight, a, b = network().weight.detach(), unit(6, 5), unit(4, 5, seed=2)
    alpha = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(
        KernelExpansion(weight, a, alpha)(b), finite_relu_ntk(b, a, weight=weight) @ alpha
    )


def test_a_ridge_of_a_given_effective_dimension():
    kernel = relu_ntk(unit(9, 5))
    hat = kernel @ torch.linalg.inv(kernel + 0.1 * torch.eye(9, dtype=torch.float64))
    assert match_ridge(kernel, float(hat.trace())) == pytest.approx(0.1, rel=1e-8)
    with pytest.raises(ValueError, match=r"dimension=9\.5 must lie between"):
        match_ridge(kernel, 9.5)


def test_alignment_of_the_leading_eigenvector():
    kernel = relu_ntk(unit(9, 5))
    values, vectors = torch.linalg.eigh(kernel)
    expected = float(values[-1] / values.norm())
    assert kernel_alignment(kernel, 3 * vectors[:, -1]) == pytest.approx(expected, rel=1e-10)


def test_width_sweep_is_two_ridge_fits():
    x, y = unit(12, 5), torch.tensor([1.0, -1] * 4, dtype=torch.float64)
    sweep = width_sweep(
        x[:8], x[8:], y, widths=[4, 9], ridges=[0.1, 1.0], generator=torch.Generator().manual_seed(3)
    )
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    kernel, limit = finite_relu_ntk(x, x[:8], weight=weight), relu_ntk(x, x[:8])
    f, g = (torch.linalg.solve(k[:8] + torch.eye(8), y) for k in (kernel, limit))
    assert float(sweep.distance[1, 0]) == pytest.approx(
        float((kernel[8:] @ f - limit[8:] @ g).norm()), rel=1e-9
    )
    assert float(sweep.limit_norm[1]) == pytest.approx(float((limit[8:] @ g).norm()), rel=1e-9)
    assert float(sweep.residual[1, 0]) == pytest.approx(
        float((kernel[:8] @ f - y).square().mean().sqrt()), rel=1e-9
    )
    assert sweep.distance.shape == (2, 2) and sweep.least_ratio.shape == (2,)


def test_targets():
    torch.testing.assert_close(centred_one_hot(torch.tensor([0, 2]), 3).sum(dim=1), torch.zeros(2).double())
    train, test = unit(30, 5), unit(20, 5, seed=1)
    y, y_test = component_target(train, test, 2)
    assert float(y.mean()) == pytest.approx(0, abs=1e-12) and float(y.std()) == pytest.approx(1)
    again, _ = component_target(train, train, 1)
    assert abs(float(again @ y)) < 1e-10 and y_test.shape == (20,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relu_ntk(torch.zeros(2, 3)), r"rows \[0, 1\] of a are zero"),
        (lambda: relu_ntk(unit(2, 3), torch.eye(3).double()[:, [0, 1, 1]]), r"rows \[2\] of b are zero"),
        (lambda: finite_relu_ntk(torch.eye(3)[:, [0, 1, 1]], weight=unit(4, 3)), r"rows \[2\] of a are zero"),
        (
            lambda: width_sweep(
                unit(4, 3)[[0, 1, 2, 1]], unit(4, 3), torch.ones(4), widths=[2], ridges=[0.1], generator=None
            ),
            r"singular limit kernel \(rows 1 and 3 are duplicates\)",
        ),
        (lambda: relu_ntk(unit(2, 3), train="all"), "train='all' is not one of"),
        (lambda: finite_relu_ntk(unit(2, 3), weight=unit(2, 4)), "must agree"),
        (
            lambda: next(kernels_by_width(unit(2, 3), widths=[4, 4], generator=torch.Generator())),
            "must increase",
        ),
        (lambda: KernelRidge(torch.eye(3), torch.ones(2), 1.0), "targets has 2 rows"),
        (lambda: KernelRidge(torch.eye(3), torch.ones(3), -1.0), "ridge=-1.0 must be"),
        (lambda: KernelRidge(torch.ones(2, 3), torch.ones(2), 1.0), "must be square"),
        (lambda: KernelRidge(torch.triu(torch.ones(3, 3)), torch.ones(3), 1.0), "asymmetric"),
        (
            lambda: KernelRidge(torch.full((2, 2), torch.nan), torch.ones(2), 1.0),
            "4 values that are not finite",
        ),
        (lambda: signed_targets(torch.tensor([0, 1, 2])), r"labels \[0, 1, 2\]; a binary task"),
        (lambda: centred_one_hot(torch.tensor([3]), 3), "labels must lie in 0 to 2"),
        (lambda: component_target(unit(4, 3), unit(4, 3), 9), "must lie in 1 to 3"),
        (
            lambda: width_sweep(
                unit(4, 3), unit(4, 3), torch.ones(4), widths=[2], ridges=[0.0], generator=None
            ),
            "ridges holds 0",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_singular_kernel_without_ridge_names_the_duplicates():
    x = unit(6, 4)
    x[4] = x[1]
    with pytest.raises(ValueError, match=r"ridge=0 leaves .*rows 1 and 4 are duplicates"):
        KernelRidge(relu_ntk(x), torch.ones(6), 0)
    KernelRidge(relu_ntk(x), torch.ones(6), 1e-6)
    linear = unit(6, 4) @ unit(6, 4).T  # rank 4, no duplicates
    with pytest.raises(ValueError, match="rows singular; a ridge of at least"):
        KernelRidge(linear, torch.ones(6), 0)


def test_a_kernel_too_large_says_what_fits():
    with pytest.raises(
        ValueError, match=r"takes 80 GB .* blocks of \d+ rows fit, or a square kernel of n = 57735"
    ):
        check_kernel_memory(100_000, 100_000, copies=3, available=80 * 10**9)
    rows = torch.ones(1, 1, dtype=torch.float64).expand(3 * 10**6, 1)
    with pytest.raises(ValueError, match=r"takes 7\.2e\+04 GB"):
        relu_ntk(rows)
