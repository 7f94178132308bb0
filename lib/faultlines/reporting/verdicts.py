"""Decisions by a rule that is stated before it is applied.

From an interval to a verdict; one claim over several runs, whose rows are pooled and judged by its own rule; and a
hyper-parameter, chosen on a validation split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy import stats

from faultlines.reporting.intervals import Interval, mean_interval

Verdict = Literal["holds", "fails", "negligible", "inconclusive", "not run"]
Direction = Literal["above", "below"]


def judge(
    interval: Interval, direction: Direction, threshold: float = 0.0, smallest: float | None = None
) -> Verdict:
    """Return *holds* where the whole interval lies on the claimed side, *fails* where on the other.

    Where it lies within the smallest effect of interest of the threshold, there is an effect of no interest or none:
    *negligible*, on whichever side it may be.

    Args:
        interval: The estimate.
        direction: On which side of the threshold the claim puts it.
        threshold: Zero for a difference, one for a ratio.
        smallest: The smallest effect of interest, a distance from the threshold; None where none is stated.

    Returns:
        The verdict; an interval that contains the threshold is *inconclusive*, if it is not
        negligible.

    Raises:
        ValueError: If the direction is neither `"above"` nor `"below"`, or `smallest` is not positive and finite.

    Example:
        >>> judge(Interval(0.2, 0.1, 0.3, 5, "t"), "above"), judge(Interval(0.2, -0.1, 0.5, 5, "t"), "above")
        ('holds', 'inconclusive')
        >>> judge(Interval(0.2, 0.1, 0.3, 5, "t"), "above", smallest=0.5)
        'negligible'
    """
    check_direction(direction)
    if smallest is not None:
        check_smallest(smallest)
        if threshold - smallest <= interval.low and interval.high <= threshold + smallest:
            return "negligible"
    if interval.low > threshold:
        return "holds" if direction == "above" else "fails"
    if interval.high < threshold:
        return "holds" if direction == "below" else "fails"
    return "inconclusive"


def check_smallest(smallest: float) -> None:
    """Refuse what is no smallest effect of interest.

    Raises:
        ValueError: If it is not positive and finite.
    """
    if not 0 < smallest < math.inf:
        raise ValueError(f"smallest={smallest} must be positive and finite: a distance from the threshold")


def check_direction(direction: str) -> None:
    """Refuse what is not a direction.

    Raises:
        ValueError: If the direction is neither `"above"` nor `"below"`.
    """
    if direction not in get_args(Direction):
        raise ValueError(f"direction={direction!r} is not one of 'above', 'below'")


Told = Mapping[str, Any]


@dataclass(frozen=True)
class Pooled:
    """A claim over several runs.

    Attributes:
        claim: The claim's id.
        interval: Mean effect over the runs; its `n` counts runs.
        heterogeneity: Higgins' I^2, the share of the variance between estimates that their own intervals do not
            explain, in [0, 1]; NaN where it is not defined (one run, or estimates without spread of their own).
        verdict: The claim's rule, applied to the interval.
        verdicts: What the runs say one by one.
    """

    claim: str
    interval: Interval
    heterogeneity: float
    verdict: Verdict
    verdicts: tuple[Verdict, ...]


def pool(rows: Sequence[Told]) -> Pooled:
    r"""Pool the rows that several runs' ledgers hold of one claim.

    Estimates with intervals are pooled by random effects: weights $1 / (s_i^2 + \tau^2)$ with the between-run
    variance $\tau^2$ of DerSimonian & Laird (1986), and a Student t interval with one degree of freedom less than
    there are runs. Its standard error is the larger of the model's own and that of Hartung & Knapp (2001), which
    with few runs can be too small by chance. $s_i$ is read off the run's interval: half its width over the Student
    t or normal quantile, as its method says. Extremes over all cases (theorem checks) pool to the worst of them.

    The interval treats runs as independent draws. Runs that share seeds or data are not, and then it is too narrow.

    Args:
        rows: One row a run, of equal `claim`, `direction`, `threshold` and `smallest`; rows without an estimate do
            not count.

    Returns:
        The pooled claim.

    Raises:
        ValueError: If no row has an estimate, or the rows are of different claims or rules.

    Example:
        >>> rule = {"claim": "C1", "direction": "above", "threshold": 0.0, "verdict": "holds"}
        >>> shape = {"n": 5, "method": "Student t", "confidence": 0.95}
        >>> rows = [rule | shape | {"estimate": e, "low": e - 0.2, "high": e + 0.2} for e in (0.3, 0.4, 0.5)]
        >>> pooled = pool(rows)
        >>> pooled.verdict, f"{pooled.interval:.2f}"
        ('holds', '0.40 [0.15, 0.65]')
    """
    settled = [row for row in rows if row["estimate"] is not None]
    if not settled:
        raise ValueError("rows holds no estimate to pool: no run settled the claim")
    rules = {(row["claim"], row["direction"], row["threshold"], row.get("smallest")) for row in settled}
    if len(rules) > 1:
        raise ValueError(f"rows are of different claims or rules: {sorted(map(str, rules))}")
    claim, direction, threshold, smallest = rules.pop()
    interval, heterogeneity = _combine(settled, direction)
    verdict = judge(interval, direction, threshold, smallest)
    return Pooled(claim, interval, heterogeneity, verdict, tuple(row["verdict"] for row in settled))


def _combine(rows: Sequence[Told], direction: str) -> tuple[Interval, float]:
    estimates = np.array([row["estimate"] for row in rows], dtype=np.float64)
    if any(row["confidence"] == 1.0 or row["low"] is None or row["high"] is None for row in rows):
        worst = float(estimates.max() if direction == "below" else estimates.min())
        return Interval(worst, worst, worst, len(rows), "worst of all runs", 1.0), math.nan
    if len(rows) == 1:
        row = rows[0]
        return Interval(
            row["estimate"], row["low"], row["high"], 1, row["method"], row["confidence"]
        ), math.nan
    errors = np.array([standard_error(row) for row in rows])
    if (errors <= 0).any():  # a run whose seeds all agree would take all the weight
        return mean_interval(estimates), math.nan
    # statsmodels' combine_effects leaves tau^2 negative where runs agree by chance, and then trusts them too much
    weights, free = errors**-2.0, len(rows) - 1
    spread = float(weights @ (estimates - np.average(estimates, weights=weights)) ** 2)
    between = (spread - free) / (weights.sum() - (weights @ weights) / weights.sum())
    weights = 1 / (errors**2 + max(0.0, between))
    mean = float(np.average(estimates, weights=weights))
    own = 1 / weights.sum()
    seen = weights @ (estimates - mean) ** 2 / (free * weights.sum())
    half = float(stats.t.ppf(0.975, free) * np.sqrt(max(own, seen)))
    heterogeneity = max(0.0, 1 - free / spread) if spread > 0 else 0.0
    return Interval(mean, mean - half, mean + half, len(rows), "random effects"), heterogeneity


def standard_error(row: Told) -> float:
    """Return the standard error that a row's interval implies; asymmetric intervals give their mean half width.

    Example:
        >>> row = {"low": 0.0, "high": 2.0, "n": 3, "method": "Student t", "confidence": 0.95}
        >>> round(standard_error(row), 4), round(standard_error(row | {"method": "Wilson"}), 4)
        (0.2324, 0.5102)
    """
    level = (1 + row["confidence"]) / 2
    few = "Student t" in row["method"] and row["n"] > 1
    quantile = stats.t.ppf(level, row["n"] - 1) if few else stats.norm.ppf(level)
    return float((row["high"] - row["low"]) / 2 / quantile)


def select(
    candidates: Mapping[str, Mapping[str, Sequence[float]]],
    reference: Mapping[str, Sequence[float]],
    *,
    maximise: str,
    keep: str,
    within: float,
) -> str:
    """Return the candidate of best mean `maximise` among those whose mean `keep` is near the reference's.

    Args:
        candidates: For each candidate, validation results by name, one value a seed.
        reference: The same of the arm without the treatment.
        maximise: Which result to maximise.
        keep: Which result must not fall by more than `within` below the reference.
        within: The allowance.

    Returns:
        Name of the candidate; where none keeps near enough, the one that keeps nearest.

    Raises:
        ValueError: If there is no candidate, or a result is not finite (NaN would win every comparison it is
            first in).

    Example:
        >>> runs = {"weak": {"clean": [0.95], "robust": [0.3]}, "strong": {"clean": [0.7], "robust": [0.5]}}
        >>> select(runs, {"clean": [0.95]}, maximise="robust", keep="clean", within=0.01)
        'weak'
    """
    if not candidates:
        raise ValueError("candidates is empty; there is nothing to choose from")
    for name, results in candidates.items():
        for result in (maximise, keep):
            if not np.isfinite(results[result]).all():
                raise ValueError(f"{result} of candidate {name!r} holds values that are not finite")
    floor = np.mean(reference[keep]) - within
    kept = {name: np.mean(results[keep]) for name, results in candidates.items()}
    near = [name for name, value in kept.items() if value >= floor]
    if not near:
        return max(kept, key=kept.__getitem__)
    return max(near, key=lambda name: np.mean(candidates[name][maximise]))
