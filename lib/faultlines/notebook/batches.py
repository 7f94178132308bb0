"""Batches of seeds: pieces of a run that were computed later or elsewhere, and what all pieces say together.

A batch is the ledger of one more execution of a chapter, under the same run with other seeds: a small file without
a notebook, `results/<run>/batches/<chapter>-<first seed>.json`. The published notebook of the run is the first piece.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from faultlines.notebook.code import Modules, digest, library_hash
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness, told
from faultlines.notebook.project import Project
from faultlines.notebook.provenance import Provenance
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.store import Result, write_atomic

if TYPE_CHECKING:
    from faultlines.reporting.sequential import Course

FIRST = "first_seed"
COUNTS = (FIRST, "seeds", "few_seeds")
"""Parameters in which pieces may differ: which seeds, and how many."""
KEPT = (
    "claim", "primary", "direction", "threshold", "smallest", "confidence", "method", "n", "estimate", "low",
    "high", "effects", "verdict",
)  # fmt: skip
"""What a batch keeps of a ledger's row: its rule and its numbers."""


class Batch(BaseModel):
    """One batch, as its file holds it.

    Attributes:
        version: Of this form.
        chapter: Name of the chapter.
        run: Run group.
        look: The look of the plan that it belongs to, 1 to 4; batches of one look are looked at together.
        seeds: The seeds that its claims rest on.
        parameters: All parameters.
        base: Seal of the record of the notebook beside which it was made.
        code: Hash of the code of the chapter and of the library's modules that the kernel had loaded.
        commit: Commit of the library's checkout.
        started: Start, ISO 8601, UTC.
        wall_s: Seconds.
        kernel: Python, packages, device, threads, peak memory.
        record: Seal of its own record.
        ledger: Every claim's rule and numbers, with the effect of each seed.
        seal: Digest of all of the above.
    """

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    chapter: str
    run: str
    look: int
    seeds: list[int]
    parameters: dict[str, Any]
    base: str
    code: str
    commit: str
    started: str
    wall_s: float
    kernel: dict[str, Any]
    record: str
    ledger: list[dict[str, Any]]
    seal: str = ""

    def digest(self) -> str:
        """Return the digest of everything but the seal."""
        return digest(json.dumps(self.model_dump(exclude={"seal"}), sort_keys=True))


@dataclass(frozen=True)
class Pooled:
    """A run with its batches.

    Attributes:
        batches: Those that belong to it, in the order of their looks.
        left_out: Why other files do not, by name.
        courses: Every claim that can be followed, in the order of the ledger.
        not_pooled: Why a claim cannot, by its name.
    """

    batches: list[Batch]
    left_out: dict[str, str] = field(default_factory=dict)
    courses: dict[str, Course] = field(default_factory=dict)
    not_pooled: dict[str, str] = field(default_factory=dict)

    def rows(self, ledger: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return a ledger with what all pieces say in the place of what the first one said."""
        found = []
        for row in ledger:
            course = self.courses.get(row["claim"])
            if course is not None and self.batches:
                shown = course.interval
                new = {
                    "ours": f"{shown:.3g}",
                    "estimate": shown.estimate,
                    "low": shown.low,
                    "high": shown.high,
                }
                new |= {"n": shown.n, "method": shown.method, "confidence": shown.confidence}
                row = {**row, **new, "verdict": course.verdict, "fragile": course.fragile}
            found.append(dict(row))
        return found


def batches_folder(project: Project, run: str) -> Path:
    """Return where the batches of a run stand."""
    return project.root / "results" / run / "batches"


def batch_file(project: Project, task: RunSpec) -> Path:
    """Return where the batch of a task stands that names its first seed."""
    return batches_folder(project, task.run) / f"{task.chapter.name}-{task.overrides[FIRST]}.json"


# making


def check_batch(judge: Freshness, task: RunSpec, look: int | None = None) -> int:
    """Hold a batch that is to be made against the run and its other batches; return the look that it belongs to.

    Args:
        judge: Says what there is.
        task: The chapter and run, with the first seed among the overrides.
        look: The look that it is asked for; the one after the last by default.

    Raises:
        UsageError: If the chapter has no seeds of its own, the run has no fresh result, seeds overlap, other parameters
            than the seeds differ, or the plan has no such look left.
    """
    from faultlines.reporting.sequential import LOOKS  # here: a help text needs no scipy

    name, run = task.chapter.name, task.run
    declared = {parameter.name for parameter in task.chapter.parameters}
    if not {FIRST, "seeds"} <= declared:
        raise UsageError(f"{name} has no parameters first_seed and seeds, and so no batches of seeds")
    state = judge.state(RunSpec(task.chapter, run))
    if state.name != "fresh" or state.result is None:
        why = f" ({told(state.changes)})" if state.changes else ""
        raise UsageError(
            f"{name} · {run} is {state.name}{why}: a batch stands beside a fresh result of the same code"
        )
    found = pooled(judge.project, task, state.result)
    here = batch_file(judge.project, task)
    others = [batch for batch in found.batches if batch.parameters[FIRST] != int(task.overrides[FIRST])]
    parameters = task.parameters(judge.runs)
    pieces = {"the run": state.result.provenance.parameters}
    pieces |= {f"batch {batch.parameters[FIRST]}": batch.parameters for batch in others}
    for piece, theirs in pieces.items():
        if why := disagreement(parameters, theirs):
            raise UsageError(f"{here.name} does not go with {piece}: {why}")
    last = max((batch.look for batch in others), default=1)
    mine = [batch.look for batch in found.batches if batch not in others]
    look = look or (mine[0] if mine else last + 1)
    if not last <= look <= LOOKS and look not in mine:
        raise UsageError(
            f"{name} · {run} was looked at {last} times: a batch belongs to look {last} to {LOOKS}, not {look}"
        )
    return look


def disagreement(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Return why two executions are not pieces of one run, from their parameters; empty where they are."""
    for name in sorted(mine.keys() | theirs.keys()):
        if name not in COUNTS and mine.get(name) != theirs.get(name):
            return f"{name} is {mine.get(name)!r} and {theirs.get(name)!r}"
    if any(not {FIRST, "seeds"} <= given.keys() for given in (mine, theirs)):
        return "there are no parameters first_seed and seeds"
    (judged, used), (their_judged, their_used) = seeds_of(mine), seeds_of(theirs)
    if both := (judged & their_used) | (used & their_judged):
        few = sorted(both)
        return f"both have seeds {few[0]} to {few[-1]}" if len(few) > 1 else f"both have seed {few[0]}"
    return ""


def seeds_of(parameters: Mapping[str, Any]) -> tuple[set[int], set[int]]:
    """Return the seeds that claims rest on, and those with the ones that hyper-parameters are chosen on.

    Example:
        >>> judged, used = seeds_of({"first_seed": 10, "seeds": 3, "tuning_seeds": 1})
        >>> sorted(judged), sorted(used)
        ([10, 11, 12], [10, 11, 12, 13])
    """
    first, count = parameters[FIRST], parameters["seeds"]
    judged = set(range(first, first + count))
    start = parameters.get("first_tuning_seed", first + count)
    return judged, judged | set(range(start, start + parameters.get("tuning_seeds", 0)))


def write_batch(judge: Freshness, task: RunSpec, look: int | None = None) -> Path:
    """Write the batch of a task that this machine has executed, and return where it stands.

    Args:
        judge: Made after the execution.
        task: The chapter and run, with the first seed among the overrides.
        look: See `check_batch`.

    Raises:
        UsageError: If the task's result here is not fresh, or what `check_batch` refuses.
    """
    look = check_batch(judge, task, look)
    state = judge.state(task, "here")
    base = judge.state(RunSpec(task.chapter, task.run)).result
    if state.name != "fresh" or state.result is None or base is None:
        raise UsageError(
            f"{task.chapter.name} · {task.label} is {state.name} here: `{task.command}` makes it"
        )
    record = state.result.provenance
    made = Batch(
        chapter=task.chapter.name,
        run=task.run,
        look=look,
        seeds=sorted(seeds_of(record.parameters)[0]),
        parameters=record.parameters,
        base=base.provenance.seal,
        code=_codes(record)[-1],
        commit=record.commit,
        started=record.started,
        wall_s=record.wall_s,
        kernel=record.kernel,
        record=record.seal,
        ledger=[{name: row[name] for name in KEPT if name in row} for row in record.ledger],
    )
    made.seal = made.digest()
    path = batch_file(judge.project, task)
    write_atomic(path, json.dumps(made.model_dump(mode="json"), indent=1) + "\n")
    return path


def _codes(record: Provenance) -> list[str]:
    # of the code that made a result, and of each that was shown since to compute the same
    def code(chapter: str, modules: Modules) -> str:
        return digest(chapter + library_hash(modules))

    first = code(record.chapter_hash, record.modules)
    return [first, *(code(restamp.chapter_hash, restamp.modules) for restamp in record.restamps)]


# reading


def pooled(project: Project, task: RunSpec, base: Result, *, alone: bool = True) -> Pooled:
    """Return a run with its batches: which belong to it, and what all of them say of each claim.

    Args:
        project: The checkout.
        task: The chapter and run.
        base: The result of the run, the first piece.
        alone: Whether to follow the claims of a run without batches too.
    """
    found = Pooled([])
    record = base.provenance
    accepted: list[Batch] = []
    for path in sorted(batches_folder(project, task.run).glob(f"{task.chapter.name}-*.json")):
        if not path.stem.removeprefix(f"{task.chapter.name}-").isdigit():
            continue  # of another chapter, whose name begins alike
        try:
            batch = Batch.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            found.left_out[path.name] = f"it cannot be read ({first})"
            continue
        if batch.digest() != batch.seal:
            why = "it was edited"
        elif (batch.chapter, batch.run) != (task.chapter.name, task.run):
            why = f"it is of {batch.chapter}, run {batch.run}"
        elif batch.base != record.seal and batch.code not in _codes(record):
            why = "it was made by other code than the run"
        else:
            why = disagreement(batch.parameters, record.parameters)
        for other in accepted:
            why = why or disagreement(batch.parameters, other.parameters)
        if why:
            found.left_out[path.name] = why
        else:
            accepted.append(batch)
    found.batches.extend(sorted(accepted, key=lambda batch: (batch.look, batch.started, batch.seeds)))
    if not found.batches and not alone:
        return found
    sizes = [len(seeds_of(record.parameters)[0])] if {FIRST, "seeds"} <= record.parameters.keys() else [0]
    sizes += [len(batch.seeds) for batch in found.batches]
    for row in base.ledger:
        pieces = [
            row_of(row["claim"], ledger) for ledger in [base.ledger, *(b.ledger for b in found.batches)]
        ]
        looks = [1, *(batch.look for batch in found.batches)]
        by_look = [
            [p for p, at in zip(pieces, looks, strict=True) if p and at == look]
            for look in sorted(set(looks))
        ]
        try:
            if any(piece and piece["n"] > size for piece, size in zip(pieces, sizes, strict=True)):
                raise ValueError("its units are not seeds")
            found.courses[row["claim"]] = _followed(json.dumps(by_look))
        except KeyError as missing:
            found.not_pooled[row["claim"]] = f"its ledger is of an older form, without {missing.args[0]}"
        except ValueError as error:
            found.not_pooled[row["claim"]] = str(error)
    return found


@lru_cache(maxsize=4096)  # one build asks for a page, its tables, the scoreboard and the front page
def _followed(pieces: str) -> Course:
    from faultlines.reporting.sequential import follow

    return follow(json.loads(pieces))


def row_of(claim: str, ledger: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return a ledger's row of a claim; None where it has none."""
    return next((row for row in ledger if row["claim"] == claim), None)
