"""What every run cost, and how to repeat it, as a table of the book."""

from __future__ import annotations

from faultlines.book.myst import list_table
from faultlines.notebook.code import digest
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.provenance import Provenance, duration
from faultlines.notebook.task import Task

COLUMNS = ("Run", "Cost", "Made with", "Repeat it")


def costs_page(judge: Freshness) -> str:
    """Return the table of all results, chapter after chapter, in MyST; or a sentence where there is none."""
    blocks = []
    for chapter in judge.chapters.values():
        rows = []
        for run in judge.runs.shown:
            if judge.runs.covers(run, chapter):
                state = judge.state(Task(chapter, run))
                if state.result is not None:
                    rows.append(_row(run, state.name, state.result.provenance))
        if rows:
            table = list_table(COLUMNS, rows, style="fl-scoreboard fl-costs")
            blocks.append(f"**[{chapter.title}](/chapters/{chapter.name})**\n\n{table}")
    return "\n\n".join(blocks) + "\n" if blocks else "No chapter has a result yet.\n"


def _row(run: str, name: str, record: Provenance) -> list[str]:
    kernel, packages = record.kernel, record.kernel.get("packages", {})
    gpu = kernel.get("peak_gpu_memory_mb") or 0
    memory = f"{kernel.get('peak_memory_mb', '?')} MiB" + (f" and {gpu} MiB on the GPU" if gpu else "")
    energy = "not told" if record.energy_j is None else f"{record.energy_j / 3600:.1f} Wh"
    stale = "" if name == "fresh" else ' <span class="stale">stale</span>'
    again = " (went on from an execution that was ended)" if record.resumed else ""
    threads = kernel.get("threads", "?")
    cost = f"{duration(record.wall_s)}{again} on {kernel.get('device', '?')}, {threads} thread{'s' * (threads != 1)}"
    code = f"commit `{record.commit}`, chapter `{record.chapter_hash[:8]}`"
    library = digest(repr(sorted(record.modules.items())))[:8]
    return [
        run + stale,
        f"{cost}; {memory}; energy {energy}",
        f"Python {kernel.get('python', '?')}, torch {packages.get('torch', '?')}, {code}, library `{library}`",
        f"`{record.command} --force`",
    ]
