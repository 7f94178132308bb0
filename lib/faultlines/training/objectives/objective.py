"""What every training objective is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

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
