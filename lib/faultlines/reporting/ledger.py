"""The claims ledger: every claim stated with its test before its result, then settled once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from faultlines.reporting.intervals import Interval
from faultlines.reporting.prose import badge, quote_texts
from faultlines.reporting.tables import Table
from faultlines.reporting.verdicts import Direction, Verdict, check_direction, judge

MIME = "application/vnd.faultlines.ledger+json"


@dataclass(frozen=True)
class Claim:
    """A claim as stated before anything was measured.

    Attributes:
        id: Short name, `C4`.
        statement: What is claimed, one sentence; mathematics between dollar signs.
        paper: What the paper reports for it, and with what standing.
        test: The statistic and the rule, in words.
        direction: Which side of the threshold the claim puts the statistic on.
        threshold: The threshold.
    """

    id: str
    statement: str
    paper: str
    test: str
    direction: Direction
    threshold: float


@dataclass(frozen=True)
class Row:
    """A settled claim, as it is stored and shown.

    Attributes:
        claim: The claim's id.
        statement: See `Claim`.
        paper: See `Claim`.
        test: See `Claim`.
        ours: Estimate and interval as shown.
        estimate: The point estimate; None where nothing was run.
        low: Lower end of the interval.
        high: Upper end.
        n: Units the interval rests on.
        method: How the interval was made, in words.
        confidence: Its coverage; 1 where the two ends are extremes of all cases.
        direction: See `Claim`.
        threshold: See `Claim`.
        verdict: The verdict.
        cost_s: Seconds of computing charged to the claim.
        figure: Label of the figure that shows it.
        note: What else must be said.
        effects: The effect of each unit, see `Interval.values`; empty where the method lists none.
    """

    claim: str
    statement: str
    paper: str
    test: str
    ours: str
    estimate: float | None
    low: float | None
    high: float | None
    n: int
    method: str
    confidence: float | None
    direction: Direction
    threshold: float
    verdict: Verdict
    cost_s: float
    figure: str
    note: str
    effects: tuple[float, ...] = ()


class Ledger:
    """The claims of one chapter.

    A claim is stated with its test, then settled once with an interval; the verdict follows from the two and
    cannot be given by hand. Stating after the first settlement, settling twice, or settling what was not
    stated is an error, and so is showing the ledger while a claim is open.

    Example:
        >>> ledger = Ledger()
        >>> ledger.state("C1", "Bound above norm", paper="Theorem 1", test="smallest ratio > 1", threshold=1.0)
        >>> ledger.settle("C1", Interval(1.2, 1.1, 1.3, 10, "range"))
        'holds'
    """

    def __init__(self) -> None:
        self.claims: dict[str, Claim] = {}
        self.rows: dict[str, Row] = {}
        self._costs: dict[str, float] = {}

    def state(
        self,
        id: str,
        statement: str,
        *,
        paper: str,
        test: str,
        direction: Direction = "above",
        threshold: float = 0.0,
    ) -> None:
        """State a claim and its test; see `Claim` for the arguments.

        Raises:
            ValueError: If the id is taken, a result is already in the ledger, or the rule is none.
        """
        check_direction(direction)
        if not math.isfinite(threshold):
            raise ValueError(f"threshold={threshold} of claim {id!r} is not finite")
        if id in self.claims:
            raise ValueError(f"claim {id!r} is stated already")
        if self.rows:
            raise ValueError(f"claim {id!r} comes after a result: every claim is stated before the first one")
        self.claims[id] = Claim(id, statement, paper, test, direction, threshold)

    @contextmanager
    def timed(self, *ids: str) -> Iterator[None]:
        """Charge the wall time of the `with` block to claims, in equal parts.

        A claim may be settled inside the block: its row is charged when the block ends.

        Raises:
            ValueError: If no claim is named, or one is not stated.
        """
        if not ids:
            raise ValueError("timed() needs the id of the claim, or claims, to charge")
        for id in ids:
            self._stated(id)
        start = time.perf_counter()
        try:
            yield
        finally:
            share = (time.perf_counter() - start) / len(ids)
            for id in ids:
                self._costs[id] = self._costs.get(id, 0.0) + share
                if id in self.rows:
                    self.rows[id] = replace(self.rows[id], cost_s=round(self._costs[id], 2))

    def settle(
        self, id: str, interval: Interval, *, figure: str = "", note: str = "", spec: str = ".3g"
    ) -> Verdict:
        """Settle a claim by an interval.

        Args:
            id: The claim.
            interval: Its statistic; for a theorem check the least and greatest value over all cases.
            figure: Label of the figure that shows it.
            note: What else must be said.
            spec: Number format of estimate and interval.

        Returns:
            The verdict.

        Raises:
            ValueError: If the claim is not stated, or settled already.
        """
        claim = self._stated(id)
        verdict = judge(interval, claim.direction, claim.threshold)
        row = Row(
            claim=id, statement=claim.statement, paper=claim.paper, test=claim.test,
            ours=f"{interval:{spec}}", estimate=float(interval.estimate), low=float(interval.low),
            high=float(interval.high), n=int(interval.n), method=interval.method,
            confidence=float(interval.confidence), direction=claim.direction, threshold=claim.threshold,
            verdict=verdict, cost_s=round(self._costs.get(id, 0.0), 2), figure=figure, note=note,
            effects=tuple(map(float, interval.values)),
        )  # fmt: skip
        self._enter(row)
        return verdict

    def leave(self, id: str, why: str) -> Verdict:
        """Enter a claim as *not run*, and say why.

        Raises:
            ValueError: If the claim is not stated, or settled already.
        """
        claim = self._stated(id)
        row = Row(
            claim=id, statement=claim.statement, paper=claim.paper, test=claim.test, ours="", estimate=None,
            low=None, high=None, n=0, method="", confidence=None, direction=claim.direction,
            threshold=claim.threshold, verdict="not run", cost_s=0.0, figure="", note=why,
        )  # fmt: skip
        self._enter(row)
        return row.verdict

    def _stated(self, id: str) -> Claim:
        if id not in self.claims:
            raise ValueError(f"claim {id!r} is not stated; stated are {', '.join(self.claims) or 'none'}")
        return self.claims[id]

    def _enter(self, row: Row) -> None:
        if row.claim in self.rows:
            raise ValueError(f"claim {row.claim!r} is settled already, as {self.rows[row.claim].verdict}")
        self.rows[row.claim] = row
        quote_texts({f"{row.claim}-verdict": badge(row.verdict), f"{row.claim}-ours": row.ours or "not run"})

    def statements(self) -> Table:
        """Return the table of claims and tests, for the part of the chapter that comes before any result."""
        return Table(
            ("claim", "statement", "paper", "test"),
            [(c.id, c.statement, c.paper, c.test) for c in self.claims.values()],
            style="fl-claims",
        )

    def table(self) -> Table:
        """Return the ledger as a table.

        Raises:
            ValueError: If a stated claim is neither settled nor left.
        """
        if open_ := [id for id in self.claims if id not in self.rows]:
            raise ValueError(f"claims {', '.join(open_)} are open: settle each, or leave it with a reason")
        rows = [self.rows[id] for id in self.claims]
        return Table(
            ("claim", "paper", "ours", "test", "verdict"),
            [
                (
                    f"**{row.claim}** {row.statement}",
                    row.paper,
                    f"{row.ours} (n = {row.n})" + (f" {row.note}" if row.note else "") if row.n else row.note,
                    row.test,
                    Table.badge(row.verdict),
                )
                for row in rows
            ],
            style="fl-ledger",
            # times differ from run to run: they stand in the record
            payload={MIME: [{k: v for k, v in row.items() if k != "cost_s"} for row in self.records()]},
        )

    def records(self) -> list[dict[str, Any]]:
        """Return every settled claim as plain data, in the order in which they were stated."""
        return [_plain(self.rows[id]) for id in self.claims if id in self.rows]


def _plain(row: Row) -> dict[str, Any]:
    # JSON has no infinity, and lists for tuples
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(row).items()
    }
    return plain | {"effects": list(row.effects)}
