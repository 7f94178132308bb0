"""Whether several judges rank the same things alike, at one time or at different ones."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
from numpy.typing import ArrayLike

from faultlines.reporting.correlation import rank_correlation


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


def agreement_across(scores: ArrayLike) -> float:
    """Return the mean of Spearman's correlation of two different judges on two different occasions.

    What chance does to the things on one occasion, several judges may see alike. No two rankings compared here share
    it, so that only what belongs to the things themselves can make them agree: 0 on average without it.

    Args:
        scores: `[occasion, item, judge]`, at least two of each.

    Raises:
        ValueError: If there are fewer than two of one, or a score is not finite.

    Example:
        >>> agreement_across([[[1, 10], [2, 20], [3, 30]], [[5, 1], [6, 2], [7, 3]]])
        1.0
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 3 or min(table.shape) < 2:
        raise ValueError(
            f"scores has shape {table.shape}; it must be [occasion, item, judge], at least two of each"
        )
    if not np.isfinite(table).all():
        raise ValueError(f"scores holds {int((~np.isfinite(table)).sum())} values that are not finite")
    judges = list(permutations(range(table.shape[2]), 2))
    return float(
        np.mean([rank_correlation(a[:, j], b[:, k]) for a, b in combinations(table, 2) for j, k in judges])
    )
