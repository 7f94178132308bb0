"""Figures that one can touch: where a chapter has one, and its numbers, which come from the executed notebook.

The figures themselves are scripts in `_touch/`. A page names its figure and the file of its numbers, and loads both when
the reader is near. Where a notebook's outputs do not hold what a figure wants, the page goes without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nbformat
from nbformat import NotebookNode

from faultlines.notebook.store import number_cells

FOLDER = "_touch"
"""Scripts of the figures, from the book's root."""

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Touch:
    """One figure.

    Attributes:
        figure: Its name: the script is `touch-NAME.js`.
        after: Label of the still picture below which it stands.
        read: Returns its numbers from the executed notebook; None where these are not there.
    """

    figure: str
    after: str
    read: Callable[[NotebookNode], Numbers | None]


FIGURES = {
    "softmax-lipschitz": Touch("softmax", "fig-sl-triangle", lambda executed: {}),
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
    numbers = touch.read(executed) if at is not None else None
    if at is None or numbers is None:
        return None
    place = f'<section class="fl-touch" data-figure="{touch.figure}" data-source="{source}" hidden></section>'
    page.cells.insert(at + 1, nbformat.v4.new_markdown_cell(place))
    number_cells(page)
    said = json.dumps(numbers, ensure_ascii=False, separators=(",", ":"))
    return f"faultlinesTouch.numbers[{json.dumps(source)}]={said};\n"
