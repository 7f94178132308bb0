"""The opening of another run's page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from faultlines.book.run_changes import run_changes
from faultlines.book.staging import stage
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import read_result
from faultlines.notebook.task import Task


def test_the_page_opens_with_what_changed_and_why(
    checkout: Project, toy: Chapter, put: Callable[..., Path]
) -> None:
    (row,) = read_result(put()).ledger
    other = row | {"claim": "C2", "verdict": "inconclusive"}
    put(ledger=[row, other])
    put("desk", ledger=[row | {"verdict": "fails", "ours": "-1 [-2, -0.5]"}, other])
    judge = Freshness(checkout, Runs.load(checkout))
    task = Task(toy, "desk")
    text = run_changes(judge, task)
    assert "1 of 2 verdicts are those of the default run." in text
    assert text.count("* - C1") == 1 and "* - C2" not in text
    assert 'verdict-holds">holds' in text and 'verdict-fails">fails</span> -1 [-2, -0.5]' in text
    why = checkout.root / "results" / "desk" / "toy.md"
    why.parent.mkdir(parents=True)
    why.write_text("Eight seeds see what five do not.\n")
    text = run_changes(judge, task)
    assert "Eight seeds see" in text
    page = stage(toy, judge.state(task), prefix="desk-", changes=text)
    first = page.cells[0].source
    assert first.index("# Toy") < first.index("The desk run") < first.index("Against the default run")


def test_nothing_is_said_without_a_default_run(
    checkout: Project, toy: Chapter, put: Callable[..., Path]
) -> None:
    put("desk")
    assert run_changes(Freshness(checkout, Runs.load(checkout)), Task(toy, "desk")) == ""
