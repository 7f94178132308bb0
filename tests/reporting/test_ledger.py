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


def primary(k: int, *, theorems: int = 0, secondary: int = 0, **rule: float) -> Ledger:
    """A ledger of k empirical primary claims P0, P1, ..., with theorem checks and secondary claims beside them."""
    made = Ledger()
    rest = {"paper": "p", "test": "above 0", **rule}
    for n in range(k):
        made.state(
            f"P{n}", "s", primary=True, sentence="It does.", smallest=0.05, reason="half of theirs", **rest
        )
    for n in range(theorems):
        made.state(f"T{n}", "s", primary=True, sentence="We prove it.", **rest)
    for n in range(secondary):
        made.state(f"S{n}", "s", smallest=0.05, reason="as above", **rest)
    return made


@pytest.mark.parametrize(
    ("low", "high", "threshold", "verdict"),
    [
        (-0.04, 0.04, 0.0, "negligible"),
        (0.01, 0.04, 0.0, "negligible"),  # it would hold otherwise
        (-0.04, -0.01, 0.0, "negligible"),
        (0.01, 0.06, 0.0, "holds"),
        (-0.06, 0.04, 0.0, "inconclusive"),
        (0.97, 1.04, 1.0, "negligible"),
        (-0.04, 0.04, 1.0, "fails"),
    ],
)
def test_negligible_is_what_lies_within_the_smallest_effect_of_interest(
    low: float, high: float, threshold: float, verdict: str
) -> None:
    found = Interval(low, low, high, 3, "range")
    assert judge(found, "above", threshold, smallest=0.05) == verdict
    ledger = Ledger()
    ledger.state("C1", "s", paper="p", test="t", threshold=threshold, smallest=0.05, reason="half of theirs")
    assert ledger.settle("C1", found) == verdict


@pytest.mark.parametrize("smallest", [0.0, -0.1, math.inf, math.nan])
def test_a_smallest_effect_is_positive_and_finite_and_has_a_reason(smallest: float) -> None:
    with pytest.raises(ValueError, match=f"smallest={smallest} must be positive and finite"):
        Ledger().state("C1", "s", paper="p", test="t", smallest=smallest, reason="none")
    with pytest.raises(ValueError, match="smallest="):
        judge(interval(0, 1), "above", 0.0, smallest)
    for half in ({"smallest": 0.1}, {"reason": "a third"}, {"smallest": 0.1, "reason": " "}):
        with pytest.raises(ValueError, match="'C1' needs both smallest and reason"):
            Ledger().state("C1", "s", paper="p", test="t", **half)


def test_a_primary_claim_quotes_a_sentence_and_there_are_eight_at_most() -> None:
    with pytest.raises(ValueError, match="'C1' is primary: quote the sentence"):
        Ledger().state("C1", "s", paper="p", test="t", primary=True)
    with pytest.raises(ValueError, match="'P8' would be primary claim 9; a chapter has at most 8"):
        primary(9)


def test_primary_intervals_are_simultaneous_and_secondary_are_not() -> None:
    from faultlines.reporting import jackknife_interval, largest, mean_interval, paired_interval

    values = np.array([0.3, 0.1, 0.25, 0.2, 0.4, 0.3])
    ledger = primary(4, theorems=1, secondary=1)
    assert (ledger.level("P0"), ledger.level("S0")) == (pytest.approx(1 - 0.05 / 4), 0.95)
    ledger.settle("P0", mean_interval(values))
    ledger.settle("P1", paired_interval(values, np.zeros(6), within=(-1, 1)))
    ledger.settle("P2", jackknife_interval({"x": values}, range(6), lambda x: x.mean()))
    ledger.settle("P3", mean_interval(values, 0.5))  # whatever it was made at
    ledger.settle("T0", largest(values))
    ledger.settle("S0", mean_interval(values))
    rows = ledger.rows
    # t(0.99375, 5) = 3.810005
    half = 3.810005 * values.std(ddof=1) / math.sqrt(6)
    for id in ("P0", "P2", "P3"):
        assert rows[id].low == pytest.approx(values.mean() - half, rel=1e-4)
        assert rows[id].high == pytest.approx(values.mean() + half, rel=1e-4)
        assert rows[id].confidence == pytest.approx(0.9875)
        assert rows[id].method.endswith("Student t, simultaneous over 4")
    assert rows["P1"].method == "paired Student t, logit scale, simultaneous over 4"
    assert rows["P1"].low < paired_interval(values, np.zeros(6), within=(-1, 1)).low
    assert (rows["T0"].confidence, rows["T0"].method) == (1.0, "largest of all cases")
    assert (rows["S0"].low, rows["S0"].method) == (mean_interval(values).low, "Student t")


def test_one_primary_claim_alone_keeps_its_level() -> None:
    from faultlines.reporting import mean_interval

    ledger = primary(1, theorems=3)
    ledger.settle("P0", mean_interval([0.3, 0.1, 0.2]))
    assert (ledger.rows["P0"].confidence, ledger.rows["P0"].method) == (0.95, "Student t")


def test_an_interval_by_hand_is_taken_at_the_level_or_refused_by_name() -> None:
    ledger = primary(2)
    with pytest.raises(
        ValueError, match=r"'P0' is primary: its interval .* cannot be made again at 0.975; make it"
    ):
        ledger.settle("P0", interval(1, 2))
    ledger.settle("P0", Interval(1.5, 1, 2, 5, "by hand", confidence=ledger.level("P0")))
    assert ledger.rows["P0"].verdict == "holds"
    bare = Ledger()
    bare.state("C1", "s", paper="p", test="t", primary=True, sentence="ours")
    with pytest.raises(ValueError, match="'C1' is primary and empirical: state its smallest effect"):
        bare.settle("C1", interval(1, 2))


def test_errors_of_all_primary_claims_together_stay_at_five_percent() -> None:
    from faultlines.reporting import mean_interval

    rng, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        ledger = primary(8)
        verdicts = [ledger.settle(f"P{n}", mean_interval(rng.normal(size=5))) for n in range(8)]
        wrong += bool({"holds", "fails"} & set(verdicts))
    assert wrong / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_verdict_that_hangs_on_one_seed_is_fragile_and_said_so() -> None:
    from faultlines.reporting import mean_interval, prose

    firm, frail = [0.3, 0.31, 0.29, 0.3, 0.32], [0.3, 0.31, 0.29, 0.3, 0.06]
    ledger = primary(2, secondary=1)
    assert ledger.settle("P0", mean_interval(firm)) == "holds"
    assert ledger.settle("P1", mean_interval([*frail[:4], 0.1])) == "holds"
    ledger.settle("S0", mean_interval([0.3, 0.3, 0.1]))
    # by hand: t(0.9875, 3) = 4.1765; without one of the four equal seeds the interval holds zero or not
    without = [mean_interval(np.delete([*frail[:4], 0.1], i), 0.975).low > 0 for i in range(5)]
    assert ledger.rows["P1"].fragile == (not all(without))
    assert not ledger.rows["P0"].fragile and not ledger.rows["S0"].fragile
    ledger = primary(1)
    ledger.settle("P0", mean_interval([0.3, 0.3001]))
    assert ledger.rows["P0"].fragile  # of one seed there is no verdict
    assert prose.quoted["P0-verdict"].endswith("</span> (fragile)")
    assert "holds (fragile)" in str(ledger.table()) and "holds</span> (fragile)" in ledger.table().html()
    undecided = primary(1)
    undecided.settle("P0", mean_interval([0.3, -0.3, 0.2]))
    assert not undecided.rows["P0"].fragile


def test_tables_show_primary_claims_first_with_what_is_negligible() -> None:
    from faultlines.reporting import mean_interval

    ledger = Ledger()
    ledger.state("C1", "minor", paper="p", test="above 0")
    ledger.state(
        "C2", "major", paper="p", test="above 1", threshold=1.0, primary=True, sentence="It does.", smallest=0.25,
        reason="a third of theirs",
    )  # fmt: skip
    stated = ledger.statements().rows
    assert [row[0] for row in stated] == ["C2 (primary)", "C1"]
    assert stated[0][2:] == ("“It does.” p", "above 1; negligible within 0.25 of 1 (a third of theirs)")
    ledger.settle("C1", interval(1, 2))
    ledger.settle("C2", mean_interval([1.0, 1.1, 1.05, 0.95]))
    table = ledger.table()
    assert [row[0] for row in table.rows] == ["**C2** (primary) major", "**C1** minor"]
    assert str(table.rows[0][4]) == "negligible" and "verdict-negligible" in table.html()
    one, two = json.loads(json.dumps(table.payload[MIME]))
    assert (one["primary"], one["sentence"], one["smallest"], one["fragile"]) == (False, "", None, False)
    assert (two["primary"], two["sentence"], two["smallest"], two["reason"], two["fragile"]) == (
        True, "It does.", 0.25, "a third of theirs", False,
    )  # fmt: skip
