"""The command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache, wraps
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness, State
from faultlines.notebook.parameters import CHECKS, Check
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs
from faultlines.notebook.task import Task
from faultlines.runner.axes import read_axes
from faultlines.runner.flight import jobs_in_flight, sweeps_so_far
from faultlines.runner.outcome import Outcome
from faultlines.runner.sweep import Sweep

app = typer.Typer(
    name="faultlines",
    help="Run the chapters of Fault Lines, render the book, and see what is fresh.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Names = Annotated[
    list[str] | None, typer.Argument(metavar="CHAPTER...", help="Chapters; all where none is named.")
]
RunName = Annotated[str, typer.Option("--run", help="Run group of runs.yml.")]


def command(function: Callable[..., int | None]) -> Callable[..., None]:
    """Register a command whose usage errors become one line and exit status 2."""

    @wraps(function)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            status = function(*arguments, **options)
        except UsageError as error:
            err.print(f"faultlines: {' '.join(str(error).split())}", markup=False, soft_wrap=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            err.print(
                "faultlines: interrupted; what was finished is kept, the same command goes on from there",
                soft_wrap=True,
            )
            raise typer.Exit(130) from None
        if status:
            raise typer.Exit(status)

    app.command(name=function.__name__)(guarded)
    return guarded


def read_overrides(given: list[str]) -> dict[str, str]:
    """Split `name=value` words.

    Raises:
        UsageError: If a word has no `=`, or a name comes twice.
    """
    overrides: dict[str, str] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"-p {word!r} is not of the form name=value")
        if name in overrides:
            raise UsageError(f"parameter {name!r} is given twice")
        overrides[name] = value
    return overrides


def choose(project: Project, runs: Runs, names: list[str], run: str, overrides: dict[str, str]) -> list[Task]:
    """Return the tasks that a command line names.

    Raises:
        UsageError: If a chapter, or the run, is unknown, or the run has no such chapter.
    """
    runs[run]
    chapters = Chapter.named(project, names)
    for chapter in chapters:
        if names and not runs.covers(run, chapter):
            has = [name for name in runs.runs if runs.covers(name, chapter)]
            raise UsageError(f"{chapter.name} has no run {run!r}: it has {', '.join(has)} (runs.yml)")
    return [Task(chapter, run, overrides) for chapter in chapters if runs.covers(run, chapter)]


class Executor(StrEnum):
    """Where notebooks are executed."""

    local = "local"
    slurm = "slurm"


Slurm = {"rich_help_panel": "With --executor slurm"}


@command
def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CHAPTER... [AXIS...]",
            help="Chapters; all where none is named. With --sweep also axes: lr=0.001,0.003 first_seed=0..20..5",
        ),
    ] = None,
    run: RunName = "default",
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Override a parameter."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Notebooks at a time.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Execute also what is fresh.")] = False,
    here: Annotated[
        bool, typer.Option("--here", help="Execute also what is fresh but came with the clone.")
    ] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Run every combination of the axes, then gather the ledgers.")
    ] = False,
    executor: Annotated[Executor, typer.Option(help="This machine, or a Slurm cluster.")] = Executor.local,
    partition: Annotated[
        str | None, typer.Option(help="Partition; the cluster's own default.", **Slurm)
    ] = None,
    time: Annotated[int, typer.Option(min=1, help="Minutes a job; then it is requeued.", **Slurm)] = 240,
    requeues: Annotated[int, typer.Option(min=0, help="How often a job is requeued.", **Slurm)] = 3,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs a job.", **Slurm)] = 0,
    cpus: Annotated[int, typer.Option(min=1, help="Processors a job.", **Slurm)] = 2,
    at_once: Annotated[int, typer.Option(min=1, help="Most jobs that run at a time.", **Slurm)] = 64,
    detach: Annotated[bool, typer.Option("--detach", help="Submit and return.", **Slurm)] = False,
) -> int:
    """Execute what is missing or stale."""
    project = Project.find()
    runs = Runs.load(project)
    fixed = read_overrides(parameter or [])
    axes = read_axes([word for word in words or [] if "=" in word])
    chapters = [word for word in words or [] if "=" not in word]
    sweeps: list[Sweep] = []
    if sweep:
        if not axes or not chapters:
            raise UsageError("--sweep needs a chapter and an axis: faultlines run CHAPTER --sweep name=a,b,c")
        sweeps = [
            Sweep(task.chapter, run, axes, fixed) for task in choose(project, runs, chapters, run, fixed)
        ]
        tasks = [task for one in sweeps for task in one.tasks]
    elif axes:
        raise UsageError(f"{next(iter(axes))}=... is an axis: say --sweep, or give one value with -p")
    else:
        tasks = choose(project, runs, chapters, run, fixed)
    judge = Freshness(project, runs)
    work = []
    for task in tasks:
        resolved = task.parameters(runs)
        if force or judge.state(task, "here" if here else "any").name != "fresh":
            work.append((task, resolved))
    checked = remember(CHECKS)
    for task, _ in work:
        task.parameters(runs, checked)
    for one in sweeps:
        one.save(project)
    out.print(f"{len(work)} to execute, {len(tasks) - len(work)} fresh")
    failed = 0
    if work and executor is Executor.slurm:
        from faultlines.runner.cluster import Cluster
        from faultlines.runner.request import Request

        request = Request(
            partition=partition, minutes=time, requeues=requeues, gpus=gpus, cpus=cpus, at_once=at_once
        )
        failed = tell(project, Cluster(project, request, out).run(work, detach=detach))
        if detach:
            return 0
    elif work:
        from faultlines.runner.pool import Pool

        failed = tell(project, Pool(project, jobs, out).run(work))
    for one in sweeps:
        from faultlines.runner.gather import gather

        if not any(task.working(project).exists() for task in one.tasks):
            continue
        gathered = gather(project, one).relative_to(project.root)
        out.print(f"{one.chapter.name} · gathered: {gathered}", markup=False, soft_wrap=True)
    return 1 if failed else 0


def remember(checks: dict[str, Check]) -> dict[str, Check]:
    """Return the checks, each asked once a value: a sweep of a thousand tasks loads its data set once."""
    return {name: lru_cache(maxsize=None)(check) for name, check in checks.items()}


def tell(project: Project, outcomes: list[Outcome]) -> int:
    """Say where results stand and what failed; return how many failed."""
    for outcome in outcomes:
        if outcome.ok:
            where = outcome.task.working(project).relative_to(project.root)
            out.print(
                f"{outcome.task.chapter.name} · {outcome.task.label}: {where}", markup=False, soft_wrap=True
            )
    failed = [outcome for outcome in outcomes if not outcome.ok]
    for outcome in failed:
        detail = outcome.detail
        cell = f" in cell {detail['cell']}" if detail.get("cell") else ""
        first = detail.get("message", "").strip().splitlines() or [""]
        err.print(
            f"{outcome.task.chapter.name} · {outcome.task.label} failed{cell}: {detail['error']}: {first[0]}",
            markup=False,
            soft_wrap=True,
        )
        if detail.get("notebook"):
            err.print(
                f"  its notebook, with the traceback: {detail['notebook']}", markup=False, soft_wrap=True
            )
    return len(failed)


@command
def book() -> int:
    """Render what has been executed into _build/html; the same as `jupyter-book build . -n -W --keep-going`."""
    from faultlines.book.build import build

    project = Project.find()
    try:
        index = build(project)
    except RuntimeError as error:
        err.print(f"faultlines: {error}", markup=False, soft_wrap=True)
        return 1
    out.print(f"the book: {index}", soft_wrap=True)
    return 0


def show(table: Table) -> None:
    """Print a table; into a pipe or a file without cutting anything off."""
    (out if out.is_terminal else Console(highlight=False, width=1000)).print(table)


def age(started: str) -> str:
    """Return how long ago a time was, roughly."""
    hours = (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds() / 3600
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"


COLOURS = {"fresh": "green", "stale": "yellow", "missing": "dim", "failed": "red"}


@command
def status(chapters: Names = None) -> None:
    """Show what there is of each chapter under each run."""
    from faultlines.notebook.provenance import duration

    project = Project.find()
    runs = Runs.load(project)
    judge = Freshness(project, runs)
    table = Table("chapter", "run", "state", "age", "took", "device", "changed since", box=None)
    for chapter in Chapter.named(project, chapters or []):
        for name in runs.runs:
            if not runs.covers(name, chapter):
                continue
            state: State = judge.state(Task(chapter, name))
            colour = COLOURS[state.name]
            cells = [chapter.name, name, f"[{colour}]{state.name}[/{colour}]"]
            if state.result is not None:
                record = state.result.provenance
                device = str(record.kernel.get("device", ""))
                cells += [age(record.started), duration(record.wall_s), escape(device)]
            else:
                cells += ["", "", ""]
            table.add_row(*cells, escape(", ".join(state.changes)))
    show(table)
    names = {chapter.name for chapter in Chapter.named(project, chapters or [])}
    for lines in (jobs_in_flight(project, names), sweeps_so_far(judge, names)):
        if lines.rows:
            out.print()
            show(lines)


@command
def claims(chapters: Names = None) -> None:
    """Show the claims ledgers of all runs."""
    from faultlines.book.scoreboard import read_board

    project = Project.find()
    names = {chapter.name for chapter in Chapter.named(project, chapters or [])}
    board = read_board(project, Runs.load(project))
    board.chapters = [entry for entry in board.chapters if entry.chapter.name in names]
    if not board.chapters:
        out.print("no chapter has a result yet: `faultlines run` makes them")
        return
    out.print(Markdown(board.markdown()))


@command
def publish(chapters: Names = None, run: RunName = "default") -> None:
    """Copy this machine's fresh results to where readers find them."""
    from faultlines.book.publish import publish as publish_task

    project = Project.find()
    runs = Runs.load(project)
    for task in choose(project, runs, chapters or [], run, {}):
        changed = publish_task(project, task)
        where = project.published(task.run, task.chapter.name).relative_to(project.root)
        out.print(f"{where}: {'published' if changed else 'as it was'}", soft_wrap=True)


@command
def doctor() -> int:
    """Tell what this machine has, and what is not in order."""
    from faultlines.cli.doctor import examine

    rows = examine(Project.find())
    table = Table("what", "found", "", box=None)
    for what, finding, well in rows:
        table.add_row(what, finding, "[green]ok[/green]" if well else "[red]not in order[/red]")
    show(table)
    return 0 if all(well for _, _, well in rows) else 1


@command
def data(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One data set; all where none is named.")
    ] = None,
) -> int:
    """Tell which data sets are here, and how to get those that are not."""
    from faultlines.data.catalogue import data_root

    told = told_data_sets()
    if name is not None and name not in told:
        raise UsageError(f"unknown data set {name!r}: it is one of {', '.join(told)}")
    out.print(f"data root (FAULTLINES_DATA): {data_root()}", soft_wrap=True)
    for line, how in [told[name]] if name else told.values():
        out.print(line, markup=False, soft_wrap=True)
        if how:
            out.print(f"  {how}", markup=False, soft_wrap=True)
    return 1 if name is not None and told[name][1] else 0


def told_data_sets() -> dict[str, tuple[str, str]]:
    """Return, for each data set, what is said of it, and how to get it where it is not here."""
    from faultlines.data import available
    from faultlines.data.catalogue import folder_sets

    told = {}
    for entry in available():
        shape = "x".join(map(str, entry.image_shape))
        found = f"{entry.source}, {entry.path or 'comes with scikit-learn'}" if entry.source else "not here"
        size = f"{entry.n_train} + {entry.n_test} images {shape}"
        told[entry.name] = f"{entry.name}: {size}: {found}", "" if entry.source else entry.how
    for entry in folder_sets():
        found = f"folder, {entry.path}" if entry.path else "not here"
        told[entry.name] = f"{entry.name}: pictures for {entry.loader}: {found}", entry.how
    return told


def main() -> None:
    """Run the command line."""
    try:
        app()
    except BrokenPipeError:
        sys.exit(141)


if __name__ == "__main__":
    main()
