"""One look for every figure: a palette safe for colour-blind readers, type legible at reading size."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    plt.rcParams.update(STYLE)
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


def mark_line(ax: Axes, value: float, label: str, *, axis: str = "y") -> None:
    """Draw a labelled reference line (a threshold, chance level) across a panel."""
    line = ax.axhline if axis == "y" else ax.axvline
    line(value, color=PALETTE["grey"], linestyle="--", linewidth=1.2, label=label, zorder=1)
