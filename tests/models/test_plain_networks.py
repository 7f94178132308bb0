"""The multi-layer perceptron and the small convolutional network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.models import CNN, MLP
from faultlines.models.plain_networks import make_activation

IMAGE = (2, 9, 8)


def mlp(**options):
    torch.manual_seed(0)
    return MLP(**{"image_shape": IMAGE, "classes": 3, "widths": (7, 5), **options})


def cnn(**options):
    torch.manual_seed(0)
    return CNN(**{"image_shape": IMAGE, "classes": 3, "filters": (4, 6), "width": 5, **options})


@pytest.fixture
def x():
    return torch.rand(4, *IMAGE, generator=torch.Generator().manual_seed(1))


def norms(model):
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
    return [type(module).__name__ for module in model.modules() if isinstance(module, kinds)]


@pytest.mark.parametrize(
    ("make", "norm", "kind", "expected"),
    [
        (mlp, "none", "batch", []),
        (mlp, "hidden", "batch", ["BatchNorm1d"] * 2),
        (mlp, "hidden", "layer", ["LayerNorm"] * 2),
        (cnn, "none", "layer", []),
        (cnn, "conv", "batch", ["BatchNorm2d"] * 2),
        (cnn, "hidden", "batch", ["BatchNorm2d"] * 2 + ["BatchNorm1d"]),
        (cnn, "hidden", "layer", ["GroupNorm"] * 2 + ["LayerNorm"]),
    ],
)
def test_normalisation_stands_where_it_is_said(x, make, norm, kind, expected):
    model = make(norm=norm, norm_kind=kind)
    assert norms(model) == expected
    assert model(x).shape == (4, 3)
    model.eval()
    assert torch.allclose(model(x)[:2], model(x[:2]), atol=1e-6)  # a sample's logits are its own


def test_mlp_by_hand(x):
    model = mlp(norm="hidden", norm_kind="layer", activation="gelu", mean=[0.1, 0.2], std=0.3)
    h = ((x - torch.tensor([0.1, 0.2]).view(2, 1, 1)) / 0.3).flatten(1)
    for linear, norm, _ in model.hidden:
        h = F.gelu(F.layer_norm(h @ linear.weight.T + linear.bias, norm.normalized_shape))
    assert torch.allclose(model(x), h @ model.head.weight.T + model.head.bias, atol=1e-6)
    assert model.first.weight.shape == (7, 2 * 9 * 8)


@pytest.mark.parametrize("pool", ["average", "max"])
def test_cnn_by_hand(x, pool):
    model = cnn(pool=pool)
    h, halve = (x - 0.5) / 0.5, {"average": F.avg_pool2d, "max": F.max_pool2d}[pool]
    for convolution, _, _ in model.convolutions:
        features = F.conv2d(h, convolution.weight, convolution.bias, padding=1).relu()
        h = halve(features, 2)
    assert torch.allclose(model.features(x), features, atol=1e-6)
    h = model.dense[0](h.flatten(1)).relu()
    assert torch.allclose(model(x), model.head(h), atol=1e-6)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_the_softplus_twin_takes_the_weights_and_tends_to_the_relu_network(x, make):
    relu, gaps = make(norm="hidden").eval(), []
    for beta in (10.0, 100.0, 1000.0):
        twin = make(norm="hidden", activation="softplus", beta=beta).eval()
        twin.load_state_dict(relu.state_dict())
        gaps.append((twin(x) - relu(x)).abs().max().item())
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]


@pytest.mark.parametrize("beta", [1.0, 30.0, 100.0])
def test_the_second_derivative_of_softplus_is_smooth_where_torch_by_default_cuts_it(beta):
    z = torch.linspace(-50 / beta, 50 / beta, 101, dtype=torch.float64).requires_grad_()
    (first,) = torch.autograd.grad(make_activation("softplus", beta)(z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    s = torch.sigmoid(beta * z.detach())
    assert torch.allclose(first, s, atol=1e-12)
    assert torch.allclose(second, beta * s * torch.sigmoid(-beta * z.detach()), rtol=1e-9, atol=beta * 1e-16)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (mlp, {"widths": ()}, r"widths=\(\)"),
        (mlp, {"widths": (4, 0)}, r"widths=\(4, 0\)"),
        (mlp, {"norm": "conv"}, "norm='conv' is not one of 'none', 'hidden'"),
        (mlp, {"norm_kind": "group"}, "norm_kind='group'"),
        (mlp, {"activation": "tanh"}, "activation='tanh'"),
        (mlp, {"beta": 0.0}, r"beta=0\.0"),
        (mlp, {"beta": math.nan}, "beta=nan"),
        (mlp, {"mean": [0.1] * 3}, r"mean=\[0\.1, 0\.1, 0\.1\]"),
        (cnn, {"std": 0.0}, r"std=0\.0"),
        (cnn, {"norm": "all"}, "norm='all'"),
        (cnn, {"pool": "sum"}, "pool='sum'"),
        (cnn, {"classes": 0}, "classes="),
        (cnn, {"filters": (4,) * 4}, "too small to be halved 4 times"),
    ],
)
def test_bad_arguments_are_named(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_another_image_shape_is_refused(make):
    with pytest.raises(ValueError, match=r"images have shape \(2, 8, 9\); this model takes \(2, 9, 8\)"):
        make()(torch.rand(1, 2, 8, 9))
