"""Figures that one can touch: where a chapter has one, and its numbers, which come from the executed notebook.

The figures themselves are scripts in `_touch/`. A page names its figure and the file of its numbers, and loads both
when the reader is near. Where a notebook's outputs do not hold what a figure wants, the page goes without it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from bs4 import BeautifulSoup
from nbformat import NotebookNode

from faultlines.book import readings
from faultlines.notebook.provenance import Record, read_record
from faultlines.notebook.store import number_cells, write_atomic
from faultlines.reporting.figures import PALETTE

FOLDER = "_touch"
"""Scripts of the figures, from the book's root."""

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Touch:
    """One figure.

    Attributes:
        figure: Its name: the script is `touch-NAME.js`.
        after: Label of the still picture below which it stands.
        read: Returns its numbers from the executed notebook and its record; None where these are not there.
    """

    figure: str
    after: str
    read: Callable[[NotebookNode, Record], Numbers | None]


def no_numbers(executed: NotebookNode, record: Record) -> Numbers:
    """Return nothing: the figure is mathematics alone."""
    return {}


def read_layers(executed: NotebookNode, record: Record) -> Numbers | None:
    r"""Return the trained layers of Figure `fig-da-surface`: $\cos\theta$, $\lambda\rho$ and which side is true.

    Their number, how many are the more sensitive ones and the two medians are also said in words, and must agree.
    """
    pixels, said = readings.picture(executed, "fig-da-surface"), record.quoted
    if pixels is None or not {"cases", "steeper", "cosine", "lambda_rho", "gamma"} <= said.keys():
        return None
    axes = readings.panels(pixels)[0]
    found = np.array(sorted(readings.rings(pixels, axes)))
    ticks = readings.tick_rows(pixels, axes)
    if len(found) != int(said["cases"]) or found[:, 2].sum() != int(said["steeper"]):
        return None
    cosine = -1 + 2 * (found[:, 0] - axes.left) / (axes.right - axes.left)
    in_ticks = (axes.bottom - found[:, 1]) / ((ticks[0] - ticks[-1]) / (len(ticks) - 1))
    wanted = float(said["lambda_rho"])
    step = min((0.1, 0.2, 0.25, 0.5, 1.0), key=lambda step: abs(_median(in_ticks) * step - wanted))
    lambda_rho = in_ticks * step
    if max(abs(_median(lambda_rho) - wanted), abs(_median(cosine) - float(said["cosine"]))) > 0.01:
        return None
    layers = zip(
        cosine.round(3).tolist(), lambda_rho.round(3).tolist(), found[:, 2].astype(int).tolist(), strict=True
    )
    return {"layers": list(layers), "gamma": float(said["gamma"])}


def _median(values: Any) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2])  # as torch has it


def read_flips(executed: NotebookNode, record: Record) -> Numbers | None:
    """Return the shares of flipped influences against the ridge, from Figure `fig-la-ridge`, in per cent.

    Those at the smallest ridge are also in a table, and must agree to half a point. What single subsets say there
    follows from the ledger: it holds attention less plain, and attention less six times plain.
    """
    pixels, ridges = readings.picture(executed, "fig-la-ridge"), record.parameters.get("ridge_list")
    told = table(executed, "The three interventions")
    if pixels is None or told is None or not ridges:
        return None
    kinds = [(kind, arm) for kind in ("finite", "infinite") for arm in ("plain", "attention")]
    layers = [(PALETTE["vermillion" if arm == "attention" else "blue"], "s" if kind == "infinite" else "o")
              for kind, arm in kinds]  # fmt: skip
    places = np.log10(ridges)
    margin = 0.05 * (places[-1] - places[0])  # Matplotlib's own
    shares: dict[str, dict[str, list[float]]] = {}
    for question, axes in zip(("top", "attacked"), readings.panels(pixels), strict=False):
        found = []
        for share in (places - places[0] + margin) / (places[-1] - places[0] + 2 * margin):
            x = axes.left + share * (axes.right - axes.left)
            if (heights := readings.stacked_markers(pixels, axes, x, layers)) is None:
                return None
            up = (axes.bottom - np.array(heights)) / (axes.bottom - axes.top)
            found.append(np.clip(100 * (-0.02 + 0.77 * up), 0, None).round(1))
        shares[question] = {
            f"{kind} {arm}": column.tolist()
            for (kind, arm), column in zip(kinds, np.array(found).T, strict=True)
        }
    random: dict[str, float] = {}
    for row in told:
        if row["intervention"] == "transformed":
            name = f"{row['kernel']} {row['network']}"
            random[name] = _number(row["by random change"])
            pairs = (("top", row["flipped"]), ("attacked", row["of those attacked"]))
            for question, said in pairs:
                if abs(shares[question][name][0] - _number(said)) > 0.5:
                    return None
                shares[question][name][0] = _number(said)
    subsets = {}
    effects = {row["claim"]: np.array(row.get("effects") or []) for row in record.ledger}
    for kind in ("finite", "infinite"):
        once, six = (effects.get(f"C8-{part}{kind}", np.array([])) for part in ("", "six-"))
        if len(once) and len(once) == len(six):
            plain = (once - six) / 5
            subsets[f"{kind} plain"] = (100 * plain).round(2).tolist()
            subsets[f"{kind} attention"] = (100 * (plain + once)).round(2).tolist()
    return {"ridges": ridges, "width": record.parameters["width"], "eps": record.parameters["eps"], "shares": shares,
            "random": random, "subsets": subsets, "data": record.quoted.get("most", "")}  # fmt: skip


def read_gaze(executed: NotebookNode, record: Record) -> Numbers | None:
    """Return the animals of Figure `fig-ex-grid`, the maps of `fig-ex-maps`, and what the tables say of each method.

    A frame's colour must say what the benchmark does, and what was laid over an image be explained by two maps.
    """
    from faultlines.data.spurious.grouped import CLASSES, LOCATIONS, benchmark_cells

    grid, laid = (readings.picture(executed, label) for label in ("fig-ex-grid", "fig-ex-maps"))
    size, epochs, names = (record.parameters.get(name) for name in ("size", "epochs", "benchmarks"))
    if grid is None or laid is None or not size or not epochs or not names:
        return None
    benchmark = benchmark_cells(names[0])
    trained = {(cell.label, cell.location) for cell in benchmark.train}
    asked = {(cell.label, cell.location) for cell in benchmark.test}
    places = [name for name in LOCATIONS if any(name == place for _, place in trained | asked)]
    framed = readings.frames(grid, [PALETTE["blue"], PALETTE["vermillion"]])
    kinds, across = ("full", "patch"), len(places)
    if len(framed) != len(CLASSES) * across * len(kinds):
        return None
    sheets: dict[str, list[Any]] = {kind: [] for kind in kinds}
    for n, (axes, colour) in enumerate(framed):
        label, (block, column) = (
            CLASSES[n // (across * len(kinds))],
            divmod(n % (across * len(kinds)), across),
        )
        if ((label, places[column]) in trained) != (colour == 0):
            return None
        # half of the frame lies over the outermost pixels
        sheets[kinds[block]].append(readings.cells(grid, axes, size, 2.5)[1:-1, 1:-1])
    panels = readings.photographs(laid)
    moments = sorted({0, epochs // 3, 2 * epochs // 3, epochs - 1})
    wide = 1 + len(moments)
    if len(panels) != 4 * wide:
        return None
    looks, images = [], []
    for row in range(4):
        image, *over = (readings.cells(laid, axes, size, 1) for axes in panels[row * wide : (row + 1) * wide])
        read = [readings.two_maps(colours, image.mean(-1), 8) for colours in over]
        if any(error > 4 for *_, error in read):
            return None
        images.append(readings.embedded(image))
        looks.append([[one.round(2).ravel().tolist(), two.round(2).ravel().tolist()] for one, two, _ in read])
    tables = {
        kind: table(executed, f"Background {words}")
        for kind, words in zip(kinds, ("fills", "sits"), strict=True)
    }
    return {"classes": CLASSES, "places": places, "moments": [moment + 1 for moment in moments], "images": images[:2],
            "trained": [[label, place] for label, place in sorted(trained)], "looks": looks, "tables": tables,
            "sheets": {kind: readings.embedded(np.vstack([np.hstack(tiles[n : n + across])
                       for n in range(0, len(tiles), across)])) for kind, tiles in sheets.items()}}  # fmt: skip


def read_maps(executed: NotebookNode, record: Record) -> Numbers | None:
    """Return image, map, attacked image and attacked map of Figure `fig-ar-opening`, and the table of its steps."""
    pixels = readings.picture(executed, "fig-ar-opening")
    rows, steps = table(executed, "Normalised MLP"), record.parameters.get("step_sizes")
    panels = [] if pixels is None else readings.photographs(pixels)
    if pixels is None or rows is None or not steps or len(panels) != 8:
        return None
    side = readings.grain(pixels, panels[0], (8, 14, 16, 28, 32))
    if side is None:
        return None
    nets = []
    for n, step in enumerate((steps[0], steps[-1])):
        found = [readings.cells(pixels, axes, side, 1) for axes in panels[4 * n : 4 * n + 4]]
        image, seen, moved, after = (
            values.mean(-1) / 255 if n % 2 == 0 else readings.values_of(values, "magma")
            for n, values in enumerate(found)
        )
        nets.append({"step": step} | {name: values.round(3).ravel().tolist() for name, values in
                    {"image": image, "map": seen, "attacked": moved, "after": after}.items()})  # fmt: skip
    said = [{name: row[name] for name in ("step", "accuracy", "attacked", "other images", "same class", "corrected")}
            for row in rows if row["batch"] == rows[0]["batch"]]  # fmt: skip
    return {"side": side, "nets": nets, "eps": record.parameters["eps"], "table": said}


def table(executed: NotebookNode, caption: str) -> list[dict[str, str]] | None:
    """Return the rows of the first table whose caption begins so, by the names of its columns."""
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            if caption in html and (found := BeautifulSoup(html, "html.parser").find("table")) is not None:
                said = found.find("caption")
                if said is None or not said.get_text().strip().startswith(caption):
                    continue
                rows = [
                    [part.get_text().strip() for part in row.find_all(["th", "td"])]
                    for row in found.find_all("tr")
                ]
                return [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
    return None


def _number(said: str) -> float:
    found = re.search(r"[-+]?\d+(?:\.\d+)?", said)
    return float(found[0]) if found else math.nan


FIGURES = {
    "softmax-lipschitz": Touch("softmax", "fig-sl-triangle", no_numbers),
    "differential-attention": Touch("differential", "fig-da-surface", read_layers),
    "linearized-attention": Touch("flips", "fig-la-ridge", read_flips),
    "attribution-robustness": Touch("maps", "fig-ar-opening", read_maps),
    "ex2l": Touch("gaze", "fig-ex-maps", read_gaze),
}
"""The figure of a chapter."""


def kept_numbers(touch: Touch, executed: NotebookNode, record: Record, store: Path) -> Numbers | None:
    """Return a figure's numbers from where they are kept, or measure them and keep them: pictures take seconds."""
    content = hashlib.sha256(nbformat.writes(executed).encode())
    for module in (__file__, readings.__file__):  # otherwise measured is measured anew
        content.update(Path(module).read_bytes())
    path = store / f"{touch.figure}-{content.hexdigest()}.json"
    if not path.is_file():
        write_atomic(path, json.dumps(touch.read(executed, record), ensure_ascii=False))
    return json.loads(path.read_text(encoding="utf-8"))


def insert_touch(
    page: NotebookNode, chapter: str, source: str, executed: NotebookNode, store: Path
) -> str | None:
    """Put a chapter's figure below its still picture, in place, and return the script that holds its numbers.

    Args:
        page: The page that the book renders, whose labels may have a prefix.
        chapter: Name of the chapter.
        source: Name of the script.
        executed: The notebook that the page was made from.
        store: Where numbers that were measured once are kept.

    Returns:
        The script; None where the page has no figure.
    """
    touch = FIGURES.get(chapter)
    if touch is None:
        return None
    labels = [cell.metadata.get("mystnb", {}).get("figure", {}).get("name", "") for cell in page.cells]
    at = next((n for n, label in enumerate(labels) if label.endswith(touch.after)), None)
    record, _ = read_record(executed)
    numbers = kept_numbers(touch, executed, record, store) if at is not None and record is not None else None
    if at is None or numbers is None:
        return None
    place = f'<section class="fl-touch" data-figure="{touch.figure}" data-source="{source}" hidden></section>'
    page.cells.insert(at + 1, nbformat.v4.new_markdown_cell(place))
    number_cells(page)
    said = json.dumps(numbers, ensure_ascii=False, separators=(",", ":"))
    return f"faultlinesTouch.numbers[{json.dumps(source)}]={said};\n"
