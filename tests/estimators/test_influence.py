from __future__ import annotations

import pytest
import torch

from faultlines.estimators.influence import first_order_influence, loo_influence, representer_influence
from faultlines.estimators.influence.kernel import inverse_diagonal
from faultlines.estimators.ntk import KernelRidge, finite_relu_ntk, relu_ntk
from faultlines.models.linearized import linear_attention, unit_rows
from faultlines.models.two_layer import LinearisedTwoLayer, TwoLayerReLU


def problem(n=40, t=7, d=6, attention=False):
    draw = torch.Generator().manual_seed(0)
    x = unit_rows(torch.randn(n + t, d, generator=draw, dtype=torch.float64))
    if attention:
        x = unit_rows(linear_attention(x, x[:n]))
    y = torch.randint(0, 2, (n,), generator=draw) * 2.0 - 1
    return x[:n], x[n:], y.double()


@pytest.fixture
def double_by_default():  # dattri collects its scores in the default precision
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


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
    for form in (loo_influence, first_order_influence, representer_influence):
        whole = form(kernel, test, y, 0.1)
        assert whole.shape == (40, 7, 3)
        torch.testing.assert_close(whole[:, :, 1], form(kernel, test, y[:, 1], 0.1))


def test_exact_over_first_order_is_one_over_one_minus_leverage():
    x, z, y = problem()
    kernel, test = relu_ntk(x), relu_ntk(z, x)
    leverage = (kernel @ torch.linalg.inv(kernel + 0.1 * torch.eye(40, dtype=torch.float64))).diagonal()
    ratio = loo_influence(kernel, test, y, 0.1) / first_order_influence(kernel, test, y, 0.1)
    torch.testing.assert_close(ratio, (1 / (1 - leverage))[:, None].expand_as(ratio), rtol=1e-8, atol=0)


def test_representer_values_sum_to_the_prediction():
    x, z, y = problem()
    kernel, test = relu_ntk(x), relu_ntk(z, x)
    torch.testing.assert_close(
        representer_influence(kernel, test, y, 0.1).sum(dim=0), KernelRidge(kernel, y, 0.1)(test)
    )


def test_first_order_is_that_of_dattri(double_by_default):
    dattri = pytest.importorskip("dattri.algorithm.influence_function")
    from dattri.task import AttributionTask

    x, z, y = problem(n=12, t=5, d=4)
    ridge, n = 0.3, len(x)
    net = TwoLayerReLU(4, 6, antisymmetric=True, generator=torch.Generator().manual_seed(2))
    twin, weight = LinearisedTwoLayer(net), net.weight.detach()
    kernel, test = finite_relu_ntk(x, weight=weight), finite_relu_ntk(z, x, weight=weight)
    features = torch.func.vmap(
        torch.func.jacrev(lambda w, s: torch.func.functional_call(twin, {"weight": w}, (s[None],))[0]),
        (None, 0),
    )(weight, x).flatten(1)
    with torch.no_grad():  # the minimiser: W0 + J^T alpha
        twin.weight += (features.T @ KernelRidge(kernel, y, ridge).alpha).reshape(weight.shape)

    def loss(params, data):
        sample, label = data
        output = torch.func.functional_call(twin, params, (sample.reshape(-1, 4),))
        return (output - label.reshape(-1)).square().mean() / 2

    def output(params, data):
        return torch.func.functional_call(twin, params, (data[0].reshape(-1, 4),)).sum()

    state = {"weight": twin.weight.detach()}
    task = AttributionTask(
        loss_func=loss, model=twin, checkpoints=[state], target_func=output,
        checkpoints_load_func=lambda model, checkpoint: model,
    )  # fmt: skip
    # dattri's Hessian is that of the mean loss, and it leaves out the minus sign
    attributor = dattri.IFAttributorExplicit(task, regularization=ridge / n)
    loaders = [
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(a, b), batch_size=len(a))
        for a, b in ((x, y), (z, torch.zeros(len(z), dtype=z.dtype)))
    ]
    attributor.cache(loaders[0])
    theirs = -attributor.attribute(*loaders) / n
    torch.testing.assert_close(first_order_influence(kernel, test, y, ridge), theirs, atol=1e-10, rtol=0)


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
    for form in (loo_influence, first_order_influence, representer_influence):
        form(kernel, test, y, 0.1)
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
        (lambda k, y: first_order_influence(k, k, y, -1.0), "ridge=-1.0 must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.eye(4), torch.ones(4))
