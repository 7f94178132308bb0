"""GroupDRO: the loss of the worst group, found online."""

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
)  # fmt: skip
from faultlines.training.objectives.objective import check_number


@dataclass(frozen=True)
class GroupDRO(GroupObjective):
    r"""Distributionally robust optimisation over groups (Sagawa et al. 2020, Algorithm 1).

    After every batch the weights of the groups are updated, $q_g \leftarrow q_g\, e^{\eta L_g} / Z$, with the
    mean loss $L_g$ of the group in the batch, and the loss is $\sum_g q_g L_g$. A group that the batch does not
    hold has $L_g = 0$. Groups are pairs of label and confounder.

    Args:
        step_size: $\eta \ge 0$; at 0 every group keeps its weight, one over their number.

    Raises:
        ValueError: If the step size is negative.
    """

    step_size: float = 0.01

    def __post_init__(self) -> None:
        check_number("step_size", self.step_size, low=0)

    def start(self, run: GroupRun) -> GroupLoss:
        """Return the loss of a run, all groups of equal weight."""
        return GroupDROLoss(self.step_size, run.groups)


class GroupDROLoss(GroupLoss):
    """The loss of one run; `weight` holds the current weights of the groups."""

    weight: Tensor

    def __init__(self, step_size: float, groups: int) -> None:
        super().__init__()
        self.step_size = step_size
        self.register_buffer("weight", torch.full((groups,), 1 / groups))

    def forward(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Update the weights and return the weighted loss, its mean and the largest weight."""
        losses = F.cross_entropy(model(batch.x), batch.y, reduction="none")
        means = group_means(losses, batch.group, len(self.weight))
        with torch.no_grad():
            weight = self.weight * (self.step_size * means).exp()
            self.weight = weight / weight.sum()
        loss = (self.weight * means).sum()
        return loss, {"cross_entropy": losses.mean(), "largest_weight": self.weight.max()}


def group_means(
    values: Float[Tensor, " batch"], group: Int[Tensor, " batch"], groups: int
) -> Float[Tensor, " groups"]:
    """Mean of each group's values, 0 for a group without any.

    Example:
        >>> group_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), 3).tolist()
        [2.0, 0.0, 5.0]
    """
    sums = values.new_zeros(groups).index_add(0, group, values)
    return sums / torch.bincount(group, minlength=groups).clamp(min=1)
