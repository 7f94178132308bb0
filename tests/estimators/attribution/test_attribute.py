from __future__ import annotations

import pytest
import torch
from captum.attr import GuidedBackprop, LayerGradCam
from torch import Tensor, nn

from faultlines.estimators.attribution import attribute, grad_cam
from faultlines.estimators.attribution.gradients import guided_backprop
from faultlines.estimators.attribution.methods import METHODS, PIXEL_METHODS
from faultlines.models import ViT


@pytest.mark.parametrize("method", sorted(PIXEL_METHODS))
def test_a_pixel_map_is_the_absolute_sum_over_channels(
    method: str, rectified: nn.Module, x: Tensor, target: Tensor
) -> None:
    signed = PIXEL_METHODS[method](rectified, x, target)
    assert signed.shape == x.shape
    assert (signed < 0).any()
    assert torch.equal(attribute(rectified, x, target, method), signed.abs().sum(dim=1))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_on_a_batch_of_one(
    method: str, rectified: nn.Module, transformer: ViT, x: Tensor
) -> None:
    model = rectified if method in PIXEL_METHODS or method == "grad_cam" else transformer
    batch = attribute(model, x, 2, method)
    assert batch.shape == (3, 4, 4) if method not in PIXEL_METHODS else (3, 8, 8)
    assert batch.isfinite().all() and not batch.requires_grad
    for i in range(3):
        if method != "smoothgrad":  # its noise is that of the batch
            torch.testing.assert_close(attribute(model, x[i : i + 1], 2, method), batch[i : i + 1])


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"guided_backprop"}))
def test_every_map_can_be_differentiated(method: str, transformer: ViT, smooth: nn.Module, x: Tensor) -> None:
    model = smooth if method == "grad_cam" else transformer
    x = x[:1].requires_grad_()
    weights = torch.rand(8, 8, dtype=x.dtype, generator=torch.Generator().manual_seed(5))

    def score(x: Tensor) -> Tensor:
        maps = attribute(model, x, 1, method, create_graph=True)
        return (maps * weights[: maps.shape[1], : maps.shape[2]]).sum()

    (slope,) = torch.autograd.grad(score(x), x)
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(6))
    step = 1e-6 * direction
    difference = (score(x.detach() + step) - score(x.detach() - step)) / 2e-6
    torch.testing.assert_close((slope * direction).sum(), difference.detach(), rtol=1e-5, atol=1e-8)


def test_guided_backprop_is_captums(rectified: nn.Module, x: Tensor, target: Tensor) -> None:
    theirs = GuidedBackprop(rectified).attribute(x.clone(), target=target)
    assert torch.equal(guided_backprop(rectified, x, target), theirs)
    assert not torch.allclose(theirs, PIXEL_METHODS["gradient"](rectified, x, target))


@pytest.mark.parametrize("create_graph", [False, True])
def test_grad_cam_is_captums(create_graph: bool, rectified: nn.Module, x: Tensor, target: Tensor) -> None:
    theirs = LayerGradCam(rectified, rectified[2]).attribute(x, target=target, relu_attributions=True)
    found = grad_cam(rectified, x, target, create_graph=create_graph)
    assert found.requires_grad == create_graph
    torch.testing.assert_close(found.detach(), theirs[:, 0].detach())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("saliency", {}, r"method='saliency' is not one of \['grad_cam', 'gradient'"),
        ("gradient", {"steps": 3}, r"method='gradient' has no option steps; it takes \[\]"),
        ("rollout", {"sigma": 3}, r"no option sigma; it takes \['grid', 'normalise', 'query'\]"),
        ("guided_backprop", {"create_graph": True}, r"create_graph=True is not there for guided_backprop"),
    ],
)
def test_bad_input(method: str, options: dict, message: str, rectified: nn.Module, x: Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        attribute(rectified, x, 0, method, **options)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_target_out_of_range(method: str, rectified: nn.Module, transformer: ViT, x: Tensor) -> None:
    model = rectified if method in PIXEL_METHODS or method == "grad_cam" else transformer
    with pytest.raises(ValueError, match=r"target h(as|olds).* 0 to"):
        attribute(model, x, torch.tensor([0, 5, 1]), method)


def test_models_that_a_method_is_not_for(smooth: nn.Module, linear: nn.Module, x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"Sequential has no nn.ReLU module"):
        guided_backprop(smooth, x, 0)
    with pytest.raises(ValueError, match=r"layer=None needs a model with an nn.Conv2d; Sequential runs none"):
        grad_cam(linear, x, 0)
