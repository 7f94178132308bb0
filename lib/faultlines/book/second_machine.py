"""The same run on another machine: do its primary verdicts stay?

Another processor takes sums in another order, and training carries the last bit into every number. A published run can
have a second one beside it, `results/<run>/second/<chapter>.json`: same code, parameters and seeds, another processor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from faultlines.book.myst import list_table, verdict_badge
from faultlines.notebook.batches import pooled
from faultlines.notebook.code import digest
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import Result, write_atomic

KEPT = ("claim", "estimate", "low", "high", "n", "verdict")


class Second(BaseModel):
    """A run's second execution, as its file holds it.

    Attributes:
        chapter: Name of the chapter.
        run: Run group.
        beside: Seal of the record of the published run.
        parameters: All parameters, the same as there.
        kernel: Python, packages, device, threads, peak memory.
        commit: Commit of the library's checkout.
        started: Start, ISO 8601, UTC.
        ledger: Numbers and verdict of every claim.
        seal: Digest of all of the above.
    """

    model_config = ConfigDict(extra="forbid")

    chapter: str
    run: str
    beside: str
    parameters: dict[str, Any]
    kernel: dict[str, Any]
    commit: str
    started: str
    ledger: list[dict[str, Any]]
    seal: str = ""

    def digest(self) -> str:
        """Return the digest of everything but the seal."""
        return digest(json.dumps(self.model_dump(exclude={"seal"}), sort_keys=True))

    def verdicts(self) -> dict[str, str]:
        """Return the verdict of every claim."""
        return {row["claim"]: row["verdict"] for row in self.ledger}


def second_file(project: Project, task: RunSpec) -> Path:
    """Return where the second execution of a run stands."""
    return project.root / "results" / task.run / "second" / f"{task.chapter.name}.json"


def write_second(project: Project, task: RunSpec) -> Path:
    """Keep this machine's result of a published run as its second one, and return where it stands.

    Raises:
        UsageError: If one of the two is not fresh, their parameters differ, or both were made on the same processor.
    """
    judge = Freshness(project, Runs.load(project))
    first, here = judge.state(task, "published"), judge.state(task, "here")
    for state, where in ((first, "what is published"), (here, "this machine's result")):
        if state.name != "fresh" or state.result is None:
            raise UsageError(f"{task.chapter.name} · {task.label}: {where} is {state.name}")
    assert first.result is not None and here.result is not None
    there, own = first.result.provenance, here.result.provenance
    if there.parameters != own.parameters:
        raise UsageError(f"{task.chapter.name} · {task.label}: this machine's result has other parameters")
    if there.kernel["device"] == own.kernel["device"]:
        raise UsageError(
            f"{task.chapter.name} · {task.label} was made on the same processor, {own.kernel['device']}; a second "
            "machine has another one"
        )
    made = Second(
        chapter=task.chapter.name, run=task.run, beside=there.seal, parameters=own.parameters, kernel=own.kernel,
        commit=own.commit, started=own.started,
        ledger=[{name: row[name] for name in KEPT} for row in here.result.ledger],
    )  # fmt: skip
    made.seal = made.digest()
    path = second_file(project, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(made.model_dump(mode="json"), indent=1) + "\n")
    return path


def read_second(project: Project, task: RunSpec, base: Result) -> Second | None:
    """Return the second execution that belongs to a result; None where there is none, or it cannot be believed."""
    path = second_file(project, task)
    try:
        found = Second.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError):
        return None
    own = base.provenance
    belongs = found.digest() == found.seal and found.beside == own.seal and found.parameters == own.parameters
    return found if belongs else None


def standing_rows(project: Project, task: RunSpec, base: Result) -> list[dict[str, Any]]:
    """Return a result's ledger with the verdicts that stand: over all its batches of seeds, and on a second machine.

    A primary decision that the second machine does not share is *fragile*. One over batches of seeds is left as it is:
    its pieces come from several machines already.
    """
    rows = pooled(project, task, base, alone=False).rows(base.ledger)
    second = read_second(project, task, base)
    there = second.verdicts() if second else {}
    for row, alone in zip(rows, base.ledger, strict=True):
        own = row["verdict"] == alone["verdict"] != "inconclusive"  # what is open has nothing to lose
        if row.get("primary") and own and there.get(row["claim"], row["verdict"]) != row["verdict"]:
            row["fragile"] = True
    return rows


def second_section(base: Result, second: Second | None) -> str:
    """Return what a second machine says of a run, in MyST; empty where there is none."""
    if second is None:
        return ""
    there = {row["claim"]: row for row in second.ledger}
    both = [row for row in base.ledger if row["claim"] in there]
    moved = [row for row in both if row["verdict"] != there[row["claim"]]["verdict"]]
    primary = sum(bool(row.get("primary")) for row in moved)
    lines = [
        "## On a second machine",
        "",
        f"The same code, parameters and seeds on another processor ({second.kernel['device']}; this page: "
        f"{base.provenance.kernel['device']}): {len(both) - len(moved)} of {len(both)} verdicts are the same, and "
        f"{'no primary one' if not primary else f'{primary} of the primary ones'} differs.",
    ]
    if moved:
        rows = [
            (
                f"**{row['claim']}**" if row.get("primary") else row["claim"],
                f"{verdict_badge(row['verdict'])} {_numbers(row)}",
                f"{verdict_badge(there[row['claim']]['verdict'])} {_numbers(there[row['claim']])}",
            )
            for row in moved
        ]
        lines += ["", list_table(("Claim", "This page", "The other machine"), rows, style="fl-scoreboard")]
    return "\n".join(lines)


def _numbers(row: Mapping[str, Any]) -> str:
    if row["estimate"] is None:
        return ""
    return f"{row['estimate']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
