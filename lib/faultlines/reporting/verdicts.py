"""From an interval to a verdict."""

from __future__ import annotations

import math
from typing import Literal, get_args

from faultlines.reporting.intervals import Interval

Verdict = Literal["holds", "fails", "negligible", "inconclusive", "not run"]
Direction = Literal["above", "below"]


def judge(
    interval: Interval, direction: Direction, threshold: float = 0.0, smallest: float | None = None
) -> Verdict:
    """Return *holds* where the whole interval lies on the claimed side, *fails* where on the other.

    Where it lies within the smallest effect of interest of the threshold, there is an effect of no interest or none:
    *negligible*, on whichever side it may be.

    Args:
        interval: The estimate.
        direction: On which side of the threshold the claim puts it.
        threshold: Zero for a difference, one for a ratio.
        smallest: The smallest effect of interest, a distance from the threshold; None where none is stated.

    Returns:
        The verdict; an interval that contains the threshold is *inconclusive*, if it is not
        negligible.

    Raises:
        ValueError: If the direction is neither `"above"` nor `"below"`, or `smallest` is not positive and finite.

    Example:
        >>> judge(Interval(0.2, 0.1, 0.3, 5, "t"), "above"), judge(Interval(0.2, -0.1, 0.5, 5, "t"), "above")
        ('holds', 'inconclusive')
        >>> judge(Interval(0.2, 0.1, 0.3, 5, "t"), "above", smallest=0.5)
        'negligible'
    """
    check_direction(direction)
    if smallest is not None:
        check_smallest(smallest)
        if threshold - smallest <= interval.low and interval.high <= threshold + smallest:
            return "negligible"
    if interval.low > threshold:
        return "holds" if direction == "above" else "fails"
    if interval.high < threshold:
        return "holds" if direction == "below" else "fails"
    return "inconclusive"


def check_smallest(smallest: float) -> None:
    """Refuse what is no smallest effect of interest.

    Raises:
        ValueError: If it is not positive and finite.
    """
    if not 0 < smallest < math.inf:
        raise ValueError(f"smallest={smallest} must be positive and finite: a distance from the threshold")


def check_direction(direction: str) -> None:
    """Refuse what is not a direction.

    Raises:
        ValueError: If the direction is neither `"above"` nor `"below"`.
    """
    if direction not in get_args(Direction):
        raise ValueError(f"direction={direction!r} is not one of 'above', 'below'")
