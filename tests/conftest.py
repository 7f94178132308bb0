"""What all tests share: a small checkout, results as a kernel would have written them, property tests that repeat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import settings
from nbformat import NotebookNode
from tests.toy_cells import closing, opening

import faultlines
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.code import cells_hash, declares_parameters, library_code, said_text
from faultlines.notebook.outputs import LEDGER, RECORD, shown_in
from faultlines.notebook.parameters import read_parameters
from faultlines.notebook.project import Project
from faultlines.notebook.provenance import Record, code_cells_of, facts_table
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import write_notebook
from faultlines.reporting.prose import badge, bundle

# a draw that fails once in a hundred runs says nothing to whoever changed something else;
# `--hypothesis-profile=default` looks for new ones
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

LIBRARY = Path(faultlines.__file__).parent
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

FRONT = """\
(toy-chapter)=
# Toy

The bound is {eq}`eq:sum`, see {ref}`the toy-chapter <toy-chapter>`.

$$ a + b $$ (eq:sum)
"""

PARAMETERS = """
seeds: int = 5  # paired seeds [2..64]
rates: list[float] = [0.1]  # rates [0..1]
dataset: str = "digits"  # data set [data set]
device: str = "auto"  # device [device]
mode: str = "ok"  # what to do [ok | slow]
"""

TOY = (
    opening(PARAMETERS, front=FRONT)
    + """
```{code-cell}
total = seeds + 1
```

```{code-cell}
say('''
A sum {{C1-verdict}}, see {numref}`toy-figure`.
''')
```

The figure is {numref}`toy-figure`.

```{code-cell}
---
mystnb:
  figure:
    name: toy-figure
    caption: The sum of {eq}`eq:sum`.
---
print(total)
```

```{code-cell}
ledger.table()
```
"""
    + closing("toy")
)

RUNS = """\
default: {purpose: embedded data, budget: seconds}
smoke: {purpose: tests, budget: seconds, chapters: {toy: {seeds: 2}}}
desk: {purpose: real data, budget: an hour, chapters: {toy: {seeds: 8, rates: [1e-3, 0.5]}}}
paper: {purpose: the paper's own, budget: hours}
"""

ROW = {
    "claim": "C1", "statement": "a sum $|s|$ is positive", "paper": "Theorem 1", "test": "above 0",
    "ours": "3 [1, 5]", "estimate": 3.0, "low": 1.0, "high": 5.0, "n": 5, "verdict": "holds", "cost_s": 1.0,
    "figure": "toy-figure", "note": "", "method": "Student t",
    "confidence": 0.95, "direction": "above", "threshold": 0.0,
}  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A checkout with one chapter that nobody has run."""
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "toy.md").write_text(TOY)
    (tmp_path / "runs.yml").write_text(RUNS)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n- file: chapters/toy\n")
    (tmp_path / "intro.md").write_text("# Front\n")
    monkeypatch.setenv("FAULTLINES_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, LIBRARY)


@pytest.fixture
def toy(checkout: Project) -> Chapter:
    return Chapter.all(checkout)["toy"]


def execute_by_hand(
    notebook: NotebookNode, parameters: dict[str, Any], ledger: list[dict[str, Any]], **changed: Any
) -> NotebookNode:
    """Give a notebook the outputs and the record that a kernel would have given it."""
    quoted = {f"{row['claim']}-verdict": badge(row["verdict"]) for row in ledger}
    defaults = {
        p.name: p.default for p in read_parameters(next(filter(declares_parameters, sources(notebook))))
    }
    if other := {name: value for name, value in parameters.items() if defaults.get(name) != value}:
        lines = "\n".join(f"{name} = {value!r}" for name, value in other.items())
        injected = nbformat.v4.new_code_cell(f"# Parameters\n{lines}\n")
        injected.metadata["tags"] = ["injected-parameters"]
        at = next(n for n, cell in enumerate(notebook.cells) if declares_parameters(cell.source))
        notebook.cells.insert(at + 1, injected)
    cells = code_cells_of(notebook)
    for number, cell in enumerate(cells, start=1):
        cell.execution_count = number
        text = said_text(cell.source)
        if text is not None:
            cell.outputs = [nbformat.v4.new_output("display_data", bundle(text, quoted))]
        elif "print(" in cell.source:
            picture = nbformat.v4.new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"})
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="6\n"), picture]
        elif "ledger.table" in cell.source and ledger:
            shown = [{k: v for k, v in row.items() if k != "cost_s"} for row in ledger]
            data = {LEDGER: shown, "text/html": "<table></table>", "text/plain": "a ledger"}
            cell.outputs = [nbformat.v4.new_output("execute_result", data, execution_count=number)]
    made = {
        "chapter": "toy", "parameters": parameters, "cells": len(cells), "quoted": quoted, "ledger": ledger,
        "chapter_hash": cells_hash(cell.source for cell in cells[1:-1]), "modules": {},
        "outputs": [
            shown_in(cell.outputs).digest() for cell in cells[1:-1] if said_text(cell.source) is None
        ],
        "started": "2026-01-02T03:04:05+00:00", "wall_s": 95.0, "commit": "abc",
        "kernel": {"device": "CPU", "packages": {"torch": "2"}},
    }  # fmt: skip
    record = Record(**(made | changed)).sealed()
    data = {RECORD: record.model_dump(mode="json"), "text/html": facts_table(record), "text/plain": "record"}
    cells[-1].outputs = [nbformat.v4.new_output("display_data", data)]
    return notebook


def sources(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def put(checkout: Project) -> Callable[..., Path]:
    """Write a result of the toy chapter as if it had been executed."""

    def write(run: str = "default", path: Path | None = None, **changed: Any) -> Path:
        task = RunSpec(Chapter.all(checkout)["toy"], run, changed.pop("overrides", {}))
        library = library_code(checkout.library)
        modules = {name: library[name] for name in ("faultlines", "faultlines.reporting.ledger")}
        notebook = execute_by_hand(
            task.chapter.notebook(),
            changed.pop("parameters", task.parameters(Runs.load(checkout))),
            changed.pop("ledger", [ROW]),
            **({"modules": modules} | changed),
        )
        target = path or task.working(checkout)
        write_notebook(notebook, target)
        return target

    return write
