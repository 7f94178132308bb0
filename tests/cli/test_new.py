"""A new chapter runs, reads completely, and is in Jupytext's own form, before anyone has filled it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest
import yaml
from typer.testing import CliRunner

from faultlines.book.answers import read_answers
from faultlines.book.scoreboard import toc_pages
from faultlines.cli.app import app
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs


def call(*words: str) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_a_new_chapter_runs_and_is_in_its_own_form(checkout: Project) -> None:
    assert call("new", "fault-lines")[0] == 0
    chapter = Chapter.all(checkout)["fault-lines"]
    assert jupytext.writes(chapter.notebook(), fmt="md:myst") == chapter.path.read_text()
    assert toc_pages(checkout) == ["intro", "chapters/toy", "chapters/fault-lines"]
    assert read_answers(checkout)["fault-lines"].claims == {"C1": "The mean is above zero"}
    assert all(parameter.comment and parameter.allowed for parameter in chapter.parameters)
    status, _, err = call("run", "fault-lines", "-p", "spread=0.1")
    assert status == 0, err
    task = RunSpec(chapter, "default", {"spread": "0.1"})
    state = Freshness(checkout, Runs.load(checkout)).state(task)
    assert (state.name, [row["verdict"] for row in state.result.ledger]) == ("fresh", ["holds"])
    shown = json.dumps(state.result.notebook().cells)
    assert "image/png" in shown and "The mean over 5 seeds is" in shown
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--nbval",
        str(state.result.path),
    ]
    again = subprocess.run(words, capture_output=True, text=True, cwd=checkout.root)
    assert again.returncode == 0, again.stdout  # what need not show the same is marked


def test_a_new_chapter_is_as_a_sync_leaves_it(checkout: Project) -> None:
    shutil.copy(Path(__file__).resolve().parents[2] / "jupytext.toml", checkout.root)
    assert call("new", "fault-lines")[0] == 0
    path = checkout.chapters / "fault-lines.md"
    written = path.read_text()
    assert "jupytext_version" not in written
    subprocess.run([sys.executable, "-m", "jupytext", "--sync", str(path)], check=True, capture_output=True)
    assert path.read_text() == written


def test_a_new_chapter_is_the_last_of_the_chapters_that_are_numbered(checkout: Project) -> None:
    parts = """\
format: jb-book
root: intro
parts:
  - caption: Chapters
    chapters:
      - file: chapters/toy
        sections:
          - file: results/desk/toy
            title: The toy on real data
"""
    about = "  - caption: About\n    chapters:\n      - file: chapters/card\n      - file: methods\n"
    (checkout.root / "_toc.yml").write_text(parts + about)
    assert call("new", "fault-lines")[0] == 0
    assert (checkout.root / "_toc.yml").read_text() == f"{parts}      - file: chapters/fault-lines\n{about}"


@pytest.mark.parametrize("name", ["toy", "Toy", "../x", "", "a b", "a--b", "9"])
def test_a_name_that_cannot_be_changes_nothing(checkout: Project, name: str) -> None:
    before = {path: path.read_bytes() for path in checkout.root.rglob("*") if path.is_file()}
    status, out, err = call("new", name)
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert {path: path.read_bytes() for path in checkout.root.rglob("*") if path.is_file()} == before


def test_the_checkout_stays_one(checkout: Project) -> None:
    call("new", "one")
    call("new", "two")
    assert list(yaml.safe_load((checkout.root / "answers.yml").read_text())) == ["one", "two"]
    assert toc_pages(checkout)[-2:] == ["chapters/one", "chapters/two"]
