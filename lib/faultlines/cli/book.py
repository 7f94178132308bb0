"""`faultlines book` and `faultlines publish`."""

from __future__ import annotations

from faultlines.cli.app import Names, RunName, choose, command, err, out, say
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs


@command
def book() -> int:
    """Render what was executed into _build/html, as `jupyter-book build . -n -W --keep-going` does."""
    from faultlines.book.build import build

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
