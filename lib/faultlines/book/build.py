"""Stage the executed notebooks and render them with Jupyter Book, execution off, warnings as errors."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from faultlines.book.cluster_page import cluster_page
from faultlines.book.costs import costs_page
from faultlines.book.reference import write_reference
from faultlines.book.run_changes import run_changes
from faultlines.book.scoreboard import judged_board
from faultlines.book.speed_page import speed_page
from faultlines.book.staging import stage
from faultlines.book.toc import toc_pages
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness, State
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import write_atomic
from faultlines.notebook.task import Task

FRAME = ("_config.yml", "_toc.yml", "_static")
ASSETS = ("_config.yml", "_toc.yml", "references.bib", "_static", "_ext")


def build(project: Project) -> Path:
    """Bring the book up to date and return its front page.

    Raises:
        UsageError: If a page of the table of contents has no result to show.
        RuntimeError: If Jupyter Book ends with an error or a warning, or a page is not there afterwards.
    """
    source, html = project.build / "source", project.build / "html"
    pages = stage_book(project, source)
    stamp, seal = project.build / "book.stamp", _seal(source, project.library)
    frame = _seal(*(source / asset for asset in FRAME))
    before = stamp.read_text().split() if stamp.exists() else []
    built = all((html / f"{page}.html").is_file() for page in ["index", *pages])
    if not (before == [seal, frame] and built):
        stamp.unlink(missing_ok=True)
        # jupyter-book 1.x cannot be started with -m
        program = Path(sys.executable).with_name("jupyter-book")
        command = [str(program), "build", str(source), "--path-output", str(project.root)]
        if before[1:] != [frame]:
            # Sphinx renders changed pages only: after a failed build it would not repeat the old pages' warnings,
            # and a changed style sheet is no page
            command.append("--all")
        log = project.build / "book.log"
        with log.open("w") as file:
            status = subprocess.run(
                [*command, "-n", "-W", "--keep-going"], stdout=file, stderr=subprocess.STDOUT
            ).returncode
        if status:
            raise RuntimeError(f"the book did not build (log: {log}):\n{_errors(log)}")
        missing = [page for page in pages if not (html / f"{page}.html").is_file()]
        if missing:
            raise RuntimeError(
                f"Jupyter Book ended well but wrote no page for {', '.join(missing)} (log: {log})"
            )
        write_atomic(stamp, f"{seal} {frame}")
    return html / "index.html"


def stage_book(project: Project, destination: Path) -> list[str]:
    """Lay out the book's sources under `destination` and return its pages, without endings.

    Files are rewritten only where they differ, so that Sphinx renders only what changed.

    Raises:
        UsageError: If a page of the table of contents has no source or no result.
    """
    judge, laid = Freshness(project, Runs.load(project)), set()
    chapters = judge.chapters

    def lay(path: str, content: bytes) -> None:
        target = destination / path
        laid.add(target)
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    for asset in ASSETS:
        for path in _files(project.root / asset):
            lay(str(path.relative_to(project.root)), path.read_bytes())
    lay("_generated/scoreboard.md", judged_board(judge).myst().encode())
    lay("_generated/costs.md", costs_page(judge).encode())
    lay("_generated/cluster.md", cluster_page(project).encode())
    lay("_generated/speed.md", speed_page(project).encode())
    reference, mark = project.build / "reference", project.build / "reference.stamp"
    written_for = _seal(project.library)
    if not (reference.is_dir() and mark.is_file() and mark.read_text() == written_for):
        # it imports every module, torch and all: seconds that an unchanged library need not cost
        mark.unlink(missing_ok=True)
        shutil.rmtree(reference, ignore_errors=True)
        write_reference(reference)
        write_atomic(mark, written_for)
    for path in _files(reference):
        lay(f"library/{path.relative_to(reference)}", path.read_bytes())
    pages = toc_pages(project)
    for page in pages:
        folder, _, name = page.rpartition("/")
        if name in chapters and folder:
            run = "default" if folder == "chapters" else folder.removeprefix("results/")
            state = _presentable(judge, Task(chapters[name], run))
            changes = None if run == "default" else run_changes(judge, Task(chapters[name], run))
            prefix = "" if run == "default" else f"{run}-"
            notebook = stage(chapters[name], state, prefix=prefix, changes=changes)
            lay(f"{page}.ipynb", (nbformat.writes(notebook) + "\n").encode())
        elif (project.root / f"{page}.md").is_file():
            lay(f"{page}.md", (project.root / f"{page}.md").read_bytes())
        elif destination / f"{page}.md" not in laid:
            raise UsageError(f"_toc.yml names {page}, but there is no {page}.md and no chapter of that name")
    for path in _files(destination):
        if path not in laid:
            path.unlink()
    return pages


def _presentable(judge: Freshness, task: Task) -> State:
    state = judge.state(task)
    if state.result is None:
        raise UsageError(f"{task.chapter.name} has no result of run {task.run}: `{task.command}` makes one")
    return state


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _seal(*folders: Path) -> str:
    # the library's docstrings are a page of the book, so here its text counts to the letter
    content = hashlib.sha256()
    for folder in folders:
        for path in _files(folder):
            content.update(str(path.relative_to(folder)).encode())
            content.update(path.read_bytes())
    return content.hexdigest()


def _errors(log: Path) -> str:
    lines = re.sub(r"\x1b\[[\d;]*m", "", log.read_text(errors="replace")).splitlines()
    told = [line for line in lines if "WARNING" in line or "ERROR" in line]
    return "\n".join((told or lines)[-20:])
