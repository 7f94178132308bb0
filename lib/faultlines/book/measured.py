"""What was measured, as tables of the book: what runs cost, how fast the library is, what a cluster adds."""

from __future__ import annotations

import json
from typing import Any

from faultlines.book.myst import list_table
from faultlines.book.page import believed
from faultlines.notebook.code import digest
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.provenance import Provenance, duration
from faultlines.notebook.task import Task, Where

COSTS = ("Run", "Cost", "Made with", "Repeat it")


def costs_page(judge: Freshness, where: Where = "any") -> str:
    """Return the table of all results, chapter after chapter, in MyST; or a sentence where there is none."""
    blocks = []
    for chapter in judge.chapters.values():
        rows = []
        for run in judge.runs.shown:
            if judge.runs.covers(run, chapter):
                state = judge.state(Task(chapter, run), where)
                if (result := believed(state)) is not None:
                    rows.append(_cost(run, result.provenance, stale=state.name != "fresh"))
        if rows:
            table = list_table(COSTS, rows, style="fl-scoreboard fl-costs")
            blocks.append(f"**[{chapter.title}](/chapters/{chapter.name})**\n\n{table}")
    return "\n\n".join(blocks) + "\n" if blocks else "No chapter has a result yet.\n"


def _cost(run: str, record: Provenance, *, stale: bool) -> list[str]:
    kernel, packages = record.kernel, record.kernel.get("packages", {})
    gpu = kernel.get("peak_gpu_memory_mb") or 0
    memory = f"{kernel.get('peak_memory_mb', '?')} MiB" + (f" and {gpu} MiB on the GPU" if gpu else "")
    energy = "not told" if record.energy_j is None else f"{record.energy_j / 3600:.1f} Wh"
    again = " (went on from an execution that was ended)" if record.resumed else ""
    threads = kernel.get("threads", "?")
    cost = f"{duration(record.wall_s)}{again} on {kernel.get('device', '?')}, {threads} thread{'s' * (threads != 1)}"
    code = f"commit `{record.commit}`, chapter `{record.chapter_hash[:8]}`"
    library = digest(repr(sorted(record.modules.items())))[:8]
    return [
        run + (' <span class="stale">stale</span>' if stale else ""),
        f"{cost}; {memory}; energy {energy}",
        f"Python {kernel.get('python', '?')}, torch {packages.get('torch', '?')}, {code}, library `{library}`",
        f"`{record.command} --force`",
    ]


# speed

SPEED = ("What", "Ratio", "Target", "Reached", "How")


def speed_page(project: Project) -> str:
    """Return a table for each benchmark in MyST, or a sentence where nothing was measured."""
    path = project.root / "results" / "benchmarks.json"
    if not path.is_file():
        return "Nothing was measured yet: `python -m benchmarks --write` does it.\n"
    blocks = []
    for name, found in json.loads(path.read_text(encoding="utf-8")).items():
        rows = [_ratio(row) for row in found["rows"]]
        day = found["measured"][:10]
        head = f"**{found['title']}** (`benchmarks.{name}`, {day}, {found['machine']})"
        blocks.append(f"{head}\n\n{list_table(SPEED, rows, style='fl-table')}")
    return "\n\n".join(blocks) + "\n"


def _ratio(row: dict[str, Any]) -> tuple[str, ...]:
    reached = {True: "yes", False: "**no**", None: ""}[row["ok"]]
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
    target = row["target"]
    shown = f"{target:g}" if isinstance(target, (int, float)) else (target or "")
    shown = shown.replace(">=", "≥").replace("<=", "≤")  # a cell that opens with > would be a quotation
    return row["name"], ratio, shown, reached, row["note"] or f"{row['ours_s']:.3g} s"


# clusters

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
