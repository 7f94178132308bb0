"""Empirical risk minimisation on group data, and what only weighs samples or groups: reweighting, JTT, GroupDRO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.models.inference import logits_of, predictions
from faultlines.training.objectives.group_objective import (
    Clock,
    GroupBatch,
    GroupLoss,
    GroupObjective,
    GroupRun,
    LossAndTerms,
    as_floats,
    at_once,
    weighted_mean,
)
from faultlines.training.objectives.objective import check_number
from faultlines.training.optimizer import precision

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
        """Train the first network and return the loss of the second run.

        Raises:
            ValueError: If the images come from a DataLoader.
        """
        if len(run.data.x) != len(run.data.y):
            raise ValueError("JTT looks at all training images at once: give it tensors, not a DataLoader")
        model = run.fit(ERM(), self.first)
        with torch.no_grad():
            parts, dtype = run.data.x.split(at_once(run.data.x, 512)), precision(model)
            floats = (as_floats(x.to(run.data.y.device), dtype) for x in parts)
            found = torch.cat([predictions(model(x)) for x in floats])
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
        losses = F.cross_entropy(logits_of(model(batch.x)), getattr(batch, self.label), reduction="none")
        loss = weighted_mean(losses, self.weight[batch.index])
        return loss, {"cross_entropy": loss}


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
    """The loss of one run; `weight` holds the current weights of the groups, `log_weight` their logarithms."""

    weight: Tensor
    log_weight: Tensor

    def __init__(self, step_size: float, groups: int) -> None:
        super().__init__()
        self.step_size = step_size
        self.register_buffer("weight", torch.full((groups,), 1 / groups))
        self.register_buffer("log_weight", self.weight.log())

    def forward(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Update the weights and return the weighted loss, its mean and the largest weight."""
        losses = F.cross_entropy(logits_of(model(batch.x)), batch.y, reduction="none")
        means = group_means(losses, batch.group, len(self.weight))
        with torch.no_grad():
            weight = self.weight * (self.step_size * means).exp()
            weight = weight / weight.sum()
            self.log_weight = (self.log_weight + self.step_size * means).log_softmax(dim=0)
            # the product as it is published, where no factor overflows and no weight is lost, from where it never rises
            fine = (weight.isfinite() & (weight >= torch.finfo(weight.dtype).tiny)).all()
            self.weight = torch.where(fine, weight, self.log_weight.exp())
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
