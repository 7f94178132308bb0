"""What every training objective is, and the plainest: cross-entropy, also of adversarial points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from faultlines.models.inference import logits_of
from faultlines.models.recorder import record

Model = Callable[[Tensor], Tensor]


class Objective:
    """Base of the objectives: a frozen dataclass of numbers, called as `objective(model, x, y)`.

    The model is any callable from inputs to logits, so that one objective serves a plain module and
    `torch.func.functional_call` under `vmap` alike. For the same reason an objective
    branches on no tensor's value, and says so if it draws random numbers: those of one network at a time.

    Attributes:
        per_member: Names of the fields that may be scalar tensors, and that may therefore differ between the
            members of an ensemble that is trained in one vectorised call.
        draws: Whether it draws random numbers, which a vectorised call refuses.
    """

    per_member: ClassVar[tuple[str, ...]] = ()
    draws: ClassVar[bool] = False

    def __call__(
        self, model: Model, x: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the scalar loss to minimise and its terms by name, each a scalar."""
        raise NotImplementedError


def check_number(name: str, value: float | Tensor, *, low: float = -math.inf, high: float = math.inf) -> None:
    """Refuse a number that is not finite or not in `[low, high]`.

    A tensor passes: under `vmap` its value cannot be read, and it was checked as a float before it was
    stacked.

    Raises:
        ValueError: If the value is out of range.
    """
    if not isinstance(value, Tensor) and not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name}={value!r} must be a finite number in [{low:g}, {high:g}]")


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Mean cross-entropy over the batch.

    Args:
        label_smoothing: Mass taken from the label and spread over all classes, in [0, 1].

    Raises:
        ValueError: If `label_smoothing` is out of range.

    Example:
        >>> import torch
        >>> loss, _ = CrossEntropy()(lambda x: x, torch.zeros(3, 10), torch.tensor([1, 5, 9]))
        >>> round(loss.item(), 4)  # log 10
        2.3026
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_number("label_smoothing", self.label_smoothing, low=0, high=1)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; it is its own only term."""
        loss = F.cross_entropy(logits_of(model(x)), y, label_smoothing=self.label_smoothing)
        return loss, {"cross_entropy": loss}


@dataclass(frozen=True)
class TrackLambda(CrossEntropy):
    r"""Cross-entropy, whose terms also hold $\lambda$ of every layer that has one.

    The terms are `lambda 0`, `lambda 1`, ... by layer, so that a `History` holds the mean over each epoch. Layers
    without branches add none, and two mechanisms can be trained under one objective.

    Args:
        label_smoothing: Of the cross-entropy.

    Example:
        >>> import torch
        >>> from faultlines.models import ViT
        >>> sizes = dict(image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=2, heads=4)
        >>> model = ViT(**sizes, attention="differential")
        >>> loss, terms = TrackLambda()(model, torch.rand(5, 1, 4, 4), torch.zeros(5).long())
        >>> sorted(terms)
        ['cross_entropy', 'lambda 0', 'lambda 1']
    """

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and its terms with the lambdas."""
        with record() as tape:
            loss, terms = super().__call__(model, x, y)
        found = {
            f"lambda {index}": layer.terms["lambda"].detach()
            for index, layer in enumerate(tape.layers)
            if "lambda" in layer.terms
        }
        return loss, {**terms, **found}


@dataclass(frozen=True)
class Adversarial(Objective):
    r"""Cross-entropy at $x' \in B_\infty(x, \epsilon)$ found by projected gradient ascent (Madry 2018).

    Ascent starts at $x$ itself and not at a random point, so that the objective stays a function of its
    arguments and runs under `vmap`; with one step this is FGSM, which is known to overfit to itself: take
    two or more. Inputs are images in [0, 1] and stay there.

    Args:
        eps: Radius in pixel units.
        steps: Ascent steps, each one forward and one backward pass more than cross-entropy.
        step_size: Length of a step over `eps`; by default `2.5 / steps`, and 1 for a single step.

    Raises:
        ValueError: If a number is out of range.
    """

    per_member: ClassVar[tuple[str, ...]] = ("eps",)

    eps: float | Tensor
    steps: int = 3
    step_size: float | None = None

    def __post_init__(self) -> None:
        check_number("eps", self.eps, low=0)
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1")
        if self.step_size is not None:
            check_number("step_size", self.step_size, low=0)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss at the attacked batch, which is its only term."""
        step_size = min(1.0, 2.5 / self.steps) if self.step_size is None else self.step_size

        def total(x: Tensor) -> Tensor:
            return F.cross_entropy(logits_of(model(x)), y, reduction="sum")

        attacked = x
        with torch.no_grad():  # func.grad still differentiates inside; the weights see only the last pass
            for _ in range(self.steps):
                attacked = attacked + step_size * self.eps * torch.func.grad(total)(attacked).sign()
                # torch.clamp takes no mix of bounds under vmap; the two elementwise forms do
                attacked = torch.minimum(torch.maximum(attacked, x - self.eps), x + self.eps).clamp(0, 1)
        loss = F.cross_entropy(logits_of(model(attacked.detach())), y)
        return loss, {"adversarial_cross_entropy": loss}
