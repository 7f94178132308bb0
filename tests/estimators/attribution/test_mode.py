"""Whatever autograd mode the caller is in, a map is the same, and has a graph where it is asked for one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from faultlines.attacks.explanation import ExplanationPGD, TopK
from faultlines.estimators.attribution import attribute
from faultlines.estimators.attribution.methods import METHODS, PIXEL_METHODS
from faultlines.models import ViT

GRAPHED = sorted(set(METHODS) - {"guided_backprop"})


@pytest.fixture
def models(rectified: nn.Module, transformer: ViT) -> dict[str, nn.Module]:
    attention = {"raw_attention", "rollout", "gradient_rollout"}
    return {name: transformer if name in attention else rectified for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_inference_mode_changes_no_map(name: str, models: dict, x: Tensor, target: Tensor) -> None:
    for run in (METHODS[name], lambda *a, **o: attribute(*a, method=name, **o)):
        expected = run(models[name], x, target)
        assert expected.abs().sum() > 0
        with torch.inference_mode():
            made_inside, classes = x.clone(), target.clone()
            assert torch.equal(run(models[name], x, target), expected)
            assert torch.equal(run(models[name], made_inside, classes), expected)
        assert made_inside.is_inference() and classes.is_inference()
        assert torch.equal(run(models[name], made_inside, classes), expected)
        with torch.no_grad():
            assert torch.equal(run(models[name], x, target), expected)


def test_a_baseline_made_in_inference_mode(smooth: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        baseline = torch.full((2, 8, 8), 0.5, dtype=x.dtype)
    found = attribute(smooth, x, 1, "integrated_gradients", baseline=baseline)
    assert torch.equal(found, attribute(smooth, x, 1, "integrated_gradients", baseline=0.5))


@pytest.mark.parametrize("name", METHODS)
def test_without_create_graph_nothing_of_a_graph_is_left(name: str, models: dict, x: Tensor) -> None:
    leaf = x.requires_grad_()
    found = attribute(models[name], leaf, 1, name)
    assert not found.requires_grad
    assert not METHODS[name](models[name], leaf, 1).requires_grad
    if name in PIXEL_METHODS:
        assert not attribute(models[name], leaf * 1, 1, name).requires_grad


@pytest.mark.parametrize("name", GRAPHED)
def test_create_graph_counts_for_more_than_the_callers_mode(name: str, x: Tensor) -> None:
    torch.manual_seed(0)
    model = ViT(image_size=8, patch_size=4, channels=2, classes=5, dim=4, depth=2, heads=2).double()
    if name == "grad_cam":
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(108, 5)).double()
    leaf = x[:1].clone().requires_grad_()

    def slope() -> Tensor:
        found = attribute(model, leaf, 1, name, create_graph=True)
        assert found.requires_grad
        return torch.autograd.grad(found, leaf, torch.ones_like(found))[0]

    expected = slope()
    assert expected.abs().sum() > 0
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(slope(), expected)


@pytest.mark.parametrize("name", ["gradient", "input_x_gradient", "integrated_gradients", "smoothgrad"])
def test_an_attack_sees_that_create_graph_was_forgotten(name: str, smooth: nn.Module, x: Tensor) -> None:
    attack = ExplanationPGD(partial(attribute, method=name), TopK(5), eps=0.1, steps=1)
    with pytest.raises(ValueError, match="maps that carry no graph"):
        attack(smooth, x, smooth(x).argmax(dim=1))
