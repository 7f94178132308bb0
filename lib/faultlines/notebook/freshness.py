"""Whether a result still says what the code says.

A result is stale exactly when the chapter's code, its parameters under the run, or the code of a library module
that its kernel had loaded differs from what its record holds. (A cache that keys on the notebook's cells alone
goes on printing the old number after an edit of the library.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.hashing import library_hashes
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import Result, read_result
from faultlines.notebook.task import Task, Where

Name = Literal["fresh", "stale", "missing", "failed"]


@dataclass(frozen=True)
class State:
    """What there is of a chapter under a run.

    Attributes:
        name: `fresh`, `stale`, `missing`, or `failed` where the last execution here raised.
        result: The best result there is, which of a failed or stale one may be an old one.
        changes: What differs from the result's record, in words; empty where nothing does.
    """

    name: Name
    result: Result | None = None
    changes: tuple[str, ...] = ()


class Freshness:
    """Judges results against one reading of the library's code, the chapters and the results.

    What is written after a judge has read it asks for a new judge.

    Attributes:
        project: The checkout.
        runs: The run groups.
        modules: Code hash of every library module, by name.
        chapters: Every chapter, by name.
    """

    def __init__(self, project: Project, runs: Runs) -> None:
        self.project = project
        self.runs = runs
        self.modules: Mapping[str, str] = library_hashes(project.library)
        self.chapters: Mapping[str, Chapter] = Chapter.all(project)
        self._read: dict[Path, Result | None] = {}

    def changes(self, task: Task, result: Result) -> tuple[str, ...]:
        """Return what differs between a result's record and the code as it is."""
        record = result.provenance
        found = []
        if record.chapter_hash != task.chapter.code_hash:
            found.append(f"chapter {task.chapter.name}")
        parameters = task.parameters(self.runs)
        absent = object()
        found += [
            f"parameter {name}"
            for name in sorted(record.parameters.keys() | parameters.keys())
            if record.parameters.get(name, absent) != parameters.get(name, absent)
        ]
        found += [
            f"module {name}" if name in self.modules else f"module {name} (gone)"
            for name, code in record.modules.items()
            if self.modules.get(name) != code
        ]
        return tuple(found)

    def state(self, task: Task, where: Where = "any") -> State:
        """Return the state of a task.

        Args:
            task: The task.
            where: `"here"` looks only at what this machine executed itself, `"published"` only at what is
                committed, `"any"` at both, this machine's own first.
        """
        failed = where != "published" and task.failed(self.project).exists()
        stale: State | None = None
        for path in task.places(self.project, where):
            if path not in self._read:
                self._read[path] = read_result(path)
            result = self._read[path]
            if result is None:
                continue
            changes = self.changes(task, result)
            if not changes:
                return State("failed" if failed else "fresh", result)
            stale = stale or State("failed" if failed else "stale", result, changes)
        return stale or State("failed" if failed else "missing")


def freshness(project: Project, task: Task) -> State:
    """Return the state of one task; see `Freshness` for many."""
    return Freshness(project, Runs.load(project)).state(task)
