from __future__ import annotations

import pytest
import torch
from captum.attr import NoiseTunnel, Saliency
from torch import Tensor, nn

from faultlines.estimators.attribution import gradient, smoothgrad


def test_it_is_captums_under_the_same_noise(smooth: nn.Module, x: Tensor, target: Tensor) -> None:
    tunnel, x = NoiseTunnel(Saliency(smooth.float())), x.float()  # captum's noise is float32
    for i in range(
        3
    ):  # captum draws image by image, ours sample by sample: of one image the order is the same
        torch.manual_seed(i)
        theirs = tunnel.attribute(x[i : i + 1], target=target[i : i + 1], nt_samples=6, stdevs=0.2, abs=False)
        generator = torch.Generator().manual_seed(i)
        ours = smoothgrad(smooth, x[i : i + 1], target[i : i + 1], samples=6, sigma=0.2, generator=generator)
        torch.testing.assert_close(ours, theirs)


def test_its_mean_on_a_cubic(x: Tensor) -> None:
    # z = sum x^3: the gradient 3 (x + s e)^2 has mean 3 (x^2 + s^2)
    found = smoothgrad(lambda x: (x**3).flatten(1).sum(1, keepdim=True), x, 0, samples=20_000, sigma=0.1)
    spread = 3 * (4 * x**2 * 0.01 + 2 * 1e-4).sqrt() / 20_000**0.5
    assert ((found - 3 * (x**2 + 0.01)).abs() <= 5 * spread).all()


def test_it_is_exact_for_a_linear_model(linear: nn.Module, x: Tensor, target: Tensor) -> None:
    torch.testing.assert_close(
        smoothgrad(linear, x, target, samples=3), linear[1].weight[target].view(3, 2, 8, 8)
    )


def test_without_noise_it_is_the_gradient(smooth: nn.Module, x: Tensor, target: Tensor) -> None:
    found = smoothgrad(smooth, x, target, samples=3, sigma=0.0)
    torch.testing.assert_close(found, gradient(smooth, x, target))


def test_two_calls_see_the_same_noise_unless_a_generator_is_given(smooth: nn.Module, x: Tensor) -> None:
    assert torch.equal(smoothgrad(smooth, x, 0, samples=4), smoothgrad(smooth, x, 0, samples=4))
    generator = torch.Generator().manual_seed(0)
    first, second = (smoothgrad(smooth, x, 0, samples=4, generator=generator) for _ in range(2))
    assert torch.equal(first, smoothgrad(smooth, x, 0, samples=4))
    assert not torch.equal(first, second)


def test_second_derivative(smooth: nn.Module, x: Tensor) -> None:
    x = x[:1].clone().requires_grad_()

    def score(x: Tensor) -> Tensor:
        return smoothgrad(smooth, x, 1, samples=3, chunk=2, create_graph=True).square().sum()

    assert torch.autograd.gradcheck(score, (x,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, r"samples=0 must be an integer, at least 1"),
        ({"sigma": -0.1}, r"sigma=-0.1 must be a finite number, at least 0"),
        ({"sigma": float("nan")}, r"sigma=nan must be"),
        ({"chunk": 1.5}, r"chunk=1.5 must be"),
    ],
)
def test_bad_input(options: dict, message: str, smooth: nn.Module, x: Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        smoothgrad(smooth, x, 0, **options)
