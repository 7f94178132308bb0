"""One claim over several runs: the rows of their ledgers pooled, judged by the claim's own rule, and side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from faultlines.reporting.intervals import Interval, mean_interval, paired_interval
from faultlines.reporting.tables import Table
from faultlines.reporting.verdicts import Verdict, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


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


def pool(rows: Sequence[Row]) -> Pooled:
    r"""Pool the rows that several runs' ledgers hold of one claim.

    Estimates with intervals are pooled by random effects: weights $1 / (s_i^2 + \tau^2)$ with the between-run
    variance $\tau^2$ of DerSimonian & Laird (1986), and a Student t interval with one degree of freedom less than
    there are runs. Its standard error is the larger of the model's own and that of Hartung & Knapp (2001), which
    with few runs can be too small by chance. $s_i$ is read off the run's interval: half its width over the Student
    t or normal quantile, as its method says. Extremes over all cases (theorem checks) pool to the worst of them.

    The interval treats runs as independent draws. Runs that share seeds or data are not, and then it is too narrow.

    Args:
        rows: One row a run, of equal `claim`, `direction` and `threshold`; rows without an estimate do not count.

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
    rules = {(row["claim"], row["direction"], row["threshold"]) for row in settled}
    if len(rules) > 1:
        raise ValueError(f"rows are of different claims or rules: {sorted(map(str, rules))}")
    claim, direction, threshold = rules.pop()
    interval, heterogeneity = _combine(settled, direction)
    verdict = judge(interval, direction, threshold)
    return Pooled(claim, interval, heterogeneity, verdict, tuple(row["verdict"] for row in settled))


def _combine(rows: Sequence[Row], direction: str) -> tuple[Interval, float]:
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


def standard_error(row: Row) -> float:
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


@dataclass(frozen=True)
class Gathered:
    """The ledgers of a sweep's runs.

    Attributes:
        chapter: The chapter.
        run: The run group.
        swept: The values of each axis, as text.
        overrides: Parameters that are the same for every run, as text.
        planned: How many runs the sweep has.
        rows: For every run that has a result, its axes' values and the ledger's rows by claim.
    """

    chapter: str
    run: str
    swept: dict[str, list[str]]
    overrides: dict[str, str]
    planned: int
    rows: list[tuple[dict[str, str], dict[str, dict[str, Any]]]]

    @classmethod
    def read(cls, plan: str) -> Gathered:
        """Read the ledgers of the notebooks that a plan names; one that is missing or not whole does not count."""
        saved = json.loads(Path(plan).read_text(encoding="utf-8"))
        rows = []
        for one in saved["runs"]:
            try:
                notebook = json.loads(Path(one["notebook"]).read_text(encoding="utf-8"))
                ledger = notebook["metadata"]["faultlines"]["ledger"]
            except (OSError, ValueError, KeyError):
                continue
            rows.append((one["values"], {row["claim"]: row for row in ledger}))
        return cls(
            saved["chapter"], saved["run"], saved["axes"], saved["overrides"], len(saved["runs"]), rows
        )

    @property
    def axes(self) -> list[str]:
        """Names of the axes."""
        return list(self.swept)

    def claims(self) -> list[str]:
        """Return the claims that at least one run settled, in the order of the ledgers."""
        found = [
            claim for _, ledger in self.rows for claim, row in ledger.items() if row["estimate"] is not None
        ]
        return list(dict.fromkeys(found))

    def of(self, claim: str) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
        """Yield the axes' values and the row of every run that settled a claim."""
        for values, ledger in self.rows:
            row = ledger.get(claim)
            if row is not None and row["estimate"] is not None:
                yield values, row

    def summary(self) -> str:
        """Return what was swept, and what is missing, as Markdown."""
        axes = "; ".join(f"`{name}` = {', '.join(values)}" for name, values in self.swept.items())
        fixed = "".join(f", `{name}` = {value}" for name, value in self.overrides.items())
        there, planned = len(self.rows), self.planned
        missing = (
            "" if there == planned else f" **{planned - there} of them have no result and do not count.**"
        )
        return (
            f"Chapter `{self.chapter}`, run `{self.run}`{fixed}, swept over {axes}: {planned} runs.{missing}"
        )

    def table(self) -> Table:
        """Return every claim pooled over all runs."""
        lines = []
        for claim in self.claims():
            rows = [row for _, row in self.of(claim)]
            pooled = pool(rows)
            says = {verdict: pooled.verdicts.count(verdict) for verdict in dict.fromkeys(pooled.verdicts)}
            share = pooled.heterogeneity
            lines.append((
                f"**{claim}** {rows[0]['statement']}",
                f"{pooled.interval:.3g}",
                "" if share != share else f"{share:.0%}",
                ", ".join(f"{count} {verdict}" for verdict, count in says.items()),
                Table.badge(pooled.verdict),
            ))  # fmt: skip
        return Table(("claim", "pooled", "$I^2$", "run by run", "verdict"), lines, style="fl-claims")

    def along(self, axis: str) -> Table:
        """Return each claim's mean estimate at every value of an axis, and the paired difference to the first."""
        values = self.swept[axis]
        lines = []
        for claim in self.claims():
            said = {self._key(at, axis): row["estimate"] for at, row in self.of(claim)}
            lines.append((f"**{claim}**", *(self._cell(said, value, values[0]) for value in values)))
        return Table((f"claim, by {axis}", *values), lines, style="fl-claims")

    def drawable(self) -> list[str]:
        """Return the claims whose estimates have intervals."""
        return [claim for claim in self.claims() if all(self._has_interval(row) for _, row in self.of(claim))]

    def forest(self, claim: str) -> Figure:
        """Return the forest plot of a claim; the caller closes it."""
        from faultlines.reporting.figures import forest

        found = list(self.of(claim))
        labels = [", ".join(f"{name}={value}" for name, value in at.items()) for at, _ in found]
        rows = [row for _, row in found]
        return forest(
            labels, [self._interval(row) for row in rows], pool(rows).interval, direction=rows[0]["direction"],
            threshold=rows[0]["threshold"], title=f"{claim}: {rows[0]['statement']}",
        )  # fmt: skip

    def _key(self, at: dict[str, str], axis: str) -> tuple[str, tuple[str, ...]]:
        return at[axis], tuple(value for name, value in at.items() if name != axis)

    def _cell(self, said: dict[tuple[str, tuple[str, ...]], float], value: str, first: str) -> str:
        here = {rest: estimate for (at, rest), estimate in said.items() if at == value}
        if not here:
            return "no result"
        mean = f"{sum(here.values()) / len(here):.3g}"
        pairs = [(estimate, said[first, rest]) for rest, estimate in here.items() if (first, rest) in said]
        if value == first or not pairs:
            return mean
        if len(pairs) == 1:
            return f"{mean} (difference {pairs[0][0] - pairs[0][1]:+.3g})"
        treated, control = zip(*pairs, strict=True)
        return f"{mean} (difference {paired_interval(treated, control):+.3g})"

    @staticmethod
    def _has_interval(row: dict[str, Any]) -> bool:
        return row["confidence"] != 1.0 and row["low"] is not None and row["high"] is not None

    @staticmethod
    def _interval(row: dict[str, Any]) -> Interval:
        return Interval(row["estimate"], row["low"], row["high"], row["n"], row["method"], row["confidence"])
