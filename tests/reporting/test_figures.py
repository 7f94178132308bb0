from __future__ import annotations

from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from faultlines.reporting.figures import COLUMN, PALETTE, STYLE, figure, mark_line, use_style

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
