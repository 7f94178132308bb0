"""What a run on group data reports about itself, and the choice of an epoch by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

import torch
from torch import nn

from faultlines.estimators.groups import GroupAccuracy, Measure, group_accuracy
from faultlines.training.group_batches import GroupData
from faultlines.training.history import History
from faultlines.training.objectives.group_objective import as_floats


class Selection(NamedTuple):
    """A rule to choose an epoch by.

    Attributes:
        name: Name of a validation set.
        by: `"average"` or `"worst"`.
    """

    name: str
    by: Measure = "worst"

    def check(self, validation: Mapping[str, object]) -> None:
        """Refuse a rule that cannot, or must not, be applied.

        Raises:
            ValueError: If the set is not among those given or is a test set, or the measure is unknown.
        """
        if self.name not in validation:
            raise ValueError(
                f"select={self.name!r} is not the name of a validation set: {', '.join(validation) or 'none is given'}"
            )
        if getattr(validation[self.name], "split", "") == "test":
            raise ValueError(f"select={self.name!r} is a test set; a choice that has seen it leaves no test")
        if self.by not in get_args(Measure):
            raise ValueError(f"select by {self.by!r} is not one of {get_args(Measure)}")


@dataclass
class GroupHistory(History):
    """Means over each epoch, in order, and scores after it.

    Attributes:
        average: Average accuracy on each validation set.
        worst: Worst-group accuracy there.
    """

    average: dict[str, list[float]] = field(default_factory=dict)
    worst: dict[str, list[float]] = field(default_factory=dict)

    def score(self, name: str, found: GroupAccuracy) -> None:
        """Append the score on one validation set."""
        self.average.setdefault(name, []).append(found.average)
        self.worst.setdefault(name, []).append(found.worst)

    def selected(self, name: str, by: Measure = "worst") -> int:
        """Return the epoch, from 0, of the best score; the earliest of equals.

        Example:
            >>> GroupHistory(worst={"held out": [0.1, 0.4, 0.4]}).selected("held out")
            1
        """
        values = getattr(self, by)[name]
        return values.index(max(values))


@torch.no_grad()
def score(model: nn.Module, data: GroupData, device: torch.device, batch_size: int = 512) -> GroupAccuracy:
    """Return a model's accuracies on a set, the model in its present mode.

    Args:
        model: Maps images to logits.
        data: Holds `x`, `y`, `c` and, maybe, `split`.
        device: Where the model is.
        batch_size: Images at once.
    """
    found = torch.cat([model(as_floats(x.to(device))).argmax(dim=1) for x in data.x.split(batch_size)])
    return group_accuracy(found.cpu(), data.y.cpu(), data.c.cpu(), split=getattr(data, "split", ""))
