"""Accuracy by group.

A group is a pair of class and confounder. WGA, worst-group accuracy, is the least over the groups that are there
(Sagawa et al. 2020); AA, average accuracy, is over all images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from faultlines.models.pixel_normalization import check_tensor

Measure = Literal["average", "worst"]  # accuracies that a model can be judged by


class Group(NamedTuple):
    """One row of the table.

    Attributes:
        y: Class.
        c: Confounder.
        correct: Images classified right.
        total: Images.
        low: Lower end of the Wilson (1927) interval of the accuracy.
        high: Upper end.
    """

    y: int
    c: int
    correct: int
    total: int
    low: float
    high: float

    @property
    def accuracy(self) -> float:
        """Share of images classified right."""
        return self.correct / self.total


@dataclass(frozen=True)
class GroupAccuracy:
    """Accuracies of one model on one set.

    Attributes:
        groups: One row a group that occurs, ordered by class, then confounder.
        split: What the set is for, as `GroupedImages.split` says.
    """

    groups: tuple[Group, ...]
    split: str = ""

    @property
    def average(self) -> float:
        """Accuracy over all images (AA)."""
        return sum(g.correct for g in self.groups) / sum(g.total for g in self.groups)

    @property
    def worst_group(self) -> Group:
        """The group of least accuracy; of equals, the larger, of which more is known."""
        return min(self.groups, key=lambda g: (g.accuracy, -g.total))

    @property
    def worst(self) -> float:
        """Accuracy of the worst group (WGA)."""
        return self.worst_group.accuracy


def group_accuracy(
    prediction: Int[Tensor, " n"],
    y: Int[Tensor, " n"],
    c: Int[Tensor, " n"],
    *,
    split: str = "",
    confidence: float = 0.95,
) -> GroupAccuracy:
    """Tabulate predicted classes by group.

    Args:
        prediction: Predicted classes.
        y: Classes.
        c: Confounders.
        split: What the set is for.
        confidence: Coverage of the groups' intervals.

    Raises:
        ValueError: If shapes or dtypes differ from the above, nothing is given or the confidence is not in (0, 1).

    Example:
        >>> y, c = torch.tensor([0, 0, 1, 1]), torch.tensor([2, 2, 2, 3])
        >>> found = group_accuracy(torch.tensor([0, 1, 1, 0]), y, c)
        >>> found.average, found.worst, found.worst_group[:4]
        (0.5, 0.0, (1, 3, 0, 1))
    """
    from scipy.stats import binomtest  # slow to import, and training imports this module

    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} is not in (0, 1)")
    for name, labels in (("prediction", prediction), ("y", y), ("c", c)):
        check_tensor(labels, name)
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"{name} has shape {tuple(labels.shape)} and dtype {labels.dtype}; [n] and integers"
            )
    if not len(prediction) == len(y) == len(c) or not len(y):
        raise ValueError(
            f"prediction has {len(prediction)} entries, y {len(y)} and c {len(c)}; need as many, and not 0"
        )
    total, right = _counts(y, c), _counts(y[prediction == y], c[prediction == y])
    rows = []
    for group, n in sorted(total.items()):
        ends = binomtest(right.get(group, 0), n).proportion_ci(confidence, method="wilson")
        rows.append(Group(*group, right.get(group, 0), n, float(ends.low), float(ends.high)))
    return GroupAccuracy(tuple(rows), split)


def _counts(y: Tensor, c: Tensor) -> dict[tuple[int, int], int]:
    pairs, n = torch.stack([y.long(), c.long()], dim=1).unique(dim=0, return_counts=True)
    return {tuple(pair): count for pair, count in zip(pairs.tolist(), n.tolist(), strict=True)}
