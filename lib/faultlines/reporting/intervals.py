r"""Interval estimates: over seeds (Student t, bootstrap) and of proportions (Wilson)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        estimate: The point estimate.
        low: Lower end.
        high: Upper end.
        n: Number of independent units it rests on (seeds, samples).
        method: How it was made, in words.
        confidence: Its coverage.
    """

    estimate: float
    low: float
    high: float
    n: int
    method: str
    confidence: float = 0.95

    def __format__(self, spec: str) -> str:
        """Format all three numbers alike, `+0.031 [+0.002, +0.060]`; the default is three significant digits.

        Example:
            >>> f"{Interval(0.5, 0.25, 0.75, 4, 't'):.2f}"
            '0.50 [0.25, 0.75]'
        """
        spec = spec or ".3g"
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        """Format with three significant digits."""
        return format(self)


def _sample(values: ArrayLike, name: str, least: int) -> np.ndarray:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < least:
        raise ValueError(
            f"{name} has shape {sample.shape}; it must be one-dimensional with at least {least} values"
        )
    if not np.isfinite(sample).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(sample)).sum())} values that are not finite")
    return sample


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the mean of independent values with its Student t interval.

    Args:
        values: `[n]`, one value a seed, n >= 2.
        confidence: Coverage, in (0, 1).

    Raises:
        ValueError: If there are fewer than two values, or one is not finite.

    Example:
        >>> f"{mean_interval([1.0, 2.0, 3.0]):.2f}"
        '2.00 [-0.48, 4.48]'
    """
    sample = _sample(values, "values", least=2)
    half = stats.t.ppf((1 + confidence) / 2, len(sample) - 1) * stats.sem(sample)
    mean = float(sample.mean())
    return Interval(mean, mean - float(half), mean + float(half), len(sample), "Student t", confidence)


def paired_interval(treated: ArrayLike, control: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the mean paired difference `treated - control` over seeds with its Student t interval.

    Args:
        treated: `[n]`, one value a seed.
        control: `[n]`, the same seeds in the same order.
        confidence: Coverage.

    Raises:
        ValueError: If the lengths differ, there are fewer than two pairs, or a value is not finite.
    """
    treated, control = _sample(treated, "treated", 2), _sample(control, "control", 2)
    if len(treated) != len(control):
        raise ValueError(
            f"treated has {len(treated)} values and control {len(control)}; pairs need one of each"
        )
    interval = mean_interval(treated - control, confidence)
    return Interval(
        interval.estimate, interval.low, interval.high, interval.n, "paired Student t", confidence
    )


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., float] = np.mean,
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """Return a statistic of independent values with its bias-corrected accelerated bootstrap interval.

    Args:
        values: `[n]`, n >= 2.
        statistic: Maps an array along its `axis` to a number.
        confidence: Coverage.
        resamples: Bootstrap samples.
        seed: Seed of the resampling.

    Raises:
        ValueError: If there are fewer than two values, or one is not finite.
    """
    sample = _sample(values, "values", least=2)
    estimate = float(statistic(sample))
    if np.ptp(sample) == 0:  # every resample is the sample
        return Interval(estimate, estimate, estimate, len(sample), "bootstrap", confidence)
    result = stats.bootstrap(
        (sample,),
        statistic,
        confidence_level=confidence,
        n_resamples=resamples,
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(estimate, float(low), float(high), len(sample), "bootstrap", confidence)


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> Interval:
    """Return a proportion with its Wilson score interval.

    Args:
        successes: Count of successes, 0 to `total`.
        total: Count of trials, at least 1.
        confidence: Coverage.

    Raises:
        ValueError: If the counts are out of range.

    Example:
        >>> f"{wilson_interval(0, 10):.3f}"
        '0.000 [0.000, 0.278]'
    """
    if total < 1 or not 0 <= successes <= total:
        raise ValueError(
            f"successes={successes} of total={total}: need 0 <= successes <= total and total >= 1"
        )
    found = stats.binomtest(int(successes), int(total)).proportion_ci(confidence, method="wilson")
    return Interval(successes / total, float(found.low), float(found.high), int(total), "Wilson", confidence)
