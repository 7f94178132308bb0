"""Margins and their gradients against finite differences and closed forms."""

from __future__ import annotations

import pytest
import torch

from faultlines.attacks.losses import margin
from faultlines.estimators import margin_gradient
from faultlines.models import ViT


def test_finite_differences():
    torch.manual_seed(0)
    model = ViT(image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=1, heads=2).double().eval()
    x, y, h = torch.rand(3, 1, 4, 4).double(), torch.tensor([0, 1, 2]), 1e-6
    found = margin_gradient(model, x, y)
    slopes = []
    with torch.no_grad():
        assert torch.allclose(found.margin, -margin(model(x), y))
        for pixel in torch.eye(16).double().reshape(16, 1, 4, 4):
            slopes.append((margin(model(x + h * pixel), y) - margin(model(x - h * pixel), y)) / (2 * h))
    assert torch.allclose(found.norm, torch.stack(slopes).norm(dim=0), rtol=1e-6)
    assert torch.allclose(found.dual, torch.stack(slopes).abs().sum(dim=0), rtol=1e-6)
    assert torch.allclose(found.radius, found.margin / found.norm)


def test_no_scale_changes_the_radius():
    weight, x, y = torch.randn(4, 5).double(), torch.rand(6, 5).double(), torch.arange(6) % 4
    one, ten = (margin_gradient(lambda z, s=s: s * z @ weight.T, x, y) for s in (1.0, 10.0))
    assert torch.allclose(one.radius, ten.radius)
    assert torch.allclose(10 * one.norm, ten.norm)


def test_it_works_where_gradients_are_off_and_changes_nothing():
    x = torch.rand(2, 3)
    with torch.no_grad():
        found = margin_gradient(lambda z: z, x, torch.tensor([0, 1]))
    assert not x.requires_grad and torch.allclose(found.norm, torch.full((2,), 2**0.5))


@pytest.mark.parametrize("y", [[0, 2], [-1, 0], [0]])
def test_bad_labels(y):
    with pytest.raises(ValueError, match="one class of 0 to 1"):
        margin_gradient(lambda z: z, torch.rand(2, 2), torch.tensor(y))


def test_one_class():
    with pytest.raises(ValueError, match="classes >= 2"):
        margin_gradient(lambda z: z[:, :1], torch.rand(2, 2), torch.tensor([0, 0]))
