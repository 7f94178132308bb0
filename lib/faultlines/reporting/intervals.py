r"""Interval estimates: over seeds (Student t), of proportions (Wilson), of extremes; see also `resampling`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import expit

Range = tuple[float, float]
Effect = float | tuple[float, ...]


class Remake(Protocol):
    """Makes an interval of the same sample again."""

    def __call__(self, confidence: float, without: int | None = None) -> Interval:
        """Return it at a confidence, without the unit of that number where one is given."""
        ...


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
        values: The effect of each unit, of which it was made: one number a seed, a pair's difference, the statistic
            without each group (jackknife); of the largest of several effects one number an effect and seed. Empty
            where units are counted and not listed (Wilson, extremes). Two intervals that differ in these only are
            equal.
        units: How many units can be left out one at a time; 0 where they are counted and not listed.
        remake: Makes the interval again from the same sample, at another confidence and without one unit; None where
            nobody can, as for one that was written down by hand.
    """

    estimate: float
    low: float
    high: float
    n: int
    method: str
    confidence: float = 0.95
    values: tuple[Effect, ...] = field(default=(), compare=False, repr=False)
    units: int = field(default=0, compare=False, repr=False)
    remake: Remake | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check that the ends are ends.

        Raises:
            ValueError: If an end is not a number, or the ends are the wrong way round.
        """
        if not self.low <= self.high:  # so that NaN is refused too: it would pass for an inconclusive result
            raise ValueError(f"low={self.low} and high={self.high}: need low <= high, both numbers")

    def at(self, confidence: float) -> Interval:
        """Return the interval of the same sample at another confidence.

        Raises:
            ValueError: If the interval was written down by hand, or the confidence is out of range.

        Example:
            >>> f"{mean_interval([1.0, 2.0, 3.0]).at(0.99):.2f}"
            '2.00 [-3.73, 7.73]'
        """
        check_confidence(confidence)
        if math.isclose(confidence, self.confidence, rel_tol=1e-12):
            return self
        if self.remake is None:
            raise ValueError(
                f"its interval ({self.method!r}, at {self.confidence:.6g}) cannot be made again at {confidence:.6g}"
            )
        return self.remake(confidence)

    def leaving_out(self) -> list[Interval]:
        """Return the interval without each unit; an empty list where units are counted and not listed.

        Of one unit that is left there is no interval but the whole line.

        Example:
            >>> [f"{found:.2f}" for found in mean_interval([1.0, 2.0, 3.0]).leaving_out()]
            ['2.50 [-3.85, 8.85]', '2.00 [-10.71, 14.71]', '1.50 [-4.85, 7.85]']
        """
        if self.remake is None:
            return []
        if self.units <= 2:
            whole = replace(self, low=-math.inf, high=math.inf, units=0, remake=None)
            return [whole] * self.units
        return [self.remake(self.confidence, unit) for unit in range(self.units)]

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


def check_confidence(confidence: float) -> None:
    """Refuse what is no coverage.

    Raises:
        ValueError: If it is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not in (0, 1)")


def check_sample(values: ArrayLike, name: str, least: int) -> Float[np.ndarray, " n"]:
    """Return one-dimensional values in float64.

    Raises:
        ValueError: If the shape is another, there are fewer than `least`, or one is not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < least:
        raise ValueError(
            f"{name} has shape {sample.shape}; it must be one-dimensional with at least {least} values"
        )
    if not np.isfinite(sample).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(sample)).sum())} values that are not finite")
    return sample


def on_scale(estimate: float, half: float, within: Range | None) -> tuple[float, float, str]:
    r"""Return the ends `estimate -+ half`, taken on a scale on which they cannot leave the statistic's range.

    For a range (a, b) the scale is the logit of (x - a)/(b - a), which for a correlation is Fisher's z, and for
    (a, inf) the logarithm of x - a. The half width goes with the scale's slope at the estimate (the delta method), so
    that the estimate stays what it is and values at the ends of the range are no obstacle.

    Args:
        estimate: The point estimate.
        half: Half the symmetric interval, at least 0.
        within: The range; None for the symmetric interval itself.

    Returns:
        Lower end, upper end, and the scale in words (empty for the symmetric interval).

    Raises:
        ValueError: If the range has no finite lower end or is empty, or the estimate lies outside it.
    """
    if within is None:
        return estimate - half, estimate + half, ""
    low, high = within
    if not (math.isfinite(low) and low < high):
        raise ValueError(f"within={within} must be (low, high) with a finite low < high")
    if not low <= estimate <= high:
        raise ValueError(f"the estimate {estimate:.6g} lies outside within={within}")
    name = ", log scale" if math.isinf(high) else ", Fisher's z" if within == (-1, 1) else ", logit scale"
    if half == 0:
        return estimate, estimate, name
    if estimate in within:  # the scale ends here: only the half of the interval that is in the range is left
        return max(low, estimate - half), min(high, estimate + half), name
    below, above = estimate - low, high - estimate
    if math.isinf(high):
        step = half / below
        return low + below * math.exp(-step), low + below * math.exp(min(step, 700.0)), name
    step, odds = half * (high - low) / (below * above), math.log(below / above)
    down, up = (low + (high - low) * float(expit(odds + sign * step)) for sign in (-1, 1))
    return min(down, estimate), max(up, estimate), name  # rounding keeps the estimate inside


def mean_interval(values: ArrayLike, confidence: float = 0.95, *, within: Range | None = None) -> Interval:
    """Return the mean of independent values with its Student t interval.

    Args:
        values: `[n]`, one value a seed, n >= 2.
        confidence: Coverage, in (0, 1).
        within: The range of the values, which the interval then cannot leave, see `on_scale`: `(-1, 1)` for
            correlations (Fisher's z), `(0, 1)` for shares (logit), `(0, math.inf)` for ratios (logarithm).

    Raises:
        ValueError: If there are fewer than two values, one is not finite or not in the range, or the confidence is
            out of range.

    Example:
        >>> f"{mean_interval([1.0, 2.0, 3.0]):.2f}"
        '2.00 [-0.48, 4.48]'
        >>> f"{mean_interval([0.7, 0.9, 0.95], within=(0, 1)):.2f}"
        '0.85 [0.30, 0.99]'
    """
    check_confidence(confidence)
    sample = check_sample(values, "values", least=2)
    if within is not None and not ((within[0] <= sample) & (sample <= within[1])).all():
        raise ValueError(f"values from {sample.min():.6g} to {sample.max():.6g} are not all within={within}")
    half = float(stats.t.ppf((1 + confidence) / 2, len(sample) - 1) * stats.sem(sample))
    mean = float(sample.mean())
    if within is not None:  # a mean of equal values may round to beside them
        mean = float(np.clip(mean, sample.min(), sample.max()))
    low, high, scale = on_scale(mean, half, within)

    def remake(confidence: float, without: int | None = None) -> Interval:
        return mean_interval(leave(sample, without), confidence, within=within)

    n = len(sample)
    return Interval(mean, low, high, n, f"Student t{scale}", confidence, tuple(sample.tolist()), n, remake)


def leave(sample: np.ndarray, without: int | None) -> np.ndarray:
    """Return a sample without the value of that number, or as it is."""
    return sample if without is None else np.delete(sample, without)


def paired_interval(
    treated: ArrayLike, control: ArrayLike, confidence: float = 0.95, *, within: Range | None = None
) -> Interval:
    """Return the mean paired difference `treated - control` over seeds with its Student t interval.

    Args:
        treated: `[n]`, one value a seed.
        control: `[n]`, the same seeds in the same order.
        confidence: Coverage.
        within: The range of the differences, which the interval then cannot leave, see `mean_interval`: `(-1, 1)`
            for shares, `(-2, 2)` for correlations.

    Raises:
        ValueError: If the lengths differ, there are fewer than two pairs, or a value is not finite or out of range.
    """
    treated, control = check_sample(treated, "treated", 2), check_sample(control, "control", 2)
    if len(treated) != len(control):
        raise ValueError(
            f"treated has {len(treated)} values and control {len(control)}; pairs need one of each"
        )
    interval = mean_interval(treated - control, confidence, within=within)
    method = f"paired {interval.method}".replace("Fisher's z", "logit scale")

    def remake(confidence: float, without: int | None = None) -> Interval:
        return paired_interval(leave(treated, without), leave(control, without), confidence, within=within)

    return replace(interval, method=method, remake=remake)


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
    check_confidence(confidence)
    if total < 1 or not 0 <= successes <= total or int(successes) != successes or int(total) != total:
        raise ValueError(
            f"successes={successes} of total={total}: need whole numbers, 0 <= successes <= total and total >= 1"
        )
    successes, total = int(successes), int(total)
    found = stats.binomtest(successes, total).proportion_ci(confidence, method="wilson")

    def remake(confidence: float, without: int | None = None) -> Interval:
        return wilson_interval(successes, total, confidence)

    ends = float(found.low), float(found.high)
    return Interval(successes / total, *ends, total, "Wilson", confidence, remake=remake)


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
    sample = check_sample(np.ravel(values), "values", least=1)
    value = float(pick(sample))
    return Interval(value, value, value, len(sample), method, confidence=1.0)


def largest_effect(
    effects: Mapping[str, ArrayLike],
    *,
    confidence: float = 0.95,
    one: Callable[..., Interval] = mean_interval,
) -> Interval:
    r"""Return the largest mean effect with an interval that covers it.

    That *all* of $k$ effects lie below a threshold is shown where each one's own interval does (the
    intersection-union test: no correction is needed), and refuted where one lies above it, which any of $k$ may do
    by chance. So the upper end is the largest of the upper ends at `confidence`, and the lower end the largest
    of the lower ends at $1 - (1 - c)/k$ (Bonferroni). Both ends together cover the largest of the true means
    at least as often as `confidence`, up to that of Student's intervals.

    Args:
        effects: By name, one value a seed, in one unit.
        confidence: Coverage.
        one: Makes the interval of one effect, of its values and a confidence.

    Raises:
        ValueError: If there is no effect, or one has fewer than two values or one that is not finite.

    Example:
        >>> found = largest_effect({"first": [-3.0, -2.0, -1.0], "second": [-9.0, -9.5, -10.0]})
        >>> f"{found:.1f}", found.method
        ('-2.0 [-5.6, 0.5]', 'largest of 2: first')
    """
    if not effects:
        raise ValueError("effects is empty; there is nothing to take the largest of")
    samples = {name: check_sample(values, name, least=2) for name, values in effects.items()}
    plain = {name: one(sample, confidence) for name, sample in samples.items()}
    strict = {name: one(sample, 1 - (1 - confidence) / len(effects)) for name, sample in samples.items()}
    name = max(plain, key=lambda effect: plain[effect].estimate)
    # of unequal lengths nobody knows which value is of which seed
    alike = len({len(sample) for sample in samples.values()}) == 1

    def remake(confidence: float, without: int | None = None) -> Interval:
        left = {effect: leave(sample, without) for effect, sample in samples.items()}
        return largest_effect(left, confidence=confidence, one=one)

    return Interval(
        plain[name].estimate,
        max(interval.low for interval in strict.values()),
        max(interval.high for interval in plain.values()),
        min(interval.n for interval in plain.values()),
        f"largest of {len(effects)}: {name}",
        confidence,
        values=tuple(zip(*(sample.tolist() for sample in samples.values()), strict=True)) if alike else (),
        units=len(samples[name]) if alike else 0,
        remake=remake,
    )
