"""`faultlines status` and `faultlines claims`: what there is, what runs, and what was found."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

from faultlines.cli.app import Names, command, err, out, printable, say, show
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness, State, told
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import Result, UnreadableError, read_result
from faultlines.runner.job_status import open_jobs
from faultlines.runner.sweep import saved_sweeps

COLOURS = {
    "fresh": "green", "stale": "yellow", "missing": "dim", "failed": "red", "foreign": "magenta", "unreadable": "red",
    "queued": "cyan", "running": "blue", "died": "red",
}  # fmt: skip


@command
def status(chapters: Names = None) -> None:
    """Show what there is of each chapter under each run."""
    from faultlines.notebook.provenance import duration

    project = Project.find()
    runs = Runs.load(project)
    judge = Freshness(project, runs)
    table = Table("chapter", "run", "state", "age", "took", "device", "what is amiss", box=None)
    for chapter in Chapter.named(project, chapters or []):
        for name in runs.runs:
            if not runs.covers(name, chapter):
                continue
            state: State = judge.state(RunSpec(chapter, name))
            cells = ["", "", ""]
            if state.result is not None:
                record = state.result.provenance
                cells = [age(record.started), duration(record.wall_s), str(record.kernel.get("device", ""))]
            amiss = plain(told(state.changes))
            table.add_row(chapter.name, name, coloured(state.name), *map(plain, cells), amiss)
    show(table)
    names = {chapter.name for chapter in Chapter.named(project, chapters or [])}
    for lines in (jobs_table(project, names), sweeps_table(judge, names)):
        if lines.rows:
            out.print()
            show(lines)


@command
def claims(
    chapters: Names = None,
    against: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            metavar="PATH",
            help="Compare with another machine's results: a notebook, or a folder that holds some.",
        ),
    ] = None,
) -> int:
    """Show the claims ledgers of all runs."""
    from faultlines.book.scoreboard import read_board

    project = Project.find()
    runs = Runs.load(project)
    chosen = Chapter.named(project, chapters or [])
    if against is not None:
        return compare(Freshness(project, runs), chosen, against)
    names = {chapter.name for chapter in chosen}
    board = read_board(project, runs)
    board.chapters = [entry for entry in board.chapters if entry.chapter.name in names]
    if board.chapters:
        out.print(Markdown(board.markdown()))
    else:
        out.print("no chapter has a result yet: `faultlines run` makes them")
    judge = Freshness(project, runs)
    for chapter in chosen:
        for run in runs.runs:
            if runs.covers(run, chapter):
                tell_left_out(judge, RunSpec(chapter, run))
    return 0


def compare(judge: Freshness, chapters: Sequence[Chapter], there: Path) -> int:
    """Show which verdicts another machine's results have otherwise; return 1 where a primary claim is among them.

    Compared are results of one chapter with equal parameters, made by the same code or not; what is no result of its
    own (a copy, a foreign notebook) is passed over.

    Raises:
        UsageError: If nothing there can be compared.
    """
    from faultlines.book.page import believed

    mine = [
        (task, found)
        for chapter in chapters
        for task in (RunSpec(chapter, run) for run in judge.runs.runs if judge.runs.covers(run, chapter))
        if (found := believed(judge.state(task))) is not None
    ]
    table = Table("chapter", "run", "claim", "here", "there", box=None)
    compared, primary = 0, False
    for path in [there] if there.is_file() else notebooks_in(there):
        try:
            other = read_result(path)
        except UnreadableError:
            continue
        if not isinstance(other, Result) or other.foreign:
            continue
        for task, found in mine:
            ours, theirs = found.provenance, other.provenance
            if ours.seal == theirs.seal or (ours.chapter, ours.parameters) != (
                theirs.chapter,
                theirs.parameters,
            ):
                continue
            said = {row["claim"]: row for row in other.ledger}
            pairs = [(row, said[row["claim"]]) for row in found.ledger if row["claim"] in said]
            differ = [(a, b) for a, b in pairs if a["verdict"] != b["verdict"]]
            compared += 1
            primary = primary or any(a.get("primary") for a, _ in differ)
            code = "" if ours.chapter_hash == theirs.chapter_hash else ", by another version of the chapter"
            machine = theirs.kernel.get("device", "another machine")
            same = f"{len(pairs) - len(differ)} of {len(pairs)} verdicts are the same"
            say(out, f"{task.chapter.name} · {task.run}: {same} on {machine}{code} ({path})")
            for a, b in differ:
                claim = a["claim"] + (" (primary)" if a.get("primary") else "")
                cells = (f"{row['verdict']} {row['ours']}" for row in (a, b))
                table.add_row(task.chapter.name, task.run, plain(claim), *map(plain, cells))
    if not compared:
        raise UsageError(
            f"{there} holds no other result of these chapters with the parameters of a run that is here"
        )
    if table.rows:
        out.print()
        show(table)
    return int(primary)


def notebooks_in(folder: Path) -> list[Path]:
    """Return the notebooks of a folder; not those of hidden folders, nor of executions that failed or go on."""
    found = (path.relative_to(folder) for path in folder.rglob("*.ipynb"))
    passed = {"failed", "partial"}
    return sorted(
        folder / path
        for path in found
        if not passed & set(path.parts) and not any(part.startswith(".") for part in path.parts)
    )


def tell_left_out(judge: Freshness, task: RunSpec) -> None:
    """Say which files that stand in a result's place are not among the claims, and why."""
    for path in task.places(judge.project):
        state = judge.judge(task, path)
        if state.name in ("unreadable", "foreign"):
            where = path.relative_to(judge.project.root)
            say(err, f"left out: {where} is {state.name}: {told(state.changes)}")


def age(started: str) -> str:
    """Return how long ago a time was, roughly."""
    try:
        hours = (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds() / 3600
    except (ValueError, TypeError):
        return ""
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"


def plain(text: str) -> str:
    """Return a text that a table shows as it is."""
    return escape(printable(text))


def coloured(state: str) -> str:
    """Return a state in its colour."""
    return f"[{COLOURS[state]}]{state}[/{COLOURS[state]}]"


def jobs_table(project: Project, chapters: Collection[str]) -> Table:
    """Return a table of the jobs that are queued, run, or died without a word."""
    table = Table("job", "run", "state", "since", "cells", "where", "log", box=None)
    for job, state in open_jobs(project, chapters):
        where = f"{job.executor} {job.id}" + (f" on {job.host}" if job.host else "")
        cells = f"{job.cell}/{job.cells}" if job.cells else ""
        table.add_row(
            job.chapter,
            plain(job.label),
            coloured(state),
            plain(job.since),
            cells,
            plain(where),
            plain(job.log),
        )
    return table


def sweeps_table(judge: Freshness, chapters: Collection[str]) -> Table:
    """Return a table of the saved sweeps: how many of their tasks are done, stale, in flight, failed or missing."""
    going = {
        (job.chapter, job.label): state
        for job, state in open_jobs(judge.project, chapters)
        if state != "died"
    }
    states = ("fresh", "stale", "foreign", "unreadable", "queued", "running", "failed", "missing")
    table = Table("sweep", "run", *states, box=None)
    for sweep in saved_sweeps(judge.project):
        if sweep.chapter.name not in chapters or sweep.run not in judge.runs.runs:
            continue
        counts: dict[str, int] = dict.fromkeys(states, 0)
        for task in sweep.tasks:
            counts[going.get((task.chapter.name, task.label)) or judge.state(task).name] += 1
        table.add_row(sweep.chapter.name, plain(sweep.label), *(str(counts[state] or "") for state in states))
    return table
