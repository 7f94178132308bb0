"""What every objective is that sees more of a sample than its label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

MakeModel = Callable[[int], nn.Module]
"""From a number of classes to a network with fresh weights, drawn from torch's global generator."""

LossAndTerms = tuple[Float[Tensor, ""], dict[str, Tensor]]


class GroupBatch(NamedTuple):
    """One batch.

    Attributes:
        x: Images.
        y: Labels.
        c: Confounders, 0 to their number less one.
        mask: Foreground, 1 inside; None where it is not known.
        group: Number of the pair (label, confounder) among those of the training set.
        domain: Training environment; the confounder where the data name none.
        index: Places in the training set.
    """

    x: Float[Tensor, "batch channel height width"]
    y: Int[Tensor, " batch"]
    c: Int[Tensor, " batch"]
    mask: Float[Tensor, "batch height width"] | None
    group: Int[Tensor, " batch"]
    domain: Int[Tensor, " batch"]
    index: Int[Tensor, " batch"]


class Clock(NamedTuple):
    """Place of a step in its run.

    Attributes:
        step: Steps done.
        steps: Steps of the whole run.
    """

    step: int
    steps: int

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return self.step / self.steps


@dataclass(frozen=True)
class GroupRun:
    """What an objective is told of the run that it is for.

    Attributes:
        make_model: Makes further networks of the kind that is trained.
        data: The training set, on the device of the run.
        groups: Number of groups in it.
        classes: Number of classes.
        confounders: Number of confounders.
        seed: Seed of the run.
        fit: Trains a network under another objective, and for a share of the epochs, with all else as in this
            run; for an objective with stages.
    """

    make_model: MakeModel
    data: GroupBatch
    groups: int
    classes: int
    confounders: int
    seed: int
    fit: Callable[[GroupObjective, float], nn.Module]


class GroupLoss(nn.Module):
    """The loss of one run. Its parameters are trained along, its buffers are its state."""

    def forward(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the scalar to minimise and its terms by name, each a scalar."""
        raise NotImplementedError


class GroupObjective:
    """Base of the objectives on group data: a frozen dataclass of numbers and options.

    Every run makes a loss of its own from it, which may hold state: group weights, a second network.
    """

    def start(self, run: GroupRun) -> GroupLoss:
        """Return the loss of a run."""
        raise NotImplementedError


def pooled_features(
    model: nn.Module, x: Float[Tensor, "batch ..."]
) -> tuple[Float[Tensor, "batch k"], Float[Tensor, "batch classes"]]:
    """Return averaged features and logits of a network with `features(x)` and a linear `head`.

    Raises:
        ValueError: If the network is of another kind.
    """
    from faultlines.estimators.attribution.cam import pools_linearly

    if not pools_linearly(model):
        raise ValueError(f"{type(model).__name__} has no features(x) and linear head to take features from")
    pooled = model.features(x).mean(dim=(2, 3))
    return pooled, model.head(pooled)


def weighted_mean(values: Float[Tensor, " batch"], weight: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean of `values` in which a sample counts `weight` times; weights that are all zero give 0."""
    total = weight.sum()
    return (values * weight).sum() / torch.where(total > 0, total, 1.0)
