from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from faultlines.book.scoreboard import Board, read_board, toc_pages
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs


def board(checkout: Project, **options: bool) -> Board:
    return read_board(checkout, Runs.load(checkout), **options)


def test_an_empty_board_says_so(checkout: Project) -> None:
    assert board(checkout).markdown() == board(checkout).myst() == "No chapter has a result yet.\n"


def test_claims_stand_against_runs_and_smoke_is_left_out(checkout: Project, put: Callable[..., Path]) -> None:
    for run in ("default", "desk", "smoke"):
        put(run)
    found = board(checkout)
    assert found.runs == ["default", "desk"]
    lines = found.markdown("../chapters/").splitlines()
    assert lines[:3] == ["## [Toy](../chapters/toy.ipynb)", "", "| | claim | default | desk |"]
    assert lines[-1] == r"| C1 | a sum $\|s\|$ is positive | **holds** 3 [1, 5] | **holds** 3 [1, 5] |"
    # every row has the columns of the header, bars inside mathematics not counted
    assert len({line.replace(r"\|", "").count("|") for line in lines[2:]}) == 1
    rows = re.findall(r"\* - (.*)\n  - (.*)\n  - (.*)\n  - (.*)\n  - (.*)\n  - (.*)", found.myst())
    assert [row[3] for row in rows] == ["Run", "default", "desk"]
    assert rows[1][2] == "[Toy](/chapters/toy)" and rows[1][5] == "3 [1, 5]"


def test_a_stale_result_is_shown_as_stale(checkout: Project, put: Callable[..., Path]) -> None:
    put()
    put("desk", modules={"faultlines": {"x": "0"}})
    assert (
        board(checkout)
        .markdown()
        .splitlines()[-1]
        .endswith("| **holds** 3 [1, 5] | **holds** (stale) 3 [1, 5] |")
    )
    assert board(checkout).myst().count('<span class="stale">stale</span>') == 1


def test_a_figure_is_linked_only_where_its_page_is_in_the_book(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put()
    put("desk")
    assert "{ref}`figure <toy-figure>`" in board(checkout).myst()
    assert "desk-toy-figure" not in board(checkout).myst()
    toc = checkout.root / "_toc.yml"
    toc.write_text(toc.read_text() + "- file: results/desk/toy\n")
    assert "{ref}`figure <desk-toy-figure>`" in board(checkout).myst()


def test_the_published_board_does_not_see_what_lies_here(checkout: Project, put: Callable[..., Path]) -> None:
    put()
    assert board(checkout, published=True).runs == []
    put(path=checkout.published("default", "toy"))
    assert board(checkout, published=True).runs == ["default"]


def test_a_failure_here_says_nothing_of_what_is_published(
    checkout: Project, put: Callable[..., Path]
) -> None:
    from faultlines.notebook.chapters import Chapter
    from faultlines.notebook.freshness import Freshness
    from faultlines.notebook.run_spec import RunSpec

    task = RunSpec(Chapter.all(checkout)["toy"], "default")
    put(path=checkout.published("default", "toy"))
    task.failed(checkout).parent.mkdir(parents=True)
    task.failed(checkout).write_text("{}")
    judge = Freshness(checkout, Runs.load(checkout))
    assert judge.state(task, "published").name == "fresh"
    assert judge.state(task).name == "failed"


def test_every_page_of_a_nested_table_of_contents_is_found(checkout: Project) -> None:
    toc = {
        "format": "jb-book", "root": "intro",
        "parts": [
            {"caption": "file", "chapters": [{"file": "a", "sections": [{"file": "b"}, {"file": "c/d"}]}]},
            {"caption": "more", "chapters": [{"file": "e", "title": "file"}]},
        ],
    }  # fmt: skip
    (checkout.root / "_toc.yml").write_text(yaml.safe_dump(toc))
    assert toc_pages(checkout) == ["intro", "a", "b", "c/d", "e"]


def test_a_broken_table_of_contents_is_one_clear_error(checkout: Project) -> None:
    (checkout.root / "_toc.yml").write_text("root: [\n")
    with pytest.raises(UsageError, match=r"^_toc\.yml cannot be read: [^\n]*$"):
        toc_pages(checkout)


def test_chapters_stand_in_the_order_of_the_book(checkout: Project, put: Callable[..., Path]) -> None:
    from faultlines.book.scoreboard import _in_order
    from faultlines.notebook.freshness import Freshness

    for name in ("a", "b"):
        (checkout.chapters / f"{name}.md").write_text((checkout.chapters / "toy.md").read_text())
    judge = Freshness(checkout, Runs.load(checkout))
    pages = ["intro", "chapters/toy", "chapters/b", "methods"]
    assert [chapter.name for chapter in _in_order(judge, pages)] == ["toy", "b", "a"]


def test_a_primary_claim_is_bold_and_a_fragile_one_marked(
    checkout: Project, put: Callable[..., Path]
) -> None:
    from faultlines.notebook.store import read_result

    (row,) = read_result(put()).ledger
    put(ledger=[row | {"primary": True, "fragile": True}])
    found = board(checkout)
    assert "| **C1** |" in found.markdown() and "**holds** (fragile) 3" in found.markdown()
    assert "* - **C1**" in found.myst() and "holds</span> (fragile)" in found.myst()
