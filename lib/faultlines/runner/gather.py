"""Gather a sweep: one executed notebook over the results of all its runs; see `faultlines.reporting.gathered`."""

from __future__ import annotations

import json
from pathlib import Path

import jupytext

from faultlines.notebook.project import Project
from faultlines.notebook.store import write_atomic, write_notebook
from faultlines.runner.sweep import Sweep

TEMPLATE = Path(__file__).with_name("gathered.md")


def gather(project: Project, sweep: Sweep) -> Path:
    """Execute the notebook that pools a sweep's results, and return where it stands.

    Args:
        project: The checkout.
        sweep: The sweep; combinations without a result are counted as missing in the notebook.
    """
    import papermill

    folder = sweep.folder(project)
    source, target, plan = folder / ".gathering.ipynb", folder / "gathered.ipynb", folder / "gathered.json"
    runs = [
        {
            "values": {name: task.overrides[name] for name in sweep.axes},
            "notebook": str(task.working(project)),
        }
        for task in sweep.tasks
    ]
    write_atomic(plan, json.dumps({**sweep.plan, "runs": runs}, indent=1) + "\n")
    write_notebook(jupytext.read(TEMPLATE), source)
    try:
        papermill.execute_notebook(
            str(source),
            str(source),
            parameters={"plan": str(plan)},
            kernel_name="python3",
            progress_bar=False,
        )
        source.replace(target)
    finally:
        source.unlink(missing_ok=True)
    return target
