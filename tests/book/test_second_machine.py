"""A run that another processor has made too: kept beside it, shown on its page, and marked where it differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import ROW

from faultlines.book.page import result_page
from faultlines.book.scoreboard import read_board
from faultlines.book.second_machine import read_second, second_file, write_second
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import read_result

OTHER = {"device": "CPU, another", "packages": {"torch": "2"}}
PRIMARY = ROW | {"primary": True, "sentence": "“it is positive”", "smallest": 0.1, "reason": "an example's"}
TWO = [PRIMARY, ROW | {"claim": "C2"}]


def with_verdicts(*verdicts: str) -> list[dict]:
    return [row | {"verdict": verdict} for row, verdict in zip(TWO, verdicts, strict=True)]


@pytest.fixture
def made(checkout: Project, put: Callable[..., Path]) -> Callable[..., RunSpec]:
    def make(*there: str, kernel: dict = OTHER, **changed: object) -> RunSpec:
        task = RunSpec(Chapter.all(checkout)["toy"], "default")
        put(path=checkout.published("default", "toy"), ledger=TWO)
        put(ledger=with_verdicts(*there), kernel=kernel, **changed)
        return task

    return make


def page_of(checkout: Project, task: RunSpec) -> str:
    page, _ = result_page(Freshness(checkout, Runs.load(checkout)), task, "published")
    return "\n".join(cell.source for cell in page.cells)


def fragile(checkout: Project) -> dict[str, bool]:
    board = read_board(checkout, Runs.load(checkout), published=True)
    return {
        claim: bool(runs["default"].row.get("fragile")) for claim, runs in board.chapters[0].claims.items()
    }


def test_a_verdict_that_another_machine_does_not_share_is_fragile(
    checkout: Project, made: Callable[..., RunSpec]
) -> None:
    task = made("inconclusive", "holds")
    assert fragile(checkout) == {"C1": False, "C2": False}
    write_second(checkout, task)
    assert fragile(checkout) == {"C1": True, "C2": False}
    page = page_of(checkout, task)
    assert (
        "CPU, another" in page and "1 of 2 verdicts are the same" in page and "1 of the primary ones" in page
    )


def test_verdicts_that_both_machines_share_are_not(checkout: Project, made: Callable[..., RunSpec]) -> None:
    task = made("holds", "fails")
    write_second(checkout, task)
    assert fragile(checkout) == {"C1": False, "C2": False}  # C2 is no primary claim
    page = page_of(checkout, task)
    assert "1 of 2 verdicts are the same, and no primary one differs" in page


def test_what_is_open_is_not_fragile(checkout: Project, put: Callable[..., Path], toy: Chapter) -> None:
    task = RunSpec(toy, "default")
    put(path=checkout.published("default", "toy"), ledger=with_verdicts("inconclusive", "holds"))
    put(ledger=with_verdicts("fails", "holds"), kernel=OTHER)
    write_second(checkout, task)
    assert fragile(checkout) == {"C1": False, "C2": False}
    assert "1 of the primary ones differs" in page_of(checkout, task)


def test_what_is_no_second_machine_is_refused(checkout: Project, made: Callable[..., RunSpec]) -> None:
    with pytest.raises(UsageError, match="same processor"):
        write_second(checkout, made("holds", "holds", kernel={"device": "CPU", "packages": {"torch": "2"}}))
    with pytest.raises(UsageError, match="result is foreign"):
        write_second(checkout, made("holds", "holds", chapter_hash="other"))


def test_an_edited_or_foreign_second_one_counts_for_nothing(
    checkout: Project, made: Callable[..., RunSpec]
) -> None:
    task = made("inconclusive", "holds")
    write_second(checkout, task)
    path, base = second_file(checkout, task), read_result(checkout.published("default", "toy"))
    kept = json.loads(path.read_text())
    assert read_second(checkout, task, base) is not None
    kept["ledger"][0]["verdict"] = "holds"
    path.write_text(json.dumps(kept))
    assert read_second(checkout, task, base) is None
    path.write_text("{")
    assert read_second(checkout, task, base) is None and fragile(checkout)["C1"] is False
