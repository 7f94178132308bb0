"""A small checkout to run, and results as the runner would have written them, without a kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

import faultlines
from faultlines.notebook.chapters import Chapter, code_cells
from faultlines.notebook.hashing import library_hashes
from faultlines.notebook.project import Project
from faultlines.notebook.provenance import KEY, Provenance
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import write_notebook
from faultlines.notebook.task import Task

LIBRARY = Path(faultlines.__file__).parent

HEAD = """\
---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {name: python3, display_name: Python 3, language: python}
---
"""

TOY = """\
(toy-chapter)=
# Toy

The bound is {eq}`eq:sum`, see {ref}`the toy-chapter <toy-chapter>`.

$$ a + b $$ (eq:sum)

```{code-cell}
:tags: [parameters]

seeds: int = 5  # paired seeds [2..64]
rates: list[float] = [0.1]  # rates [0..1]
dataset: str = "digits"  # data set [data set]
device: str = "auto"  # device [device]
mode: str = "ok"  # what to do [ok | slow]
```

```{code-cell}
total = seeds + 1
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
"""

RUNS = """\
default: {purpose: embedded data, budget: seconds}
smoke: {purpose: tests, budget: seconds, chapters: {toy: {seeds: 2}}}
desk: {purpose: real data, budget: an hour, chapters: {toy: {seeds: 8, rates: [1e-3, 0.5]}}}
paper: {purpose: the paper's own, budget: hours}
"""

ROW = {
    "claim": "C1", "statement": "a sum $|s|$ is positive", "paper": "Theorem 1", "test": "above 0",
    "ours": "3 [1, 5]", "estimate": 3.0, "low": 1.0, "high": 5.0, "n": 5, "verdict": "holds", "cost_s": 1.0,
    "figure": "toy-figure", "note": "",
}  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A checkout with one chapter that nobody has run."""
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "toy.md").write_text(HEAD + TOY)
    (tmp_path / "runs.yml").write_text(RUNS)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n- file: chapters/toy\n")
    (tmp_path / "intro.md").write_text("# Front\n")
    monkeypatch.setenv("FAULTLINES_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, LIBRARY)


@pytest.fixture
def toy(checkout: Project) -> Chapter:
    return Chapter.all(checkout)["toy"]


@pytest.fixture
def put(checkout: Project) -> Callable[..., Path]:
    """Write a result of the toy chapter as if it had been executed."""

    def write(run: str = "default", path: Path | None = None, **changed: object) -> Path:
        task = Task(Chapter.all(checkout)["toy"], run, changed.pop("overrides", {}))
        modules = library_hashes(checkout.library)
        record = {
            "chapter": "toy", "run": run, "overrides": dict(task.overrides),
            "parameters": task.parameters(Runs.load(checkout)), "chapter_hash": task.chapter.code_hash,
            "modules": {name: modules[name] for name in ("faultlines", "faultlines.reporting.ledger")},
            "command": task.command, "started": "2026-01-02T03:04:05+00:00", "wall_s": 95.0,
            "commit": "abc", "kernel": {"device": "CPU", "packages": {"torch": "2"}},
        }  # fmt: skip
        ledger = changed.pop("ledger", [ROW])
        notebook = task.chapter.notebook()
        for number, cell in enumerate(code_cells(notebook), start=1):
            cell.execution_count = number
        code_cells(notebook)[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="6\n")]
        Provenance(**(record | changed)).write(notebook)
        notebook.metadata[KEY]["ledger"] = ledger
        target = path or task.working(checkout)
        write_notebook(notebook, target)
        return target

    return write
