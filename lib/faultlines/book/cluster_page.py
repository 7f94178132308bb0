"""The tables of the book's page on clusters, from what `benchmarks.pipeline` measured."""

from __future__ import annotations

import json
from typing import Any

from faultlines.book.myst import list_table
from faultlines.notebook.project import Project
from faultlines.notebook.provenance import duration

SIZES = (100, 1_000, 10_000)
CHAPTER_S = 1800.0
CORES = 256


def cluster_page(project: Project) -> str:
    """Return the tables in MyST, or a sentence where nothing was measured."""
    path = project.root / "results" / "pipeline.json"
    if not path.is_file():
        return "Nothing was measured yet: `python -m benchmarks.pipeline --write` does it.\n"
    found = json.loads(path.read_text(encoding="utf-8"))
    return f"{_measured(found)}\n\n{_extrapolated(found)}\n" if found["slurm"] else f"{_measured(found)}\n"


def _measured(found: dict[str, Any]) -> str:
    rows = [
        ("Kernel start and `import faultlines`", f"{found['kernel_s']:.2f} s"),
        (f"All that comes on top of {found['chapter_s']:.0f} s of cells", f"{found['added_s']:.1f} s"),
        ("… of it kernel, import of torch and papermill by itself", f"{found['papermill_s']:.1f} s"),
        ("Four equal chapters on two workers, against one", f"{found['workers_ratio']:.2f} of the time"),
    ]
    if slurm := found["slurm"]:
        result, logs = slurm["result_bytes"] / 1024, slurm["log_bytes_a_job"] / 1024
        rows += [
            (f"Submitting an array of {slurm['jobs']}", f"{slurm['submit_s']:.1f} s"),
            ("One look at the queue", f"{slurm['squeue_s'] * 1000:.0f} ms"),
            ("A job that does nothing, from start to result", f"{slurm['core_s_a_job']:.1f} core seconds"),
            ("Its result and its logs", f"{result:.0f} + {logs:.0f} KiB"),
        ]
    table = list_table(("What", "Measured"), rows, style="fl-scoreboard")
    return f"Measured {found['measured']} on {found['machine']}:\n\n{table}"


def _extrapolated(found: dict[str, Any]) -> str:
    slurm, rows = found["slurm"], []
    for jobs in SIZES:
        lost, useful = jobs * slurm["core_s_a_job"], jobs * CHAPTER_S
        size = jobs * (slurm["result_bytes"] + slurm["log_bytes_a_job"]) / 2**20
        rows.append((
            f"{jobs:,}",
            duration(useful / CORES),
            f"{duration(lost / CORES)} ({lost / (lost + useful):.1%})",
            f"{size:,.0f} MiB in {2 * jobs:,} small files and more",
        ))  # fmt: skip
    head = (
        "Jobs",
        f"Chapters of {CHAPTER_S / 60:.0f} min on {CORES} cores",
        "Start-up on top",
        "On the shared disk",
    )
    return f"Extrapolated, one core a job:\n\n{list_table(head, rows, style='fl-scoreboard')}"
