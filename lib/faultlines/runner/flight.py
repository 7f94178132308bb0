"""What is queued or running, and how far sweeps are, as tables."""

from __future__ import annotations

from collections.abc import Collection

from rich.markup import escape
from rich.table import Table

from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.runner.queue import in_queue
from faultlines.runner.record import Record, read_record
from faultlines.runner.sweep import saved_sweeps

COLOURS = {"queued": "cyan", "running": "blue", "died": "red"}


def open_records(project: Project, chapters: Collection[str]) -> list[tuple[Record, str]]:
    """Return the records of jobs that have not ended, each with `queued`, `running`, or `died` where it is gone."""
    records = [read_record(path) for path in sorted(project.job("*", "*").parents[1].glob("*/*.json"))]
    open_ = [
        record
        for record in records
        if record and record.chapter in chapters and record.state in ("queued", "running")
    ]
    known = in_queue() if any(record.executor == "slurm" for record in open_) else None
    found = []
    for record in open_:
        gone = not record.lives() or (
            record.executor == "slurm" and known is not None and record.id not in known and bool(record.id)
        )
        found.append((record, "died" if gone else record.state))
    return found


def jobs_in_flight(project: Project, chapters: Collection[str]) -> Table:
    """Return a table of the jobs that are queued, run, or died without a word."""
    table = Table("job", "run", "state", "since", "cells", "where", "log", box=None)
    for record, state in open_records(project, chapters):
        where = f"{record.executor} {record.id}" + (f" on {record.host}" if record.host else "")
        cells = f"{record.cell}/{record.cells}" if record.cells else ""
        colour = COLOURS[state]
        shown = f"[{colour}]{state}[/{colour}]"
        table.add_row(
            record.chapter, escape(record.label), shown, record.since, cells, where, escape(record.log)
        )
    return table


def sweeps_so_far(judge: Freshness, chapters: Collection[str]) -> Table:
    """Return a table of the saved sweeps: how many of their tasks are done, stale, in flight, failed or missing."""
    project = judge.project
    open_ = {(record.chapter, record.label): state for record, state in open_records(project, chapters)}
    states = ("fresh", "stale", "queued", "running", "failed", "missing")
    table = Table("sweep", "run", *states, box=None)
    for sweep in saved_sweeps(project):
        if sweep.chapter.name not in chapters or sweep.run not in judge.runs.runs:
            continue
        counts = dict.fromkeys(states, 0)
        for task in sweep.tasks:
            state = open_.get((task.chapter.name, task.label))
            counts[state if state in ("queued", "running") else judge.state(task).name] += 1
        table.add_row(
            sweep.chapter.name, escape(sweep.label), *(str(counts[state] or "") for state in states)
        )
    return table
