"""The bootstrap and the jackknife against known cases, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest

from faultlines.reporting import (
    bootstrap_interval,
    jackknife_interval,
    mean_interval,
    partial_rank_correlation,
)


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


def test_the_jackknife_of_a_mean_of_equal_groups_is_the_t_interval_of_group_means():
    values, groups = np.arange(12.0) ** 1.5, np.repeat([3, 1, 7, 5], 3)
    found = jackknife_interval({"values": values}, groups, lambda values: values.mean())
    expected = mean_interval([values[groups == g].mean() for g in np.unique(groups)])
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (expected.estimate, expected.low, expected.high)
    )
    assert found.n == 4


def test_the_jackknife_covers_a_correlation():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(100):
        a = rng.normal(size=60)
        b = 0.5 * a + rng.normal(size=60)
        found = jackknife_interval({"first": a, "second": b}, np.arange(60) // 6, partial_rank_correlation)
        hits += found.low <= 6 / np.pi * np.arcsin(0.5 / np.sqrt(1.25) / 2) <= found.high
    assert 88 <= hits <= 100


def test_bad_groups_are_named():
    with pytest.raises(ValueError, match="at least two different groups"):
        jackknife_interval({"x": [1.0, 2.0]}, [0, 0], lambda x: x.mean())
    with pytest.raises(ValueError, match=r"columns \['x'\] have another length than groups, 3"):
        jackknife_interval({"x": [1.0, 2.0]}, [0, 1, 2], lambda x: x.mean())
    with pytest.raises(ValueError, match="confidence=1 "):
        jackknife_interval({"x": [1.0, 2.0]}, [0, 1], lambda x: x.mean(), confidence=1)


def test_the_jackknife_keeps_the_statistic_without_each_group():
    values, groups = np.arange(6.0), np.array([2, 2, 0, 0, 1, 1])
    found = jackknife_interval({"values": values}, groups, lambda values: values.mean())
    assert found.values == tuple(values[groups != group].mean() for group in (0, 1, 2))


def test_the_jackknife_of_a_correlation_can_stay_in_its_range():
    rng = np.random.default_rng(2)
    left = 0
    for _ in range(50):
        a = rng.normal(size=12)
        columns, groups = {"first": a, "second": a + 0.3 * rng.normal(size=12)}, np.arange(12) // 4
        plain = jackknife_interval(columns, groups, partial_rank_correlation)
        found = jackknife_interval(columns, groups, partial_rank_correlation, within=(-1, 1))
        left += not -1 <= plain.low <= plain.high <= 1
        assert -1 <= found.low <= found.estimate == plain.estimate <= found.high <= 1
        assert found.method in ("jackknife Student t, Fisher's z")
    assert left >= 10
