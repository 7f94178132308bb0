"""The application that commands belong to: its consoles, how usage errors are told, and how chapters are named."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs

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
            say(err, f"faultlines: {' '.join(str(error).split())}")
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            say(
                err, "faultlines: interrupted; what was finished is kept, the same command goes on from there"
            )
            raise typer.Exit(130) from None
        if status:
            raise typer.Exit(status)

    app.command(name=function.__name__)(guarded)
    return guarded


def say(console: Console, line: str) -> None:
    """Print a line as it is, however long, and whatever a name in it holds."""
    console.print(printable(line), markup=False, soft_wrap=True)


def printable(text: str) -> str:
    r"""Return a text with whatever no terminal can show escaped: file names and arguments may hold any bytes.

    Example:
        >>> print(printable("a\x1b[31mb\nc\té"))
        a\x1b[31mb
        c	é
    """
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def show(table: Table) -> None:
    """Print a table; into a pipe or a file without cutting anything off."""
    (out if out.is_terminal else Console(highlight=False, width=1000)).print(table)


def choose(
    project: Project, runs: Runs, names: list[str], run: str, overrides: dict[str, str]
) -> list[RunSpec]:
    """Return the tasks that a command line names.

    Raises:
        UsageError: If a chapter, or the run, is unknown, the run has no such chapter, or none is named and not all
            of them have the parameters given.
    """
    runs[run]
    chapters = Chapter.named(project, names)
    for chapter in chapters:
        if names and not runs.covers(run, chapter):
            has = [name for name in runs.runs if runs.covers(name, chapter)]
            raise UsageError(f"{chapter.name} has no run {run!r}: it has {', '.join(has)} (runs.yml)")
    chapters = [chapter for chapter in chapters if runs.covers(run, chapter)]
    if not names and overrides:
        declared = {chapter.name: {p.name for p in chapter.parameters} for chapter in chapters}
        able = [name for name, own in declared.items() if own >= overrides.keys()]
        if len(able) < len(chapters):
            given = " ".join(f"-p {name}=..." for name in overrides)
            known = set().union(*declared.values())
            if unknown := [name for name in overrides if name not in known]:
                raise UsageError(f"no chapter has a parameter {', '.join(map(repr, unknown))}")
            if not able:
                raise UsageError(f"no chapter has all of {', '.join(overrides)}")
            raise UsageError(
                f"name the chapters, for not all have {', '.join(overrides)}:"
                f" faultlines run {' '.join(able)} {given}"
            )
    return [RunSpec(chapter, run, overrides) for chapter in chapters]
