"""Gather a sweep: pool the ledgers of its runs in one executed notebook."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jupytext

from faultlines.runner.project import Project
from faultlines.runner.store import read_result, write_notebook
from faultlines.runner.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from faultlines.reporting import Interval, Table

TEMPLATE = Path(__file__).with_name("gathered.md")


def gather(project: Project, sweep: Sweep) -> Path:
    """Execute the notebook that pools a sweep's results, and return where it stands.

    Args:
        project: The checkout.
        sweep: The sweep; combinations without a result are named in the notebook.
    """
    import papermill

    sweep.save(project)
    folder = sweep.folder(project)
    source, target = folder / ".gathering.ipynb", folder / "gathered.ipynb"
    write_notebook(jupytext.read(TEMPLATE), source)
    os.environ["FAULTLINES_ROOT"] = str(project.root)
    try:
        papermill.execute_notebook(
            str(source), str(source), parameters={"plan": str(folder / "sweep.json")}, kernel_name="python3",
            progress_bar=False,
        )  # fmt: skip
        source.replace(target)
    finally:
        source.unlink(missing_ok=True)
    return target


@dataclass(frozen=True)
class Gathered:
    """The ledgers of a sweep's runs.

    Attributes:
        sweep: The sweep.
        rows: For every combination that has a result, its axes' values and the ledger's rows by claim.
    """

    sweep: Sweep
    rows: list[tuple[dict[str, str], dict[str, dict[str, Any]]]]

    @classmethod
    def read(cls, plan: str) -> Gathered:
        """Read the results of a saved sweep."""
        from faultlines.runner.chapters import Chapter

        project = Project.find()
        saved = json.loads(Path(plan).read_text(encoding="utf-8"))
        chapter = Chapter.named(project, [saved["chapter"]])[0]
        sweep = Sweep(chapter, saved["run"], saved["axes"], saved["overrides"])
        rows = []
        for task in sweep.tasks:
            result = read_result(task.working(project))
            if result is not None:
                values = {name: task.overrides[name] for name in sweep.axes}
                rows.append((values, {row["claim"]: row for row in result.ledger}))
        return cls(sweep, rows)

    @property
    def axes(self) -> list[str]:
        """Names of the axes."""
        return list(self.sweep.axes)

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
        axes = "; ".join(f"`{name}` = {', '.join(values)}" for name, values in self.sweep.axes.items())
        fixed = "".join(f", `{name}` = {value}" for name, value in self.sweep.overrides.items())
        there, planned = len(self.rows), len(self.sweep.tasks)
        missing = (
            "" if there == planned else f" **{planned - there} of them have no result and do not count.**"
        )
        return (
            f"Chapter `{self.sweep.chapter.name}`, run `{self.sweep.run}`{fixed}, swept over {axes}: "
            f"{planned} runs.{missing}"
        )

    def table(self) -> Table:
        """Return every claim pooled over all runs."""
        from faultlines.reporting import Table, pool

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
        from faultlines.reporting import Table

        values = self.sweep.axes[axis]
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
        from faultlines.reporting import forest, pool

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
        from faultlines.reporting import paired_interval

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
        from faultlines.reporting import Interval

        return Interval(row["estimate"], row["low"], row["high"], row["n"], row["method"], row["confidence"])
