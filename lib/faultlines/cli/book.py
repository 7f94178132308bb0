"""`faultlines new`, `book`, `publish`, `sync` and `restamp`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import jupytext
import typer
import yaml
from jupytext.config import load_jupytext_config

from faultlines.cli.app import Names, RunName, choose, command, err, out, say
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import write_atomic

SKELETON = Path(__file__).with_name("skeleton.md")
# the list of _toc.yml that begins with a chapter, each with what stands deeper below it
CHAPTERS = re.compile(r"^(?P<indent> *)- file: chapters/[\w-]+\n(?:(?P=indent)(?:- |  ).*\n)*", re.MULTILINE)
ANSWER = """\
NAME:
  name: A mean
  question: Is the mean above zero?
  answer: The mean {C1? is above zero | is below zero | is as good as zero | may be above zero}.
  short: the mean {C1? is above zero | is below zero | is as good as zero | may be above zero}.
  claims:
    C1: The mean is above zero
"""


@command
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the chapter: small letters, digits, hyphens.")
    ],
) -> None:
    """Write a chapter to be filled, and name it in _toc.yml and answers.yml."""
    project = Project.find()
    path = project.chapters / f"{name}.md"
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(
            f"{name!r} is no name of a chapter: small letters, digits, hyphens, as in softmax-lipschitz"
        )
    if path.exists():
        raise UsageError(f"{path.relative_to(project.root)} is there already")
    pages = project.root / "_toc.yml"
    listed = CHAPTERS.search(text := pages.read_text(encoding="utf-8"))
    if not listed:
        raise UsageError("_toc.yml names no chapter beside which this one could stand")
    end = listed.end()
    grown = f"{text[:end]}{listed['indent']}- file: chapters/{name}\n{text[end:]}"
    yaml.safe_load(grown)
    notebook = jupytext.reads(SKELETON.read_text(encoding="utf-8").replace("NAME", name), fmt="md:myst")
    # as a sync of the checkout would write it
    write_atomic(path, jupytext.writes(notebook, fmt="md:myst", config=load_jupytext_config(str(path))))
    write_atomic(pages, grown)
    answers = project.root / "answers.yml"
    said = answers.read_text(encoding="utf-8").rstrip("\n") + "\n\n" if answers.is_file() else ""
    write_atomic(answers, said + ANSWER.replace("NAME", name))
    say(
        out,
        f"{path.relative_to(project.root)}: named in _toc.yml and answers.yml; fill it, then faultlines run {name}",
    )


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
def publish(
    chapters: Names = None,
    run: RunName = "default",
    second: Annotated[
        bool, typer.Option("--second", help="Beside what is published: the same run on another processor.")
    ] = False,
) -> None:
    """Copy this machine's fresh results to where readers find them."""
    from faultlines.book.publish import publish as publish_task
    from faultlines.book.publish import write_scoreboard
    from faultlines.book.second_machine import write_second

    project = Project.find()
    runs = Runs.load(project)
    for task in choose(project, runs, chapters or [], run, {}):
        if second:
            say(out, f"{write_second(project, task).relative_to(project.root)}: kept")
            write_scoreboard(project)
            continue
        changed = publish_task(project, task)
        where = project.published(task.run, task.chapter.name).relative_to(project.root)
        say(out, f"{where}: {'published' if changed else 'as it was'}")


@command
def sync(chapters: Names = None, run: RunName = "default") -> int:
    """Bring the chapters' and answers' present text into what is published, without executing anything."""
    from faultlines.book.publish import sync as sync_task
    from faultlines.book.publish import write_scoreboard

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
    write_scoreboard(project)
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
