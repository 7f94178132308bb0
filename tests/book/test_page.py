"""The page of a result: text and numbers joined, marks, labels of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from faultlines.book.page import (
    believed,
    insert_picture,
    relabel,
    relink,
    result_page,
    run_changes,
    show_figures_alone,
)
from faultlines.book.scoreboard import read_board
from faultlines.notebook.chapters import Chapter, code_cells
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import read_notebook, read_result, write_notebook


def text_of(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def said_by(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("data", {}).get("text/markdown", "") for output in outputs)


def page_of(checkout: Project, run: str = "default", where: Any = "any") -> nbformat.NotebookNode:
    judge = Freshness(checkout, Runs.load(checkout))
    return result_page(judge, RunSpec(judge.chapters["toy"], run), where)[0]


def edit(checkout: Project, old: str, new: str) -> None:
    path = checkout.chapters / "toy.md"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_prose_comes_from_the_chapter_and_numbers_from_the_result(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put()
    edit(checkout, "The bound is", "The new bound is")
    edit(checkout, "A sum {{C1", "The sum is: {{C1")
    page = page_of(checkout)
    assert "The new bound is" in text_of(page)
    assert "The sum is: <span" in said_by(page)
    assert "stale" not in text_of(page)
    assert any(output.get("text") == "6\n" for cell in code_cells(page) for output in cell.outputs)
    nbformat.validate(page)


def test_changed_code_shows_the_code_that_was_executed_and_says_so(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put()
    edit(checkout, "seeds + 1", "seeds + 2")
    page = page_of(checkout)
    assert "total = seeds + 1" in [cell.source for cell in code_cells(page)]
    assert "These numbers are stale" in text_of(page)
    assert "a change of: `chapter toy`" in text_of(page)


def test_a_changed_module_keeps_the_new_prose_and_says_stale(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put(modules={"faultlines": {"x": "0"}})
    edit(checkout, "The bound is", "The new bound is")
    text = text_of(page_of(checkout))
    assert "The new bound is" in text
    assert "a change of: `faultlines.x (gone)`" in text


def test_notes_stand_below_the_title_even_where_a_label_comes_first(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put(modules={"faultlines": {"x": "0"}})
    lines = text_of(page_of(checkout)).splitlines()
    assert lines[:2] == ["(toy-chapter)=", "# Toy"]
    assert "```{admonition} These numbers are stale" in lines[2:5]


def test_the_page_closes_with_the_record_and_the_command_that_repeats_it(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put()
    *_, record, last = page_of(checkout).cells
    assert "How these numbers were made" in record.outputs[0].data["text/html"]
    assert "1 min 35 s on CPU" in record.outputs[0].data["text/markdown"].replace("\\", "")  # for paper
    assert "`faultlines run toy --run default --force`" in last.source


def test_a_second_run_says_what_differs_and_has_labels_of_its_own(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put("desk")
    page = page_of(checkout, "desk")
    text = text_of(page)
    assert "The desk run" in text
    assert "executed with `rates=[0.001, 0.5]`, `seeds=8`." in text
    assert "{numref}`desk-toy-figure`" in text
    assert "{numref}`desk-toy-figure`" in said_by(page)
    assert {"figure": {"name": "desk-toy-figure", "caption": "The sum of {eq}`desk-eq:sum`."}} in [
        cell.metadata.get("mystnb") for cell in code_cells(page)
    ]


def test_the_page_opens_with_what_changed_and_why(
    checkout: Project, toy: Chapter, put: Callable[..., Path]
) -> None:
    (row,) = read_result(put()).ledger
    other = row | {"claim": "C2", "verdict": "inconclusive"}
    put(ledger=[row, other])
    put("desk", ledger=[row | {"verdict": "fails", "ours": "-1 [-2, -0.5]"}, other])
    text = run_changes(Freshness(checkout, Runs.load(checkout)), RunSpec(toy, "desk"))
    assert "1 of 2 verdicts are those of the default run." in text
    assert text.count("* - C1") == 1 and "* - C2" not in text
    assert re.search(r'verdict-holds"[^>]*>✔ holds', text)
    assert re.search(r'verdict-fails"[^>]*>✘ fails</span> -1 \[-2, -0.5\]', text)
    why = checkout.root / "results" / "desk" / "toy.md"
    why.parent.mkdir(parents=True)
    why.write_text("Eight seeds see what five do not.\n")
    first = page_of(checkout, "desk").cells[0].source
    assert "Eight seeds see" in first
    assert first.index("# Toy") < first.index("The desk run") < first.index("Against the default run")


@pytest.mark.parametrize("name", ["ex2l", "linearized-attention"])
def test_both_sides_of_what_changed_stand_over_all_batches_of_seeds(name: str) -> None:
    root = Path(__file__).resolve().parents[2]
    project = Project(root, root / "lib" / "faultlines")
    chapter = Chapter.all(project)[name]
    entries = json.loads((root / "results" / "index.json").read_text())["results"]
    (default,) = [entry for entry in entries if entry["notebook"] == f"chapters/{name}.ipynb"]
    stands = {row["claim"]: row["verdict"] for row in default["ledger"]}
    assert list((root / "results" / "default" / "batches").glob(f"{name}-*.json"))
    text = run_changes(Freshness(project, Runs.load(project)), RunSpec(chapter, "desk"))
    told = re.findall(r"\* - ([\w-]+): .*?\n  - <span[^>]*>\W*([a-z ]+)</span>", text)
    assert told and all(stands.get(claim, "not stated") == verdict for claim, verdict in told), told


def test_nothing_is_said_without_a_default_run(
    checkout: Project, toy: Chapter, put: Callable[..., Path]
) -> None:
    put("desk")
    assert run_changes(Freshness(checkout, Runs.load(checkout)), RunSpec(toy, "desk")) == ""


def edited(notebook: nbformat.NotebookNode) -> None:
    next(cell for cell in notebook.cells if "print(" in cell.source).outputs[0].text = "7\n"


def crashed(notebook: nbformat.NotebookNode) -> None:
    notebook.cells[-1].outputs = []


@pytest.mark.parametrize("forge", [edited, crashed])
def test_a_foreign_result_is_marked_on_its_page_and_quoted_nowhere(
    checkout: Project, toy: Chapter, put: Callable[..., Path], forge: Callable
) -> None:
    path = put()
    notebook = read_notebook(path)
    forge(notebook)
    write_notebook(notebook, path)
    judge = Freshness(checkout, judge_runs := Runs.load(checkout))
    state = judge.state(RunSpec(toy, "default"))
    assert state.name == "foreign" and believed(state) is None
    page = page_of(checkout)
    assert "```{admonition} These numbers are not those of a recorded run\n:class: warning" in text_of(page)
    assert state.changes[0] in text_of(page)
    assert read_board(checkout, judge_runs).markdown() == "No chapter has a result yet.\n"


def test_the_picture_stands_under_the_opening_answer(checkout: Project, put: Callable[..., Path]) -> None:
    put()
    page = page_of(checkout)
    insert_picture(page, "<figure></figure>")
    at = next(n for n, cell in enumerate(page.cells) if cell.source == "<figure></figure>")
    assert "parameters" in page.cells[at + 1].metadata["tags"]  # this chapter says nothing before them
    says = next(n for n, cell in enumerate(page.cells) if "C1-verdict" in cell.source)
    page = page_of(checkout)
    page.cells.insert(1, page.cells.pop(says - 1))
    insert_picture(page, "<figure></figure>")
    assert "C1-verdict" in page.cells[1].source and page.cells[2].source == "<figure></figure>"
    nbformat.validate(page)


def test_without_a_result_there_is_nothing_to_show(checkout: Project) -> None:
    with pytest.raises(
        UsageError, match="toy has no result of run default: `faultlines run toy --run default`"
    ):
        page_of(checkout)


def test_a_file_that_is_no_notebook_is_told(checkout: Project, put: Callable[..., Path]) -> None:
    path = put(path=checkout.published("default", "toy"))
    path.write_text("<<<<<<< HEAD\n" + path.read_text())
    with pytest.raises(
        UsageError, match=r"toy has a result of run default that cannot be read \(it holds the marks"
    ):
        page_of(checkout)


def test_published_results_can_be_shown_in_the_place_of_this_machines_own(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put()
    put(path=checkout.published("default", "toy"), commit="published")
    assert "commit abc" in page_of(checkout).cells[-2].outputs[0].data["text/html"]
    assert "commit published" in page_of(checkout, where="published").cells[-2].outputs[0].data["text/html"]


RELABELLED = {
    "(bound)=": "(x-bound)=",
    "(def:a.b)=": "(x-def:a.b)=",
    "{ref}`bound`": "{ref}`x-bound`",
    "{ref}`the bound <bound>`": "{ref}`the bound <x-bound>`",
    "{numref}`Figure %s <fig-one>`": "{numref}`Figure %s <x-fig-one>`",
    "{eq}`eq:one`": "{eq}`x-eq:one`",
    "{prf:ref}`thm`": "{prf:ref}`x-thm`",
    "[text](#bound)": "[text](#x-bound)",
    "[text](bound)": "[text](x-bound)",
    "```{prf:theorem} A bound\n:label: thm\n\nbody\n```": "```{prf:theorem} A bound\n:label: x-thm\n\nbody\n```",
    "```{figure} bound.png\n:name: fig-one\n```": "```{figure} bound.png\n:name: x-fig-one\n```",
    "$$\na = b\n$$ (eq:one)": "$$\na = b\n$$ (x-eq:one)",
    # what only looks like one
    "the bound, (bound) and thm": None,
    "{cite}`bound`": None,
    "{glue:text}`bound`": None,
    "{doc}`bound`": None,
    "{ref}`elsewhere`": None,
    "{ref}`bound-of-another`": None,
    "`bound`": None,
    "[bound](https://bound.org/bound)": None,
    "$\\mathrm{bound}$": None,
}


def test_relabelling_reaches_labels_and_references_and_no_word() -> None:
    page = nbformat.v4.new_notebook()
    page.cells = [nbformat.v4.new_markdown_cell(source) for source in RELABELLED]
    code = nbformat.v4.new_code_cell("bound = 1")
    code.metadata["mystnb"] = {"figure": {"name": "fig-two", "caption": "see {ref}`bound`"}}
    page.cells.append(code)
    relabel(page, "x-")
    for (before, after), cell in zip(RELABELLED.items(), page.cells, strict=False):
        assert cell.source == (after or before)
    assert code.source == "bound = 1"
    assert code.metadata["mystnb"]["figure"] == {"name": "x-fig-two", "caption": "see {ref}`x-bound`"}


def test_a_figure_stands_alone_under_its_caption() -> None:
    v4 = nbformat.v4
    legend = v4.new_output("execute_result", data={"text/plain": "<Legend>"}, execution_count=1)
    picture = v4.new_output("display_data", data={"text/plain": "<Figure>", "image/png": "AA=="})
    named = v4.new_code_cell("draw()", outputs=[legend, picture])
    named.metadata["mystnb"] = {"figure": {"name": "fig-toy", "caption": "A toy."}}
    plain = v4.new_code_cell("draw()", outputs=[legend, picture])
    page = v4.new_notebook(cells=[named, plain, v4.new_markdown_cell("Text.")])
    show_figures_alone(page)
    assert named.outputs == [picture]
    assert plain.outputs == [legend, picture]


def test_links_lead_to_the_same_pages_from_a_folder_deeper() -> None:
    text = "[all](../references.md), [next](ex2l.md#results), [here](#toy), [far](https://a.org/x.md), [up](../../x.md)"
    page = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("a[0](../b)")]
    )
    relink(page)
    assert page.cells[0].source == (
        "[all](../../references.md), [next](../../chapters/ex2l.md#results), [here](#toy), [far](https://a.org/x.md), "
        "[up](../../x.md)"
    )
    assert page.cells[1].source == "a[0](../b)"
