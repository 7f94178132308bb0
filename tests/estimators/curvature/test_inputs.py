"""Curvature in the input against dense Hessians in float64, and its link to the parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from faultlines.estimators.curvature import curvature_link, input_curvature
from faultlines.models import CNN, MLP, ViT


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=5, side=4):
    return torch.rand(n, 1, side, side, dtype=torch.float64, generator=rng(1)), torch.tensor([0, 2, 1, 2, 0])[
        :n
    ]


def mlp(**options):
    torch.manual_seed(0)
    model = MLP(
        **{"image_shape": (1, 4, 4), "classes": 3, "widths": (6, 5), "activation": "softplus", **options}
    )
    model(torch.rand(30, 1, 4, 4, generator=rng(9)))
    return model.double().eval()


def vit(attention):
    torch.manual_seed(0)
    sizes = {"image_size": 4, "patch_size": 2, "channels": 1, "classes": 3, "dim": 8, "depth": 2, "heads": 2}
    return ViT(**sizes, attention=attention, qk_gain=3, fused="always").double().eval()


def cnn():
    torch.manual_seed(0)
    return (
        CNN(image_shape=(1, 4, 4), classes=3, filters=(3,), width=4, activation="gelu", norm="hidden")
        .double()
        .eval()
    )


def dense(f, x):
    """Hessian of a scalar function by central differences of its gradient: no second derivative of torch's."""
    x = x.detach()
    rows = []
    for direction in torch.eye(x.numel(), dtype=x.dtype):
        ends = []
        for h in (1e-5, -1e-5):
            z = (x + h * direction.view_as(x)).requires_grad_()
            ends.append(torch.autograd.grad(f(z), z)[0].flatten())
        rows.append((ends[0] - ends[1]) / 2e-5)
    return torch.stack(rows)


MODELS = {
    "mlp": lambda: mlp(norm="hidden", beta=3.0),
    "cnn": cnn,
    "softmax": lambda: vit("softmax"),
    "rbf": lambda: vit("rbf"),
}


@pytest.mark.parametrize("name", MODELS)
def test_against_dense_hessians(name):
    model, (x, y) = MODELS[name](), images()
    found = input_curvature(model, x, y, tol=1e-9)
    for i in range(len(x)):
        h = dense(lambda z, i=i: model(z)[0, y[i]], x[i : i + 1])
        norm = torch.linalg.eigvalsh((h + h.T) / 2).abs().max()
        z = x[i : i + 1].clone().requires_grad_()
        gradient = torch.autograd.grad(model(z)[0, y[i]], z)[0].norm()
        assert found.norm[i].item() == pytest.approx(norm.item(), rel=1e-5)
        assert found.gradient[i].item() == pytest.approx(gradient.item(), rel=1e-10)
        assert found.relative[i].item() == pytest.approx((norm / gradient).item(), rel=1e-5)
    loose = input_curvature(model, x, y)
    assert ((found.norm - loose.norm) / found.norm).max() <= 1e-2
    assert (loose.norm <= found.norm * (1 + 1e-9)).all()


def test_chunks_and_samples_do_not_matter():
    model, (x, y) = mlp(), images()
    whole = input_curvature(model, x, y, tol=1e-10)
    chunked = input_curvature(model, x, y, tol=1e-10, chunk_size=2)
    torch.testing.assert_close(chunked.norm, whole.norm)
    torch.testing.assert_close(input_curvature(model, x[3:4], y[3:4], tol=1e-10).norm, whole.norm[3:4])


def test_relative_curvature_does_not_see_the_scale_of_the_logits():
    model, (x, y) = mlp(), images()
    one, ten = input_curvature(model, x, y), input_curvature(lambda x: 10 * model(x), x, y)
    torch.testing.assert_close(ten.relative, one.relative, rtol=1e-6, atol=0)
    torch.testing.assert_close(ten.norm, 10 * one.norm, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1e-25, 1e12, 1e25])
def test_relative_curvature_in_float32_far_from_1(scale):
    model, (x, y) = mlp().float(), images()
    x = x.float()
    one, far = input_curvature(model, x, y), input_curvature(lambda x: scale * model(x), x, y)
    assert far.gradient.isfinite().all() and (far.gradient > 0).all()
    torch.testing.assert_close(far.relative, one.relative, rtol=2e-3, atol=0)


def test_defined_values_without_curvature_or_gradient():
    x, y = images()
    relu = input_curvature(mlp(activation="relu"), x, y)
    assert (relu.norm == 0).all() and (relu.relative == 0).all() and (relu.gradient > 0).all()
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double().requires_grad_(False)
    found = input_curvature(linear, x, y)
    torch.testing.assert_close(found.gradient, linear[1].weight[y].norm(dim=1))
    assert (found.norm == 0).all()
    constant = input_curvature(lambda x: torch.ones(len(x), 3, dtype=x.dtype), x, y)
    assert (constant.gradient == 0).all() and constant.relative.isnan().all()
    saddle = input_curvature(lambda x: x.flatten(1)[:, :3].square(), torch.zeros_like(x), y)
    assert saddle.relative.isinf().all()
    torch.testing.assert_close(saddle.norm, torch.full((5,), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("norm", ["none", "hidden"])
@pytest.mark.parametrize("kind", ["batch", "layer"])
@pytest.mark.parametrize("activation", ["softplus", "gelu", "relu"])
def test_the_link_from_parameters_to_inputs(norm, kind, activation):
    model, (x, y) = mlp(norm=norm, norm_kind=kind, activation=activation), images()
    link = curvature_link(model, x, y, first=model.first, network=True, tol=1e-9)
    slack = 1 + 1e-8
    assert (link.gradient <= link.gradient_bound * slack).all()
    assert (link.hessian <= link.layer_bound * slack).all()
    assert (link.layer_bound <= link.network_bound * slack).all()
    assert (link.hessian > 0).all() or activation == "relu"
    torch.testing.assert_close(link.factor * link.layer_hessian, link.layer_bound)
    # the left side is the Hessian in the images, once for the centring by (x - 0.5) / 0.5
    torch.testing.assert_close(
        input_curvature(model, x, y, tol=1e-9).norm, 4 * link.hessian, rtol=1e-6, atol=1e-12
    )
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_the_layer_hessian_is_the_dense_one_and_the_bound_is_met_with_equality_by_an_isometry():
    model, (x, y) = mlp(), images(2)
    link = curvature_link(model, x, y, first=model.first, tol=1e-10)
    weight, h = model.first.weight.detach(), ((x - 0.5) / 0.5).flatten(1)
    for i in range(2):

        def f(w, i=i):
            z = h[i : i + 1] @ w.T + model.first.bias
            z = model.hidden[1](model.hidden[0][2](z))
            return model.head(z)[0, y[i]]

        norm = torch.linalg.eigvalsh(dense(f, weight)).abs().max()
        assert link.layer_hessian[i].item() == pytest.approx(norm.item(), rel=1e-5)
        w = weight.clone().requires_grad_()
        gradient = torch.autograd.grad(f(w), w)[0].norm()
        expected = torch.linalg.matrix_norm(weight, ord=2) * gradient / h[i].norm()
        assert link.gradient_bound[i].item() == pytest.approx(expected.item(), rel=1e-9)
    with torch.no_grad():
        model.first.weight.copy_(3 * torch.linalg.qr(weight.T)[0].T)  # rows orthogonal and of length 3
    tight = curvature_link(model, x, y, first=model.first, tol=1e-10)
    torch.testing.assert_close(tight.hessian, tight.layer_bound)
    torch.testing.assert_close(tight.gradient, tight.gradient_bound)


@pytest.mark.parametrize("mixing", [nn.BatchNorm1d(6), nn.Dropout(0.3)])
def test_training_mode_is_refused_and_moves_no_statistics(mixing):
    x, y = images()
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), mixing, nn.Softplus(), nn.Linear(6, 3))
    model = model.double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = (
        lambda: input_curvature(model, x, y),
        lambda: curvature_link(model, x, y, first=model[1]),
        lambda: curvature_link(model, x, y, first=model[1], network=True),
    )
    for call in calls:
        with pytest.raises(
            ValueError, match=r"model has \w+ in training mode, .*; call model.eval\(\) first"
        ):
            call()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    for call in calls:
        call()


def test_a_frozen_first_layer_has_no_bound_over_the_network():
    model, (x, y) = mlp(), images(2)
    free = curvature_link(model, x, y, first=model.first, network=True)
    model.first.weight.requires_grad_(False)
    with pytest.raises(
        ValueError, match=r"first.weight has requires_grad=False, .* first.requires_grad_\(\)"
    ):
        curvature_link(model, x, y, first=model.first, network=True)
    torch.testing.assert_close(curvature_link(model, x, y, first=model.first).layer_bound, free.layer_bound)
    model.first.weight.requires_grad_()
    model.head.requires_grad_(False)  # the first layer's block is in the Hessian still
    part = curvature_link(model, x, y, first=model.first, network=True)
    assert (part.layer_bound <= part.network_bound * (1 + 1e-3)).all()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16).double()

    def forward(self, x):
        return self.first(self.first(x.flatten(1)))


class Tokens(Twice):
    def forward(self, x):
        return self.first(x.flatten(1)[:, None].expand(-1, 3, -1)).sum(1)


def test_bad_arguments_are_named():
    model, (x, y) = mlp(), images()
    for call, message in (
        (lambda: input_curvature(model, x, y + 1), "targets from 1 to 3; the model's logits are 0 to 2"),
        (lambda: input_curvature(model, x, y - 1), "targets from -1 to 1"),
        (lambda: input_curvature(model, x, y.double()), "dtype torch.float64; one int64"),
        (lambda: input_curvature(model, x, y[:2]), "x has 5 samples and y 2"),
        (lambda: input_curvature(model, x, y, chunk_size=0), "chunk_size=0"),
        (lambda: input_curvature(model, x.half(), y), "dtype torch.float16"),
        (lambda: input_curvature(lambda x: model(x)[:, 0], x, y), r"returns shape \(5,\)"),
        (lambda: input_curvature(model, x, y, steps=0), "steps=0"),
        (lambda: input_curvature(model, x, y, steps=2.5), "steps=2.5 must be an integer"),
        (lambda: input_curvature(model, x, y, chunk_size=2.5), "chunk_size=2.5 must be an integer"),
        (lambda: input_curvature(model, x.long(), y), "dtype torch.int64; float32 or float64"),
        (lambda: input_curvature(model, x, y.sum()), "x has 5 samples and y no axis"),
        (lambda: input_curvature(model, x[:0], y[:0]), r"\(0, 1, 4, 4\) .* at least one sample"),
        (lambda: curvature_link(model, x[:0], y[:0], first=model.first), "at least one sample"),
        (lambda: curvature_link(cnn(), x, y, first=cnn().convolutions[0][0]), "first is a Conv2d"),
        (lambda: curvature_link(model, x, y, first=nn.Linear(2, 2)), "first ran 0 times"),
        (lambda: curvature_link(t := Twice(), x, y, first=t.first), "first ran 2 times"),
        (lambda: curvature_link(t := Tokens(), x, y, first=t.first), r"first ran on shape \(5, 3, 16\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_softplus_twins_of_a_relu_network_have_curvature_that_depends_on_beta():
    relu, (x, y) = mlp(activation="relu"), images()
    medians = []
    for beta in (1.0, 10.0):
        twin = mlp(activation="softplus", beta=beta)
        twin.load_state_dict(relu.state_dict())
        medians.append(input_curvature(twin, x, y).norm.median().item())
    assert medians[1] > 2 * medians[0] > 0
