"""What a published figure shows, read off its picture as one does with a ruler: axes, points, markers, pixels.

Outputs hold some of a run's numbers only as a picture. It is drawn by Matplotlib at a known size, so that what it
shows can be measured to about a pixel; `touch` holds what was read against the numbers that the outputs say in words.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from nbformat import NotebookNode
from PIL import Image
from scipy import ndimage as scipy_ndimage

from faultlines.book.dark_figures import on_paper

ndimage: Any = scipy_ndimage  # its stubs take results for single numbers
Pixels = npt.NDArray[np.float64]
INK = 60.0
"""What is darker in all three channels is black ink: spines, ticks, outlines."""

DOTS = 220 / 72
"""Pixels of a figure of the book to a point."""


@dataclass(frozen=True)
class Axes:
    """The frame of one panel, in pixels from the picture's upper left corner.

    Attributes:
        left: Where the axis of ordinates stands.
        right: Where the axis of abscissae ends.
        top: Where the axis of ordinates ends.
        bottom: Where the axis of abscissae stands.
    """

    left: float
    right: float
    top: float
    bottom: float


def picture(notebook: NotebookNode, label: str) -> Pixels | None:
    """Return a figure of an executed notebook on white, `[height, width, 3]` from 0 to 255; None if there is none."""
    for cell in notebook.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == label:
            for output in cell.get("outputs", []):
                if png := output.get("data", {}).get("image/png"):
                    return np.asarray(on_paper(base64.b64decode(png)), float)
    return None


def panels(pixels: Pixels) -> list[Axes]:
    """Return the panels with two spines of a row of panels, from left to right."""
    dark = pixels.max(-1) < INK
    tall = [(n, *_longest(column)) for n, column in enumerate(dark.T)]
    height = max(end - start for _, start, end in tall)
    lines = [line for line in tall if line[2] - line[1] >= height - 3]
    spines = [(a, top, end) for (a, top, end), (b, *_) in itertools.pairwise(lines) if b == a + 1]
    found = []
    for left, top, end in spines:
        bottom = _foot(dark, left, end)
        if bottom is None:
            continue
        row = dark[bottom, left:]
        length = int(np.argmin(row)) if not row.all() else len(row)
        if length > height / 2:  # the frame of a colour bar is narrow
            # a line of two pixels has its middle between them, and its cap goes one beyond the axes
            found.append(Axes(left + 1.0, left + length - 1.0, top + 1.0, bottom + 1.0))
    return found


def _foot(dark: npt.NDArray[np.bool_], left: int, end: int) -> int | None:
    # the line of abscissae crosses the other within the length of a tick
    rows = [
        row
        for row in range(max(0, end - 16), min(end + 2, len(dark) - 1))
        if dark[row, left : left + 60].all()
    ]
    return rows[0] if rows else None


def _longest(line: npt.NDArray[np.bool_]) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0, 0
    n = int((ends - starts).argmax())
    return int(starts[n]), int(ends[n])


def tick_rows(pixels: Pixels, axes: Axes) -> list[float]:
    """Return where the ticks of the ordinates stand, from the lowest up."""
    column = pixels[:, int(axes.left) - 7].max(-1) < INK
    labels, count = ndimage.label(column)
    centres = [float(np.flatnonzero(labels == n).mean()) + 0.5 for n in range(1, count + 1)]
    return sorted((y for y in centres if axes.top - 3 < y < axes.bottom + 3), reverse=True)


def rings(
    pixels: Pixels, axes: Axes, size: float = 4.0, line: float = 0.8
) -> list[tuple[float, float, bool]]:
    """Return the black circles of a scatter plot: their middles in pixels, and whether each is filled.

    Args:
        pixels: The picture.
        axes: The panel that they are in.
        size: Diameter of the middle of the outline, in points.
        line: Width of the outline, in points.
    """
    outer, inner = (size + line) / 2 * DOTS, (size - line) / 2 * DOTS
    span = np.arange(-9, 10)
    distance = np.hypot(*np.meshgrid(span, span))
    box = np.s_[int(axes.top) : int(axes.bottom) - 2, int(axes.left) + 3 : int(axes.right)]
    dark, seen = np.zeros(pixels.shape[:2]), np.zeros(pixels.shape[:2])
    dark[box] = np.clip((100 - pixels[box].max(-1)) / 60, 0, 1)
    seen[box] = pixels[box].min(-1) < 200  # a white line lies over the points
    cover = _share(dark, seen, (distance < outer - 0.5) & (distance > inner + 0.5))
    full = _share(dark, seen, distance < inner - 0.5)
    groups, count = ndimage.label(
        ndimage.binary_dilation((cover == ndimage.maximum_filter(cover, 5)) & (cover > 0.8))
    )
    found = []
    for n in range(1, count + 1):
        weight = np.where(groups == n, np.clip(cover - 0.8 * cover[groups == n].max(), 0, None), 0)
        y, x = ndimage.center_of_mass(weight)
        found.append((float(x) + 0.5, float(y) + 0.5, bool(full[round(y), round(x)] > 0.8)))
    return found


def _share(dark: Pixels, seen: Pixels, shape: npt.NDArray[np.bool_]) -> Pixels:
    # of the shape about each pixel, the dark share of what can be seen
    def over(values: Pixels) -> Pixels:
        return ndimage.correlate(values, shape.astype(float), mode="constant")

    whole = over(seen)
    return np.where(whole > 0.4 * shape.sum(), over(dark * seen) / np.maximum(whole, 1), 0)


def coloured(pixels: Pixels, colour: str, tolerance: float = 40.0) -> npt.NDArray[np.bool_]:
    """Return which pixels have a colour, `#RRGGBB`."""
    wanted = [int(colour[n : n + 2], 16) for n in (1, 3, 5)]
    return np.abs(pixels - wanted).max(-1) < tolerance


def stacked_markers(
    pixels: Pixels, axes: Axes, x: float, layers: Sequence[tuple[str, str]], size: float = 5.0
) -> list[float] | None:
    """Return the heights of markers that stand over one another, in pixels.

    Args:
        pixels: The picture.
        axes: The panel.
        x: Where they stand, in pixels.
        layers: Colour and shape, `o` or `s`, of each marker, as they were drawn, the last on top.
        size: Side or diameter with the outline, in points.

    Returns:
        One height a layer, in the order of the layers; None where the uppermost is not found. One of which nothing is
        seen stands where those over it do.
    """
    half = size / 2 * DOTS
    first, last = int(axes.top - half), int(axes.bottom + half) + 1
    columns = np.arange(int(x - half), int(x + half) + 1)
    across, along = np.meshgrid(columns + 0.5 - x, np.arange(first, last) + 0.5)
    colours = {colour: coloured(pixels[first:last, columns], colour) for colour, _ in layers}
    steps = np.arange(axes.top, axes.bottom + 1)

    def scores(n: int, places: Pixels, over: Mapping[int, float]) -> Pixels:
        # how much of its colour a marker would explain at each place, less what speaks against it
        own, shape = colours[layers[n][0]], layers[n][1]
        later = [colours[colour] for colour, _ in layers[n + 1 :]]
        # a line of a later layer may lie over this marker: its colour tells nothing
        against = ~own & ~ndimage.binary_dilation(np.any(later, axis=0)) if later else ~own
        hidden = np.zeros(own.shape, bool)
        for k, y in over.items():
            hidden |= (k > n) & _inside(layers[k][1], across, along - y, half + 0.7)
        found = []
        for y in places:
            rows = slice(max(0, int(y - half) - first), int(y + half) - first + 2)
            inside = _inside(shape, across[rows], along[rows] - y, half - 0.7) & ~hidden[rows]
            found.append((own[rows] & inside).sum() - 4 * (against[rows] & inside).sum())
        return np.array(found, float)

    heights: dict[int, float] = {}
    for n in range(len(layers) - 1, -1, -1):
        rough = scores(n, steps, heights)
        near = np.arange(steps[rough.argmax()] - 12, steps[rough.argmax()] + 12.01, 0.5)
        fine = scores(n, near, heights)
        best = near[fine > fine.max() - 1.5]
        below = [m for m in range(n) if layers[m][0] == layers[n][0]]
        if fine.max() <= 2:
            if not heights:
                return None
            heights[n] = _beneath(coloured(pixels, layers[n][0]), x, half, list(heights.values()))
            continue
        if below and len(best) > 2:  # two of one colour that touch: what they explain together decides
            together = [scores(below[-1], steps, heights | {n: y}).max() for y in best]
            best = best[np.array(together) > max(together) - 1.5]
        heights[n] = float(best.mean())
    return [heights[n] for n in range(len(layers))]


def _beneath(mask: npt.NDArray[np.bool_], x: float, half: float, heights: Sequence[float]) -> float:
    # hidden: under the markers, at the height of its line beside them
    beside = mask[:, [*_beside(x, half, -1), *_beside(x, half, 1)]].sum(1)
    place = max(heights, key=lambda y: beside[int(y - half) : int(y + half) + 1].sum())
    rows = np.arange(int(place - half), int(place + half) + 1)
    level = float((beside[rows] * (rows + 0.5)).sum() / beside[rows].sum()) if beside[rows].any() else place
    over = [y for y in heights if abs(y - place) < half]
    return min(max(level, min(over)), max(over))


def _beside(x: float, half: float, side: int) -> range:
    edge = int(x + side * (half + 2))
    return range(edge, edge + 8 * side, side)


def _inside(shape: str, across: Any, down: Any, half: float) -> Any:
    return np.hypot(across, down) < half if shape == "o" else np.maximum(np.abs(across), np.abs(down)) < half


def frames(pixels: Pixels, colours: Sequence[str]) -> list[tuple[Axes, int]]:
    """Return the pictures with a coloured frame, row after row, and which of the colours each frame has."""
    found = []
    for n, colour in enumerate(colours):
        labels, _ = ndimage.label(coloured(pixels, colour), np.ones((3, 3)))
        for rows, columns in ndimage.find_objects(labels):
            if rows.stop - rows.start > 40 and columns.stop - columns.start > 40:
                found.append((Axes(columns.start, columns.stop, rows.start, rows.stop), n))
    return _in_rows(found)


def photographs(pixels: Pixels) -> list[Axes]:
    """Return the panels that hold an image, with spines on the left and below, row after row; all are of one size."""
    labels, _ = ndimage.label(pixels.max(-1) < INK, np.ones((3, 3)))
    found = [Axes(columns.start, columns.stop, rows.start, rows.stop)
             for rows, columns in ndimage.find_objects(labels)
             if rows.stop - rows.start > 60 and columns.stop - columns.start > 60]  # fmt: skip
    widest = max((a.right - a.left for a in found if a.right - a.left < 1.05 * (a.bottom - a.top)), default=0)
    square = [a for a in found if max(abs(a.right - a.left - widest), abs(a.bottom - a.top - widest)) <= 4]
    return [axes for axes, _ in _in_rows([(axes, 0) for axes in square])]


def _in_rows(found: list[tuple[Axes, int]]) -> list[tuple[Axes, int]]:
    return sorted(found, key=lambda one: (round(one[0].top / 30), one[0].left))


def embedded(colours: Pixels) -> str:
    """Return an image as an address that holds it, a PNG in base 64."""
    file = io.BytesIO()
    Image.fromarray(colours.round().astype(np.uint8)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def cells(pixels: Pixels, axes: Axes, side: int, inset: float = 0.0) -> Pixels:
    """Return the colours of an image of `side` by `side` pixels that was drawn into a panel, `[side, side, 3]`.

    Args:
        pixels: The picture.
        axes: The panel, with its frame.
        side: Number of the image's pixels along a side.
        inset: How far the image's edge lies within the frame's outer one, in pixels of the picture.
    """
    at = (np.arange(side) + 0.5) / side
    rows = axes.top + inset + at * (axes.bottom - axes.top - 2 * inset)
    columns = axes.left + inset + at * (axes.right - axes.left - 2 * inset)
    return pixels[np.ix_(rows.astype(int), columns.astype(int))]


def grain(pixels: Pixels, axes: Axes, sides: Sequence[int]) -> int | None:
    """Return which number of pixels along a side makes the cells of a panel even; None where none does."""
    for side in sides:
        offsets = [(axes.bottom - axes.top) / side * shift for shift in (-0.25, 0.25)]
        middle = cells(pixels, axes, side)
        moved = [cells(pixels, Axes(axes.left + o, axes.right + o, axes.top + p, axes.bottom + p), side)
                 for o in offsets for p in offsets]  # fmt: skip
        inner = np.s_[1:-1, 1:-1]
        if np.mean([np.abs(m - middle)[inner].mean() for m in moved]) < 2:
            return side
    return None


def values_of(colours: Pixels, name: str) -> Pixels:
    """Return the places in a colour map of Matplotlib, from 0 to 1, of colours `[..., 3]`."""
    from matplotlib import colormaps

    scale = 255 * colormaps[name](np.arange(256))[:, :3]
    return np.abs(colours[..., None, :] - scale).sum(-1).argmin(-1) / 255


def two_maps(colours: Pixels, under: Pixels, size: int) -> tuple[Pixels, Pixels, float]:
    """Return two coarse maps that were laid over a grey image, first in blue and then in red, and how well they fit.

    A map's value is its opacity over 0.75, the most that was given.

    Args:
        colours: The image as it was drawn, `[side, side, 3]` from 0 to 255.
        under: The image below, `[side, side]` from 0 to 255.
        size: Cells of a map along a side.

    Returns:
        The two maps, `[size, size]`, and the mean error of the colours that they explain.
    """
    from matplotlib import colormaps

    blue, red = (255 * np.array(colormaps[name](1 / 1.3)[:3]) for name in ("Blues", "Reds"))
    first, second, errors = np.zeros((size, size)), np.zeros((size, size)), []
    step = len(under) // size
    for row, column in np.ndindex(size, size):
        at = np.s_[row * step : (row + 1) * step, column * step : (column + 1) * step]
        grey = np.repeat(under[at].reshape(-1, 1), 3, axis=1)
        over = colours[at].reshape(-1, 3)
        parts = np.stack([(blue - grey).ravel(), (red - grey).ravel()], axis=1)
        (below, above), *_ = np.linalg.lstsq(parts, (over - grey).ravel(), rcond=None)
        errors.append(np.abs(parts @ [below, above] - (over - grey).ravel()).mean())
        first[row, column] = below / max(1 - above, 0.05) / 0.75
        second[row, column] = above / 0.75
    return first.clip(0, 1), second.clip(0, 1), float(np.mean(errors))
