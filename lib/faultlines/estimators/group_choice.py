"""The choice of a model by its groups, on a set that is not the test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from faultlines.estimators.groups import GroupAccuracy, Measure

SELECTABLE = ("validation", "ood_validation")  # the splits that a choice may look at


def choose(candidates: Mapping[str, GroupAccuracy], by: Measure = "worst") -> str:
    """Return the name of the best candidate on validation data.

    Args:
        candidates: Accuracies by name: of several models, epochs or settings, all on one set.
        by: `"worst"` goes by worst-group accuracy and, of equals, by the average; `"average"` the other way round.
            Of equals in both, the first.

    Raises:
        ValueError: If there is none, the sets differ, or they are not validation sets: a choice that has seen the
            test set leaves no test.

    Example:
        >>> import torch
        >>> from faultlines.estimators import group_accuracy
        >>> y, c = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
        >>> fair = group_accuracy(torch.tensor([0, 0, 1, 1]), y, c, split="validation")
        >>> shortcut = group_accuracy(torch.tensor([0, 1, 0, 1]), y, c, split="validation")
        >>> choose({"shortcut": shortcut, "fair": fair})
        'fair'
    """
    if by not in get_args(Measure):
        raise ValueError(f"by={by!r} is not one of {get_args(Measure)}")
    if not candidates:
        raise ValueError("candidates is empty")
    splits = sorted({found.split for found in candidates.values()})
    if len(splits) > 1 or splits[0] not in SELECTABLE:
        raise ValueError(
            f"candidates were evaluated on {splits}; a choice may only look at one of {list(SELECTABLE)}"
        )
    tables = {tuple((g.y, g.c, g.total) for g in found.groups) for found in candidates.values()}
    if len(tables) > 1:
        raise ValueError("candidates were evaluated on sets of different groups or sizes")

    def merit(name: str) -> tuple[float, float]:
        pair = candidates[name].worst, candidates[name].average
        return pair if by == "worst" else pair[::-1]

    return max(candidates, key=merit)
