"""Join an executed notebook with its chapter's text, ready to render.

The numbers come from the result, the prose from the chapter as it is now: a mended sentence shows without an
hour of computing, and a changed line of code shows as a stale page, never as a new line above an old number.
"""

from __future__ import annotations

import copy
import re

import nbformat
from nbformat import NotebookNode

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import State
from faultlines.notebook.store import Result, number_cells
from faultlines.notebook.sync import with_text_of

LABEL = re.compile(
    r"^(?P<before>\s*\()(?P<label>[\w:.-]+)(?P<after>\)=[ \t]*)$"
    r"|^(?P<before_>\s*:(?:label|name):[ \t]*)(?P<label_>[\w:.-]+)(?P<after_>[ \t]*)$"
    r"|^(?P<before__>.*\$\$[ \t]*\()(?P<label__>[\w:.-]+)(?P<after__>\)[ \t]*)$",
    re.MULTILINE,
)
REFERENCE = re.compile(
    r"(?P<before>\{(?:ref|numref|eq|prf:ref)\}`(?:[^`<]*<)?)(?P<label>[\w:.-]+)(?P<after>>?`)"
    r"|(?P<before_>\]\(#?)(?P<label_>[\w:.-]+)(?P<after_>\))"
)

UP = re.compile(r"\]\(\.\./(?!\.\./)")
SIBLING = re.compile(r"\]\((?P<name>[\w-]+\.(?:md|ipynb)(?:#[\w-]+)?)\)")


def stage(chapter: Chapter, state: State, *, prefix: str = "", changes: str | None = None) -> NotebookNode:
    """Return the notebook that the book renders for a result.

    Args:
        chapter: The chapter as it is now.
        state: The result to show and what is said of it.
        prefix: Put before every label, so that a chapter can stand in the book once a run.
        changes: What the run changes against the default run, said at the top of the page.

    Raises:
        ValueError: If the state holds no result.
    """
    if state.result is None:
        raise ValueError(f"{chapter.name} has no result to show")
    executed = state.result.notebook()
    page = _joined(chapter.notebook(), executed)
    show_figures_alone(page)
    if prefix:  # a page of another run stands one folder deeper
        relink(page)
    notes = (_stale_note(state), _run_note(state.result, chapter), changes)
    _insert_notes(page, [note for note in notes if note])
    if prefix:
        relabel(page, prefix)
    number_cells(page)
    return page


def _joined(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    try:
        return with_text_of(source, executed)
    except UsageError:  # another version of the chapter: its text belongs to its numbers
        return copy.deepcopy(executed)


def show_figures_alone(page: NotebookNode) -> None:
    """Leave the text out that a figure's last line returned (a legend, say), in place.

    The page gives caption and label to every output of a cell that has them, so a text beside the picture would take
    the figure's label.
    """
    for cell in page.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
            cell.outputs = [
                output
                for output in cell.outputs
                if output.output_type != "execute_result" or set(output.data) != {"text/plain"}
            ]


def _insert_notes(page: NotebookNode, notes: list[str]) -> None:
    # below the title, which may come after a label of its own
    for cell in page.cells:
        title = re.search(r"^# .*$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if title:
            head, rest = cell.source[: title.end()], cell.source[title.end() :].strip()
            cell.source = "\n\n".join([head, *notes, rest])
            return
    page.cells.insert(0, nbformat.v4.new_markdown_cell("\n\n".join(notes)))


def _stale_note(state: State) -> str:
    if state.name == "fresh":
        return ""
    what = ", ".join(f"`{change}`" for change in state.changes) or "the last execution here failed"
    return (
        "```{admonition} These numbers are stale\n:class: warning stale\n"
        f"They were computed before a change of: {what}.\n```"
    )


def _run_note(result: Result, chapter: Chapter) -> str:
    record = result.provenance
    if record.run == "default" and not record.overrides:
        return ""
    defaults = {parameter.name: parameter.default for parameter in chapter.parameters}
    given = ", ".join(
        f"`{name}={value}`" for name, value in record.parameters.items() if defaults.get(name) != value
    )
    return (
        f"```{{admonition}} The {record.run} run\n:class: note\n"
        f"This page is the [chapter](../../chapters/{chapter.name}.ipynb) executed with {given}.\n```"
    )


def relink(page: NotebookNode) -> None:
    """Make links of a chapter, relative to its folder, lead to the same pages from a folder of `results`, in place."""
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = UP.sub("](../../", SIBLING.sub(r"](../../chapters/\g<name>)", cell.source))


def relabel(page: NotebookNode, prefix: str) -> None:
    """Put a prefix before every label that a page defines and every reference to one of them, in place."""
    texts = [cell for cell in page.cells if cell.cell_type == "markdown"]
    figures = [cell.metadata.get("mystnb", {}).get("figure", {}) for cell in page.cells]
    labels = {_parts(found)[1] for cell in texts for found in LABEL.finditer(cell.source)}
    labels |= {figure["name"] for figure in figures if "name" in figure}

    def rename(found: re.Match) -> str:
        before, label, after = _parts(found)
        return f"{before}{prefix if label in labels else ''}{label}{after}"

    for cell in texts:
        cell.source = REFERENCE.sub(rename, LABEL.sub(rename, cell.source))
    for figure in figures:
        if "name" in figure:
            figure["name"] = prefix + figure["name"]
        if "caption" in figure:
            figure["caption"] = REFERENCE.sub(rename, figure["caption"])


def _parts(found: re.Match) -> tuple[str, str, str]:
    before, label, after = (part for part in found.groups() if part is not None)
    return before, label, after
