"""Empirical risk minimisation on group data: plain, reweighted by group, and trained twice."""

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
    as_floats,
    weighted_mean,
)  # fmt: skip
from faultlines.training.objectives.objective import check_number

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


@dataclass(frozen=True)
class JTT(GroupObjective):
    """Just train twice (Liu et al. 2021), without a label of the confounder.

    The original repeats each error `upweight` times in the second training set; here it weighs that much in
    the batch it falls in. Where the first network makes no error, this is `ERM`.

    Args:
        first: Length of the first training over that of the second.
        upweight: Weight of an error over that of any other sample.

    Raises:
        ValueError: If an argument is out of range.
    """

    first: float = 0.25
    upweight: float = 20.0

    def __post_init__(self) -> None:
        check_number("first", self.first, low=0, high=1)
        check_number("upweight", self.upweight, low=1)

    def start(self, run: GroupRun) -> GroupLoss:
        """Train the first network and return the loss of the second run."""
        model = run.fit(ERM(), self.first)
        with torch.no_grad():
            found = torch.cat([model(as_floats(x)).argmax(dim=1) for x in run.data.x.split(512)])
        return WeightedLoss(torch.where(found == run.data.y, 1.0, self.upweight))


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
