"""What every objective is that sees more of a sample than its label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from faultlines.estimators.attribution.cam import pools_linearly

AT_ONCE = 2**25  # bytes of images, as floats, that a network is shown at a time to be scored

MakeModel = Callable[[int], nn.Module]
"""From a number of classes to a network with fresh weights, drawn from torch's global generator."""

LossAndTerms = tuple[Float[Tensor, ""], dict[str, Tensor]]


@dataclass(frozen=True)
class GroupBatch:
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

    def map(self, change: Callable[[Tensor], Tensor]) -> GroupBatch:
        """Return the batch with every tensor changed."""
        changed = {
            field.name: change(getattr(self, field.name)) for field in fields(self) if field.name != "mask"
        }
        return GroupBatch(**changed, mask=None if self.mask is None else change(self.mask))

    def floating(self, dtype: torch.dtype) -> GroupBatch:
        """Return the batch with images to compute with; see `as_floats`."""
        return replace(self, x=as_floats(self.x, dtype))


def as_floats(x: Tensor, dtype: torch.dtype = torch.float32) -> Float[Tensor, "..."]:
    """Return images to compute with, of a set that may be held in another precision or in bytes for its size."""
    return x.to(dtype) if x.is_floating_point() else x.to(dtype) / 255


def at_once(x: Float[Tensor, "n ..."], most: int) -> int:
    """Return how many images a network is shown at a time where no gradient is asked for: as many as memory suggests.

    Example:
        >>> at_once(torch.zeros(1, 3, 32, 32), 512), at_once(torch.zeros(1, 3, 224, 224), 512)
        (512, 55)
    """
    return max(1, min(most, AT_ONCE // (4 * max(1, x[:1].numel()))))


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

    def weight(self, coefficient: float, *, warmup: float, ramp: float) -> float:
        """Return 0 during the warm-up, then a linear rise to `coefficient`: maps of an untrained network are noise.

        Args:
            coefficient: Final weight.
            warmup: Share of the run with weight 0.
            ramp: Share of the run over which the weight then rises.

        Example:
            >>> [Clock(t, 10).weight(2.0, warmup=0.2, ramp=0.4) for t in (0, 2, 4, 9)]
            [0.0, 0.0, 1.0, 2.0]
        """
        if self.progress < warmup:
            return 0.0
        return coefficient * (min((self.progress - warmup) / ramp, 1.0) if ramp else 1.0)


@dataclass(frozen=True)
class GroupRun:
    """What an objective is told of the run that it is for.

    Attributes:
        make_model: Makes further networks of the kind that is trained.
        data: The training set, on the device of the run but for images that are too many; see `as_batch`.
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


class GroupObjective:
    """Base of the objectives on group data: a frozen dataclass of numbers and options.

    An objective without state says what its `loss` is. One with state (weights of groups, a second network) overrides
    `start`, which makes the loss of a run.
    """

    def start(self, run: GroupRun) -> GroupLoss:
        """Return the loss of a run."""
        return StatelessLoss(self)

    def loss(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the scalar to minimise and its terms by name, each a scalar."""
        raise NotImplementedError


class GroupLoss(nn.Module):
    """The loss of one run. Its parameters are trained along, its buffers are its state."""

    def forward(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the scalar to minimise and its terms by name, each a scalar."""
        raise NotImplementedError


class StatelessLoss(GroupLoss):
    """The loss of an objective that keeps nothing between two batches."""

    def __init__(self, objective: GroupObjective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the objective's loss and terms."""
        return self.objective.loss(model, batch, clock)


def check_pooled(model: nn.Module) -> Any:  # torch types every attribute of a module as a tensor or a module
    """Return a network with `features(x)` and a linear `head`.

    Raises:
        ValueError: If it is of another kind.
    """
    if not pools_linearly(model):
        raise ValueError(f"{type(model).__name__} has no features(x) and linear head to take features from")
    return model


def pooled_features(
    model: nn.Module, x: Float[Tensor, "batch ..."]
) -> tuple[Float[Tensor, "batch k"], Float[Tensor, "batch classes"]]:
    """Return averaged features and logits of a network with `features(x)` and a linear `head`.

    Raises:
        ValueError: If the network is of another kind.
    """
    network = check_pooled(model)
    pooled = network.features(x).mean(dim=(2, 3))
    return pooled, network.head(pooled)


def weighted_mean(values: Float[Tensor, " batch"], weight: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean of `values` in which a sample counts `weight` times; weights that are all zero give 0.

    Example:
        >>> values = torch.tensor([1.0, 5.0])
        >>> weighted_mean(values, torch.tensor([3.0, 1.0])), weighted_mean(values, torch.zeros(2))
        (tensor(2.), tensor(0.))
    """
    total = weight.sum()
    return (values * weight).sum() / torch.where(total > 0, total, 1.0)
