"""Curvature of networks whose explanations are compared: after training, with scale and margin, and through it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from faultlines.attacks.explanation.surrogate import count_relu, softplus_surrogate
from faultlines.estimators.curvature.inputs import input_curvature
from faultlines.estimators.curvature.parameters import hessian_top


@dataclass(frozen=True)
class NetworkTraits:
    r"""Of one network; medians are over the explained samples.

    Attributes:
        sharpness: Largest eigenvalue of the Hessian of the training loss.
        input_hessian: Median of $\lVert \nabla_x^2 f_y \rVert_2$.
        relative_curvature: Median of $\kappa = \lVert \nabla_x^2 f_y \rVert_2 / \lVert \nabla_x f_y \rVert_2$.
        gradient: Median of $\lVert \nabla_x f_y \rVert_2$.
        margin: Median of the logit of the class less the largest other.
        accuracy: On the test set.
    """

    sharpness: float
    input_hessian: float
    relative_curvature: float
    gradient: float
    margin: float
    accuracy: float


def network_traits(
    model: nn.Module,
    train: tuple[Float[Tensor, "n ..."], Int64[Tensor, " n"]],
    test: tuple[Float[Tensor, "m ..."], Int64[Tensor, " m"]],
    explained: tuple[Float[Tensor, "e ..."], Int64[Tensor, " e"]],
    *,
    beta: float = 30.0,
    steps: int = 30,
) -> NetworkTraits:
    r"""Measure a trained network.

    A ReLU network has no curvature in its input: there the input curvature is that of the same weights with
    $\mathrm{softplus}_\beta$, which is the network that attacks on its explanations climb. Everything else is the
    network's own.

    Args:
        model: The network, in evaluation mode.
        train: Training samples and labels for the sharpness.
        test: Test samples and labels for the accuracy.
        explained: Samples and classes whose explanations are attacked.
        beta: Sharpness of the softplus; numbers with different ones are not comparable.
        steps: At most so many products with an input Hessian.

    Raises:
        ValueError: If samples and labels do not fit the network.

    Example:
        >>> x, y = torch.rand(20, 4), torch.arange(20) % 3
        >>> found = network_traits(nn.Linear(4, 3), (x, y), (x, y), (x, y))
        >>> found.input_hessian, found.gradient > 0
        (0.0, True)
    """
    sharp = hessian_top(model, *train, generator=torch.Generator(train[0].device).manual_seed(0))
    smooth = softplus_surrogate(model, beta) if count_relu(model, explained[0][:1]) else nullcontext(model)
    with smooth as twin:
        curved = input_curvature(twin, *explained, steps=steps)
    with torch.no_grad():
        logits, y = model(explained[0]), explained[1]
        own = logits.gather(1, y[:, None]).squeeze(1)
        other = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
        accuracy = (model(test[0]).argmax(dim=1) == test[1]).double().mean().item()
    return NetworkTraits(
        sharpness=sharp.values[0].item(),
        input_hessian=curved.norm.median().item(),
        relative_curvature=curved.relative.nanmedian().item(),
        gradient=curved.gradient.median().item(),
        margin=(own - other).median().item(),
        accuracy=accuracy,
    )
