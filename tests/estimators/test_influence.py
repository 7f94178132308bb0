from __future__ import annotations

import pytest
import torch

from faultlines.estimators.influence import loo_influence
from faultlines.estimators.influence.kernel import inverse_diagonal
from faultlines.estimators.ntk import KernelRidge, relu_ntk
from faultlines.models.linearized import linear_attention, unit_rows


def problem(n=40, t=7, d=6, attention=False):
    draw = torch.Generator().manual_seed(0)
    x = unit_rows(torch.randn(n + t, d, generator=draw, dtype=torch.float64))
    if attention:
        x = unit_rows(linear_attention(x, x[:n]))
    y = torch.randint(0, 2, (n,), generator=draw) * 2.0 - 1
    return x[:n], x[n:], y.double()


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_leave_one_out_is_retraining_without_the_point(attention, ridge):
    x, z, y = problem(attention=attention)
    kernel, test = relu_ntk(x), relu_ntk(z, x)
    found = loo_influence(kernel, test, y, ridge)
    full = KernelRidge(kernel, y, ridge)(test)
    for i in range(len(x)):
        keep = torch.arange(len(x)) != i
        without = KernelRidge(kernel[keep][:, keep], y[keep], ridge)(test[:, keep])
        torch.testing.assert_close(found[i], full - without, atol=1e-10, rtol=0)


def test_each_target_on_its_own():
    x, z, _ = problem()
    y = torch.randn(len(x), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kernel, test = relu_ntk(x), relu_ntk(z, x)
    whole = loo_influence(kernel, test, y, 0.1)
    assert whole.shape == (40, 7, 3)
    torch.testing.assert_close(whole[:, :, 1], loo_influence(kernel, test, y[:, 1], 0.1))


@pytest.mark.parametrize("base", [3, 64])
def test_diagonal_of_the_inverse(base):
    lower = torch.tril(torch.randn(50, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    lower.diagonal().copy_(1 + lower.diagonal().abs())
    expected = torch.linalg.inv(lower @ lower.T).diagonal()
    torch.testing.assert_close(inverse_diagonal(lower + torch.ones_like(lower).triu(1), base), expected)


def test_the_callers_kernel_is_left_as_it_is():
    x, z, y = problem()
    kernel, test = relu_ntk(x), relu_ntk(z, x)
    copies = kernel.clone(), test.clone()
    loo_influence(kernel, test, y, 0.1)
    assert torch.equal(kernel, copies[0]) and torch.equal(test, copies[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k, y: loo_influence(k, torch.ones(3, 5), y, 1.0), r"must be \[t, 4\]"),
        (lambda k, y: loo_influence(k, k, torch.ones(5), 1.0), r"targets has shape \(5,\)"),
        (
            lambda k, y: loo_influence(torch.ones(4, 4), k, y, 0.0),
            "ridge=0.0 leaves the kernel of 4 rows singular",
        ),
        (lambda k, y: loo_influence(k, k, y, -1.0), "ridge=-1.0 must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.eye(4), torch.ones(4))
