"""The claims ledger: every claim stated with its test before its result, then settled once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from faultlines.reporting.intervals import Effect, Interval
from faultlines.reporting.prose import badge, quote_texts
from faultlines.reporting.tables import Table
from faultlines.reporting.verdicts import Direction, Verdict, check_direction, check_smallest, judge

MIME = "application/vnd.faultlines.ledger+json"
ERROR = 0.05
"""Chance of a wrong verdict: of each secondary claim, and of all primary claims of a chapter together."""
MOST = 8
"""Primary claims of a chapter, at most."""


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
        primary: Whether it is one of the chapter's headlines, whose errors are controlled together.
        sentence: The abstract's sentence that a primary claim tests, quoted; `"ours"` where no paper says it.
        smallest: The smallest effect of interest: a distance from the threshold, in the claim's units; None for a
            theorem check, which has none.
        reason: Why that one.
    """

    id: str
    statement: str
    paper: str
    test: str
    direction: Direction
    threshold: float
    primary: bool = False
    sentence: str = ""
    smallest: float | None = None
    reason: str = ""

    @property
    def rule(self) -> str:
        """The test, and what is negligible."""
        if self.smallest is None:
            return self.test
        of = f" of {self.threshold:g}" if self.threshold else ""
        return f"{self.test}; negligible within {self.smallest:g}{of} ({self.reason})"


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
        primary: See `Claim`.
        sentence: See `Claim`.
        smallest: See `Claim`.
        reason: See `Claim`.
        fragile: Whether the verdict of a primary claim is another one (or none) without one of its units.
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
    effects: tuple[Effect, ...] = ()
    primary: bool = False
    sentence: str = ""
    smallest: float | None = None
    reason: str = ""
    fragile: bool = False


class Ledger:
    """The claims of one chapter.

    A claim is stated with its test, then settled once with an interval; the verdict follows from the two and
    cannot be given by hand. Stating after the first settlement, settling twice, or settling what was not
    stated is an error, and so is showing the ledger while a claim is open.

    The primary claims' intervals are simultaneous: each is made at 1 - 0.05/k, for the k of them that are empirical
    (Bonferroni), so that all of them cover at once at least 95 times in a hundred.

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
        primary: bool = False,
        sentence: str = "",
        smallest: float | None = None,
        reason: str = "",
    ) -> None:
        """State a claim and its test; see `Claim` for the arguments.

        Raises:
            ValueError: If the id is taken, a result is already in the ledger, the rule is none, a primary claim quotes
                no sentence or is one too many, or a smallest effect of interest has no reason.
        """
        check_direction(direction)
        if smallest is not None:
            check_smallest(smallest)
        if (smallest is None) != (not reason.strip()):
            raise ValueError(f"claim {id!r} needs both smallest and reason, or neither (a theorem check)")
        if primary and not sentence.strip():
            raise ValueError(f"claim {id!r} is primary: quote the sentence it tests, or say sentence='ours'")
        if primary and sum(claim.primary for claim in self.claims.values()) == MOST:
            raise ValueError(f"claim {id!r} would be primary claim {MOST + 1}; a chapter has at most {MOST}")
        if not math.isfinite(threshold):
            raise ValueError(f"threshold={threshold} of claim {id!r} is not finite")
        if id in self.claims:
            raise ValueError(f"claim {id!r} is stated already")
        if self.rows:
            raise ValueError(f"claim {id!r} comes after a result: every claim is stated before the first one")
        self.claims[id] = Claim(
            id, statement, paper, test, direction, threshold, primary, sentence, smallest, reason
        )

    def level(self, id: str) -> float:
        """Return the confidence at which a claim's interval is made: 0.95, or that of simultaneous primary claims.

        It is known when all claims are stated.

        Raises:
            ValueError: If the claim is not stated.
        """
        return 1 - ERROR / (self._together() if self._stated(id).primary else 1)

    def _together(self) -> int:
        # primary claims that are empirical; those left as not run are among them
        return sum(claim.primary and claim.smallest is not None for claim in self.claims.values()) or 1

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
            interval: Its statistic; for a theorem check the least and greatest value over all cases. That of a
                primary claim is made again at the simultaneous level.
            figure: Label of the figure that shows it.
            note: What else must be said.
            spec: Number format of estimate and interval.

        Returns:
            The verdict.

        Raises:
            ValueError: If the claim is not stated, or settled already; or it is primary and empirical, and states no
                smallest effect of interest or has an interval that cannot be made at the simultaneous level.
        """
        claim = self._stated(id)
        fragile = False
        if claim.primary and interval.confidence < 1:
            interval, fragile = self._simultaneous(claim, interval)
        verdict = judge(interval, claim.direction, claim.threshold, claim.smallest)
        row = Row(
            claim=id, statement=claim.statement, paper=claim.paper, test=claim.test,
            ours=f"{interval:{spec}}", estimate=float(interval.estimate), low=float(interval.low),
            high=float(interval.high), n=int(interval.n), method=interval.method,
            confidence=float(interval.confidence), direction=claim.direction, threshold=claim.threshold,
            verdict=verdict, cost_s=round(self._costs.get(id, 0.0), 2), figure=figure, note=note,
            effects=tuple(map(_plainly, interval.values)), primary=claim.primary, sentence=claim.sentence,
            smallest=claim.smallest, reason=claim.reason, fragile=fragile,
        )  # fmt: skip
        self._enter(row)
        return verdict

    def _simultaneous(self, claim: Claim, interval: Interval) -> tuple[Interval, bool]:
        # the interval of an empirical primary claim at its level, and whether its verdict hangs on one unit
        if claim.smallest is None:
            raise ValueError(
                f"claim {claim.id!r} is primary and empirical: state its smallest effect and a reason"
            )
        level, together = self.level(claim.id), self._together()
        if interval.remake is not None or interval.confidence < level:
            try:
                interval = interval.at(level)
            except ValueError as error:
                raise ValueError(
                    f"claim {claim.id!r} is primary: {error}; make it with confidence=ledger.level({claim.id!r})"
                ) from None
        if together > 1:
            interval = replace(interval, method=f"{interval.method}, simultaneous over {together}")

        def verdict(found: Interval) -> Verdict:
            return judge(found, claim.direction, claim.threshold, claim.smallest)

        decided = verdict(interval)
        fragile = decided != "inconclusive" and any(verdict(one) != decided for one in interval.leaving_out())
        return interval, fragile

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
            primary=claim.primary, sentence=claim.sentence, smallest=claim.smallest, reason=claim.reason,
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
        shown = badge(row.verdict) + (" (fragile)" if row.fragile else "")
        quote_texts({f"{row.claim}-verdict": shown, f"{row.claim}-ours": row.ours or "not run"})

    def statements(self) -> Table:
        """Return the table of claims and tests, for the part of the chapter that comes before any result.

        The primary claims come first, with the sentence that each one tests.
        """
        return Table(
            ("claim", "statement", "paper", "test"),
            [(_name(c), c.statement, _said(c), c.rule) for c in sorted(self.claims.values(), key=_secondary)],
            style="fl-claims",
        )

    def table(self) -> Table:
        """Return the ledger as a table, the primary claims first.

        Raises:
            ValueError: If a stated claim is neither settled nor left.
        """
        if open_ := [id for id in self.claims if id not in self.rows]:
            raise ValueError(f"claims {', '.join(open_)} are open: settle each, or leave it with a reason")
        rows = [self.rows[claim.id] for claim in sorted(self.claims.values(), key=_secondary)]
        return Table(
            ("claim", "paper", "ours", "test", "verdict"),
            [
                (
                    f"{_name(self.claims[row.claim], bold=True)} {row.statement}",
                    row.paper,
                    f"{row.ours} (n = {row.n})" + (f" {row.note}" if row.note else "") if row.n else row.note,
                    self.claims[row.claim].rule,
                    Table.badge(row.verdict, "(fragile)" if row.fragile else ""),
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


def _plainly(effect: Effect) -> Effect:
    return tuple(map(float, effect)) if isinstance(effect, tuple) else float(effect)


def _secondary(claim: Claim) -> bool:
    return not claim.primary


def _name(claim: Claim, *, bold: bool = False) -> str:
    name = f"**{claim.id}**" if bold else claim.id
    return f"{name} (primary)" if claim.primary else name


def _said(claim: Claim) -> str:
    quoted = f"“{claim.sentence}” " if claim.sentence and claim.sentence != "ours" else ""
    return quoted + claim.paper


def _plain(row: Row) -> dict[str, Any]:
    # JSON has no infinity, and lists for tuples
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(row).items()
    }
    return plain | {"effects": list(row.effects)}
