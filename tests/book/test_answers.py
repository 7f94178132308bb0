"""The author's answers: verdicts and numbers come from the ledgers, and from the run that decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from faultlines.book.answers import (
    Answer,
    Reported,
    fill,
    in_colour,
    in_markdown,
    named_in,
    read_answers,
    reported,
)
from faultlines.book.scoreboard import evidence, read_board
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs

ROW = {
    "claim": "C1", "statement": "a sum is positive", "paper": "Theorem 1", "test": "above 0", "ours": "3 [1, 5]",
    "estimate": 3.0, "low": 1.0, "high": 5.0, "n": 5, "verdict": "holds", "cost_s": 1.0, "figure": "", "note": "",
}  # fmt: skip
TOY = {
    "name": "The toy", "question": "Is it so?", "answer": "The sum {C1? holds | fails | is nil | is open}.",
    "short": "it {C1? does | does not | is nil | may}.", "claims": {"C1": "The sum is positive"},
}  # fmt: skip


def write(project: Project, **changed: Any) -> None:
    (project.root / "answers.yml").write_text(yaml.safe_dump({"toy": TOY | changed}))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"verdict": "holds"}, "It **helps** ✔ (12 points)."),
        ({"verdict": "fails", "estimate": -0.5}, "It **hurts** ✘ (50 points)."),
        ({"verdict": "negligible"}, "It **is idle** ≈ (12 points)."),
        ({"verdict": "inconclusive"}, "It **is open** ? (12 points)."),
        ({"verdict": "not run", "estimate": None}, "It **was not tried** – (–)."),
        ({"verdict": "holds", "fragile": True}, "It **helps (fragile)** ✔ (12 points)."),
    ],
)
def test_the_version_of_the_verdict_is_put_in(row: dict[str, Any], said: str) -> None:
    text = "It {C1? helps | hurts | is idle\n | is open} ({C1:points})."
    assert fill(text, lambda claim: {"estimate": 0.12} | row, in_markdown) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{C1:.2f}", "0.12"),
        ("{C1:+.0%}", "+12%"),
        ("{C1:paper} of them", "+5.49 of them"),
        ("{C1? more, by {C1:points} | less}", "**more, by 12 points** ✔"),
    ],
)
def test_numbers_are_named_and_not_written(text: str, said: str) -> None:
    row = {"verdict": "holds", "estimate": 0.12, "paper": "+5.49 (abstract)"}
    assert fill(text, lambda claim: row, in_markdown) == said


def test_a_verdict_without_a_version_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no words for C1 where it 'inconclusive'"):
        fill("{C1? yes | no}", lambda claim: {"verdict": "inconclusive"}, in_colour)


def test_a_claim_that_no_ledger_has_is_refused(checkout: Project, put: Callable[..., Path]) -> None:
    put()
    write(checkout, answer="{C3? a | b | c | d}")
    with pytest.raises(UsageError, match="names claim 'C3', which no ledger has: C1"):
        read_board(checkout, Runs.load(checkout)).answers()


def test_the_larger_data_decide_where_they_are_fresh_and_reached_the_claim(
    checkout: Project, put: Callable[..., Path]
) -> None:
    write(checkout)
    put()
    put("desk", ledger=[ROW | {"verdict": "fails"}])

    def short() -> str:
        return read_board(checkout, Runs.load(checkout)).short_answers()

    assert short() == "- **[The toy](chapters/toy.ipynb)**: it **does not** ✘.\n"
    put("desk", ledger=[ROW | {"verdict": "fails"}], modules={"faultlines": {"x": "0"}})
    assert "it **does** ✔." in short()
    put("desk", ledger=[ROW | {"verdict": "not run", "estimate": None}])
    assert "it **does** ✔." in short()


def test_a_secondary_row_does_not_answer_for_a_primary_claim(
    checkout: Project, put: Callable[..., Path]
) -> None:
    write(checkout)
    put(ledger=[ROW | {"primary": True}])
    put("desk", ledger=[ROW | {"verdict": "fails"}])
    assert "it **does** ✔." in read_board(checkout, Runs.load(checkout)).short_answers()


def test_the_front_page_says_on_which_data_and_what_differs(
    checkout: Project, put: Callable[..., Path]
) -> None:
    write(checkout)
    put(ledger=[ROW | {"primary": True}])
    put("desk", ledger=[ROW | {"primary": True, "verdict": "fails"}])
    board = read_board(checkout, Runs.load(checkout))
    said = "Verdicts on real data (digits). On other data 1 of these 1 verdicts differs."
    assert evidence(TOY["answer"], board.chapters[0]) == said
    assert said in board.answers() and "### Is it so?" in board.answers()
    assert '<span class="fl-phrase verdict-fails">✘\u00a0fails</span>' in board.answers()


def test_a_chapter_without_an_answer_has_none(checkout: Project, put: Callable[..., Path]) -> None:
    put()
    assert read_answers(checkout) == {}
    board = read_board(checkout, Runs.load(checkout))
    assert board.short_answers() == "\n" and board.answers() == "No chapter has an answer yet.\n"
    assert board.chapters[0].name == "Toy"


def test_the_papers_number_must_be_the_one_that_the_row_quotes() -> None:
    said = Answer(**TOY, reported={"C1": Reported(said="+5.49", unit=0.01)})
    assert reported(said, "C1", {"paper": "+5.49 (abstract)"}) == pytest.approx(0.0549)
    assert reported(said, "C2", {"paper": ""}) is None and reported(None, "C1", {}) is None
    with pytest.raises(UsageError, match=r"'\+5\.49' as the paper's value of C1; its row: '6 points'"):
        reported(said, "C1", {"paper": "6 points"})


def test_the_claims_of_a_text_are_found_inside_numbers_too() -> None:
    assert named_in("{C1? a by {C2:.2f} | b} {C3-x? c | d}") == ["C1", "C3-x"]


@pytest.mark.parametrize("text", ["- toy", "toy: [a]", "toy: {", "toy", "toy: {question: a}"])
def test_what_is_no_answer_is_refused(checkout: Project, text: str) -> None:
    (checkout.root / "answers.yml").write_text(text)
    with pytest.raises(UsageError, match=r"answers\.yml"):
        read_answers(checkout)
