"""`faultlines book`, `publish`, `sync` and `restamp`."""

from __future__ import annotations

from typing import Annotated

import typer

from faultlines.cli.app import Names, RunName, choose, command, err, out, say
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs


@command
def book() -> int:
    """Render what was executed into _build/html, as `jupyter-book build . -n -W --keep-going` does."""
    from faultlines.book.sphinx_extension import build

    project = Project.find()
    try:
        index = build(project)
    except RuntimeError as error:
        say(err, f"faultlines: {error}")
        return 1
    say(out, f"the book: {index}")
    return 0


@command
def publish(chapters: Names = None, run: RunName = "default") -> None:
    """Copy this machine's fresh results to where readers find them."""
    from faultlines.book.publish import publish as publish_task

    project = Project.find()
    runs = Runs.load(project)
    for task in choose(project, runs, chapters or [], run, {}):
        changed = publish_task(project, task)
        where = project.published(task.run, task.chapter.name).relative_to(project.root)
        say(out, f"{where}: {'published' if changed else 'as it was'}")


@command
def sync(chapters: Names = None, run: RunName = "default") -> int:
    """Bring the chapters' present text into their published notebooks, without executing them."""
    from faultlines.book.publish import sync as sync_task

    project = Project.find()
    runs = Runs.load(project)
    failed = 0
    for task in choose(project, runs, chapters or [], run, {}):
        target = project.published(task.run, task.chapter.name)
        if not target.exists():
            continue
        where = target.relative_to(project.root)
        try:
            say(out, f"{where}: {'the text is new' if sync_task(project, task) else 'as it was'}")
        except UsageError as error:
            failed += 1
            say(err, f"{where}: {error}")
    return 1 if failed else 0


@command
def restamp(
    chapters: Names = None,
    run: RunName = "default",
    since: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="Whose code made the results; the one they name.")
    ] = None,
) -> int:
    """Mark stale results as fresh where the smoke run computes the same with the code of then and of now."""
    from faultlines.notebook.freshness import Freshness
    from faultlines.runner.restamp import restamp as restamp_result

    project = Project.find()
    runs = Runs.load(project)
    failed = 0
    for task in choose(project, runs, chapters or [], run, {}):
        target = project.published(task.run, task.chapter.name)
        if Freshness(project, runs).judge(task, target).name != "stale":
            continue
        where = target.relative_to(project.root)
        try:
            made = restamp_result(project, task, target, since)
            say(out, f"{where}: {made.after} computes what {made.before} did")
        except UsageError as error:
            failed += 1
            say(err, f"{where}: {error}")
    return 1 if failed else 0
