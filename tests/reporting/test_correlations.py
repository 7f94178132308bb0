"""Rank correlations against inverse correlation matrices and Kendall's W; what is constant, and what is no number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from faultlines.reporting import (
    agreement_matrix,
    corrected_agreement,
    partial_rank_correlation,
    rank_agreement,
    rank_correlation,
)


def across(scores: np.ndarray) -> float:
    """Return the mean agreement of two different judges on two different occasions."""
    matrix = agreement_matrix(scores)
    return float(matrix[~np.eye(len(matrix), dtype=bool)].mean())


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
    assert abs(across(judged)) < 0.1
    items = 5 * np.arange(7)[None, :, None]
    assert across(judged[:4] + items) > 0.9


def test_the_matrix_is_every_pair_of_occasions_by_hand() -> None:
    t = np.random.default_rng(4).normal(size=(4, 6, 3))
    t[..., 2] = t[..., 2].round()  # ties
    for j in range(3):
        assert agreement_matrix(t)[j, j] == pytest.approx(rank_agreement(t[:, :, j].T))
        for k in range(3):
            pairs = [rank_correlation(t[g, :, j], t[h, :, k]) for g in range(4) for h in range(4) if g != h]
            assert agreement_matrix(t)[j, k] == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_corrected_agreement_is_one_for_judges_of_one_thing_however_poor_they_are(noise: float) -> None:
    rng = np.random.default_rng(5)
    items = rng.permutation(7.0 * np.arange(7) / 7)
    judged = items[None, :, None] + noise * np.array([0.5, 1, 2]) * rng.normal(size=(400, 7, 3))
    assert corrected_agreement(judged) == pytest.approx(1, abs=0.05)
    if noise > 1:
        assert across(judged) < 0.6  # which is what the correction is for


def test_corrected_agreement_is_that_of_the_true_orders_and_a_judge_of_noise_does_not_move_it() -> None:
    rng = np.random.default_rng(6)
    orders = np.column_stack([np.arange(7), rng.permutation(7), np.arange(7)[::-1]])
    judged = orders + 1.5 * rng.normal(size=(500, 7, 3))
    truth = rank_agreement(orders)
    assert corrected_agreement(judged) == pytest.approx(truth, abs=0.05)
    blind = np.concatenate([judged, rng.normal(size=(500, 7, 1))], axis=2)
    assert corrected_agreement(blind) == pytest.approx(truth, abs=0.1)
    assert corrected_agreement(np.ones((3, 4, 2))) == 0


@pytest.mark.parametrize("shape", [(1, 3, 2), (2, 1, 2), (2, 3, 1), (2, 3)])
def test_one_of_anything_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="scores has shape"):
        corrected_agreement(np.zeros(shape))


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


CORRELATIONS = {
    "two sequences": rank_correlation,
    "given a third": lambda a, b: partial_rank_correlation(a, b, [[2, 1, 4, 3, 5]]),
    "two judges": lambda a, b: rank_agreement(np.transpose([a, b])),
    "judges on two occasions": lambda a, b: across([np.transpose([a, b])] * 2),
}


@pytest.mark.parametrize("kind", CORRELATIONS)
def test_a_constant_ranks_nothing_and_what_is_no_number_is_refused(kind):
    correlation = CORRELATIONS[kind]
    rising = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert correlation(rising, np.exp(rising)) == pytest.approx(1.0)
    assert correlation([0.3] * 5, rising) == correlation(rising, [0.3] * 5) == 0
    for bad in (np.nan, np.inf):
        for pair in (([1.0, 2.0, bad, 4.0, 5.0], rising), (rising, [1.0, 2.0, bad, 4.0, 5.0])):
            with pytest.raises(ValueError, match="not finite"):
                correlation(*pair)
