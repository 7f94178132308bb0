"""Put a fresh result of this machine where readers and programs find it: the checkout, README and the index."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jupytext
from nbformat import NotebookNode
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from faultlines.book.scoreboard import Board, read_board
from faultlines.book.seeds import Pieces, read_pieces
from faultlines.notebook.chapters import Chapter, has_tag
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness, told
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import Result, UnreadableError, read_result, write_atomic, write_notebook
from faultlines.notebook.sync import with_text_of
from faultlines.notebook.task import Task
from faultlines.reporting.ledger import Row

BEGIN, END = "<!-- scoreboard: written by `faultlines publish` -->", "<!-- end of scoreboard -->"
IGNORED, MOVES = "nbval-ignore-output", "moves-between-machines"
LARGEST = 2 * 2**20


def publish(project: Project, task: Task) -> bool:
    """Copy this machine's result of a task to its published place; bring index and scoreboard in step.

    Returns:
        Whether anything changed.

    Raises:
        UsageError: If the task has overrides, or its result here is not fresh, or is over 2 MiB.
    """
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


def paired(task: Task, result: Result) -> NotebookNode:
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


def sync(project: Project, task: Task) -> bool:
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
    """Write the published scoreboard into `results/README.md`, and its picture; return whether anything changed.

    A file with the scoreboard's marks keeps the text around them.
    """
    board = read_board(project, Runs.load(project), published=True)
    page = project.root / "results" / "README.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else f"# Verdicts\n\n{BEGIN}\n{END}\n"
    files = {page: with_scoreboard(text, board.markdown())}
    if board.chapters:
        for name, dark in {"verdicts.svg": False, "verdicts-dark.svg": True}.items():
            files[project.root / "_static" / name] = verdict_picture(bars_of(board), dark=dark)
    changed = False
    for path, content in files.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            write_atomic(path, content)
            changed = True
    return changed


def bars_of(board: Board) -> list[Bar]:
    """Return the bars of a scoreboard's picture, one a chapter and run."""
    bars = []
    for entry in board.chapters:
        for run in board.runs:
            cells = [cells[run] for cells in entry.claims.values() if run in cells]
            if cells:
                data = "embedded data" if run == "default" else "real data" if run == "desk" else run
                verdicts = [cell.row["verdict"] for cell in cells]
                bars.append(Bar(f"{entry.chapter.name}, {data}", verdicts, any(cell.stale for cell in cells)))
    return bars


def with_scoreboard(text: str, table: str) -> str:
    """Return a text with the table between its marks; a text without marks is returned as it is."""
    between = re.compile(re.escape(BEGIN) + r".*?" + re.escape(END), re.DOTALL)
    return between.sub(lambda _: f"{BEGIN}\n{table}{END}", text)


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
        ledger: Its claims.
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
                told = {
                    "notebook": path.relative_to(project.root).as_posix(),
                    "provenance": result.provenance.model_dump(),
                    "ledger": [summary(row) for row in result.ledger],
                    "pieces": read_pieces(project, Task(Chapter.all(project)[chapter], run), result),
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


# the picture of all verdicts: a bar a chapter and run, as SVG for a light and a dark page

WIDTH, LEFT, RIGHT, ROW = 780, 270, 16, 26
ORDER = ("holds", "fails", "negligible", "inconclusive", "not run")
LIGHT = {
    "holds": "#2e8b57",
    "fails": "#c0392b",
    "negligible": "#6c63c9",
    "inconclusive": "#c9c4b8",
    "not run": "#ecebe6",
}
DARK = {
    "holds": "#3fae74",
    "fails": "#e06c5f",
    "negligible": "#8f88e8",
    "inconclusive": "#6b675e",
    "not run": "#3a3833",
}


@dataclass(frozen=True)
class Bar:
    """One run of one chapter.

    Attributes:
        label: What stands beside it.
        verdicts: The verdicts of its claims.
        stale: Whether it was made with code that has changed since.
    """

    label: str
    verdicts: Sequence[str]
    stale: bool = False


def verdict_picture(bars: Sequence[Bar], *, dark: bool = False) -> str:
    """Return the bars as SVG; counts stand in their parts, and words over the first bar's.

    Example:
        >>> svg = verdict_picture([Bar("a chapter", ["holds", "holds", "fails"])])
        >>> svg.count("<rect"), ">2<" in svg
        (4, True)
    """
    colours, ink = (DARK, "#e8e6e1") if dark else (LIGHT, "#22211f")
    most = max((len(bar.verdicts) for bar in bars), default=1)
    unit = (WIDTH - LEFT - RIGHT) / most
    seen = [verdict for verdict in ORDER if any(verdict in bar.verdicts for bar in bars)]
    height = 40 + ROW * len(bars) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' font-family="system-ui, sans-serif" font-size="13" fill="{ink}" role="img">',
        "<title>Verdicts of the published runs, by chapter</title>",
    ]
    x = float(LEFT)
    for verdict in seen:
        parts.append(f'<rect x="{x:.0f}" y="10" width="12" height="12" rx="2" fill="{colours[verdict]}"/>')
        parts.append(f'<text x="{x + 17:.0f}" y="20.5">{verdict}</text>')
        x += 17 + 7.2 * len(verdict) + 18
    for n, bar in enumerate(bars):
        y, x = 40 + ROW * n, float(LEFT)
        label = html.escape(bar.label) + (" *" if bar.stale else "")
        parts.append(f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{label}</text>')
        counts = Counter(bar.verdicts)
        for verdict in seen:
            if not (count := counts[verdict]):
                continue
            width = count * unit
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width - 1.5:.1f}" height="19" rx="2" fill="{colours[verdict]}"/>'
            )
            if width > 16:
                on = "#ffffff" if verdict in ("holds", "fails", "negligible") else ink
                parts.append(
                    f'<text x="{x + width / 2:.1f}" y="{y + 14}" text-anchor="middle" fill="{on}">{count}</text>'
                )
            x += width
    return "\n".join([*parts, "</svg>"]) + "\n"
