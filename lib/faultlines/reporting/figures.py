"""One look for every figure: a palette safe for colour-blind readers, type legible at reading size; forest plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from faultlines.reporting import prose
from faultlines.reporting.intervals import Interval
from faultlines.reporting.verdicts import Direction, judge

PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "grey": "#5F6368",
    "black": "#000000",
}
"""Okabe & Ito (2008), told apart under the common colour-vision deficiencies; the yellow is left out, which is
too light for lines on white."""

COLUMN = 7.2
"""Width in inches of the book's text column, at which figures are shown without scaling."""

STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.prop_cycle": cycler(color=[c for n, c in PALETTE.items() if n != "grey"]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.hashsalt": "faultlines",
}


def use_style() -> None:
    """Set the look for every figure of this process, and sharp inline images in a notebook."""
    settings: dict[Any, Any] = STYLE  # matplotlib's stub lists every key
    plt.rcParams.update(settings)
    from IPython.core.getipython import get_ipython

    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")


def figure(rows: int = 1, columns: int = 1, *, height: float = 3.2, **options: Any) -> tuple[Figure, Any]:
    """Return a figure as wide as the text column, and its axes.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        height: Height of one row in inches.
        **options: Passed on to `matplotlib.pyplot.subplots`.

    Returns:
        The figure and one `Axes`, or an array of them.

    Example:
        >>> fig, ax = figure()
        >>> fig.get_size_inches().tolist()
        [7.2, 3.2]
        >>> plt.close(fig)
    """
    return plt.subplots(rows, columns, figsize=(COLUMN, height * rows), **options)


def place_figure(name: str, fig: Figure | None = None) -> None:
    """Keep a place for a figure, or put the figure there: so a result can stand above the cells that compute it.

    The cell that is to show the figure calls it with the name alone, a later one with the figure as well, which is
    closed. A record is refused while a place is empty. Outside a notebook nothing is shown.

    Args:
        name: Of the place, one of its own in a notebook.
        fig: What is to be shown there.

    Raises:
        ValueError: If the place is kept already, or was not kept before it is filled.
    """
    from IPython.core.getipython import get_ipython
    from IPython.display import publish_display_data

    if (name in prose.places) == (fig is None):
        raise ValueError(f"place {name!r} {'is kept already' if fig is None else 'was not kept before'}")
    prose.places[name] = fig is not None
    data, metadata = {"text/plain": "a figure, drawn when its results are there"}, {}
    shell: Any = get_ipython()
    if fig is not None:
        data, metadata = shell.display_formatter.format(fig) if shell is not None else ({}, {})
        plt.close(fig)
    if shell is not None:
        handle = {"display_id": f"figure-{name}"}
        publish_display_data(data, metadata, transient=handle, update=fig is not None)


def mark_line(ax: Axes, value: float, label: str, *, axis: str = "y") -> None:
    """Draw a labelled reference line (a threshold, chance level) across a panel."""
    line = ax.axhline if axis == "y" else ax.axvline
    line(value, color=PALETTE["grey"], linestyle="--", linewidth=1.2, label=label, zorder=1)


def draw_intervals(
    ax: Axes, places: ArrayLike, intervals: Interval | Sequence[Interval], *, axis: str = "y", **look: Any
) -> None:
    """Draw estimates as marks with their intervals as bars.

    Args:
        ax: Panel to draw in.
        places: Where each stands along the other axis: one number an interval.
        intervals: One, or one a place.
        axis: `"y"`, along which values are read off upwards, or `"x"`.
        look: How it is drawn, in the words of `matplotlib.axes.Axes.errorbar`: `fmt`, `color`, `label`, ...

    Raises:
        ValueError: If there is not one place an interval, or the axis is neither.
    """
    at, each = np.atleast_1d(places), [intervals] if isinstance(intervals, Interval) else list(intervals)
    if at.shape != (len(each),):
        raise ValueError(
            f"places has shape {at.shape} for {len(each)} intervals; one interval needs one place"
        )
    if axis not in ("x", "y"):
        raise ValueError(f"axis is {axis!r}; allowed are 'x' and 'y'")
    middle = np.array([interval.estimate for interval in each])
    reach = [middle - [interval.low for interval in each], [interval.high for interval in each] - middle]
    if axis == "x":
        ax.errorbar(middle, at, xerr=reach, **look)
    else:
        ax.errorbar(at, middle, yerr=reach, **look)


COLOURS = {
    "holds": PALETTE["blue"],
    "fails": PALETTE["vermillion"],
    "negligible": PALETTE["purple"],
    "inconclusive": PALETTE["grey"],
}


def forest(
    labels: Sequence[str],
    intervals: Sequence[Interval],
    pooled: Interval | None = None,
    *,
    direction: Direction = "above",
    threshold: float = 0.0,
    smallest: float | None = None,
    title: str = "",
) -> Figure:
    """Return a forest plot: runs from top to bottom, the pooled interval as a diamond below them.

    Args:
        labels: One a line.
        intervals: One a line.
        pooled: Of all lines together.
        direction: Side of the threshold that the claim is on; it colours the lines by verdict.
        threshold: Where the reference line stands.
        smallest: The smallest effect of interest, drawn as a band about the threshold.
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
    if smallest is not None:
        ax.axvspan(threshold - smallest, threshold + smallest, color=PALETTE["grey"], alpha=0.15, linewidth=0)
    for y, interval in enumerate(intervals):
        colour = COLOURS[judge(interval, direction, threshold, smallest)]
        ax.plot([interval.low, interval.high], [y, y], color=colour)
        ax.plot(interval.estimate, y, "s", color=colour)
    ticks = list(labels)
    if pooled is not None:
        y, colour = len(intervals), COLOURS[judge(pooled, direction, threshold, smallest)]
        x = [pooled.low, pooled.estimate, pooled.high, pooled.estimate]
        ax.fill(x, [y, y - 0.25, y, y + 0.25], color=colour)
        ticks.append("pooled")
    ax.set_yticks(range(lines), ticks)
    ax.set_ylim(lines - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set_title(title)
    return fig
