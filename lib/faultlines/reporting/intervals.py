r"""Interval estimates: over seeds (Student t, bootstrap) and of proportions (Wilson)."""

from __future__ import annotations

import warnings
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

    def __post_init__(self) -> None:
        """Check that the ends are ends.

        Raises:
            ValueError: If an end is not a number, or the ends are the wrong way round.
        """
        if not self.low <= self.high:  # so that NaN is refused too: it would pass for an inconclusive result
            raise ValueError(f"low={self.low} and high={self.high}: need low <= high, both numbers")

    def __format__(self, spec: str) -> str:
        """Format all three numbers alike, `+0.031 [+0.002, +0.060]`; the default is three significant digits.

        Example:
            >>> f"{Interval(0.5, 0.25, 0.75, 4, 't'):.2f}"
            '0.50 [0.25, 0.75]'
        """
        spec = spec or ".3g"
        if self.confidence == 1.0:
            return f"{self.estimate:{spec}}"  # an extreme of all cases has no interval
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        """Format with three significant digits."""
        return format(self)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not in (0, 1)")


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
        ValueError: If there are fewer than two values, one is not finite, or the confidence is out of range.

    Example:
        >>> f"{mean_interval([1.0, 2.0, 3.0]):.2f}"
        '2.00 [-0.48, 4.48]'
    """
    _check_confidence(confidence)
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
    _check_confidence(confidence)
    sample = _sample(values, "values", least=2)
    estimate = float(statistic(sample))
    if np.ptp(sample) == 0:  # every resample is the sample
        return Interval(estimate, estimate, estimate, len(sample), "bootstrap", confidence)
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
        return Interval(estimate, float(low), float(high), len(sample), "bootstrap", confidence)
    tail = (1 - confidence) / 2
    low, high = np.quantile(result.bootstrap_distribution, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), len(sample), "percentile bootstrap", confidence)


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
    _check_confidence(confidence)
    if total < 1 or not 0 <= successes <= total or int(successes) != successes or int(total) != total:
        raise ValueError(
            f"successes={successes} of total={total}: need whole numbers, 0 <= successes <= total and total >= 1"
        )
    successes, total = int(successes), int(total)
    found = stats.binomtest(successes, total).proportion_ci(confidence, method="wilson")
    return Interval(successes / total, float(found.low), float(found.high), total, "Wilson", confidence)


def largest(values: ArrayLike) -> Interval:
    """Return the largest of all cases of a theorem check, as an interval of no width.

    Args:
        values: The checked quantity, any shape, one entry a case.

    Raises:
        ValueError: If there is no value, or one is not finite.

    Example:
        >>> f"{largest([0.1, 0.3, 0.2]):.1f}"
        '0.3'
    """
    return _extreme(values, np.max, "largest of all cases")


def smallest(values: ArrayLike) -> Interval:
    """Return the smallest of all cases of a theorem check; see `largest`."""
    return _extreme(values, np.min, "smallest of all cases")


def _extreme(values: ArrayLike, pick: Callable[[np.ndarray], float], method: str) -> Interval:
    sample = _sample(np.ravel(values), "values", least=1)
    value = float(pick(sample))
    return Interval(value, value, value, len(sample), method, confidence=1.0)
