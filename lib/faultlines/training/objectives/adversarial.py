"""Adversarial training, the reference from above for any regularizer that claims robustness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from faultlines.training.objectives.objective import Model, Objective, check_number


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
            return F.cross_entropy(model(x), y, reduction="sum")

        attacked = x
        with torch.no_grad():  # func.grad still differentiates inside; the weights see only the last pass
            for _ in range(self.steps):
                attacked = attacked + step_size * self.eps * torch.func.grad(total)(attacked).sign()
                # torch.clamp takes no mix of bounds under vmap; the two elementwise forms do
                attacked = torch.minimum(torch.maximum(attacked, x - self.eps), x + self.eps).clamp(0, 1)
        loss = F.cross_entropy(model(attacked.detach()), y)
        return loss, {"adversarial_cross_entropy": loss}
