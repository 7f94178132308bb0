"""The upper reference: a network that is told where the foreground is."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.estimators.attribution.cam import logits_and_maps, normalize_map
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
class MaskOracle(GroupObjective):
    """Cross-entropy plus the share of the label's Grad-CAM map that lies outside the known foreground.

    After Ross et al. (2017), who penalise input gradients outside a mask. It uses what no method in the
    comparison may use, and stands for what penalising the right places can give.

    Args:
        coefficient: Weight of the penalty after warm-up and ramp.
        center: Whether maps are those of the centred logits; see `logits_and_maps`.
        warmup: Share of the run without penalty.
        ramp: Share of the run over which the weight then rises.

    Raises:
        ValueError: If an argument is out of range.
    """

    coefficient: float = 1.0
    center: bool = True
    warmup: float = 0.15
    ramp: float = 0.15

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)
        check_number("warmup", self.warmup, low=0, high=1)
        check_number("ramp", self.ramp, low=0, high=1)

    def start(self, run: GroupRun) -> GroupLoss:
        """Return the loss of a run.

        Raises:
            ValueError: If the data have no masks.
        """
        if run.data.mask is None:
            raise ValueError("MaskOracle needs data with foreground masks; these have mask=None")
        return super().start(run)

    def loss(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the sum and its terms."""
        if batch.mask is None:
            raise ValueError("MaskOracle needs batches with foreground masks; this one has mask=None")
        logits, maps = logits_and_maps(model, batch.x, batch.y, center=self.center, create_graph=True)
        loss = F.cross_entropy(logits, batch.y)
        outside = outside_share(maps, batch.mask).mean()
        weight = clock.weight(self.coefficient, warmup=self.warmup, ramp=self.ramp)
        return loss + weight * outside, {"cross_entropy": loss, "outside": outside}


def outside_share(
    maps: Float[Tensor, "batch height width"], mask: Float[Tensor, "batch rows columns"]
) -> Float[Tensor, " batch"]:
    """Share of each map's mass outside the mask, which is averaged down to the map's cells; 0 for an empty map.

    Example:
        >>> import torch
        >>> outside_share(torch.ones(1, 2, 2), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])).item()
        0.5
    """
    inside = F.adaptive_avg_pool2d(mask[:, None].to(maps), (maps.shape[-2], maps.shape[-1]))[:, 0]
    return (normalize_map(maps, "l1") * (1 - inside)).sum(dim=(1, 2))
