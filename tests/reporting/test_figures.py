from __future__ import annotations

from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from faultlines.notebook.outputs import RECORD, shown_in
from faultlines.reporting import prose
from faultlines.reporting.figures import (
    COLUMN,
    PALETTE,
    STYLE,
    draw_intervals,
    figure,
    mark_line,
    place_figure,
    use_style,
)
from faultlines.reporting.intervals import Interval

# Machado, Oliveira & Fernandes (2009), severity 1.0, on linear RGB
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}  # fmt: skip
LINES = [entry["color"] for entry in STYLE["axes.prop_cycle"]]


def linear(colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D65 of linear sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_lines_are_told_apart(deficiency: str) -> None:
    seen = {colour: lab(np.array(DEFICIENCIES[deficiency]) @ linear(colour)) for colour in LINES}
    distances = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in combinations(LINES, 2)}
    assert min(distances.values()) > 12, min(distances, key=distances.get)  # 2.3 is just noticeable


def test_lines_stand_out_from_white() -> None:
    for name, colour in PALETTE.items():
        luminance = float(np.array([0.2126, 0.7152, 0.0722]) @ linear(colour))
        assert 1.05 / (luminance + 0.05) > 2.0, name


def test_a_figure_is_as_wide_as_the_column_and_in_style() -> None:
    with mpl.rc_context():
        use_style()
        assert mpl.rcParams["axes.prop_cycle"].by_key()["color"] == LINES
        fig, axes = figure(2, 3, height=2.0, sharex=True)
        assert fig.get_size_inches().tolist() == [COLUMN, 4.0]
        assert axes.shape == (2, 3)
        mark_line(axes[0, 0], 0.5, "chance")
        mark_line(axes[0, 0], 2.0, "here", axis="x")
        assert axes[0, 0].lines[0].get_ydata() == [0.5, 0.5]
        assert axes[0, 0].lines[1].get_xdata() == [2.0, 2.0]
        plt.close(fig)


def executed(*sources: str) -> nbformat.NotebookNode:
    """Return a notebook of a chapter's frame around some cells, executed."""
    frame = ("from faultlines import notebook\nnotebook.begin()", "seeds: int = 2  # how many [1..9]")
    cells = [*frame, "notebook.check_parameters()", *sources, 'notebook.record("toy")']
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    made.cells[1].metadata.tags = ["parameters"]
    return NotebookClient(made, kernel_name="python3").execute()


KEPT = "from faultlines.reporting import figure, place_figure\nplace_figure('opening')"


def test_a_figure_stands_in_the_place_that_was_kept_for_it() -> None:
    made = executed(KEPT, "fig, ax = figure()\nplace_figure('opening', fig)")
    (above,) = made.cells[3].outputs
    assert above.data["image/png"].startswith("iVBOR")
    assert made.cells[4].outputs == []
    # the record knows the cell by what it shows at the end, not by what it showed first
    shown = shown_in(made.cells[3].outputs).digest()
    assert made.cells[-1].outputs[0].data[RECORD]["outputs"][2] == shown


def test_no_record_of_a_page_with_an_empty_place() -> None:
    with pytest.raises(
        CellExecutionError, match="a place is kept for the figure opening, which no cell has drawn"
    ):
        executed(KEPT)


def test_a_place_is_kept_once_and_before_it_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prose, "places", {})
    fig, _ = figure()
    with pytest.raises(ValueError, match="place 'a' was not kept before"):
        place_figure("a", fig)
    place_figure("a")
    with pytest.raises(ValueError, match="place 'a' is kept already"):
        place_figure("a")
    place_figure("a", fig)
    assert prose.places == {"a": True}
    assert not plt.fignum_exists(fig.number)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_intervals_are_drawn_from_their_low_to_their_high_end(axis: str) -> None:
    intervals = [Interval(0.5, 0.2, 0.6, 9, "t"), Interval(-1.0, -1.5, 0.5, 9, "t")]
    _, ax = figure()
    draw_intervals(ax, [3, 4], intervals, axis=axis, fmt="o", capsize=2)
    draw_intervals(ax, 7.5, intervals[0], axis=axis)
    drawn = [np.array(path) for bars in ax.collections for path in bars.get_segments()]
    along, across = (0, 1) if axis == "x" else (1, 0)
    assert [tuple(bar[:, along]) for bar in drawn] == [(0.2, 0.6), (-1.5, 0.5), (0.2, 0.6)]
    assert [tuple(bar[:, across]) for bar in drawn] == [(3, 3), (4, 4), (7.5, 7.5)]
    marks = ax.containers[0][0]
    assert list((marks.get_xdata, marks.get_ydata)[along]()) == [0.5, -1.0]


def test_intervals_and_places_that_do_not_match_are_refused() -> None:
    _, ax = figure()
    one = Interval(0.5, 0.2, 0.6, 9, "t")
    with pytest.raises(ValueError, match=r"places has shape \(3,\) for 1 intervals"):
        draw_intervals(ax, [1, 2, 3], one)
    with pytest.raises(ValueError, match="axis is 'z'; allowed are 'x' and 'y'"):
        draw_intervals(ax, 1, one, axis="z")
