from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from faultlines.reporting.intervals import (
    Interval,
    bootstrap_interval,
    largest,
    mean_interval,
    paired_interval,
    smallest,
    wilson_interval,
)


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


def test_the_bootstrap_covers_a_skewed_mean() -> None:
    generator = np.random.default_rng(2)
    samples = generator.exponential(1.0, size=(200, 40))
    found = [bootstrap_interval(sample, resamples=399) for sample in samples]
    assert np.mean([one.low <= 1.0 <= one.high for one in found]) == pytest.approx(0.93, abs=0.05)
    # the correction leans the interval to the right, as the truth does
    assert np.mean([one.high - one.estimate > one.estimate - one.low for one in found]) > 0.9


def test_the_bootstrap_is_seeded() -> None:
    sample = np.random.default_rng(3).normal(size=20)
    assert bootstrap_interval(sample, seed=1) == bootstrap_interval(sample, seed=1)
    assert bootstrap_interval(sample, seed=1) != bootstrap_interval(sample, seed=2)


def test_the_bootstrap_of_a_constant_is_the_constant() -> None:
    found = bootstrap_interval([0.5] * 6)
    assert (found.estimate, found.low, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.filterwarnings("error")
def test_a_median_that_no_value_moves_gets_the_percentile_interval() -> None:
    # all leave-one-out medians are 0, so the acceleration is 0 / 0
    found = bootstrap_interval([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0], np.median)
    assert found.method == "percentile bootstrap"
    assert found.estimate == found.low == 0.0
    assert found.high == 1.0


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
