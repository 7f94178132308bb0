from __future__ import annotations

import json
import math
import time
from typing import get_args

import numpy as np
import pytest

from faultlines.reporting.intervals import Interval
from faultlines.reporting.ledger import MIME, Ledger
from faultlines.reporting.verdicts import Verdict, judge


def interval(low: float, high: float, n: int = 5) -> Interval:
    return Interval((low + high) / 2, low, high, n, "Student t")


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger()
    made.state("C1", "a sum is positive", paper="Theorem 1", test="above 0")
    made.state(
        "C2", "a ratio is below one", paper="Table 2", test="below 1", direction="below", threshold=1.0
    )
    return made


@pytest.mark.parametrize(
    ("low", "high", "threshold", "above", "below"),
    [
        (0.1, 0.3, 0.0, "holds", "fails"),
        (-0.3, -0.1, 0.0, "fails", "holds"),
        (-0.1, 0.1, 0.0, "inconclusive", "inconclusive"),
        (0.0, 0.1, 0.0, "inconclusive", "inconclusive"),
        (-0.1, 0.0, 0.0, "inconclusive", "inconclusive"),
        (1.1, math.inf, 1.0, "holds", "fails"),
        (0.5, 0.9, 1.0, "fails", "holds"),
    ],
)
def test_the_verdict_follows_from_the_interval(
    low: float, high: float, threshold: float, above: str, below: str
) -> None:
    found = Interval(low, low, high, 3, "range")
    assert judge(found, "above", threshold) == above
    assert judge(found, "below", threshold) == below
    assert {above, below} < set(get_args(Verdict))


def test_a_direction_that_is_none_is_refused_before_anything_runs(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="direction='up' is not one of 'above', 'below'"):
        judge(interval(0, 1), "up")
    with pytest.raises(ValueError, match="direction='up'"):
        Ledger().state("C1", "s", paper="p", test="t", direction="up")
    with pytest.raises(ValueError, match="threshold=nan of claim 'C1'"):
        Ledger().state("C1", "s", paper="p", test="t", threshold=math.nan)


def test_every_claim_is_stated_before_the_first_result(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="'C1' is stated already"):
        ledger.state("C1", "again", paper="", test="")
    assert ledger.settle("C1", interval(1, 2)) == "holds"
    with pytest.raises(ValueError, match="'C3' comes after a result"):
        ledger.state("C3", "an afterthought", paper="", test="")


def test_a_claim_is_settled_once(ledger: Ledger) -> None:
    ledger.settle("C1", interval(-2, -1))
    with pytest.raises(ValueError, match="'C1' is settled already, as fails"):
        ledger.settle("C1", interval(1, 2))
    with pytest.raises(ValueError, match="'C1' is settled already"):
        ledger.leave("C1", "no time")
    assert ledger.rows["C1"].verdict == "fails"


def test_what_was_not_stated_cannot_be_settled(ledger: Ledger) -> None:
    for act in (lambda: ledger.settle("C9", interval(1, 2)), lambda: ledger.leave("C9", "x")):
        with pytest.raises(ValueError, match="'C9' is not stated; stated are C1, C2"):
            act()
    with pytest.raises(ValueError, match="'C9' is not stated"), ledger.timed("C9"):
        pass


def test_an_open_claim_keeps_the_ledger_shut(ledger: Ledger) -> None:
    ledger.settle("C2", interval(0.5, 0.9))
    with pytest.raises(ValueError, match="claims C1 are open"):
        ledger.table()
    assert ledger.leave("C1", "needs a GPU") == "not run"
    table = ledger.table()
    assert "needs a GPU" in str(table)
    assert [row["verdict"] for row in table.payload[MIME]] == ["not run", "holds"]  # in the order stated


def test_cost_is_shared_and_reaches_a_claim_settled_inside(ledger: Ledger) -> None:
    with ledger.timed("C1", "C2"):
        time.sleep(0.1)
        ledger.settle("C1", interval(1, 2))
    with ledger.timed("C2"):
        time.sleep(0.05)
    ledger.settle("C2", interval(0.5, 0.9))
    one, two = ledger.rows["C1"].cost_s, ledger.rows["C2"].cost_s
    assert 0.05 <= one < two
    assert two >= 0.1
    with pytest.raises(ValueError, match="needs the id"), ledger.timed():
        pytest.fail("the block must not run")


def test_a_block_that_raises_is_charged_too(ledger: Ledger) -> None:
    with pytest.raises(KeyError), ledger.timed("C1"):
        time.sleep(0.02)
        raise KeyError
    ledger.settle("C1", interval(1, 2))
    assert ledger.rows["C1"].cost_s >= 0.02


def test_what_is_stored_is_plain_json(ledger: Ledger) -> None:
    ledger.settle("C1", Interval(np.float32(2), np.float32(1), math.inf, np.int64(3), "range"), figure="fig")
    ledger.settle("C2", interval(0.5, 0.9), note="with a grain of salt", spec=".1f")
    one, two = json.loads(json.dumps(ledger.table().payload[MIME], allow_nan=False))
    assert (one["estimate"], one["low"], one["high"], one["n"], one["figure"]) == (2.0, 1.0, None, 3, "fig")
    assert (two["ours"], two["note"]) == ("0.7 [0.5, 0.9]", "with a grain of salt")


def test_the_tests_can_be_shown_before_the_results(ledger: Ledger) -> None:
    text = str(ledger.statements())
    assert "below 1" in text and "Theorem 1" in text
    assert "holds" not in text


def test_a_row_keeps_the_effect_of_every_unit(ledger: Ledger) -> None:
    from faultlines.reporting import mean_interval, wilson_interval

    ledger.settle("C1", mean_interval(np.array([0.1, 0.2, 0.4], dtype=np.float32)))
    ledger.settle("C2", wilson_interval(1, 20))
    rows = json.loads(json.dumps(ledger.table().payload[MIME]))
    assert rows == ledger.table().payload[MIME]  # as it is after a notebook was saved
    assert [row["effects"] for row in rows] == [pytest.approx([0.1, 0.2, 0.4]), []]
    again = mean_interval(rows[0]["effects"])
    assert (again.estimate, again.low, again.high) == tuple(rows[0][k] for k in ("estimate", "low", "high"))
