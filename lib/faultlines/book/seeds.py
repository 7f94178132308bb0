"""What the seeds of a run have decided so far, and how many more it would take: for the index, and on the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from nbformat import NotebookNode
from pydantic import BaseModel, ConfigDict

from faultlines.book.myst import list_table, verdict_badge
from faultlines.notebook.batches import pooled, row_of, seeds_of
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.store import Result
from faultlines.reporting.figures import COLOURS, PALETTE, STYLE, figure, mark_line
from faultlines.reporting.sequential import LOOKS, Course

# for programs: a part of the index


class PooledClaim(BaseModel):
    """One claim over a run and its batches of seeds.

    Attributes:
        claim: Its name.
        looks: Seeds in all at each look.
        estimate: The mean over all seeds.
        low: Lower end of the last look's interval.
        high: Upper end.
        confidence: Its level, which the plan of looks gives.
        method: How it was made.
        verdict: What the looks say.
        fragile: Whether it hangs on one seed.
        more_seeds: How many more would decide it, 0 where it is; None where more than 10,000, or no look is left.
    """

    model_config = ConfigDict(extra="forbid")

    claim: str
    looks: list[int]
    estimate: float
    low: float
    high: float
    confidence: float
    method: str
    verdict: str
    fragile: bool
    more_seeds: int | None


class Pieces(BaseModel):
    """The batches of a run, and what the run and they say together.

    Attributes:
        batches: Each batch without its ledger, in the order of its looks.
        left_out: Why a file among the batches does not belong to the run, by its name.
        claims: Every claim that can be pooled.
        not_pooled: Why a claim cannot, by its name.
    """

    model_config = ConfigDict(extra="forbid")

    batches: list[dict[str, Any]]
    left_out: dict[str, str]
    claims: list[PooledClaim]
    not_pooled: dict[str, str]


def read_pieces(project: Project, task: RunSpec, result: Result) -> Pieces | None:
    """Return what a run and its batches of seeds say together; None where it has no batch."""
    found = pooled(project, task, result, alone=False)
    if not found.batches:
        return None
    claims = [
        PooledClaim(
            claim=claim,
            looks=[look.interval.n for look in course.looks],
            estimate=course.interval.estimate,
            low=course.interval.low,
            high=course.interval.high,
            confidence=course.interval.confidence,
            method=course.interval.method,
            verdict=course.verdict,
            fragile=course.fragile,
            more_seeds=course.more_seeds(),
        )
        for claim, course in found.courses.items()
    ]
    batches = [batch.model_dump(exclude={"ledger"}) for batch in found.batches]
    return Pieces(batches=batches, left_out=found.left_out, claims=claims, not_pooled=found.not_pooled)


# for readers: a section of the page


def seeds_section(project: Project, task: RunSpec, base: Result) -> list[NotebookNode]:
    """Return the cells that say what a run's seeds have decided so far; none where there is nothing to say."""
    if not base.ledger:
        return []
    found = pooled(project, task, base)
    primary = [course for course in found.courses.values() if course.row.get("primary")]
    open_ = [course for course in primary if course.verdict == "inconclusive"]
    quiet = task.run == "default" or not open_  # a default run is the shortest there is, and leaves much open
    if not found.batches and quiet and not found.left_out:
        return []
    plan = "{ref}`the plan of looks <seeds-until-decided>`"
    lines = ["## Seeds so far", ""]
    if found.batches:
        seeds = seeds_of(base.provenance.parameters)[0].union(*(batch.seeds for batch in found.batches))
        looks = len({1, *(batch.look for batch in found.batches)})
        pieces = "a batch" if len(found.batches) == 1 else f"{len(found.batches)} batches"
        lines += [
            f"This run and {pieces} have {len(seeds)} seeds, looked at {looks} of at most {LOOKS} times by {plan}. "
            "All together they say of the primary claims:",
            "",
            _table(primary),
        ]
    elif open_:
        lines += [
            f"What this run leaves open, and how many more seeds it would take by {plan} if effect and spread "
            "stayed as they are:",
            "",
            _table(open_),
        ]
    missing = {c: why for c, why in found.not_pooled.items() if (row_of(c, base.ledger) or {}).get("primary")}
    if found.batches and missing:
        lines += ["", "Not pooled: " + "; ".join(f"{claim} ({why})" for claim, why in missing.items()) + "."]
    for name, why in found.left_out.items():
        lines += ["", f"Batch `{name}` is left out: {why}."]
    cells = [nbformat.v4.new_markdown_cell("\n".join(lines))]
    if found.batches and primary:
        cells.append(_figure(task, primary))
    return cells


def _table(courses: Sequence[Course]) -> str:
    rows = []
    for course in courses:
        more = course.more_seeds()
        said = verdict_badge(course.verdict) + (" (fragile)" if course.fragile else "")
        left = LOOKS - len(course.looks)
        needed = "" if more == 0 else f"{more}" if more else "more than 10,000" if left else "no look is left"
        found = "; ".join(f"n = {look.interval.n}: {look.interval}" for look in course.looks)
        rows.append((course.row["claim"], found, said, needed or "–"))
    return list_table(
        ("Claim", "Interval at each look", "Verdict", "More seeds"), rows, style="fl-scoreboard"
    )


def _figure(task: RunSpec, courses: Sequence[Course]) -> NotebookNode:
    picture = io.BytesIO()
    settings: dict[Any, Any] = STYLE  # matplotlib's stub lists every key
    with rc_context(settings):
        fig = draw_courses(courses)
        fig.savefig(picture, format="png", metadata={"Software": None})
        plt.close(fig)
    cell = nbformat.v4.new_code_cell("# drawn from the ledgers of the run and its batches")
    cell.outputs = [
        nbformat.v4.new_output(
            "display_data",
            {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": "<Figure>"},
        )
    ]
    caption = (
        "The primary claims as seeds came in: the mean so far (line) and the interval of each look, coloured by "
        "what it decides; dashed: the threshold; band: the smallest effect of interest."
    )
    cell.metadata = nbformat.from_dict({
        "tags": ["remove-input"],
        "mystnb": {
            "figure": {"name": f"fig-seeds-{task.chapter.name}", "caption": caption},
            "image": {"alt": "One panel a claim: its mean over seeds as a line, with one interval a look."},
        },
    })  # fmt: skip
    return cell


def draw_courses(courses: Sequence[Course]) -> Figure:
    """Return a figure with a panel a claim: the mean as seeds came in, and the interval of each look.

    Args:
        courses: At least one.

    Returns:
        The figure, as wide as the text column; the caller closes it.
    """
    columns = min(2, len(courses))
    fig, axes = figure(math.ceil(len(courses) / columns), columns, height=1.9, squeeze=False)
    panels = axes.ravel()
    for ax in panels[len(courses) :]:
        ax.set_axis_off()
    for ax, course in zip(panels, courses, strict=False):
        values = np.array(course.sample.values)
        threshold, smallest = course.row["threshold"], course.row.get("smallest")
        if smallest is not None:
            ax.axhspan(
                threshold - smallest, threshold + smallest, color=PALETTE["grey"], alpha=0.15, linewidth=0
            )
        mark_line(ax, threshold, "threshold")
        seeds = np.arange(1, len(values) + 1)
        so_far = np.cumsum(values, axis=0).T / seeds  # of the largest of several effects: one row an effect
        ax.plot(seeds, so_far.max(axis=0) if so_far.ndim == 2 else so_far, color=PALETTE["grey"], linewidth=1)
        for look in course.looks:
            colour, found = COLOURS[look.verdict], look.interval
            ax.plot([found.n, found.n], [found.low, found.high], color=colour)
            ax.plot(found.n, found.estimate, "s", color=colour)
        ax.set_title(f"{course.row['claim']}: {course.verdict}")
        ax.set_xlim(0, len(values) + 1)
    for ax in axes[-1]:
        ax.set_xlabel("seeds")
    return fig
