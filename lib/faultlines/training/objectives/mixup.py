"""Mixup: straight lines between images, and between their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.training.objectives.group_objective import (
    Clock,
    GroupBatch,
    GroupLoss,
    GroupObjective,
    GroupRun,
    LossAndTerms,
)  # fmt: skip
from faultlines.training.objectives.objective import check_number


@dataclass(frozen=True)
class Mixup(GroupObjective):
    r"""Cross-entropy on $\mu x + (1 - \mu) x'$, $\mu \sim \mathrm{Beta}(\alpha, \alpha)$ (Zhang et al. 2018).

    A batch is mixed with itself in another order, with one $\mu$.

    Args:
        alpha: $\alpha > 0$; small values mix little.

    Raises:
        ValueError: If `alpha` is not positive.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, low=1e-6)

    def start(self, run: GroupRun) -> GroupLoss:
        """Return the loss of a run."""
        return MixupLoss(self.alpha, run.seed)


class MixupLoss(GroupLoss):
    """The loss of one run. Draws depend on seed and step alone, so that a run can be taken up anywhere."""

    def __init__(self, alpha: float, seed: int) -> None:
        super().__init__()
        self.alpha, self.seed = alpha, seed

    def forward(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the loss, which is its own only term."""
        rng = np.random.default_rng([self.seed, clock.step])
        share = float(rng.beta(self.alpha, self.alpha))
        order = torch.as_tensor(rng.permutation(len(batch.y)), device=batch.y.device)
        logits = model(share * batch.x + (1 - share) * batch.x[order])
        loss = share * F.cross_entropy(logits, batch.y) + (1 - share) * F.cross_entropy(
            logits, batch.y[order]
        )
        return loss, {"cross_entropy": loss}
