"""Figures that one can touch: where a chapter has one, and its numbers, which come from the executed notebook.

The figures themselves are scripts in `_touch/`. A page names its figure and the file of its numbers, and loads both when
the reader is near. Where a notebook's outputs do not hold what a figure wants, the page goes without it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nbformat
import numpy as np
from bs4 import BeautifulSoup
from nbformat import NotebookNode

from faultlines.book import readings
from faultlines.notebook.provenance import Record, read_record
from faultlines.notebook.store import number_cells
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
    layers = zip(cosine.round(3).tolist(), lambda_rho.round(3).tolist(), found[:, 2].astype(int).tolist(), strict=True)
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
        shares[question] = {f"{kind} {arm}": column.tolist() for (kind, arm), column in zip(kinds, np.array(found).T, strict=True)}
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


def table(executed: NotebookNode, caption: str) -> list[dict[str, str]] | None:
    """Return the rows of the first table whose caption begins so, by the names of its columns."""
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            if caption in html and (found := BeautifulSoup(html, "html.parser").find("table")) is not None:
                said = found.find("caption")
                if said is None or not said.get_text().strip().startswith(caption):
                    continue
                rows = [[part.get_text().strip() for part in row.find_all(["th", "td"])] for row in found.find_all("tr")]
                return [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
    return None


def _number(said: str) -> float:
    found = re.search(r"[-+]?\d+(?:\.\d+)?", said)
    return float(found[0]) if found else math.nan


FIGURES = {
    "softmax-lipschitz": Touch("softmax", "fig-sl-triangle", no_numbers),
    "differential-attention": Touch("differential", "fig-da-surface", read_layers),
    "linearized-attention": Touch("flips", "fig-la-ridge", read_flips),
}
"""The figure of a chapter."""


def insert_touch(page: NotebookNode, chapter: str, source: str, executed: NotebookNode) -> str | None:
    """Put a chapter's figure below its still picture, in place, and return the script that holds its numbers.

    Args:
        page: The page that the book renders, whose labels may have a prefix.
        chapter: Name of the chapter.
        source: Name of the script.
        executed: The notebook that the page was made from.

    Returns:
        The script; None where the page has no figure.
    """
    touch = FIGURES.get(chapter)
    if touch is None:
        return None
    labels = [cell.metadata.get("mystnb", {}).get("figure", {}).get("name", "") for cell in page.cells]
    at = next((n for n, label in enumerate(labels) if label.endswith(touch.after)), None)
    record, _ = read_record(executed)
    numbers = touch.read(executed, record) if at is not None and record is not None else None
    if at is None or numbers is None:
        return None
    place = f'<section class="fl-touch" data-figure="{touch.figure}" data-source="{source}" hidden></section>'
    page.cells.insert(at + 1, nbformat.v4.new_markdown_cell(place))
    number_cells(page)
    said = json.dumps(numbers, ensure_ascii=False, separators=(",", ":"))
    return f"faultlinesTouch.numbers[{json.dumps(source)}]={said};\n"
