"""Agreement is that of Kendall's W, and 0 by chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from faultlines.reporting import rank_agreement


def concordance(scores: np.ndarray) -> float:
    """Return Kendall's W, without ties, from its definition."""
    ranks = np.apply_along_axis(stats.rankdata, 0, scores)
    n, k = ranks.shape
    totals = ranks.sum(axis=1)
    return 12 * np.square(totals - totals.mean()).sum() / (k**2 * (n**3 - n))


@pytest.mark.parametrize(("n", "k"), [(2, 2), (5, 3), (7, 6)])
def test_it_is_that_of_kendalls_concordance(n: int, k: int) -> None:
    scores = np.random.default_rng(n).normal(size=(n, k))
    assert rank_agreement(scores) == pytest.approx((k * concordance(scores) - 1) / (k - 1))


def test_random_judges_agree_on_nothing_on_average() -> None:
    rng = np.random.default_rng(0)
    found = [rank_agreement(rng.normal(size=(7, 6))) for _ in range(2000)]
    assert abs(np.mean(found)) < 4 * stats.sem(found)


def test_scales_do_not_matter_and_a_constant_judge_agrees_with_none() -> None:
    scores = np.random.default_rng(1).normal(size=(6, 2))
    assert rank_agreement(np.exp(scores) * [1, 100]) == pytest.approx(rank_agreement(scores))
    assert rank_agreement(np.column_stack([scores[:, 0], np.ones(6)])) == 0


@pytest.mark.parametrize(
    "scores", [np.zeros((1, 3)), np.zeros((3, 1)), np.zeros(3), [[1.0, np.nan], [0.0, 1.0]]]
)
def test_what_cannot_be_ranked_is_refused(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="scores"):
        rank_agreement(scores)
