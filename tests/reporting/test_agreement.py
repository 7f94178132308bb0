"""Agreement is that of Kendall's W, and 0 by chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from faultlines.reporting import agreement_across, rank_agreement


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


def test_across_occasions_only_what_belongs_to_the_items_counts() -> None:
    rng = np.random.default_rng(0)
    chance = rng.normal(size=(40, 7, 1))  # seen alike by the judges of one occasion
    judged = chance + 0.3 * rng.normal(size=(40, 7, 3))
    assert np.mean([rank_agreement(one) for one in judged]) > 0.7
    assert abs(agreement_across(judged)) < 0.1
    items = 5 * np.arange(7)[None, :, None]
    assert agreement_across(judged[:4] + items) > 0.9


def test_across_occasions_is_every_pair_by_hand() -> None:
    t = np.random.default_rng(3).normal(size=(3, 5, 4))
    pairs = [
        stats.spearmanr(t[g, :, j], t[h, :, k]).statistic
        for g in range(3) for h in range(3) for j in range(4) for k in range(4)
        if g != h and j != k
    ]  # fmt: skip
    assert agreement_across(t) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("shape", [(1, 3, 2), (2, 1, 2), (2, 3, 1), (2, 3)])
def test_one_of_anything_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="scores has shape"):
        agreement_across(np.zeros(shape))
