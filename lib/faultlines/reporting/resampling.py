"""Intervals of any statistic by resampling: of independent values (bootstrap), of grouped rows (jackknife)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from faultlines.reporting.intervals import Interval, Range, check_confidence, check_sample, leave, on_scale


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., float] = np.mean,
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """Return a statistic of independent values with its bias-corrected accelerated bootstrap interval.

    Its ends are quantiles of resampled statistics, and so cannot leave the statistic's range.

    Where the correction has no value (a median that no single value moves), it is the percentile interval.

    Args:
        values: `[n]`, n >= 2.
        statistic: Maps an array along its `axis` to a number.
        confidence: Coverage.
        resamples: Bootstrap samples.
        seed: Seed of the resampling.

    Raises:
        ValueError: If there are fewer than two values, or one is not finite.
    """
    check_confidence(confidence)
    sample = check_sample(values, "values", least=2)
    estimate, n = float(statistic(sample)), len(sample)

    def remake(confidence: float, without: int | None = None) -> Interval:
        left = leave(sample, without)
        return bootstrap_interval(left, statistic, confidence=confidence, resamples=resamples, seed=seed)

    rest = (confidence, tuple(sample.tolist()), n, remake)
    if np.ptp(sample) == 0:  # every resample is the sample
        return Interval(estimate, estimate, estimate, n, "bootstrap", *rest)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (sample,),
            statistic,
            confidence_level=confidence,
            n_resamples=resamples,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval
    if np.isfinite([low, high]).all():
        return Interval(estimate, float(low), float(high), n, "bootstrap", *rest)
    tail = (1 - confidence) / 2
    low, high = np.quantile(result.bootstrap_distribution, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), n, "percentile bootstrap", *rest)


def jackknife_interval(
    columns: Mapping[str, ArrayLike],
    groups: ArrayLike,
    statistic: Callable[..., float],
    *,
    confidence: float = 0.95,
    within: Range | None = None,
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
        within: The range of the statistic, `(-1, 1)` for a correlation, which the interval then cannot leave; see
            `mean_interval`. Without it the interval is symmetric about the statistic and may.

    Returns:
        The interval; its `values` are the statistic without each group, in the order of `numpy.unique(groups)`.

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
    low, high, scale = on_scale(float(whole), half, within)

    def remake(confidence: float, without: int | None = None) -> Interval:
        kept = np.ones(len(groups), dtype=bool) if without is None else groups != distinct[without]
        rows = {name: values[kept] for name, values in arrays.items()}
        return jackknife_interval(rows, groups[kept], statistic, confidence=confidence, within=within)

    method, each = f"jackknife Student t{scale}", tuple(map(float, without))
    return Interval(float(whole), low, high, many, method, confidence, each, many, remake)
