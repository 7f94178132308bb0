from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from faultlines.book.staging import relabel, relink, show_figures_alone, stage
from faultlines.notebook.chapters import code_cells
from faultlines.notebook.freshness import State, freshness
from faultlines.notebook.project import Project
from faultlines.notebook.task import Task


def text_of(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def staged(checkout: Project, run: str = "default", prefix: str = "") -> nbformat.NotebookNode:
    from faultlines.notebook.chapters import Chapter

    chapter = Chapter.all(checkout)["toy"]
    return stage(chapter, freshness(checkout, Task(chapter, run)), prefix=prefix)


def edit(checkout: Project, old: str, new: str) -> None:
    path = checkout.chapters / "toy.md"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_prose_comes_from_the_chapter_and_numbers_from_the_result(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put()
    edit(checkout, "The bound is", "The new bound is")
    page = staged(checkout)
    assert "The new bound is" in text_of(page)
    assert "stale" not in text_of(page)
    assert code_cells(page)[-1].outputs[0].text == "6\n"
    nbformat.validate(page)


def test_changed_code_shows_the_code_that_was_executed_and_says_so(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put()
    edit(checkout, "seeds + 1", "seeds + 2")
    page = staged(checkout)
    assert "total = seeds + 1" in [cell.source for cell in code_cells(page)]
    assert "These numbers are stale" in text_of(page)
    assert "a change of: `chapter toy`" in text_of(page)


def test_a_changed_module_keeps_the_new_prose_and_says_stale(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put(modules={"faultlines": "0"})
    edit(checkout, "The bound is", "The new bound is")
    text = text_of(staged(checkout))
    assert "The new bound is" in text
    assert "a change of: `module faultlines`" in text


def test_notes_stand_below_the_title_even_where_a_label_comes_first(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put(modules={"faultlines": "0"})
    lines = text_of(staged(checkout)).splitlines()
    assert lines[:2] == ["(toy-chapter)=", "# Toy"]
    assert "```{admonition} These numbers are stale" in lines[2:5]


def test_the_last_block_tells_how_the_numbers_were_made(checkout: Project, put: Callable[..., Path]) -> None:
    put()
    last = staged(checkout).cells[-1].source
    for said in (
        "`faultlines run toy --run default --force`",
        "1 min 35 s on CPU",
        "commit `abc`",
        "`seeds=5`",
    ):
        assert said in last


def test_a_second_run_says_what_differs_and_has_labels_of_its_own(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put("desk")
    page = staged(checkout, "desk", prefix="desk-")
    text = text_of(page)
    assert "The desk run" in text
    assert "executed with `rates=[0.001, 0.5]`, `seeds=8`." in text
    assert "{numref}`desk-toy-figure`" in text
    assert code_cells(page)[-1].metadata["mystnb"]["figure"] == {
        "name": "desk-toy-figure", "caption": "The sum of {eq}`desk-eq:sum`.",
    }  # fmt: skip


def test_without_a_result_there_is_nothing_to_stage(toy: object) -> None:
    with pytest.raises(ValueError, match="no result to show"):
        stage(toy, State("missing"))


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
