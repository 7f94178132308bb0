"""The input-gradient penalty, a plain control that acts on the network's output and not on its maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from faultlines.models.recorder import record
from faultlines.training.objectives.input_derivative import gradient_and_value
from faultlines.training.objectives.objective import Model, Objective, check_number


@dataclass(frozen=True)
class InputGradient(Objective):
    r"""Cross-entropy plus `coefficient` times the mean of $\|\nabla_x \ell(x_i, y_i)\|_2^2$.

    Double backpropagation (Drucker and LeCun 1992; Ross and Doshi-Velez 2018); about three times the cost of
    cross-entropy. The forward pass is recorded, which keeps attention in its explicit form: a fused kernel
    has no second derivative. Batch normalisation in training mode makes a sample's loss depend on the others, and its
    gradient is then that of the batch's sum.

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
            with record():
                return F.cross_entropy(model(x), y, reduction="sum")  # a sum, so that samples stay apart

        gradient, loss = gradient_and_value(total, x)
        loss = loss / len(x)
        penalty = gradient.flatten(1).square().sum(dim=1).mean()
        return loss + self.coefficient * penalty, {"cross_entropy": loss, "input_gradient": penalty}
