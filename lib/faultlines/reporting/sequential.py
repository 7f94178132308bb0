r"""Seeds that come in pieces: intervals that stay valid when one looks between the pieces, and what they decide.

The plan has at most four looks. Half of a claim's error is spent at the first, a sixth at each of the others, whatever
came before (Slud & Wei 1982), so that all intervals of all looks cover at once as often as one alone would. What a
look may spend becomes the level of its interval by the joint normal distribution of the means (Armitage, McPherson &
Rowe 1969), which depends on nothing but how many seeds there were at each look.

Student's interval is too narrow for few seeds and a skewed effect. So an interval here has half the degrees of
freedom, and reaches as far as that of Hall (1992), which bends with the skewness, where it is the wider. The tests
show by simulation that this is needed and that it is enough.

Everything is computed from the rows of ledgers as they are stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import brentq

from faultlines.reporting.intervals import (
    Effect,
    Interval,
    Range,
    check_confidence,
    check_sample,
    largest_effect,
    leave,
    on_scale,
    wilson_interval,
)
from faultlines.reporting.verdicts import Verdict, judge

Row = Mapping[str, Any]

SHARES = (1 / 2, 1 / 6, 1 / 6, 1 / 6)
"""What each look may spend of a claim's error."""
LOOKS = len(SHARES)
MOST_SEEDS = 10_000
NODES, WEIGHTS = np.polynomial.legendre.leggauss(128)
SCALES: dict[str, tuple[Range, ...]] = {
    "Fisher's z": ((-1, 1),),
    "logit scale": ((0, 1), (-1, 1), (-2, 2)),
    "log scale": ((0, math.inf), (1, math.inf), (-1, math.inf)),
}


@lru_cache(maxsize=4096)
def levels(sizes: tuple[int, ...], error: float, shares: tuple[float, ...] = SHARES) -> tuple[float, ...]:
    """Return the two-sided error at which each look's own interval is made, so that all of them err as agreed.

    Args:
        sizes: Units at each look, in all, rising.
        error: Chance that any of the looks' intervals misses.
        shares: What each look may spend of it; their sum is at most 1.

    Raises:
        ValueError: If the sizes do not rise, there are more looks than shares, or the error is not in (0, 1).

    Example:
        >>> [round(level, 4) for level in levels((12, 24, 36, 48), 0.05)]
        [0.025, 0.0131, 0.0147, 0.0171]
    """
    if not sizes or sizes[0] < 1 or any(b <= a for a, b in itertools.pairwise(sizes)):
        raise ValueError(f"sizes={sizes} must rise, from 1 at least: every look has new units")
    if len(sizes) > len(shares):
        raise ValueError(f"sizes={sizes} are {len(sizes)} looks; the plan has {len(shares)}")
    check_confidence(1 - error)
    found: list[float] = []
    at, weight, last = np.zeros(1), np.ones(1), 0  # where the sum of values may be, if no look crossed
    for size, share in zip(sizes, shares, strict=False):
        spread = math.sqrt(size - last)
        beyond = partial(_beyond, at=at, weight=weight, spread=spread, root=math.sqrt(size))
        root = brentq(lambda bound, beyond=beyond, share=share: beyond(bound) - error * share, 0.0, 30.0)
        bound = cast(float, root)
        found.append(float(2 * stats.norm.sf(bound)))
        end = bound * math.sqrt(size)
        grid = NODES * end
        density = stats.norm.pdf((grid[:, None] - at) / spread) @ weight / spread
        at, weight, last = grid, WEIGHTS * end * density, size
    return tuple(found)


def _beyond(bound: float, at: np.ndarray, weight: np.ndarray, spread: float, root: float) -> float:
    # chance to cross now, and not before
    end = bound * root
    return float(weight @ (stats.norm.sf((end - at) / spread) + stats.norm.sf((end + at) / spread)))


def wide_interval(values: ArrayLike, confidence: float = 0.95, *, within: Range | None = None) -> Interval:
    r"""Return the mean of independent values with an interval for few values whose distribution may be skewed.

    It is the wider, at each end, of two: Student's with half the degrees of freedom, and Hall's (1992). The second
    takes the quantile $y$ of the same distribution through the inverse of
    $g(t) = t + \eta t^2/3 + \eta^2 t^3/27 + \eta/6$, with the skewness $\eta \sqrt n$ estimated without bias.

    Args:
        values: `[n]`, one value a seed, n >= 2.
        confidence: Coverage, in (0, 1).
        within: The range of the values, see `mean_interval`.

    Raises:
        ValueError: If there are fewer than two values, one is not finite, or the confidence is out of range.

    Example:
        >>> f"{wide_interval([1.0, 2.0, 3.0, 4.0, 5.0]):.2f}"
        '3.00 [-0.04, 6.04]'
    """
    check_confidence(confidence)
    sample = check_sample(values, "values", least=2)
    n, mean = len(sample), float(np.clip(sample.mean(), sample.min(), sample.max()))
    below, above = hall_reach(sample, float(stats.t.isf((1 - confidence) / 2, max(1.0, (n - 1) / 2))))
    low, _, scale = on_scale(mean, below, within)
    _, high, _ = on_scale(mean, above, within)

    def remake(confidence: float, without: int | None = None) -> Interval:
        return wide_interval(leave(sample, without), confidence, within=within)

    method = f"Student t of half the degrees of freedom, or Hall's{scale}"
    return Interval(mean, low, high, n, method, confidence, tuple(sample.tolist()), n, remake)


def hall_reach(sample: Float[np.ndarray, " n"], quantile: float) -> tuple[float, float]:
    """Return how far the wider of the symmetric and Hall's interval reaches below and above the mean."""
    n = len(sample)
    if np.ptp(sample) == 0:
        return 0.0, 0.0
    error = float(stats.sem(sample))
    skew = float(stats.skew(sample, bias=False)) / math.sqrt(n) if n > 2 else 0.0
    if abs(skew) < 1e-6:  # the bend is beyond rounding
        return quantile * error, quantile * error
    ends = [3 / skew * (math.cbrt(1 + skew * (y - skew / 6)) - 1) for y in (quantile, -quantile)]
    return max(quantile, ends[0]) * error, max(quantile, -ends[1]) * error


# what a ledger's row holds


@dataclass(frozen=True)
class Sample:
    """The units of a claim, as its stored row holds them.

    Attributes:
        values: One a unit: its effect, of a jackknife its pseudo-value, of a share 1 or 0; of the largest of several
            effects one of each.
        counted: Whether they are a share's.
        within: The range of the statistic, None where the interval is symmetric.
    """

    values: tuple[Effect, ...]
    counted: bool = False
    within: Range | None = None

    @property
    def several(self) -> dict[str, Float[np.ndarray, " n"]]:
        """The values by effect, where the claim is about the largest of several; empty elsewhere."""
        columns = np.array(self.values).T
        return {str(i): column for i, column in enumerate(columns, 1)} if columns.ndim == 2 else {}

    def interval(self, confidence: float) -> Interval:
        """Return the interval of a look at these units."""
        if self.counted:
            return wilson_interval(int(np.sum(self.values)), len(self.values), confidence)
        if self.several:
            return largest_effect(self.several, confidence=confidence, one=wide_interval)
        return wide_interval(self.values, confidence, within=self.within)

    def later(self, size: int, confidence: float) -> Interval:
        """Return the interval that so many units would have, if mean and spread stayed as they are."""
        if self.several:

            def one(values: ArrayLike, confidence: float) -> Interval:
                return replace(self, values=tuple(np.asarray(values).tolist())).later(size, confidence)

            return largest_effect(self.several, confidence=confidence, one=one)
        mean = float(np.mean(self.values))
        if self.counted:
            return wilson_interval(round(mean * size), size, confidence)
        quantile = stats.t.isf((1 - confidence) / 2, max(1.0, (size - 1) / 2))
        half = float(quantile * np.std(self.values, ddof=1) / math.sqrt(size))
        low, high, _ = on_scale(mean, half, self.within)
        return Interval(mean, low, high, size, "as it would be", confidence)


def read_sample(row: Row) -> Sample:
    """Return the units of a settled row, after its own interval was made again from them.

    Args:
        row: A row of a stored ledger; see `faultlines.reporting.ledger.Row`.

    Raises:
        ValueError: If the row keeps no effect a unit, or they do not give its interval.

    Example:
        >>> from faultlines.reporting import Ledger, mean_interval
        >>> ledger = Ledger()
        >>> ledger.state("C1", "it grows", paper="", test="mean above 0", smallest=0.1, reason="an example's")
        >>> _ = ledger.settle("C1", mean_interval([0.2, 0.4, 0.9]))
        >>> read_sample(ledger.records()[0]).values
        (0.2, 0.4, 0.9)
    """
    n, estimate, method = row["n"], row["estimate"], row["method"]
    if estimate is None:
        raise ValueError("it was not run")
    if row["confidence"] == 1.0:
        raise ValueError("it is a check of all cases, not of seeds")
    if method.startswith("Wilson"):
        won = round(estimate * n)
        return Sample((1.0,) * won + (0.0,) * (n - won), counted=True)
    effects = row.get("effects") or []
    if len(effects) != n or any(effect is None for effect in effects) or n < 2:
        raise ValueError(f"its ledger keeps no effect of each seed ({method})")
    if method.startswith("largest of"):
        found = Sample(tuple(map(tuple, effects)))
        own = largest_effect(found.several, confidence=row["confidence"])
        if not all(
            math.isclose(getattr(own, k), row[k], rel_tol=1e-9, abs_tol=1e-12)
            for k in ("estimate", "low", "high")
        ):
            raise ValueError(f"its interval cannot be made again from its effects ({method})")
        return found
    values = np.array(effects, dtype=np.float64)
    if method.startswith("jackknife"):
        values = n * estimate - (n - 1) * values
    elif not math.isclose(values.mean(), estimate, rel_tol=1e-9, abs_tol=1e-12):
        raise ValueError(f"its estimate is not the mean of its effects ({method})")
    if "bootstrap" in method:
        return Sample(tuple(values.tolist()))
    half = float(stats.t.ppf((1 + row["confidence"]) / 2, n - 1) * stats.sem(values))
    scale = next((scale for scale in SCALES if scale in method), "")
    for within in SCALES.get(scale, (None,)):
        try:
            ends = on_scale(estimate, half, within)[:2]
        except ValueError:
            continue
        tolerance = 1e-9 * (half + abs(estimate) + 1e-3)
        if all(abs(end - row[name]) <= tolerance for end, name in zip(ends, ("low", "high"), strict=True)):
            return Sample(tuple(values.tolist()), within=within)
    raise ValueError(f"its interval cannot be made again from its effects ({method})")


# a claim over the looks


@dataclass(frozen=True)
class Look:
    """One look at a claim.

    Attributes:
        interval: All units so far, at the level of this look.
        verdict: What it says by itself.
    """

    interval: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Course:
    """A claim as its seeds came in.

    Attributes:
        row: Its first row: the rule, and what the first piece said by itself.
        sample: All units, in the order in which they came.
        looks: One a look that brought new units.
    """

    row: Row
    sample: Sample
    looks: tuple[Look, ...]

    @property
    def interval(self) -> Interval:
        """The interval of the last look."""
        return self.looks[-1].interval

    @property
    def verdict(self) -> Verdict:
        """What the last look that decided says: what a look has decided, later ones need not decide again."""
        said: list[Verdict] = [look.verdict for look in self.looks if look.verdict != "inconclusive"]
        return said[-1] if said else "inconclusive"

    @cached_property
    def fragile(self) -> bool:
        """Whether the last look's verdict is another one without one of its units, or looks contradict each other."""
        last, said = self.looks[-1], {look.verdict for look in self.looks}
        if {"holds", "fails"} <= said:
            return True
        return last.verdict != "inconclusive" and any(
            _verdict(self.row, one) != last.verdict for one in last.interval.leaving_out()
        )

    def more_seeds(self) -> int | None:
        """Return how many more units would decide at the next look, if mean and spread stayed as they are.

        Returns:
            Their number; 0 where the claim is decided; None where the plan has no look left or 10,000 units would
            not do.
        """
        if self.verdict != "inconclusive":
            return 0
        sizes = tuple(look.interval.n for look in self.looks)
        if len(sizes) == LOOKS:
            return None
        error = 1 - self.row["confidence"]

        def decides(size: int) -> bool:
            interval = self.sample.later(size, 1 - levels((*sizes, size), error)[-1])
            return _verdict(self.row, interval) != "inconclusive"

        low, high = sizes[-1], MOST_SEEDS
        if not decides(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if decides(middle) else (middle, high)
        return high - sizes[-1]


def follow(pieces: Sequence[Sequence[Row]]) -> Course:
    """Follow a claim through the looks.

    Args:
        pieces: For each look, in order, the claim's rows of the pieces that came since the one before. A row that was
            not run brings nothing.

    Raises:
        ValueError: If no row has units, one does not keep them, the pieces are of different rules, two of them hold the
            same units, or there are more looks than the plan has.

    Example:
        >>> rule = {"claim": "C1", "direction": "above", "threshold": 0.0, "smallest": 0.01, "confidence": 0.95}
        >>> def piece(*effects):
        ...     found = mean_interval(effects)
        ...     return [rule | {"n": found.n, "estimate": found.estimate, "low": found.low, "high": found.high,
        ...                     "method": found.method, "effects": found.values}]
        >>> from faultlines.reporting import mean_interval
        >>> one, two = piece(0.3, 0.1, 0.6, 0.2), piece(0.2, 0.4, 0.5, 0.3, 0.4)
        >>> follow([one]).verdict, follow([one]).more_seeds(), follow([one, two]).verdict
        ('inconclusive', 6, 'holds')
    """
    rows: list[Row] = []
    seen: list[Sample] = []
    ends: list[int] = []
    for piece in pieces:
        for row in piece:
            if row["estimate"] is None:
                continue
            sample = read_sample(row)
            if not sample.counted and any(sample.values == other.values for other in seen):
                raise ValueError("its values are the same in two pieces: the seed does not enter")
            rows.append(row)
            seen.append(sample)
        if rows and (not ends or ends[-1] < len(rows)):
            ends.append(len(rows))
    if not rows:
        raise ValueError("it was not run")
    if len(ends) > LOOKS:
        raise ValueError(f"it was looked at {len(ends)} times; the plan has {LOOKS}")
    rules = {tuple(row.get(key) for key in ("claim", "direction", "threshold", "smallest")) for row in rows}
    errors = {round(1 - row["confidence"], 12) for row in rows}
    forms = {(sample.counted, sample.within) for sample in seen}
    if len(rules) > 1 or len(errors) > 1 or len(forms) > 1:
        raise ValueError("its pieces are of different rules or intervals")
    whole = replace(seen[0], values=tuple(value for sample in seen for value in sample.values))
    sizes = tuple(sum(len(sample.values) for sample in seen[:end]) for end in ends)
    made = [
        replace(whole, values=whole.values[:size]).interval(1 - level)
        for size, level in zip(sizes, levels(sizes, 1 - rows[0]["confidence"]), strict=True)
    ]
    looks = tuple(Look(interval, _verdict(rows[0], interval)) for interval in made)
    return Course(rows[0], whole, looks)


def _verdict(row: Row, interval: Interval) -> Verdict:
    return judge(interval, row["direction"], row["threshold"], row.get("smallest"))
