"""Pooled claims, against the textbook's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from faultlines.reporting import Interval, Ledger, largest, mean_interval, pool
from faultlines.reporting.ledger import MIME
from faultlines.reporting.verdicts import standard_error

RULE = {"claim": "C1", "direction": "below", "threshold": 0.0, "verdict": "holds"}


def row(estimate: float, error: float, **more: object) -> dict:
    half = float(stats.norm.ppf(0.975)) * error
    shape = {"n": 100, "method": "bootstrap", "confidence": 0.95}
    return RULE | shape | {"estimate": estimate, "low": estimate - half, "high": estimate + half} | more


def test_random_effects_on_the_bcg_trials() -> None:
    # BCG vaccine (Colditz et al. 1994) as in metafor's dat.bcg; its DerSimonian-Laird fit: -0.7141, I^2 92.12 %
    table = np.array([
        (4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619), (33, 5036, 47, 5761),
        (180, 1361, 372, 1079), (8, 2537, 10, 619), (505, 87886, 499, 87892), (29, 7470, 45, 7232),
        (17, 1699, 65, 1600), (186, 50448, 141, 27197), (5, 2493, 3, 2338), (27, 16886, 29, 17825),
    ])  # fmt: skip
    a, b, c, d = table.T
    effect = np.log(a / (a + b)) - np.log(c / (c + d))
    error = np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))
    pooled = pool([row(y, s) for y, s in zip(effect, error, strict=True)])
    assert pooled.interval.estimate == pytest.approx(-0.7141, abs=5e-5)
    assert pooled.heterogeneity == pytest.approx(0.9212, abs=5e-5)
    # metafor's Knapp-Hartung standard error of this fit is 0.1807, above the model's own 0.1787
    half = (pooled.interval.high - pooled.interval.low) / 2
    assert half / stats.t.ppf(0.975, 12) == pytest.approx(0.1807, abs=1e-4)
    assert pooled.verdict == "holds" and pooled.interval.n == 13


def test_few_runs_that_agree_by_chance_do_not_shrink_the_interval() -> None:
    pooled = pool([row(-0.20, 0.1), row(-0.2001, 0.1)])
    assert pooled.verdict == "inconclusive"
    assert (pooled.interval.high - pooled.interval.low) / 2 == pytest.approx(
        stats.t.ppf(0.975, 1) * 0.1 / math.sqrt(2), rel=1e-6
    )


def test_one_run_is_itself() -> None:
    one = row(-0.3, 0.1)
    pooled = pool([one])
    assert (pooled.interval.low, pooled.interval.high) == (one["low"], one["high"])
    assert math.isnan(pooled.heterogeneity)


def test_runs_without_an_estimate_do_not_count() -> None:
    left = RULE | {"estimate": None, "low": None, "high": None, "n": 0, "method": "", "confidence": None}
    assert pool([row(-0.3, 0.1), left, row(-0.4, 0.1)]).interval.n == 2
    with pytest.raises(ValueError, match="no run settled"):
        pool([left])


@pytest.mark.parametrize(("direction", "worst"), [("below", 0.3), ("above", 0.1)])
def test_extremes_pool_to_the_worst(direction: str, worst: float) -> None:
    rows = [row(value, 0.0, confidence=1.0, direction=direction, threshold=0.2) for value in (0.1, 0.3, 0.15)]
    pooled = pool(rows)
    assert pooled.interval.estimate == worst and pooled.verdict == "fails"


def test_a_run_without_spread_does_not_take_all_the_weight() -> None:
    rows = [row(-0.1, 0.0), row(-0.3, 0.1), row(-0.5, 0.1)]
    assert pool(rows).interval == mean_interval([-0.1, -0.3, -0.5])


def test_different_claims_or_rules_are_refused() -> None:
    for change in ({"claim": "C2"}, {"threshold": 1.0}, {"direction": "above"}):
        with pytest.raises(ValueError, match="different claims or rules"):
            pool([row(-0.1, 0.1), row(-0.1, 0.1, **change)])


def test_rows_come_from_a_ledger() -> None:
    def rows(shift: float) -> list[dict]:
        ledger = Ledger()
        ledger.state("C1", "a", paper="", test="", direction="above")
        ledger.state("C2", "b", paper="", test="", direction="below", threshold=1.0)
        ledger.settle("C1", mean_interval([0.2 + shift, 0.3, 0.4]))
        ledger.settle("C2", largest([0.2 + shift, 0.5]))
        return ledger.table().payload[MIME]

    runs = [rows(shift) for shift in (0.0, 0.1, 0.4)]
    seeds = [run[0] for run in runs]
    assert standard_error(seeds[0]) == pytest.approx(stats.sem([0.2, 0.3, 0.4]))
    assert pool(seeds).verdict == "holds"
    assert pool([run[1] for run in runs]).interval.estimate == pytest.approx(0.6)


def test_forest_shows_every_run_and_the_pool() -> None:
    import matplotlib.pyplot as plt

    from faultlines.reporting import forest

    lines = [Interval(0.1, -0.1, 0.3, 5, "t"), Interval(0.4, 0.2, 0.6, 5, "t")]
    fig = forest(["a", "b"], lines, Interval(0.2, 0.1, 0.3, 2, "random effects"), title="C1")
    (ax,) = fig.axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "pooled"]
    assert (
        len({line.get_color() for line in ax.lines}) == 2
    )  # the threshold is as grey as what is inconclusive
    plt.close(fig)
    with pytest.raises(ValueError, match="one of each"):
        forest(["a"], lines)
