"""JTT: train once, then again with more weight on what the first network got wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from faultlines.training.group_batches import as_floats
from faultlines.training.objectives.erm import ERM, WeightedLoss
from faultlines.training.objectives.group_objective import GroupLoss, GroupObjective, GroupRun
from faultlines.training.objectives.objective import check_number


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
