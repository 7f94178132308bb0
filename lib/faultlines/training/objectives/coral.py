"""CORAL: features with the same first two moments in every domain."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.training.objectives.group_objective import (
    Clock,
    GroupBatch,
    GroupLoss,
    GroupObjective,
    GroupRun,
    LossAndTerms,
    pooled_features,
)
from faultlines.training.objectives.objective import check_number


@dataclass(frozen=True)
class CORAL(GroupObjective):
    """Cross-entropy plus the distance of the domains' features (Sun and Saenko 2016, as in DomainBed).

    Args:
        coefficient: Weight of the penalty; see `coral`.

    Raises:
        ValueError: If the coefficient is negative.
    """

    coefficient: float = 1.0

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)

    def start(self, run: GroupRun) -> GroupLoss:
        """Return the loss of a run."""
        return CORALLoss(self.coefficient)


class CORALLoss(GroupLoss):
    """The loss of one run."""

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        self.coefficient = coefficient

    def forward(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the sum and its terms; a domain of fewer than two samples is left out."""
        features, logits = pooled_features(model, batch.x)
        loss = F.cross_entropy(logits, batch.y)
        parts = [features[batch.domain == d] for d in batch.domain.unique()]
        pairs = list(combinations([part for part in parts if len(part) > 1], 2))
        penalty = sum((coral(a, b) for a, b in pairs), start=torch.zeros_like(loss)) / max(len(pairs), 1)
        return loss + self.coefficient * penalty, {"cross_entropy": loss, "coral": penalty}


def coral(a: Float[Tensor, "n k"], b: Float[Tensor, "m k"]) -> Float[Tensor, ""]:
    """Mean squared difference of the means plus that of the covariances, n and m at least 2.

    Example:
        >>> a = torch.tensor([[0.0, 1.0], [2.0, 3.0], [1.0, 0.0]])
        >>> coral(a, a).item(), round(coral(a, a + 1).item(), 4)
        (0.0, 1.0)
    """
    means = (a.mean(dim=0) - b.mean(dim=0)).square().mean()
    return means + (a.T.cov() - b.T.cov()).square().mean()
