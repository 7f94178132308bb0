"""The page of a result: its notebook with the chapter's present text, and what is to be said of it.

The numbers come from the result, the prose from the chapter as it is now: a mended sentence shows without an
hour of computing, and a changed line of code shows as a stale page, never as a new line above an old number.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from faultlines.book.myst import list_table, tables_in_myst, verdict_badge
from faultlines.book.second_machine import read_second, second_section
from faultlines.book.seeds import seeds_section
from faultlines.notebook.batches import pooled
from faultlines.notebook.chapters import Chapter, has_tag
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness, State, told
from faultlines.notebook.run_spec import RunSpec, Where
from faultlines.notebook.store import Result, number_cells, read_notebook
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

THEOREM = re.compile(r"^:{3,}\{prf:(?!proof)\w+\}[^\n]*\n:label:[ \t]*(?P<label>[\w:.-]+)", re.MULTILINE)
LINK = re.compile(r"\[[^\[\]]+\]\(#(?P<label>[\w:.-]+)\)")

UP = re.compile(r"\]\(\.\./(?!\.\./)")
SIBLING = re.compile(r"\]\((?P<name>[\w-]+\.(?:md|ipynb)(?:#[\w-]+)?)\)")


def believed(state: State) -> Result | None:
    """Return the result that a state holds, unless it is foreign: what a table may quote."""
    foreign = state.name == "foreign" or (state.result is not None and state.result.foreign)
    return None if foreign else state.result


def result_page(judge: Freshness, task: RunSpec, where: Where = "any") -> tuple[NotebookNode, Path]:
    """Return the notebook that the book renders for a task, and the notebook that it was made from.

    Args:
        judge: Says what there is.
        task: A chapter under a run. A page of another run than the default one has labels of its own, for it has
            those of the chapter once more.
        where: Which results may be shown; see `Freshness.state`.

    Raises:
        UsageError: If there is no notebook to show.
    """
    state = judge.state(task, where)
    found = [path for path in task.places(judge.project, where) if path.is_file()]
    if state.name == "unreadable" or (state.result is None and not found):
        why = told(state.changes)
        what = (
            f"a result of run {task.run} that cannot be read ({why})"
            if why
            else f"no result of run {task.run}"
        )
        raise UsageError(f"{task.chapter.name} has {what}: `{task.command}` makes one")
    path = state.result.path if state.result is not None else found[0]
    executed = read_notebook(path)
    result = believed(state)
    page = executed if result is None else _joined(task.chapter.notebook(), executed)
    show_figures_alone(page)
    number_references(page)
    _add_tables_in_myst(page)
    other = task.run != "default"
    if other:  # the page stands one folder deeper
        relink(page)
        _retitle(page, "on real data" if task.run == "desk" else f"{task.run} run")
    notes = [_foreign_note(state) if result is None else _stale_note(state)]
    if result is not None:
        notes += [_run_note(result, task.chapter), run_changes(judge, task, where) if other else ""]
        page.cells += seeds_section(judge.project, task, result)
        if beside := second_section(result, read_second(judge.project, task, result)):
            page.cells.append(nbformat.v4.new_markdown_cell(beside))
        page.cells.append(nbformat.v4.new_markdown_cell(_closing(result)))
    _insert_notes(page, [note for note in notes if note])
    if other:
        relabel(page, f"{task.run}-")
    number_cells(page)
    return page, path


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


def number_references(page: NotebookNode) -> None:
    """Turn links to the page's own figures and theorems into references that carry the book's numbers, in place.

    A chapter links to them as any viewer of notebooks can, `[Figure 3](#fig-x)`; the book counts for itself.
    """
    figures = [cell.metadata.get("mystnb", {}).get("figure", {}) for cell in page.cells]
    roles = {figure["name"]: "numref" for figure in figures if "name" in figure}

    def collect(text: str) -> str:
        roles.update({found["label"]: "prf:ref" for found in THEOREM.finditer(text)})
        return text

    def refer(found: re.Match[str]) -> str:
        role = roles.get(found["label"])
        return f"{{{role}}}`{found['label']}`" if role else found[0]

    _edit_texts(page, collect)
    _edit_texts(page, lambda text: LINK.sub(refer, text))


def _retitle(page: NotebookNode, addition: str) -> None:
    # the browser's tab and the results of a search tell a page from its chapter by the title alone
    for cell in page.cells:
        if cell.cell_type == "markdown" and (title := re.search(r"^# .*$", cell.source, re.MULTILINE)):
            cell.source = f"{cell.source[: title.end()].rstrip()}, {addition}{cell.source[title.end() :]}"
            return


def _insert_notes(page: NotebookNode, notes: list[str]) -> None:
    # below the title, which may come after a label of its own
    for cell in page.cells:
        title = re.search(r"^# .*$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if title:
            head, rest = cell.source[: title.end()], cell.source[title.end() :].strip()
            cell.source = "\n\n".join([head, *notes, rest])
            return
    page.cells.insert(0, nbformat.v4.new_markdown_cell("\n\n".join(notes)))


def insert_picture(page: NotebookNode, picture: str) -> None:
    """Put a picture, a piece of HTML, under the page's opening answer, in place.

    The answer is the first text with verdicts that a cell says before the parameters; where there is none, the picture
    stands before the parameters.
    """
    at = next((n for n, cell in enumerate(page.cells) if has_tag(cell, "parameters")), len(page.cells))
    for n, cell in enumerate(page.cells[:at]):
        said = [output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", [])]
        if any('class="verdict' in text for text in said):
            at = n + 1
            break
    page.cells.insert(at, nbformat.v4.new_markdown_cell(picture))
    number_cells(page)


def _add_tables_in_myst(page: NotebookNode) -> None:
    # paper reads no HTML
    for cell in page.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "<table" in data.get("text/html", "") and not {"text/latex", "text/markdown"} & set(data):
                data["text/markdown"] = tables_in_myst(data["text/html"])


def _foreign_note(state: State) -> str:
    why = told(state.changes) or "its record is not its own"
    return (
        "```{admonition} These numbers are not those of a recorded run\n:class: warning foreign\n"
        f"What this notebook shows does not agree with its record: {why}. The scoreboard leaves it out.\n```"
    )


def _stale_note(state: State) -> str:
    if state.name == "fresh":
        return ""
    what = told([f"`{change}`" for change in state.changes]) or "the last execution here failed"
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


def _closing(result: Result) -> str:
    record = result.provenance
    lines = [
        f"`{record.command} --force` makes these numbers again; [costs](/costs.md) lists what each run takes."
    ]
    if record.restamps:
        last = record.restamps[-1]
        lines.append(
            f"They were made by the code of commit `{record.commit}`; that of `{last.after}` computes the same, "
            f"bit for bit, on the smoke run ({last.made[:10]})."
        )
    return "\n".join(lines)


def run_changes(judge: Freshness, task: RunSpec, where: Where = "any") -> str:
    """Return the verdicts that differ from the default run's, and the author's reasons, in MyST.

    The reasons stand in `results/<run>/<chapter>.md`, which is written after the run was read.
    """
    here = believed(judge.state(task, where))
    first = RunSpec(task.chapter, "default")
    default = believed(judge.state(first, where))
    if here is None or default is None:
        return ""
    # on both sides over all batches of seeds, as on the scoreboard
    there, ledger = (
        pooled(judge.project, of, result, alone=False).rows(result.ledger)
        for of, result in ((first, default), (task, here))
    )
    before = {row["claim"]: row["verdict"] for row in there}
    moved = [row for row in ledger if before.get(row["claim"], "not stated") != row["verdict"]]
    same = len(here.ledger) - len(moved)
    lines = [f"{same} of {len(here.ledger)} verdicts are those of the default run."]
    if moved:
        rows = [
            (
                f"{row['claim']}: {' '.join(row['statement'].split())}",
                verdict_badge(before.get(row["claim"], "not stated")),
                f"{verdict_badge(row['verdict'])} {row['ours']}",
            )
            for row in moved
        ]
        lines += ["", list_table(("Claim", "default", task.run), rows, style="fl-scoreboard")]
    why = judge.project.root / "results" / task.run / f"{task.chapter.name}.md"
    if why.is_file():
        lines += ["", why.read_text(encoding="utf-8").strip()]
    body = "\n".join(lines)
    return f"````{{admonition}} Against the default run\n:class: note fl-changes\n{body}\n````"


def _edit_texts(page: NotebookNode, edit: Callable[[str], str]) -> None:
    # text stands in markdown cells, and in what cells of code say
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = edit(cell.source)
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output["data"]["text/markdown"] = edit(output["data"]["text/markdown"])


def relink(page: NotebookNode) -> None:
    """Make links of a chapter, relative to its folder, lead to the same pages from a folder of `results`, in place."""
    _edit_texts(page, lambda text: UP.sub("](../../", SIBLING.sub(r"](../../chapters/\g<name>)", text)))


def relabel(page: NotebookNode, prefix: str) -> None:
    """Put a prefix before every label that a page defines and every reference to one of them, in place."""
    figures = [cell.metadata.get("mystnb", {}).get("figure", {}) for cell in page.cells]
    labels = {figure["name"] for figure in figures if "name" in figure}

    def collect(text: str) -> str:
        labels.update(_parts(found)[1] for found in LABEL.finditer(text))
        return text

    def rename(found: re.Match[str]) -> str:
        before, label, after = _parts(found)
        return f"{before}{prefix if label in labels else ''}{label}{after}"

    _edit_texts(page, collect)
    _edit_texts(page, lambda text: REFERENCE.sub(rename, LABEL.sub(rename, text)))
    for figure in figures:
        if "name" in figure:
            figure["name"] = prefix + figure["name"]
        if "caption" in figure:
            figure["caption"] = REFERENCE.sub(rename, figure["caption"])


def _parts(found: re.Match[str]) -> tuple[str, str, str]:
    before, label, after = (part for part in found.groups() if part is not None)
    return before, label, after
