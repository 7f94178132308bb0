"""Empirical risk minimisation, on the label or on the confounder, plain or reweighted by group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.training.objectives.group_objective import (
    Clock,
    GroupBatch,
    GroupLoss,
    GroupObjective,
    GroupRun,
    LossAndTerms,
    weighted_mean,
)

Label = Literal["y", "c"]


@dataclass(frozen=True)
class ERM(GroupObjective):
    """Mean cross-entropy, the baseline.

    Args:
        label: `"y"`, or `"c"` for a classifier of the confounder.

    Raises:
        ValueError: If the label is neither.
    """

    label: Label = "y"

    def __post_init__(self) -> None:
        if self.label not in get_args(Label):
            raise ValueError(f"label={self.label!r} is not one of {get_args(Label)}")

    def start(self, run: GroupRun) -> GroupLoss:
        """Return the loss of a run."""
        return WeightedLoss(torch.ones(len(run.data.y), device=run.data.y.device), self.label)


@dataclass(frozen=True)
class Reweighting(GroupObjective):
    """Cross-entropy with every group of the same weight, however many samples it has.

    Groups of equal size leave it equal to `ERM`.
    """

    def start(self, run: GroupRun) -> GroupLoss:
        """Return the loss of a run."""
        counts = torch.bincount(run.data.group, minlength=run.groups)
        return WeightedLoss(len(run.data.group) / (run.groups * counts[run.data.group]))


class WeightedLoss(GroupLoss):
    """Cross-entropy in which every training sample has a weight of its own.

    Args:
        weight: `[n]`, by place in the training set.
        label: `"y"` or `"c"`.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, label: Label = "y") -> None:
        super().__init__()
        self.label = label
        self.register_buffer("weight", weight)

    def forward(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the loss, which is its own only term."""
        losses = F.cross_entropy(model(batch.x), getattr(batch, self.label), reduction="none")
        loss = weighted_mean(losses, self.weight[batch.index])
        return loss, {"cross_entropy": loss}
