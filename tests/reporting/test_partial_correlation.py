"""Partial rank correlation against inverse correlation matrices, and the jackknife against known cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from faultlines.reporting import jackknife_interval, mean_interval, partial_rank_correlation


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    cause = rng.normal(size=200)
    return cause, cause + 0.3 * rng.normal(size=200), np.exp(cause + 0.3 * rng.normal(size=200))


def test_without_controls_it_is_spearman(rows):
    _, a, b = rows
    assert partial_rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_it_is_minus_the_scaled_entry_of_the_inverse_rank_correlation_matrix(rows):
    cause, a, b = rows
    inverse = np.linalg.inv(np.corrcoef([stats.rankdata(v) for v in (a, b, cause)]))
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert partial_rank_correlation(a, b, [cause]) == pytest.approx(expected)


def test_a_common_cause_is_taken_out(rows):
    cause, a, b = rows
    assert partial_rank_correlation(a, b) > 0.8
    assert abs(partial_rank_correlation(a, b, [cause])) < 0.2


def test_monotone_changes_do_not_matter(rows):
    cause, a, b = rows
    assert partial_rank_correlation(np.exp(a), b, [cause**3]) == pytest.approx(
        partial_rank_correlation(a, b, [cause])
    )


def test_nothing_left_is_zero(rows):
    cause, a, _ = rows
    assert partial_rank_correlation(np.exp(cause), a, [cause]) == 0
    assert partial_rank_correlation(np.ones(200), a) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2, 3], [1, 2]), "one-dimensional and the same"),
        (([1, 2, 3], [1, 2, 3], [[3, 1, 2]]), "3 rows are too few for 1 controls; 4 are needed"),
        (([1, 2, np.nan], [1, 2, 3]), "not finite"),
    ],
)
def test_bad_rows_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        partial_rank_correlation(*arguments)


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
