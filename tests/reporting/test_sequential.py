"""Seeds that come in pieces: boundaries, coverage under optional stopping, verdicts from stored rows alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.chapters import CLAIMING

from faultlines.notebook.store import Result, read_result
from faultlines.reporting import Ledger, jackknife_interval, mean_interval, paired_interval, wilson_interval
from faultlines.reporting.intervals import Interval, largest_effect
from faultlines.reporting.ledger import Row
from faultlines.reporting.sequential import (
    LOOKS,
    SHARES,
    follow,
    hall_reach,
    levels,
    read_sample,
    wide_interval,
)

ROOT = Path(__file__).parents[2]


def bounds(
    shares: tuple[float, ...], sizes: tuple[int, ...] = (1, 2, 3, 4), error: float = 0.05
) -> list[float]:
    return [float(stats.norm.isf(level / 2)) for level in levels(sizes, error, shares)]


def spending(error: float, spent: Callable[[float], float], times: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(np.diff([0.0, *map(spent, times)]) / error)


def test_the_boundaries_are_the_published_ones() -> None:
    # O'Brien & Fleming's shape by Lan & DeMets (1983), two-sided 5 % in two halves, as Reboussin et al. (2000) print it
    quarters = (0.25, 0.5, 0.75, 1.0)

    def fleming(t: float) -> float:
        return 4 * float(stats.norm.sf(stats.norm.isf(0.05 / 4) / math.sqrt(t)))

    assert bounds(spending(0.05, fleming, quarters)) == pytest.approx(
        [4.3326, 2.9631, 2.3590, 2.0141], abs=2e-4
    )
    # Pocock (1977): four looks at the same bound of 2.361
    same = [float(stats.norm.sf(2.3613) * 2)] * 4
    assert levels((1, 2, 3, 4), 0.05, _shares_of(2.3613)) == pytest.approx(same, abs=2e-5)


def _shares_of(bound: float) -> tuple[float, ...]:
    # what four looks at one bound spend, by the distribution function of four correlated normals
    counts = np.arange(1, 5)
    related = np.sqrt(np.minimum.outer(counts, counts) / np.maximum.outer(counts, counts))
    inside = [1.0]
    for k in range(1, 5):
        cube = stats.multivariate_normal(np.zeros(k), related[:k, :k], seed=0, abseps=1e-8, releps=1e-8)
        inside.append(float(cube.cdf(np.full(k, bound), lower_limit=np.full(k, -bound))))
    return tuple(-np.diff(inside) / 0.05)


def test_the_shares_are_all_there_is_to_spend() -> None:
    assert sum(SHARES) == pytest.approx(1) and LOOKS == 4
    first, *rest = levels((10, 11, 40, 500), 0.01)
    assert first == pytest.approx(0.005)
    # a look spends at least its share: the part of the line that an earlier look has crossed costs nothing again
    assert all(level >= 0.01 / 6 for level in rest)


@pytest.mark.parametrize(
    ("sizes", "what"), [((), "rise"), ((5, 5), "rise"), ((8, 4), "rise"), ((1, 2, 3, 4, 5), "5 looks")]
)
def test_looks_that_are_none_are_refused(sizes: tuple[int, ...], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        levels(sizes, 0.05)


# coverage: null runs with optional stopping, vectorised; the vectorised ends are held against the interval's own

RUNS = 20_000
DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, shape),
    "difference of a wide and a narrow arm, skewness 1.3": lambda rng, shape: (
        rng.exponential(1.0, shape) - rng.exponential(0.5, shape) - 0.5
    ),
    "skewness 1": lambda rng, shape: rng.gamma(4.0, 1.0, shape) - 4,
    "skewness 2": lambda rng, shape: rng.exponential(1.0, shape) - 1,
}
PLANS = [(3, 6, 9, 12), (4, 30, 45, 60), (5, 10, 15, 20), (8, 16, 24, 32), (12, 24, 36, 48), (15, 30, 45, 60)]


def missed(x: np.ndarray, confidence: float) -> np.ndarray:
    """Return in which rows the interval of `wide_interval` lies beside zero."""
    n = x.shape[1]
    mean, error = x.mean(1), x.std(1, ddof=1) / math.sqrt(n)
    quantile = stats.t.isf((1 - confidence) / 2, max(1.0, (n - 1) / 2))
    skew = stats.skew(x, axis=1, bias=False) / math.sqrt(n)
    ends = [3 / skew * (np.cbrt(1 + skew * (y - skew / 6)) - 1) for y in (quantile, -quantile)]
    return (mean - np.maximum(quantile, ends[0]) * error > 0) | (
        mean + np.maximum(quantile, -ends[1]) * error < 0
    )


def test_the_vectorised_interval_is_the_interval() -> None:
    x = np.random.default_rng(1).exponential(1.0, (200, 7)) - 0.7
    found = [wide_interval(row, 0.9) for row in x]
    assert missed(x, 0.9).tolist() == [one.low > 0 or one.high < 0 for one in found]
    assert 5 < missed(x, 0.9).sum() < 195


def wrong(draw: str, sizes: tuple[int, ...], error: float, *, plain: bool = False) -> float:
    """Return the share of null runs in which any look's verdict is wrong; `plain` is Student's interval at each."""
    x = DRAWS[draw](np.random.default_rng(sizes[0]), (RUNS, sizes[-1]))
    ever = np.zeros(RUNS, dtype=bool)
    for size, level in zip(sizes, levels(sizes, error), strict=True):
        so_far = x[:, :size]
        if plain:
            t = so_far.mean(1) / so_far.std(1, ddof=1) * math.sqrt(size)
            ever |= np.abs(t) > stats.t.isf(level / 2, size - 1)
        else:
            ever |= missed(so_far, 1 - level)
    return float(ever.mean())


@pytest.mark.parametrize("draw", DRAWS)
def test_wrong_verdicts_stay_within_the_error_whenever_one_stops(draw: str) -> None:
    for sizes in PLANS:
        assert wrong(draw, sizes, 0.05) <= 0.05, sizes
        # and so does a primary claim's share of it, one of eight
        assert wrong(draw, sizes, 0.05 / 8) <= 0.05 / 8, sizes


def test_students_interval_would_not_do() -> None:
    assert wrong("skewness 2", (5, 10, 15, 20), 0.05, plain=True) > 0.12
    assert wrong("skewness 1", (5, 10, 15, 20), 0.05, plain=True) > 0.07


def test_looking_without_a_plan_would_not_do() -> None:
    x = DRAWS["normal"](np.random.default_rng(0), (RUNS, 48))
    t = [x[:, :n].mean(1) / x[:, :n].std(1, ddof=1) * math.sqrt(n) for n in (12, 24, 36, 48)]
    ever = np.any(
        [np.abs(t) > stats.t.isf(0.025, n - 1) for t, n in zip(t, (12, 24, 36, 48), strict=True)], axis=0
    )
    assert ever.mean() > 0.1


# what the rows of a ledger hold

RNG = np.random.default_rng(7)
SEEN = RNG.normal(0.4, 0.2, 9)
SHARE = 1 / (1 + np.exp(-RNG.normal(0.4, 0.8, 9)))


def settled(interval: Interval, **rule: object) -> dict:
    ledger = Ledger()
    stated = {"smallest": 0.1, "reason": "a test's"} | rule
    ledger.state("C1", "it grows", paper="", test="above 0", primary=True, sentence="ours", **stated)
    ledger.state("C2", "so does this", paper="", test="above 0", primary=True, sentence="ours", **stated)
    ledger.settle("C1", interval)
    return ledger.records()[0]


MEANS = {
    "a mean": mean_interval(SEEN),
    "pairs": paired_interval(SEEN, SEEN[::-1] / 3),
    "a correlation": mean_interval(np.tanh(SEEN), within=(-1, 1)),
    "a share": mean_interval(SHARE, within=(0, 1)),
    "a difference of shares": paired_interval(SHARE, SHARE[::-1] / 2, within=(-1, 1)),
    "a difference of correlations": paired_interval(SHARE, -SHARE[::-1], within=(-2, 2)),
    "a ratio": mean_interval(np.exp(SEEN), within=(0, math.inf)),
    "a jackknife": jackknife_interval({"x": SEEN}, np.arange(9), lambda x: float(np.mean(x))),
    "a jackknife of correlations": jackknife_interval(
        {"x": SEEN, "y": SEEN + RNG.normal(0, 0.2, 9)},
        np.arange(9),
        lambda x, y: float(np.corrcoef(x, y)[0, 1]),
        within=(-1, 1),
    ),
}


@pytest.mark.parametrize("kind", MEANS)
def test_a_row_gives_back_its_units_and_the_range_of_its_statistic(kind: str) -> None:
    interval = MEANS[kind]
    sample = read_sample(settled(interval))
    if "jackknife" not in kind:
        assert sample.values == interval.values
    if kind == "a jackknife":  # of a mean the pseudo-values are the values
        assert sample.values == pytest.approx(SEEN)
    assert (sample.within is not None) == ("scale" in interval.method or "Fisher" in interval.method)
    if sample.within is not None:
        assert sample.within[0] <= sample.interval(0.999999).low


NOT_KEPT = {
    "an edited effect": ({"effects": [0.1] * 9}, "not the mean"),
    "an edited interval": ({"low": 0.0}, "cannot be made again"),
    "no effects": ({"effects": []}, "keeps no effect"),
    "a hole": ({"effects": [None] * 9}, "keeps no effect"),
    "not run": ({"estimate": None}, "not run"),
    "a theorem check": ({"confidence": 1.0}, "all cases"),
}


@pytest.mark.parametrize("case", NOT_KEPT)
def test_a_row_that_does_not_keep_its_units_says_so(case: str) -> None:
    changed, why = NOT_KEPT[case]
    with pytest.raises(ValueError, match=why):
        read_sample(settled(MEANS["a mean"]) | changed)


PUBLISHED = [ROOT / "tests" / "notebooks" / f"{name}.ipynb" for name in CLAIMING]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_every_primary_claim_of_a_stored_run_can_be_judged_from_its_ledger_alone(path: Path) -> None:
    result = read_result(path)
    assert isinstance(result, Result)
    judged = 0
    for row in result.ledger:
        if row.get("primary") and row["estimate"] is not None and row["confidence"] < 1:
            assert len(read_sample(row).values) == row["n"]
            judged += 1
    assert judged


# a claim over the looks


def piece(*effects: float, **changed: object) -> dict:
    return settled(mean_interval(effects)) | changed


def rows(*pieces: np.ndarray) -> list[list[dict]]:
    return [[piece(*values)] for values in pieces]


def test_the_largest_of_several_effects_is_pooled_effect_by_effect() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal([-0.3, -0.1, -0.2], 0.3, size=(2, 12, 3))
    names = ("a", "b", "c")
    pieces = [[settled(largest_effect(dict(zip(names, half.T, strict=True))))] for half in (first, second)]
    course, whole = follow(pieces), np.concatenate([first, second])
    assert course.sample.values == tuple(map(tuple, whole))
    level = course.interval.confidence
    columns = dict(zip(names, whole.T, strict=True))
    assert course.interval == replace(
        largest_effect(columns, confidence=level, one=wide_interval), method=course.interval.method
    )
    ends = [wide_interval(column, level).high for column in whole.T]
    assert course.interval.high == max(ends) and course.interval.estimate == max(whole.mean(0))
    # what the plan forecasts from the first piece is what its own spread says, and it is enough
    more = follow(pieces[:1]).more_seeds()
    assert follow(pieces[:1]).verdict == "inconclusive" and more is not None and more > 0
    with pytest.raises(ValueError, match="same in two pieces"):
        follow([pieces[0], pieces[0]])
    with pytest.raises(ValueError, match="cannot be made again"):
        read_sample(pieces[0][0] | {"high": pieces[0][0]["high"] + 0.01})


def test_pieces_are_pooled_by_concatenation() -> None:
    whole, parts = np.array([0.3, 0.1, 0.6, 0.2, 0.5, 0.4, 0.7, 0.3, 0.2]), (4, 7)
    course = follow(rows(*np.split(whole, parts)))
    assert course.sample.values == tuple(whole)
    assert [look.interval.n for look in course.looks] == [4, 7, 9]
    levels_made = [1 - look.interval.confidence for look in course.looks]
    assert levels_made == pytest.approx(levels((4, 7, 9), 0.025))
    assert course.interval == wide_interval(whole, 1 - levels_made[-1])
    together = follow([[row for one in rows(*np.split(whole, parts)) for row in one]])
    assert len(together.looks) == 1 and together.sample == course.sample


def test_shares_are_pooled_by_their_counts() -> None:
    found = follow([[settled(wilson_interval(7, 8))], [settled(wilson_interval(8, 8))]])
    assert found.interval.estimate == 15 / 16 and found.interval.n == 16 and found.interval.method == "Wilson"


def test_what_a_look_has_decided_stands() -> None:
    clear, noise = np.array([0.5, 0.52, 0.48, 0.51, 0.49, 0.5]), np.array([9.0, -9.0, 8.0, -8.5])
    course = follow(rows(clear, noise))
    assert [look.verdict for look in course.looks] == ["holds", "inconclusive"] and course.verdict == "holds"


def test_a_verdict_that_hangs_on_one_seed_or_turns_is_fragile() -> None:
    steady = np.array([0.5, 0.52, 0.48, 0.51, 0.49, 0.5, 0.53])
    assert not follow(rows(steady)).fragile
    noise = 40 * (steady - steady.mean())
    reach = -wide_interval(noise, 1 - levels((7,), 0.025)[0]).low
    barely = follow(rows(noise + 1.02 * reach))
    assert barely.verdict == "holds" and barely.fragile
    turned = follow(rows(steady, -40 * np.ones(3), np.linspace(-6.0, -5.0, 400)))
    assert [look.verdict for look in turned.looks][0::2] == ["holds", "fails"]
    assert turned.verdict == "fails" and turned.fragile


def test_the_seeds_that_are_said_to_be_needed_decide() -> None:
    values = np.random.default_rng(3).normal(0.3, 0.5, 10)
    course = follow(rows(values))
    more = course.more_seeds()
    assert course.verdict == "inconclusive" and more is not None
    sizes, spread, error = (10, 10 + more), values.std(ddof=1), 0.025
    for size, decided in ((10 + more, True), (9 + more, False)):
        quantile = stats.t.isf(levels((sizes[0], size), error)[-1] / 2, (size - 1) / 2)
        assert (values.mean() - quantile * spread / math.sqrt(size) > 0) == decided
    assert follow(rows(values + 5)).more_seeds() == 0
    # an effect of nothing is decided too: as negligible, once the interval is inside the smallest effect
    assert follow([[piece(*(values - values.mean()))]]).more_seeds() is not None
    assert follow([[piece(*(values - values.mean()), smallest=None)]]).more_seeds() is None
    assert follow(rows(*(values + k / 9 for k in range(4)))).more_seeds() in (0, None)  # no look is left


REFUSED = {
    "the same seeds twice": ([[0.1, 0.2, 0.4], [0.1, 0.2, 0.4]], {}, "the seed does not enter"),
    "five looks": ([[0.1 * k, 0.2, 0.4] for k in range(5)], {}, "looked at 5 times"),
    "another threshold": ([[0.1, 0.2, 0.4], [0.2, 0.2, 0.3]], {"threshold": 1.0}, "different rules"),
    "another level": (
        [[0.1, 0.2, 0.4], [0.2, 0.2, 0.3]],
        {k: settled(mean_interval([0.2, 0.2, 0.3], 0.99))[k] for k in ("confidence", "low", "high")}
        | {"confidence": 0.975 + 1e-4},
        "different rules|made again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_pieces_that_do_not_belong_together_are_refused(case: str) -> None:
    pieces, changed, why = REFUSED[case]
    made = [[piece(*values)] for values in pieces]
    made[-1][0] |= changed
    with pytest.raises(ValueError, match=why):
        follow(made)


def test_a_piece_in_which_the_claim_was_not_run_brings_no_look() -> None:
    left = piece(0.1, 0.2) | {"estimate": None}
    course = follow([[piece(0.1, 0.2, 0.3)], [left], [piece(0.3, 0.1)]])
    assert [look.interval.n for look in course.looks] == [3, 5]
    with pytest.raises(ValueError, match="not run"):
        follow([[left]])


def test_every_field_that_is_read_is_one_of_a_row() -> None:
    read = {
        "claim",
        "direction",
        "threshold",
        "smallest",
        "confidence",
        "n",
        "estimate",
        "low",
        "high",
        "method",
    }
    assert read | {"effects"} <= set(Row.__dataclass_fields__)


def test_an_effect_without_spread_has_no_reach() -> None:
    assert hall_reach(np.full(4, 2.0), 3.0) == (0.0, 0.0)
