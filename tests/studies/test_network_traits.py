"""Traits of a network against dense derivatives."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from faultlines.models import MLP
from faultlines.studies.explanation_study import network_traits
from faultlines.training import seeded

SHAPE = {"image_shape": (1, 3, 3), "classes": 3, "widths": (8,)}


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(12, 1, 3, 3, generator=generator), torch.randint(3, (12,), generator=generator)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_traits_are_those_of_dense_derivatives(data, activation):
    model = seeded(partial(MLP, activation=activation, **SHAPE), 0).eval()
    x, y = data
    found = network_traits(model, data, data, (x[:5], y[:5]), beta=30.0)
    smooth = model
    if activation == "relu":
        smooth = MLP(activation="softplus", beta=30.0, **SHAPE).eval()
        smooth.load_state_dict(model.state_dict())
    gradients, hessians = [], []
    for one, c in zip(x[:5], y[:5], strict=True):
        logit = lambda flat, c=c: smooth(flat.view(1, 1, 3, 3))[0, c]  # noqa: E731
        gradients.append(torch.autograd.functional.jacobian(logit, one.flatten()).norm())
        hessians.append(
            torch.linalg.eigvalsh(torch.autograd.functional.hessian(logit, one.flatten())).abs().max()
        )
    gradient, hessian = torch.stack(gradients), torch.stack(hessians)
    assert found.gradient == pytest.approx(gradient.median().item(), rel=1e-3)
    assert found.input_hessian == pytest.approx(hessian.median().item(), rel=2e-2)
    assert found.relative_curvature == pytest.approx((hessian / gradient).median().item(), rel=2e-2)

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in parameters.values()]

    def loss(flat):
        named = {n: f.view_as(p) for (n, p), f in zip(parameters.items(), flat.split(sizes), strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, named, (x,)), y)

    flat = torch.cat([p.flatten() for p in parameters.values()])
    top = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[-1].item()
    assert found.sharpness == pytest.approx(top, rel=2e-2)
    logits = model(x)
    assert found.accuracy == pytest.approx((logits.argmax(1) == y).double().mean().item())
    margins = [row[c] - row[torch.arange(3) != c].max() for row, c in zip(logits[:5], y[:5], strict=True)]
    assert found.margin == pytest.approx(torch.stack(margins).median().item(), rel=1e-5)
