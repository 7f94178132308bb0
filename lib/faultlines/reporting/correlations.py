"""Rank correlation of two sequences, given others, and of several judges.

A sequence that is constant ranks nothing, and its correlation with any other is taken as 0, everywhere here: these
numbers are averaged over seeds and pairs, where a NaN would take the others with it. A NaN or an infinity in the
input is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's rank correlation of two sequences; 0 where one of them is constant.

    Args:
        first: `[n]`, n >= 2.
        second: `[n]`.

    Raises:
        ValueError: If the lengths differ or are below two, or a value is not finite.

    Example:
        >>> round(rank_correlation([1, 2, 3], [1, 4, 9]), 6)
        1.0
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(
            f"shapes {first.shape} and {second.shape}: need two sequences of one length, at least 2"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("first or second holds a value that is not finite")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    found: Any = stats.spearmanr(first, second)  # scipy's stub does not say what it returns
    return float(found.statistic)


def partial_rank_correlation(
    first: ArrayLike, second: ArrayLike, controls: Sequence[ArrayLike] = ()
) -> float:
    """Return Spearman's correlation of two sequences, given others: that of the ranks' residuals.

    Ranks of both are regressed on the ranks of all controls and a constant; the residuals are correlated.

    Args:
        first: `[n]`.
        second: `[n]`.
        controls: Sequences of the same length that are held fixed; at most `n - 3` of them.

    Returns:
        A number in [-1, 1]; 0 where nothing is left of one of the two.

    Raises:
        ValueError: If lengths differ, there are too few rows for so many controls, or a value is not finite.

    Example:
        >>> age, height, vocabulary = [1, 2, 3, 4, 5, 6], [1, 3, 2, 4, 5, 6], [1, 2, 4, 3, 5, 6]
        >>> round(partial_rank_correlation(height, vocabulary), 2)
        0.83
        >>> round(partial_rank_correlation(height, vocabulary, [age]), 2)
        -0.54
    """
    rows = [np.asarray(values, dtype=np.float64) for values in (first, second, *controls)]
    if any(row.shape != rows[0].shape or row.ndim != 1 for row in rows):
        raise ValueError(f"shapes {[row.shape for row in rows]} must be one-dimensional and the same")
    if len(rows[0]) < len(controls) + 3:
        raise ValueError(
            f"{len(rows[0])} rows are too few for {len(controls)} controls; {len(controls) + 3} are needed"
        )
    if not all(np.isfinite(row).all() for row in rows):
        raise ValueError("first, second or controls holds a value that is not finite")
    a, b, *held = (stats.rankdata(row) for row in rows)
    design = np.column_stack([np.ones(len(a)), *held])
    left = [values - design @ np.linalg.lstsq(design, values, rcond=None)[0] for values in (a, b)]
    sizes = [np.linalg.norm(part) for part in left]
    if min(sizes) < 1e-9 * np.linalg.norm(a):  # rounding is all that the controls have left
        return 0.0
    return float(np.clip(left[0] @ left[1] / (sizes[0] * sizes[1]), -1, 1))


def rank_agreement(scores: ArrayLike) -> float:
    r"""Return the mean of Spearman's correlation over all pairs of judges.

    With $k$ judges it is $(kW - 1)/(k - 1)$ for Kendall's coefficient of concordance $W$ (Kendall and Babington Smith
    1939): 1 where all rank alike, 0 on average where they rank at random, at least $-1/(k-1)$. A judge that
    gives all the same score agrees with none: 0.

    Args:
        scores: `[item, judge]`, at least two of each.

    Raises:
        ValueError: If there are fewer than two items or judges, or a score is not finite.

    Example:
        >>> rank_agreement([[1, 10], [2, 20], [3, 40]])
        1.0
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or min(table.shape) < 2:
        raise ValueError(f"scores has shape {table.shape}; it must be [item, judge], at least two of each")
    if not np.isfinite(table).all():
        raise ValueError(f"scores holds {int((~np.isfinite(table)).sum())} values that are not finite")
    pairs = combinations(table.T, 2)
    return float(np.mean([rank_correlation(first, second) for first, second in pairs]))


def agreement_matrix(scores: ArrayLike) -> Float[np.ndarray, "judge judge"]:
    """Return the mean of Spearman's correlation of every two judges, on two different occasions.

    What chance does to the things on one occasion, several judges may see alike. No two rankings compared here share
    it, so that only what belongs to the things themselves can make them agree: 0 on average without it. The diagonal
    says how well a judge agrees with itself: its reliability.

    Args:
        scores: `[occasion, item, judge]`, at least two occasions and items, and one judge.

    Returns:
        A symmetric matrix; the row of a judge that gives all the same score is 0.

    Raises:
        ValueError: If there are too few of one, or a score is not finite.

    Example:
        >>> agreement_matrix([[[1, 10], [2, 30], [3, 20]], [[5, 1], [6, 2], [7, 3]]]).round(2).tolist()
        [[1.0, 0.75], [0.75, 0.5]]
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 3 or min(table.shape[:2]) < 2 or not table.shape[2]:
        raise ValueError(
            f"scores has shape {table.shape}; it must be [occasion, item, judge], at least two of each"
        )
    if not np.isfinite(table).all():
        raise ValueError(f"scores holds {int((~np.isfinite(table)).sum())} values that are not finite")
    ranks = stats.rankdata(table, axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(ranks, axis=1, keepdims=True)
    unit = np.divide(ranks, lengths, out=np.zeros_like(ranks), where=lengths > 0)
    total, many = unit.sum(axis=0), len(table)
    same = np.einsum("oij,oik->jk", unit, unit)  # what the pairs of one occasion with itself would add
    return (total.T @ total - same) / (many * (many - 1))


def corrected_agreement(scores: ArrayLike) -> float:
    r"""Return the agreement of different judges, of that which judges who see the same thing would show.

    A judge that does not agree with itself cannot agree with others. With $r_{jk}$ of `agreement_matrix`, two judges
    who rank the same thing, each with its own errors, agree by $\sqrt{r_{jj} r_{kk}}$ (Spearman 1904). This is
    $\sum_{j \ne k} r_{jk} / \sum_{j \ne k} \sqrt{r_{jj}^+ r_{kk}^+}$: 1 where all rank one thing, 0 where they
    rank what has nothing in common. A ratio of sums, so that a judge of no reliability adds nothing to what is
    expected, where a mean of ratios would divide by it. Cut to [-1, 1]; 0 where no two judges agree with themselves.

    Args:
        scores: `[occasion, item, judge]`, at least two of each.

    Raises:
        ValueError: If there are fewer than two of one, or a score is not finite.

    Example:
        >>> round(corrected_agreement([[[1, 10], [2, 20], [3, 30]], [[5, 1], [6, 2], [7, 3]]]), 6)
        1.0
    """
    matrix, beside = agreement_matrix(scores), _beside(scores)
    own = np.sqrt(np.diag(matrix).clip(min=0))
    most = np.outer(own, own)[beside].sum()
    return float(np.clip(matrix[beside].sum() / most, -1, 1)) if most > 0 else 0.0


def _beside(scores: ArrayLike) -> np.ndarray:
    """Return where a matrix of judges is not on its diagonal."""
    judges = np.shape(scores)[-1] if np.ndim(scores) == 3 else 0
    if judges < 2:
        raise ValueError(
            f"scores has shape {np.shape(scores)}; it must be [occasion, item, judge], at least two of each"
        )
    return ~np.eye(judges, dtype=bool)
