"""Put a fresh result of this machine where readers and programs find it: the checkout, README and the index."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jupytext
from nbformat import NotebookNode
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from faultlines.book.picture import picture_svg
from faultlines.book.scoreboard import read_board
from faultlines.book.second_machine import standing_rows
from faultlines.book.seeds import Pieces, read_pieces
from faultlines.notebook.chapters import Chapter, has_tag
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness, told
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import TESTS, Runs
from faultlines.notebook.store import Result, UnreadableError, read_result, write_atomic, write_notebook
from faultlines.notebook.sync import with_text_of
from faultlines.reporting.ledger import Row

BEGIN, END = "<!-- verdicts: written by `faultlines publish` -->", "<!-- end of verdicts -->"
PICTURES: dict[str, dict[str, bool]] = {
    "claims.svg": {},
    "claims-dark.svg": {"dark": True},
    "claims-narrow.svg": {"narrow": True},
    "claims-narrow-dark.svg": {"narrow": True, "dark": True},
}
IGNORED, MOVES = "nbval-ignore-output", "moves-between-machines"
LARGEST = 2 * 2**20


def publish(project: Project, task: RunSpec) -> bool:
    """Copy this machine's result of a task to its published place; bring index and scoreboard in step.

    Returns:
        Whether anything changed.

    Raises:
        UsageError: If the task has overrides, or is a rehearsal, or its result here is not fresh, or is over 2 MiB.
    """
    if task.run == "rehearsal":
        raise UsageError(
            f"{task.chapter.name} · {task.run} is no result: it shows only that a paper run goes through; publish"
            f" one of {', '.join(run for run in Runs.load(project).runs if run not in TESTS)}"
        )
    if task.overrides:
        raise UsageError(f"{task.label} has overrides: a published run is one of runs.yml as it stands")
    state = Freshness(project, Runs.load(project)).state(task, "here")
    if state.name != "fresh" or state.result is None:
        why = f" ({told(state.changes)})" if state.changes else ""
        raise UsageError(
            f"{task.chapter.name} · {task.run} is {state.name} here{why}: `{task.command}` --here, then publish"
        )
    size = state.result.path.stat().st_size
    if size > LARGEST:
        raise UsageError(
            f"{state.result.path} has {size / 2**20:.1f} MiB; a published notebook stays under 2 MiB"
        )
    notebook = paired(task, state.result)
    target = project.published(task.run, task.chapter.name)
    before = target.read_bytes() if target.exists() else b""
    write_notebook(notebook, target)
    indexed, shown = write_index(project), write_scoreboard(project)
    return indexed or shown or target.read_bytes() != before


def paired(task: RunSpec, result: Result) -> NotebookNode:
    """Return a result's notebook with the present text of its chapter, in the form in which Jupytext pairs the two.

    Raises:
        UsageError: If the chapter's code has changed since, or its text quotes what the run did not.
    """
    notebook = with_text_of(jupytext.read(task.chapter.path), result.notebook())
    notebook.metadata["jupytext"] = {"default_lexer": "ipython3"}  # as `jupytext --sync` leaves it
    if task.run == "smoke":  # what networks of full size would move is compared at this one
        for cell in notebook.cells:
            if has_tag(cell, MOVES):
                cell.metadata["tags"] = [t for t in cell.metadata["tags"] if t not in (IGNORED, MOVES)]
    return notebook


def sync(project: Project, task: RunSpec) -> bool:
    """Bring the present text of a chapter into a published notebook, without executing it; return whether it changed.

    Raises:
        UsageError: If nothing that can be read is published, or it has to be executed.
    """
    target = project.published(task.run, task.chapter.name)
    state = Freshness(project, Runs.load(project)).judge(task, target)
    if state.result is None or state.name == "foreign":
        raise UsageError(f"{target.name} of run {task.run} is {state.name}: {told(state.changes)}")
    before = target.read_bytes()
    write_notebook(paired(task, state.result), target)
    return target.read_bytes() != before


def write_scoreboard(project: Project) -> bool:
    """Bring what shows the published verdicts in step: results, README and its pictures; return whether it changed."""
    changed = False
    for path, content in scoreboard_files(project).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            write_atomic(path, content)
            changed = True
    return changed


def scoreboard_files(project: Project) -> dict[Path, str]:
    """Return the files that show the published verdicts, as they should be.

    `results/README.md` holds the whole scoreboard and `README.md` the answers, each between its marks; a text without
    marks stays as it is.
    """
    board = read_board(project, Runs.load(project), published=True)
    results, readme = project.root / "results" / "README.md", project.root / "README.md"
    text = results.read_text(encoding="utf-8") if results.is_file() else f"# Verdicts\n\n{BEGIN}\n{END}\n"
    files = {results: between(text, board.markdown("../chapters/"))}
    if readme.is_file():
        files[readme] = between(readme.read_text(encoding="utf-8"), board.short_answers())
    groups = board.groups()
    if groups:
        for name, how in PICTURES.items():
            files[project.root / "_static" / name] = picture_svg(groups, **how)
    return files


def between(text: str, written: str) -> str:
    """Return a text with what is written between its marks; a text without marks is returned as it is."""
    marks = re.compile(re.escape(BEGIN) + r".*?" + re.escape(END), re.DOTALL)
    return marks.sub(lambda _: f"{BEGIN}\n{written}{END}", text)


# the index: `results/index.json` and its schema


class Made(BaseModel):
    """What a published notebook was made with: its record, without what only the notebook itself needs."""

    model_config = ConfigDict(extra="ignore")

    chapter: str
    run: str
    command: str
    parameters: dict[str, Any]
    chapter_hash: str
    commit: str
    started: str
    wall_s: float
    kernel: dict[str, Any]
    resumed: bool
    energy_j: float | None
    seal: str


class Published(BaseModel):
    """One published notebook.

    Attributes:
        notebook: Its path in the checkout.
        provenance: What it was made with.
        ledger: Its claims, with the verdicts that stand: over all batches of seeds, and fragile where a second machine
            does not share them.
        pieces: Its batches of seeds; not there where it has none.
    """

    model_config = ConfigDict(extra="forbid")

    notebook: str
    provenance: Made
    ledger: list[Row]
    pieces: Pieces | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        made: dict[str, Any] = plain(self)
        if made["pieces"] is None:
            del made["pieces"]
        return made


class Index(BaseModel):
    """All published notebooks, by chapter and run in the order of `runs.yml`."""

    model_config = ConfigDict(extra="forbid")

    version: int = 2
    results: list[Published]


def read_index(project: Project) -> Index:
    """Gather the index from the published notebooks themselves; one that cannot be believed is left out."""
    results = []
    for chapter in Chapter.all(project):
        for run in Runs.load(project).shown:
            path = project.published(run, chapter)
            try:
                result = read_result(path, run, command=f"faultlines run {chapter} --run {run}")
            except UnreadableError:
                continue
            if isinstance(result, Result) and not result.foreign:
                task = RunSpec(Chapter.all(project)[chapter], run)
                told = {
                    "notebook": path.relative_to(project.root).as_posix(),
                    "provenance": result.provenance.model_dump(),
                    "ledger": list(map(summary, standing_rows(project, task, result))),
                    "pieces": read_pieces(project, task, result),
                }
                results.append(Published.model_validate(told))
    return Index(results=results)


def summary(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ledger's row without the effects of its units, which stay in the notebook."""
    return {name: value for name, value in row.items() if name != "effects"}


def index_files(project: Project) -> dict[str, str]:
    """Return the content of `results/index.json` and `results/index.schema.json` as they should be."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Index.model_json_schema()}
    return {
        "results/index.json": read_index(project).model_dump_json(indent=1) + "\n",
        "results/index.schema.json": json.dumps(schema, indent=1) + "\n",
    }


def write_index(project: Project) -> bool:
    """Bring the index in step with what is published; return whether it changed."""
    changed = False
    for name, text in index_files(project).items():
        path = project.root / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomic(path, text)
            changed = True
    return changed
