"""`faultlines new`: a chapter that passes every test, to be filled."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import jupytext
import typer
import yaml
from jupytext.config import load_jupytext_config

from faultlines.cli.app import command, out, say
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.store import write_atomic

SKELETON = Path(__file__).with_name("skeleton.md")
PLACE = re.compile(r"^( *)- file: chapters/[\w-]+\n", re.MULTILINE)


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
    listed = list(PLACE.finditer(text := pages.read_text(encoding="utf-8")))
    if not listed:
        raise UsageError("_toc.yml names no chapter beside which this one could stand")
    end = listed[-1].end()
    grown = f"{text[:end]}{listed[-1][1]}- file: chapters/{name}\n{text[end:]}"
    yaml.safe_load(grown)
    notebook = jupytext.reads(SKELETON.read_text(encoding="utf-8").replace("NAME", name), fmt="md:myst")
    # as a sync of the checkout would write it
    write_atomic(path, jupytext.writes(notebook, fmt="md:myst", config=load_jupytext_config(str(path))))
    write_atomic(pages, grown)
    answers = project.root / "answers.yml"
    said = answers.read_text(encoding="utf-8").rstrip("\n") + "\n\n" if answers.is_file() else ""
    write_atomic(answers, f"{said}{name}: >\n  The mean is above zero ({{C1}}).\n")
    say(
        out,
        f"{path.relative_to(project.root)}: named in _toc.yml and answers.yml; fill it, then faultlines run {name}",
    )
