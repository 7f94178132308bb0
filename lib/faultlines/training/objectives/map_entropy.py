"""The entropy of attention maps, a plain control for regularizers of their distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from faultlines.models.recorder import record
from faultlines.training.objectives.objective import Model, Objective, check_number


@dataclass(frozen=True)
class MapEntropy(Objective):
    r"""Cross-entropy minus `coefficient` times the mean row entropy $-\sum_j P_{ij} \log P_{ij}$, in nats.

    Args:
        coefficient: Positive spreads the maps, negative sharpens them. The mean is over layers, batch, heads
            and queries.

    Raises:
        ValueError: If `coefficient` is not finite.
    """

    per_member: ClassVar[tuple[str, ...]] = ("coefficient",)

    coefficient: float | Tensor

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the difference and its terms `cross_entropy` and `entropy`.

        Raises:
            ValueError: If the model recorded no attention map.
        """
        with record() as tape:
            loss = F.cross_entropy(model(x), y)
        if not tape.maps:
            raise ValueError("MapEntropy needs attention maps, and the model recorded none")
        # clamped, for the derivative of p log p is infinite at 0
        entropies = [torch.special.entr(p.clamp(min=1e-12)).sum(dim=-1).mean() for p in tape.maps]
        entropy = sum(entropies[1:], entropies[0]) / len(entropies)
        return loss - self.coefficient * entropy, {"cross_entropy": loss, "entropy": entropy}
