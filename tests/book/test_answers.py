from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from faultlines.book.scoreboard import fill, read_answers, read_board
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs


def test_runs_that_differ_are_told_apart() -> None:
    said = {"C1": {"default": "holds", "desk": "holds"}, "C2-x": {"default": "fails", "desk": "inconclusive"}}
    assert fill("A {C1}, b {C2-x}.", said) == "A holds, b fails in default, inconclusive in desk."
    with pytest.raises(UsageError, match="names claim 'C3', which no ledger has: C1, C2-x"):
        fill("{C3}", said)


def test_a_chapter_without_a_sentence_has_none(checkout: Project, put: Callable[..., Path]) -> None:
    put()
    assert read_answers(checkout) == {}
    assert read_board(checkout, Runs.load(checkout)).markdown().startswith("| |")


def test_the_sentence_opens_the_scoreboard(checkout: Project, put: Callable[..., Path]) -> None:
    put()
    (checkout.root / "answers.yml").write_text("toy: >\n  The sum\n  {C1}.\n")
    board = read_board(checkout, Runs.load(checkout))
    assert board.markdown().splitlines()[:2] == ["- [Toy](chapters/toy.ipynb): The sum holds.", ""]
    assert "**[Toy](/chapters/toy)** The sum holds." in board.myst()


@pytest.mark.parametrize("text", ["- toy", "toy: [a]", "toy: {", "toy"])
def test_what_is_no_mapping_is_refused(checkout: Project, text: str) -> None:
    (checkout.root / "answers.yml").write_text(text)
    with pytest.raises(UsageError, match=r"answers\.yml"):
        read_answers(checkout)
