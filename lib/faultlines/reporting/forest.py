"""Forest plots: one estimate with its interval a line."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from faultlines.reporting.figures import COLUMN, PALETTE, mark_line
from faultlines.reporting.intervals import Interval
from faultlines.reporting.verdicts import Direction, judge

COLOURS = {"holds": PALETTE["blue"], "fails": PALETTE["vermillion"], "inconclusive": PALETTE["grey"]}


def forest(
    labels: Sequence[str],
    intervals: Sequence[Interval],
    pooled: Interval | None = None,
    *,
    direction: Direction = "above",
    threshold: float = 0.0,
    title: str = "",
) -> Figure:
    """Return a forest plot: runs from top to bottom, the pooled interval as a diamond below them.

    Args:
        labels: One a line.
        intervals: One a line.
        pooled: Of all lines together.
        direction: Side of the threshold that the claim is on; it colours the lines by verdict.
        threshold: Where the reference line stands.
        title: Title of the panel.

    Returns:
        The figure, as wide as the text column; the caller closes it.

    Raises:
        ValueError: If there is not one label an interval.
    """
    if len(labels) != len(intervals):
        raise ValueError(
            f"labels has {len(labels)} entries and intervals {len(intervals)}; one line needs one of each"
        )
    lines = len(intervals) + (pooled is not None)
    fig, ax = plt.subplots(figsize=(COLUMN, 0.9 + 0.3 * lines))
    mark_line(ax, threshold, "threshold", axis="x")
    for y, interval in enumerate(intervals):
        colour = COLOURS[judge(interval, direction, threshold)]
        ax.plot([interval.low, interval.high], [y, y], color=colour)
        ax.plot(interval.estimate, y, "s", color=colour)
    ticks = list(labels)
    if pooled is not None:
        y, colour = len(intervals), COLOURS[judge(pooled, direction, threshold)]
        x = [pooled.low, pooled.estimate, pooled.high, pooled.estimate]
        ax.fill(x, [y, y - 0.25, y, y + 0.25], color=colour)
        ticks.append("pooled")
    ax.set_yticks(range(lines), ticks)
    ax.set_ylim(lines - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set_title(title)
    return fig
