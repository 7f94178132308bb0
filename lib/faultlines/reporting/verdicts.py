"""From an interval to a verdict."""

from __future__ import annotations

from typing import Literal, get_args

from faultlines.reporting.intervals import Interval

Verdict = Literal["holds", "fails", "inconclusive", "not run"]
Direction = Literal["above", "below"]


def judge(interval: Interval, direction: Direction, threshold: float = 0.0) -> Verdict:
    """Return *holds* where the whole interval lies on the claimed side, *fails* where on the other.

    Args:
        interval: The estimate.
        direction: On which side of the threshold the claim puts it.
        threshold: Zero for a difference, one for a ratio.

    Returns:
        The verdict; an interval that contains the threshold is *inconclusive*.

    Raises:
        ValueError: If the direction is neither `"above"` nor `"below"`.

    Example:
        >>> judge(Interval(0.2, 0.1, 0.3, 5, "t"), "above"), judge(Interval(0.2, -0.1, 0.5, 5, "t"), "above")
        ('holds', 'inconclusive')
    """
    check_direction(direction)
    if interval.low > threshold:
        return "holds" if direction == "above" else "fails"
    if interval.high < threshold:
        return "holds" if direction == "below" else "fails"
    return "inconclusive"


def check_direction(direction: str) -> None:
    """Refuse what is not a direction.

    Raises:
        ValueError: If the direction is neither `"above"` nor `"below"`.
    """
    if direction not in get_args(Direction):
        raise ValueError(f"direction={direction!r} is not one of 'above', 'below'")
