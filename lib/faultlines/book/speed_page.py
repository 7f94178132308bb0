"""The tables of the book's page on speed, from what `python -m benchmarks --write` measured."""

from __future__ import annotations

import json
from typing import Any

from faultlines.book.myst import list_table
from faultlines.notebook.project import Project

COLUMNS = ("What", "Ratio", "Target", "Reached", "How")


def speed_page(project: Project) -> str:
    """Return a table for each benchmark in MyST, or a sentence where nothing was measured."""
    path = project.root / "results" / "benchmarks.json"
    if not path.is_file():
        return "Nothing was measured yet: `python -m benchmarks --write` does it.\n"
    blocks = []
    for name, found in json.loads(path.read_text(encoding="utf-8")).items():
        rows = [_row(row) for row in found["rows"]]
        day = found["measured"][:10]
        head = f"**{found['title']}** (`benchmarks.{name}`, {day}, {found['machine']})"
        blocks.append(f"{head}\n\n{list_table(COLUMNS, rows, style='fl-table')}")
    return "\n\n".join(blocks) + "\n"


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    reached = {True: "yes", False: "**no**", None: ""}[row["ok"]]
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
    target = row["target"]
    shown = f"{target:g}" if isinstance(target, (int, float)) else (target or "")
    shown = shown.replace(">=", "≥").replace("<=", "≤")  # a cell that opens with > would be a quotation
    return row["name"], ratio, shown, reached, row["note"] or f"{row['ours_s']:.3g} s"
