"""The margin of a classifier, how fast it can be lost, and the radius that this suggests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.estimators.forward import check_floating, check_steady, in_any_mode, outputs, warn_of_nan
from faultlines.models.pixel_normalization import check_tensor


@dataclass(frozen=True)
class MarginGradient:
    r"""The margin $m = z_y - \max_{i \ne y} z_i$ of each sample and its slope.

    Attributes:
        margin: $m$, negative where the sample is misclassified.
        norm: $\lVert \nabla_x m \rVert_2$.
        dual: $\lVert \nabla_x m \rVert_1$, what a short step in the maximum norm takes off the margin, by length.
    """

    margin: Float[Tensor, " batch"]
    norm: Float[Tensor, " batch"]
    dual: Float[Tensor, " batch"]

    @property
    def radius(self) -> Float[Tensor, " batch"]:
        """The distance to the decision boundary to first order, `margin / norm`; no scale of the logits changes it."""
        return self.margin / self.norm


@in_any_mode
@torch.enable_grad()
def margin_gradient(
    model: Callable[[Tensor], Tensor], x: Float[Tensor, "batch ..."], y: Int64[Tensor, " batch"]
) -> MarginGradient:
    """Return the margin of each sample and the Euclidean and the sum norm of its gradient in the input.

    Args:
        model: Maps a batch to logits `[batch, classes]`, sample by sample (evaluation mode).
        x: Inputs.
        y: True classes.

    Raises:
        ValueError: If there are fewer than two classes, or `y` does not name one of them for each sample, or
            the model is in training mode with layers for which that matters.

    Example:
        >>> weight = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> found = margin_gradient(lambda x: x @ weight.T, torch.tensor([[1.0, 0.25]]), torch.tensor([0]))
        >>> found.margin.item(), found.norm.item(), round(found.radius.item(), 3)
        (2.0, 5.0, 0.4)
    """
    check_steady(model)
    check_floating(x)
    check_tensor(y, "y")
    x = x.detach().requires_grad_()
    logits = outputs(model, x)
    if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        raise ValueError(f"model returned shape {tuple(logits.shape)}; [{len(x)}, classes >= 2] is needed")
    whole = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if (
        not whole
        or y.shape != (len(x),)
        or (len(y) and not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1])
    ):
        raise ValueError(
            f"y has shape {tuple(y.shape)} and dtype {y.dtype}; one class of 0 to {logits.shape[1] - 1} a sample is "
            "needed"
        )
    y = y.long()
    own = logits.gather(1, y[:, None]).squeeze(1)
    other = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    margin = own - other
    (gradient,) = torch.autograd.grad(margin.sum(), x)
    warn_of_nan(gradient)
    flat = gradient.flatten(1)
    return MarginGradient(margin.detach(), flat.norm(dim=1), flat.abs().sum(dim=1))


def margin_radius(
    logits: Float[Tensor, "batch classes"], lipschitz: float | Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    r"""Return $(z_{(1)} - z_{(2)}) / (\sqrt 2 L)$, an **estimate** of the distance to another class.

    It certifies a radius only where $L$ bounds the Jacobian on the whole ball of that radius. A norm at a
    point, which is what `logit_jacobian_norm` and `jacobian_norm` return, does not.

    Args:
        logits: Logits of each sample.
        lipschitz: Lipschitz constant of the logits, positive; one number, or one a sample.

    Returns:
        One radius a sample, in the units of the input.

    Raises:
        ValueError: If there are fewer than two classes, logits are no floating numbers, or `lipschitz` is not
            positive or not one number or one a sample.

    Example:
        >>> import torch
        >>> margin_radius(torch.tensor([[3.0, 1.0, 0.0]]), 2.0)
        tensor([0.7071])
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and dtype {logits.dtype}; floating [batch, classes >= 2] is "
            "needed"
        )
    constant = torch.as_tensor(lipschitz, dtype=logits.dtype, device=logits.device)
    if constant.shape not in ((), (len(logits),)):
        raise ValueError(
            f"lipschitz has shape {tuple(constant.shape)}; one number or [{len(logits)}] is needed"
        )
    if not bool((constant > 0).all()):
        raise ValueError(f"lipschitz={constant.min().item()} must be positive")
    top = logits.topk(2, dim=1).values
    return (top[:, 0] - top[:, 1]) / (math.sqrt(2) * constant)
