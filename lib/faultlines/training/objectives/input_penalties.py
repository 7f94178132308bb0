"""Penalties on derivatives in the input: on those of the loss, and on the gradient map itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from faultlines.estimators.forward import explicit_attention
from faultlines.models.inference import logits_of
from faultlines.training.objectives.objective import Model, Objective, check_number


@dataclass(frozen=True)
class InputGradient(Objective):
    r"""Cross-entropy plus `coefficient` times the mean of $\|\nabla_x \ell(x_i, y_i)\|_2^2$.

    Double backpropagation (Drucker and LeCun 1992; Ross and Doshi-Velez 2018); about three times the cost of
    cross-entropy. Attention stays in its explicit form, for a fused kernel has no second derivative. Batch
    normalisation in training mode makes a sample's loss depend on the others, and its gradient is then that of the
    batch's sum.

    Args:
        coefficient: Non-negative.

    Raises:
        ValueError: If `coefficient` is negative or not finite.
    """

    per_member: ClassVar[tuple[str, ...]] = ("coefficient",)

    coefficient: float | Tensor

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum and its terms `cross_entropy` and `input_gradient`."""

        def total(x: Tensor) -> Tensor:
            with explicit_attention():
                # a sum, so that samples stay apart
                return F.cross_entropy(logits_of(model(x)), y, reduction="sum")

        gradient, loss = gradient_and_value(total, x)
        loss = loss / len(x)
        penalty = gradient.flatten(1).square().sum(dim=1).mean()
        return loss + self.coefficient * penalty, {"cross_entropy": loss, "input_gradient": penalty}


@dataclass(frozen=True)
class CurvaturePenalty(Objective):
    r"""Cross-entropy plus `coefficient` times the mean of $\|\nabla_x^2 \ell(x_i, y_i)\, z_i\|_2^2$.

    The direction is that of curvature regularisation (Moosavi-Dezfooli et al. 2019),
    $z = \mathrm{sign}\, \nabla_x \ell / \|\mathrm{sign}\, \nabla_x \ell\|_2$, a constant to the weights. The product is
    a finite difference, $(\nabla_x \ell(x + h z) - \nabla_x \ell(x)) / h$, or exact. A ReLU network has no second
    derivative to penalise: for it, and for curvature at a scale, take a finite step. Unlike the original the
    difference is divided by $h$, so that a coefficient means the same at every step.

    Costs two gradients in the input and a pass back through both, about five times cross-entropy. Attention stays in
    its explicit form, for a fused kernel has no second derivative. Batch normalisation in training mode makes a
    sample's loss depend on the others, and its gradient is then that of the batch's sum; torch has no third derivative
    of it, so that the exact product is refused there.

    Args:
        coefficient: Non-negative.
        step: $h > 0$ in the units of $x$ (Euclidean length), or None for the exact product.

    Raises:
        ValueError: If `coefficient` is negative, or `step` not positive.
    """

    per_member: ClassVar[tuple[str, ...]] = ("coefficient",)

    coefficient: float | Tensor
    step: float | None = 0.1

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)
        if self.step is not None:
            check_number("step", self.step, low=torch.finfo(torch.float32).tiny)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum and its terms `cross_entropy` and `curvature`."""

        def total(x: Tensor) -> Tensor:
            with explicit_attention():
                return F.cross_entropy(logits_of(model(x)), y, reduction="sum")

        gradient, loss = gradient_and_value(total, x)
        z = gradient.detach().sign()
        z = z / z.flatten(1).norm(dim=1).clamp_min(1).view(
            -1, *[1] * (x.ndim - 1)
        )  # a sign vector's norm is 0 or >= 1
        if self.step is None:
            product, _ = gradient_and_value(lambda x: (gradient_and_value(total, x)[0] * z).sum(), x)
        else:
            ahead, _ = gradient_and_value(total, x + self.step * z)
            product = (ahead - gradient) / self.step
        loss = loss / len(x)
        penalty = product.flatten(1).square().sum(dim=1).mean()
        return loss + self.coefficient * penalty, {"cross_entropy": loss, "curvature": penalty}


@dataclass(frozen=True)
class MapSteadiness(Objective):
    r"""Cross-entropy plus `coefficient` times the mean of $1 - \cos(\nabla_x f_y(x), \nabla_x f_y(x + h s))$.

    It acts on what an explanation shows, the signed gradient $\nabla_x f_y$ of the logit of the sample's class, and not
    on the loss: the map at a sample and the map beside it are made to point the same way. The offset $h s$ has random
    signs $s$, new in every step, from torch's global generator of the CPU, which `fit` seeds. A vectorised call for
    several networks at once has no such generator and is refused. Batch normalisation in training mode makes a
    sample's logit depend on the others, and its gradient is then that of the batch's sum.

    Costs two gradients in the input and a pass back through both, about five times cross-entropy. Attention stays in
    its explicit form, for a fused kernel has no second derivative.

    Args:
        coefficient: Non-negative.
        step: $h > 0$, by which every entry of $x$ is moved.

    Raises:
        ValueError: If `coefficient` is negative or `step` not positive; at the call, inside a transform of
            `torch.func`.
    """

    draws: ClassVar[bool] = True

    coefficient: float
    step: float = 0.1

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)
        check_number("step", self.step, low=torch.finfo(torch.float32).tiny)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum and its terms `cross_entropy` and `turn`, one minus the mean cosine."""
        if torch._C._functorch.peek_interpreter_stack():  # pyright: ignore[reportAttributeAccessIssue]  # torch's stubs lack it
            raise ValueError(
                "MapSteadiness draws random signs, and has none inside vmap; train one at a time"
            )
        logits: list[Tensor] = []

        def own_class(x: Tensor) -> Tensor:
            with explicit_attention():
                logits.append(logits_of(model(x)))
            return logits[-1].gather(1, y[:, None]).sum()

        signs = 2.0 * torch.randint(0, 2, x.shape).to(x) - 1  # the same on every device
        here, _ = gradient_and_value(own_class, x)
        beside, _ = gradient_and_value(own_class, x + self.step * signs)
        loss = F.cross_entropy(logits[0], y)
        turn = 1 - F.cosine_similarity(here.flatten(1), beside.flatten(1), dim=1).mean()
        return loss + self.coefficient * turn, {"cross_entropy": loss, "turn": turn}


def gradient_and_value(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "batch ..."]
) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, ""]]:
    """Return the gradient of the scalar `f` at `x`, with a graph that training can differentiate again, and its value.

    Plain autograd where it can be: inside a transform of `torch.func` batch normalisation cannot count its batches.
    An ensemble trained in one call is such a transform itself, and there `torch.func` is used.
    """
    if torch._C._functorch.peek_interpreter_stack():  # pyright: ignore[reportAttributeAccessIssue]  # torch's stubs lack it
        return torch.func.grad_and_value(f)(x)
    wanted = torch.is_grad_enabled()  # a derivative is taken under no_grad, too, but none of it will be
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        value = f(x)
        (gradient,) = torch.autograd.grad(value, x, create_graph=wanted)
    return gradient, value
