from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from faultlines.reporting.intervals import (
    Interval,
    largest,
    largest_effect,
    mean_interval,
    paired_interval,
    smallest,
    wilson_interval,
)
from faultlines.reporting.resampling import bootstrap_interval


def test_student_t_against_the_table() -> None:
    # t(0.975, 4) = 2.776445105, and 1..5 has standard error sqrt(2.5 / 5)
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445105 * math.sqrt(0.5)
    assert (found.estimate, found.n, found.method) == (3.0, 5, "Student t")
    assert found.low == pytest.approx(3 - half, abs=1e-8)
    assert found.high == pytest.approx(3 + half, abs=1e-8)
    # t(0.995, 4) = 4.604094871
    assert mean_interval([1.0, 2, 3, 4, 5], 0.99).high == pytest.approx(
        3 + 4.604094871 * math.sqrt(0.5), abs=1e-8
    )


def test_a_paired_interval_is_that_of_the_differences() -> None:
    generator = np.random.default_rng(0)
    common = 100 * generator.normal(size=12)
    treated, control = common + generator.normal(1, 0.1, 12), common
    found, direct = paired_interval(treated, control), mean_interval(treated - control)
    assert (found.low, found.high) == (direct.low, direct.high)
    assert found.low > 0.8  # which no unpaired comparison of these would see
    swapped = paired_interval(control, treated)
    assert swapped.low == pytest.approx(-found.high)


def test_student_t_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    samples = generator.normal(2.0, 3.0, size=(2000, 5))
    covered = [found.low <= 2.0 <= found.high for found in map(mean_interval, samples)]
    # binomial standard error 0.005
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
        (29, 29, 1 - 0.1170, 1.0),
    ],
)  # fmt: skip
def test_wilson_against_the_published_table(successes: int, total: int, low: float, high: float) -> None:
    found = wilson_interval(successes, total)
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))
    assert found.estimate == successes / total


def test_wilson_solves_its_own_equation() -> None:
    z = stats.norm.ppf(0.95)
    for successes, total in ((3, 10), (50, 101), (999, 1000)):
        found = wilson_interval(successes, total, confidence=0.9)
        for end in (found.low, found.high):
            assert abs(successes / total - end) == pytest.approx(z * math.sqrt(end * (1 - end) / total))


def test_wilson_covers_small_proportions() -> None:
    # exactly, as a sum over all counts
    found = [wilson_interval(count, 30) for count in range(31)]
    covered = [
        stats.binom.pmf(count, 30, 0.1) for count in range(31) if found[count].low <= 0.1 <= found[count].high
    ]
    assert sum(covered) == pytest.approx(0.974, abs=0.001)


def test_bad_samples_are_named() -> None:
    for make in (mean_interval, bootstrap_interval):
        with pytest.raises(ValueError, match=r"values has shape \(1,\)"):
            make([1.0])
        with pytest.raises(ValueError, match=r"values has shape \(2, 2\)"):
            make([[1.0, 2.0], [3.0, 4.0]])
        with pytest.raises(ValueError, match="values holds 2 values that are not finite"):
            make([1.0, math.nan, math.inf])
        with pytest.raises(ValueError, match=r"confidence=95 is not in \(0, 1\)"):
            make([1.0, 2.0], confidence=95)
    with pytest.raises(ValueError, match="treated has 3 values and control 2"):
        paired_interval([1.0, 2.0, 3.0], [1.0, 2.0])
    for successes, total in ((-1, 5), (6, 5), (0, 0), (2.5, 5)):
        with pytest.raises(ValueError, match=f"successes={successes} of total={total}"):
            wilson_interval(successes, total)
    for low, high in ((2.0, 1.0), (math.nan, 1.0), (0.0, math.nan)):
        with pytest.raises(ValueError, match="need low <= high"):
            Interval(1.5, low, high, 3, "by hand")


def test_an_interval_formats_its_three_numbers_alike() -> None:
    found = Interval(0.0312, 0.0021, 0.0603, 5, "t")
    assert f"{found:+.3f}" == "+0.031 [+0.002, +0.060]"
    assert str(found) == f"{found}" == "0.0312 [0.0021, 0.0603]"


def test_an_extreme_of_all_cases_has_no_width() -> None:
    cases = np.array([[0.5, -2.0], [3.0, 1.0]])
    assert (largest(cases).estimate, smallest(cases).estimate) == (3.0, -2.0)
    assert largest(cases).low == largest(cases).high == 3.0
    assert largest(cases).n == 4
    assert f"{smallest(cases):.1f}" == "-2.0"
    for pick in (largest, smallest):
        with pytest.raises(ValueError, match="values holds 1 values that are not finite"):
            pick([1.0, math.nan])
        with pytest.raises(ValueError, match=r"values has shape \(0,\)"):
            pick([])


@pytest.mark.parametrize("means", [[0.0, 0.0, 0.0, 0.0], [0.0, -1.0, -3.0, -9.0], [0.0, -0.2, -0.2, -0.2]])
def test_it_covers_the_largest_mean(means: list[float]) -> None:
    rng = np.random.default_rng(0)
    missed_above = missed_below = 0
    for _ in range(2000):
        found = largest_effect({str(i): rng.normal(mean, 1, size=5) for i, mean in enumerate(means)})
        missed_above += found.low > 0  # would refute what is true at the edge
        missed_below += found.high < 0  # would show what is false at the edge
    # 2.5 % each, and four standard deviations of the count
    assert missed_above <= 2000 * 0.025 + 4 * np.sqrt(2000 * 0.025)
    assert missed_below <= 2000 * 0.025 + 4 * np.sqrt(2000 * 0.025)


def test_one_effect_has_its_own_interval() -> None:
    values = [0.3, -0.1, 0.5, 0.2]
    found, plain = largest_effect({"only": values}), mean_interval(values)
    assert (found.estimate, found.low, found.high) == pytest.approx((plain.estimate, plain.low, plain.high))
    assert found.method == "largest of 1: only"


def test_the_least_certain_effect_holds_the_upper_end() -> None:
    found = largest_effect({"sure": [-1.0, -1.01, -0.99], "vague": [-9.0, 4.0, -7.0]})
    assert found.estimate == pytest.approx(-1.0)
    assert found.high == pytest.approx(mean_interval([-9.0, 4.0, -7.0]).high)


def test_no_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="effects is empty"):
        largest_effect({})


# every statistic with a range: draws, the true mean, the range
RANGED = {
    "high correlations": (lambda rng, n: np.tanh(rng.normal(1.5, 0.4, n)), 0.87753, (-1, 1)),
    "correlations about 0": (lambda rng, n: np.tanh(rng.normal(0.0, 0.4, n)), 0.0, (-1, 1)),
    "high shares": (lambda rng, n: rng.beta(9, 1, n), 0.9, (0, 1)),
    "shares of 40 images": (lambda rng, n: rng.binomial(40, 0.95, n) / 40, 0.95, (0, 1)),
    "ratios": (lambda rng, n: np.exp(rng.normal(0, 0.5, n)), math.exp(0.125), (0, math.inf)),
}


@pytest.mark.parametrize("n", [3, 20])
@pytest.mark.parametrize("kind", RANGED)
def test_an_interval_in_its_range_stays_there_and_covers_no_worse(kind: str, n: int) -> None:
    draw, truth, within = RANGED[kind]
    rng = np.random.default_rng(n)
    covered, plainly = [], []
    for _ in range(600):
        values = draw(rng, n)
        found, plain = mean_interval(values, within=within), mean_interval(values)
        assert within[0] <= found.low <= found.estimate <= found.high <= within[1]
        assert found.estimate == pytest.approx(plain.estimate, abs=1e-15)
        covered.append(found.low <= truth <= found.high)
        plainly.append(plain.low <= truth <= plain.high)
    assert np.mean(covered) >= 0.90  # skewed means cost a Student interval of few values some coverage
    assert np.mean(covered) >= np.mean(plainly) - 0.01


def test_the_scale_is_fishers_the_logit_and_the_logarithm() -> None:
    values = np.array([0.6, 0.8, 0.9, 0.85])
    half = stats.t.ppf(0.975, 3) * stats.sem(values)
    mean = values.mean()
    z = mean_interval(values, within=(-1, 1))
    assert np.arctanh([z.low, z.high]) == pytest.approx(
        np.arctanh(mean) + np.array([-1, 1]) * half / (1 - mean**2)
    )
    share = mean_interval(values, within=(0, 1))
    logit = np.log(mean / (1 - mean)) + np.array([-1, 1]) * half / (mean * (1 - mean))
    assert [share.low, share.high] == pytest.approx(1 / (1 + np.exp(-logit)))
    ratio = mean_interval(values, within=(0, math.inf))
    assert np.log([ratio.low, ratio.high]) == pytest.approx(np.log(mean) + np.array([-1, 1]) * half / mean)
    methods = [one.method for one in (z, share, ratio, mean_interval(values))]
    assert methods == ["Student t, Fisher's z", "Student t, logit scale", "Student t, log scale", "Student t"]
    gap = paired_interval([1.0, 1.0, 0.9], [0.0, 0.1, 0.0], within=(-1, 1))
    assert gap.high < 1 < paired_interval([1.0, 1.0, 0.9], [0.0, 0.1, 0.0]).high
    assert gap.method == "paired Student t, logit scale"


def test_values_at_the_end_of_their_range_have_an_interval() -> None:
    ones = mean_interval([1.0, 1.0, 1.0], within=(0, 1))
    assert (ones.low, ones.estimate, ones.high) == (1, 1, 1)
    assert 0 < mean_interval([1.0, 1.0, 0.9], within=(0, 1)).low < mean_interval([1.0, 1.0, 0.9]).estimate
    zeros = mean_interval([0.0, 0.0], within=(0, math.inf))
    assert (zeros.low, zeros.high) == (0, 0)
    with pytest.raises(ValueError, match=r"values from 0.5 to 1.2 are not all within=\(0, 1\)"):
        mean_interval([0.5, 1.2], within=(0, 1))
    for bad in ((1, 0), (-math.inf, 0), (0.5, 0.5)):
        with pytest.raises(ValueError, match="within="):
            mean_interval([0.5, 0.5], within=bad)


def test_an_interval_carries_the_effect_of_every_unit() -> None:
    values = [0.1, 0.3, 0.2]
    assert mean_interval(values).values == tuple(values)
    assert paired_interval([1.0, 2.0, 4.0], [0.5, 0.5, 0.5]).values == (0.5, 1.5, 3.5)
    assert bootstrap_interval(values, resamples=99).values == tuple(values)
    assert bootstrap_interval([0.5, 0.5]).values == (0.5, 0.5)
    assert wilson_interval(3, 10).values == largest(values).values == ()
    two = {"a": values, "b": [3.0, 1.0, 2.0]}
    assert largest_effect(two).values == ((0.1, 3.0), (0.3, 1.0), (0.2, 2.0))
    uneven = largest_effect(two | {"c": [1.0, 2.0]})  # nobody knows which of its values belong together
    assert uneven.values == () and uneven.units == 0
    again = mean_interval(mean_interval(values).values)
    assert again == mean_interval(values) and f"{again}" == f"{mean_interval(values)}"
    assert again == Interval(
        again.estimate, again.low, again.high, 3, "Student t"
    )  # units are no part of equality


def test_an_interval_can_be_made_again_at_another_confidence_and_without_a_unit() -> None:
    from faultlines.reporting.resampling import jackknife_interval

    values, zeros, groups = np.array([0.2, 0.5, 0.4, 0.3]), np.zeros(4), [0, 0, 1, 2, 2, 3]
    rows = {"x": [0.1, 0.3, 0.5, 0.4, 0.2, 0.6]}
    makers = {
        "mean": lambda keep, level: mean_interval(values[keep], level, within=(0, 1)),
        "paired": lambda keep, level: paired_interval(values[keep], zeros[keep], level, within=(-1, 1)),
        "bootstrap": lambda keep, level: bootstrap_interval(values[keep], confidence=level, resamples=99),
        "largest": lambda keep, level: largest_effect({"a": values[keep], "b": -values[keep]}, confidence=level),
        "jackknife": lambda keep, level: jackknife_interval(
            {"x": [x for x, g in zip(rows["x"], groups, strict=True) if g in keep]},
            [g for g in groups if g in keep], lambda x: np.median(x), confidence=level,
        ),
    }  # fmt: skip
    every = [0, 1, 2, 3]
    for name, make in makers.items():
        plain = make(every, 0.95)
        assert plain.at(0.8) == make(every, 0.8), name
        assert plain.at(0.8).at(0.95) == plain, name
        assert plain.leaving_out() == [make([g for g in every if g != u], 0.95) for u in every], name
    assert wilson_interval(3, 10).at(0.5) == wilson_interval(3, 10, 0.5)
    assert wilson_interval(3, 10).leaving_out() == largest(values).leaving_out() == []
    assert [(one.low, one.high) for one in mean_interval([1.0, 2.0]).leaving_out()] == [
        (-math.inf, math.inf)
    ] * 2
    with pytest.raises(ValueError, match=r"\('by hand', at 0.95\) cannot be made again at 0.99"):
        Interval(0.5, 0.4, 0.6, 3, "by hand").at(0.99)
