"""IRM: a classifier that is optimal in every domain at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.training.objectives.group_objective import (
    Clock,
    GroupBatch,
    GroupLoss,
    GroupObjective,
    GroupRun,
    LossAndTerms,
)
from faultlines.training.objectives.objective import check_number


@dataclass(frozen=True)
class IRM(GroupObjective):
    r"""Invariant risk minimisation, IRMv1 (Arjovsky et al. 2019).

    The penalty is the mean over domains $e$ of $\lVert \nabla_w R_e(w \cdot f) \rVert^2$ at $w = 1$. As in the
    authors' code it weighs 1 until the annealing ends, and the whole loss is divided by the weight where that
    is larger than 1, so that the size of a step stays.

    Args:
        coefficient: Weight of the penalty after the annealing.
        anneal: Share of the run before it.

    Raises:
        ValueError: If an argument is out of range.
    """

    coefficient: float = 10.0
    anneal: float = 0.5

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)
        check_number("anneal", self.anneal, low=0, high=1)

    def start(self, run: GroupRun) -> GroupLoss:
        """Return the loss of a run."""
        return IRMLoss(self.coefficient, self.anneal)


class IRMLoss(GroupLoss):
    """The loss of one run."""

    def __init__(self, coefficient: float, anneal: float) -> None:
        super().__init__()
        self.coefficient, self.anneal = coefficient, anneal

    def forward(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the sum, scaled, and its terms."""
        logits = model(batch.x)
        risks, penalties = [], []
        for domain in batch.domain.unique():
            here = batch.domain == domain
            risks.append(F.cross_entropy(logits[here], batch.y[here]))
            penalties.append(irm_penalty(logits[here], batch.y[here]))
        loss, penalty = torch.stack(risks).mean(), torch.stack(penalties).mean()
        weight = self.coefficient if clock.progress >= self.anneal else 1.0
        return (loss + weight * penalty) / max(weight, 1.0), {"cross_entropy": loss, "irm": penalty}


def irm_penalty(logits: Float[Tensor, "n classes"], y: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    r"""Squared derivative of the mean cross-entropy in a common factor of the logits, at 1.

    The derivative is $\frac1n \sum_i \sum_k (p_{ik} - [y_i = k])\, s_{ik}$, so no second pass is needed.

    Example:
        >>> irm_penalty(torch.zeros(3, 4), torch.tensor([0, 1, 2])).item()
        0.0
    """
    residual = logits.softmax(dim=1) - F.one_hot(y, logits.shape[1])
    return (residual * logits).sum(dim=1).mean().square()
