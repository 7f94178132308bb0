"""What a run says otherwise than the default run: the opening of its page."""

from __future__ import annotations

from faultlines.book.myst import list_table, verdict_badge
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.task import Task


def run_changes(judge: Freshness, task: Task) -> str:
    """Return the verdicts that differ from the default run's, and the author's reasons, in MyST.

    The reasons stand in `results/<run>/<chapter>.md`, which is written after the run was read.
    """
    here, default = judge.state(task).result, judge.state(Task(task.chapter, "default")).result
    if here is None or default is None:
        return ""
    before = {row["claim"]: row["verdict"] for row in default.ledger}
    moved = [row for row in here.ledger if before.get(row["claim"], "not stated") != row["verdict"]]
    same = len(here.ledger) - len(moved)
    lines = [f"{same} of {len(here.ledger)} verdicts are those of the default run."]
    if moved:
        rows = [
            (
                f"{row['claim']}: {' '.join(row['statement'].split())}",
                verdict_badge(before.get(row["claim"], "not stated")),
                f"{verdict_badge(row['verdict'])} {row['ours']}",
            )
            for row in moved
        ]
        lines += ["", list_table(("Claim", "default", task.run), rows, style="fl-scoreboard")]
    why = judge.project.root / "results" / task.run / f"{task.chapter.name}.md"
    if why.is_file():
        lines += ["", why.read_text(encoding="utf-8").strip()]
    body = "\n".join(lines)
    return f"````{{admonition}} Against the default run\n:class: note fl-changes\n{body}\n````"
