"""Rank correlation with other things held fixed, and an interval for a statistic of grouped rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from faultlines.reporting.intervals import Interval


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


def jackknife_interval(
    columns: Mapping[str, ArrayLike],
    groups: ArrayLike,
    statistic: Callable[..., float],
    *,
    confidence: float = 0.95,
) -> Interval:
    r"""Return a statistic of rows that come in groups, with the interval of the delete-one-group jackknife.

    Rows of one group (the networks of one seed) may depend on each other; groups may not. With $\theta_{-g}$ the
    statistic without group $g$, the pseudo-values $G \theta - (G - 1) \theta_{-g}$ are taken as $G$ independent
    values: a Student t interval with $G - 1$ degrees of freedom around the statistic itself (Tukey 1958).

    Args:
        columns: Equally long sequences by name, passed to the statistic by name.
        groups: `[n]`, the group of each row; at least two different ones.
        statistic: Maps columns to a number.
        confidence: Coverage, in (0, 1).

    Raises:
        ValueError: If there are fewer than two groups, a length differs, or the confidence is out of range.

    Example:
        >>> found = jackknife_interval({"x": [1.0, 2.0, 3.0]}, [0, 1, 2], lambda x: x.mean())
        >>> f"{found:.2f}"  # of a mean it is the plain t interval
        '2.00 [-0.48, 4.48]'
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not in (0, 1)")
    groups = np.asarray(groups)
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    if wrong := [name for name, values in arrays.items() if len(values) != len(groups)]:
        raise ValueError(f"columns {wrong} have another length than groups, {len(groups)}")
    distinct = np.unique(groups)
    if len(distinct) < 2:
        raise ValueError(f"groups={distinct.tolist()} must hold at least two different groups")
    whole, many = statistic(**arrays), len(distinct)
    without = [statistic(**{k: v[groups != group] for k, v in arrays.items()}) for group in distinct]
    pseudo = many * whole - (many - 1) * np.array(without)
    half = float(stats.t.ppf((1 + confidence) / 2, many - 1) * stats.sem(pseudo))
    return Interval(
        float(whole), float(whole) - half, float(whole) + half, many, "jackknife Student t", confidence
    )
