"""The ledgers of a sweep's runs side by side: pooled, along each axis, and drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from faultlines.reporting.figures import forest
from faultlines.reporting.intervals import Interval, paired_interval
from faultlines.reporting.tables import Table
from faultlines.reporting.verdicts import pool


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
        """Read a plan and the ledgers in it; a run without one does not count."""
        saved = json.loads(Path(plan).read_text(encoding="utf-8"))
        rows = [
            (one["values"], {row["claim"]: row for row in one["ledger"]})
            for one in saved["runs"]
            if one["ledger"] is not None
        ]
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
        found = list(self.of(claim))
        labels = [", ".join(f"{name}={value}" for name, value in at.items()) for at, _ in found]
        rows = [row for _, row in found]
        return forest(
            labels, [self._interval(row) for row in rows], pool(rows).interval, direction=rows[0]["direction"],
            threshold=rows[0]["threshold"], smallest=rows[0].get("smallest"), title=f"{claim}: {rows[0]['statement']}",
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
