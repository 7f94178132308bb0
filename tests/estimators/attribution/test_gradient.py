from __future__ import annotations

import pytest
import torch
from captum.attr import InputXGradient, Saliency
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from faultlines.estimators.attribution import gradient, input_x_gradient
from faultlines.models import ViT


def test_gradient_is_captums(smooth: nn.Module, x: Tensor, target: Tensor) -> None:
    torch.testing.assert_close(
        gradient(smooth, x, target), Saliency(smooth).attribute(x.clone(), target=target, abs=False)
    )


def test_input_x_gradient_is_captums(smooth: nn.Module, x: Tensor, target: Tensor) -> None:
    torch.testing.assert_close(
        input_x_gradient(smooth, x, target), InputXGradient(smooth).attribute(x.clone(), target=target)
    )


def test_gradient_of_a_linear_model_is_its_weights(linear: nn.Module, x: Tensor, target: Tensor) -> None:
    assert torch.equal(gradient(linear, x, target), linear[1].weight[target].view(3, 2, 8, 8))


def test_one_target_stands_for_all(smooth: nn.Module, x: Tensor) -> None:
    assert torch.equal(gradient(smooth, x, 2), gradient(smooth, x, torch.full((3,), 2)))


@pytest.mark.parametrize("explain", [gradient, input_x_gradient])
def test_second_derivative(explain, smooth: nn.Module, x: Tensor, target: Tensor) -> None:
    x = x[:2, :, :, :].clone().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    score = lambda x: (explain(smooth, x, target[:2], create_graph=True) * weights).sum()  # noqa: E731
    assert torch.autograd.gradcheck(score, (x,))


def test_a_penalty_reaches_the_weights(smooth: nn.Module, x: Tensor, target: Tensor) -> None:
    weight = smooth[0].weight
    with torch.enable_grad():
        penalty = gradient(smooth, x, target, create_graph=True).square().sum()
    (found,) = torch.autograd.grad(penalty, weight)
    step = torch.zeros_like(weight)
    step[1, 0, 1, 1] = 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step
        values.append(gradient(smooth, x, target).square().sum())
        with torch.no_grad():
            weight -= sign * step
    torch.testing.assert_close(found[1, 0, 1, 1], (values[0] - values[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("fused", ["auto", "always"])
def test_second_derivative_through_attention(fused: str, x: Tensor, target: Tensor) -> None:
    torch.manual_seed(0)
    model = ViT(
        image_size=8, patch_size=4, channels=2, classes=5, dim=4, depth=1, heads=2, fused=fused
    ).double()
    x = x[:1].requires_grad_()
    score = lambda x: gradient(model, x, target[:1], create_graph=True).square().sum()  # noqa: E731
    assert torch.autograd.gradcheck(score, (x,))


class Fused(nn.Module):
    def __init__(self, *backends: SDPBackend) -> None:
        super().__init__()
        self.backends = backends

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)[:, None]
        if not self.backends:
            return F.scaled_dot_product_attention(tokens, tokens, tokens).flatten(1)
        with sdpa_kernel(list(self.backends)):
            return F.scaled_dot_product_attention(tokens, tokens, tokens).flatten(1)


def test_a_foreign_fused_kernel_takes_its_composite_form(x: Tensor) -> None:
    x = x[:, :, :2, :2].clone().requires_grad_()
    score = lambda x: gradient(Fused(), x, 1, create_graph=True).square().sum()  # noqa: E731
    assert torch.autograd.gradcheck(score, (x,))


def test_a_model_that_insists_on_a_fused_kernel_is_refused(x: Tensor) -> None:
    model = Fused(SDPBackend.FLASH_ATTENTION)
    assert gradient(model, x, 1).shape == x.shape
    with pytest.raises(ValueError, match=r"ScaledDotProduct\w+, which has no second derivative"):
        gradient(model, x.requires_grad_(), 1, create_graph=True)


def test_a_gradient_that_is_zero_everywhere(x: Tensor) -> None:
    constant = torch.ones(3, 5, dtype=x.dtype)
    for model in (lambda x: constant, lambda x: 0 * x.flatten(1)[:, :5], lambda x: x.flatten(1).sign()):
        assert torch.equal(gradient(model, x, 1), torch.zeros_like(x))
        leaf = x.clone().requires_grad_()
        found = gradient(model, leaf, 1, create_graph=True)
        assert torch.equal(found, torch.zeros_like(x))
        assert torch.equal(torch.autograd.grad(found.sum(), leaf)[0], torch.zeros_like(x))


def test_a_constant_gradient_has_derivative_zero(linear: nn.Module, x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    found = gradient(linear.requires_grad_(False), leaf, 1, create_graph=True)
    assert torch.equal(torch.autograd.grad(found.square().sum(), leaf)[0], torch.zeros_like(x))


def test_the_callers_tensors_and_model_are_left_alone(smooth: nn.Module, x: Tensor) -> None:
    before, grad_on = x.clone(), [p.requires_grad for p in smooth.parameters()]
    with torch.no_grad():
        found = gradient(smooth, x, 1)
    assert torch.equal(x, before)
    assert not x.requires_grad and not found.requires_grad
    assert grad_on == [p.requires_grad for p in smooth.parameters()]
    assert all(p.grad is None for p in smooth.parameters())


@pytest.mark.parametrize(
    ("images", "target", "message"),
    [
        (torch.rand(3, 8, 8), 1, r"x has shape \(3, 8, 8\)"),
        (torch.ones(3, 2, 8, 8, dtype=torch.int64), 1, r"x has .* dtype torch.int64"),
        (torch.rand(0, 2, 8, 8), 1, r"at least one image"),
        (torch.rand(3, 2, 8, 8), 5, r"target has the class 5; this model has classes 0 to 4"),
        (torch.rand(3, 2, 8, 8), -1, r"target has the class -1; classes start at 0"),
        (torch.rand(3, 2, 8, 8), torch.tensor([0, 1]), r"target has .* shape \(2,\); .* shape \(3,\)"),
        (torch.rand(3, 2, 8, 8), torch.tensor([0.0, 1, 2]), r"target has dtype torch.float32"),
        (torch.rand(3, 2, 8, 8), None, r"target is None"),
        (torch.rand(3, 2, 8, 8), True, r"target is True"),
    ],
)
def test_bad_input(images: Tensor, target, message: str, smooth: nn.Module) -> None:
    with pytest.raises(ValueError, match=message):
        gradient(smooth.float(), images, target)


def test_a_model_without_classes_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"model returned shape \(3,\) for 3 images; \(3, classes\)"):
        gradient(lambda x: x.sum(dim=(1, 2, 3)), x, 0)
