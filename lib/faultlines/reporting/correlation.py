"""Rank correlation, with the case of a constant sequence defined."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's rank correlation of two sequences; 0 where one of them is constant.

    Args:
        first: `[n]`, n >= 2.
        second: `[n]`.

    Raises:
        ValueError: If the lengths differ or are below two.

    Example:
        >>> round(rank_correlation([1, 2, 3], [1, 4, 9]), 6)
        1.0
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(
            f"shapes {first.shape} and {second.shape}: need two sequences of one length, at least 2"
        )
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)
