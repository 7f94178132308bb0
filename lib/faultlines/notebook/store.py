"""Results on disk: a notebook is read whole or not at all, and written beside, then renamed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from faultlines.notebook.provenance import KEY, Provenance

SHOWN = ("claim", "statement", "verdict", "ours")
"""What every row of a stored ledger must say in words."""


@dataclass(frozen=True)
class Result:
    """One executed notebook with a readable record.

    Attributes:
        path: Where it stands.
        provenance: What it was made with.
        ledger: The rows of its claims ledger.
    """

    path: Path
    provenance: Provenance
    ledger: list[dict]

    def notebook(self) -> NotebookNode:
        """Read the notebook itself."""
        return nbformat.read(self.path, as_version=4)


def read_result(path: Path) -> Result | None:
    """Read the result at a path, or None where there is none that can be read."""
    try:
        notebook = nbformat.from_dict(json.loads(path.read_text(encoding="utf-8")))
        provenance = Provenance.read(notebook)
        if provenance is None or not isinstance(notebook.cells, list):
            return None
        ledger = [dict(row) for row in notebook.metadata[KEY].get("ledger", [])]
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    if not all(all(isinstance(row.get(key), str) for key in SHOWN) for row in ledger):
        return None
    return Result(path, provenance, ledger)


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def number_cells(notebook: NotebookNode) -> None:
    """Give the cells ids that are the same every time; jupytext and nbformat draw them at random."""
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"


def write_notebook(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook beside its place, then rename."""
    write_atomic(path, nbformat.writes(notebook) + "\n")
