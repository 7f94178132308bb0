"""Whether a result still says what the code says.

A result is *foreign* where its record does not agree with the notebook it stands in, or is that of another chapter
or of other parameters than its place says. It is *stale* where the chapter's code, or the code of a library module
that its kernel had loaded, has changed since. (A cache that keys on the notebook's cells alone goes on printing the
old number after an edit of the library.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.code import Modules, changed, library_code
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec, Where
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import Result, UnreadableError, read_result

Name = Literal["fresh", "stale", "foreign", "unreadable", "missing", "failed"]


@dataclass(frozen=True)
class State:
    """What there is of a chapter under a run.

    Attributes:
        name: `fresh`, `stale`, `foreign`, `unreadable`, `missing`, or `failed` where the last execution here raised.
        result: The best result there is, which of a failed, stale or foreign one may be an old one.
        changes: What is not as it should be, in words; empty where all is.
    """

    name: Name
    result: Result | None = None
    changes: tuple[str, ...] = ()


def told(changes: Sequence[str], most: int = 4) -> str:
    """Return changes in one line, of many the first and their number.

    Example:
        >>> told(["a", "b", "c"], 2), told(["a"])
        ('a, b and 1 more', 'a')
    """
    rest = len(changes) - most
    return ", ".join(changes[:most]) + (f" and {rest} more" if rest > 0 else "")


class Freshness:
    """Judges results against one reading of the library's code, the chapters and the results.

    What is written after a judge has read it asks for a new judge.

    Attributes:
        project: The checkout.
        runs: The run groups.
        modules: The library's code.
        chapters: Every chapter, by name.
    """

    def __init__(self, project: Project, runs: Runs) -> None:
        self.project = project
        self.runs = runs
        self.modules: Modules = library_code(project.library)
        self.chapters: Mapping[str, Chapter] = Chapter.all(project)
        self._read: dict[tuple[Path, str], State] = {}

    def changes(self, task: RunSpec, result: Result) -> tuple[str, ...]:
        """Return what differs between the code that made a result and the code as it is."""
        record = result.provenance
        code: Modules = record.restamps[-1].modules if record.restamps else record.modules
        cells = record.restamps[-1].chapter_hash if record.restamps else record.chapter_hash
        found = [f"chapter {task.chapter.name}"] if cells != task.chapter.code_hash else []
        return tuple(found + changed(code, self.modules))

    def _parameters(self, task: RunSpec, result: Result) -> list[str]:
        recorded = result.provenance.parameters
        try:
            wanted = task.parameters(self.runs)
        except UsageError as error:
            return [str(error)]
        return [
            f"parameter {name} is {recorded.get(name, 'not there')!r} and not {wanted.get(name, 'there')!r}"
            for name in sorted(recorded.keys() | wanted.keys())
            if name not in recorded or name not in wanted or recorded[name] != wanted[name]
        ]

    def judge(self, task: RunSpec, path: Path) -> State:
        """Return the state of the notebook at a path, as the result of a task."""
        key = (path, task.label)
        if key not in self._read:
            self._read[key] = self._judge(task, path)
        return self._read[key]

    def _judge(self, task: RunSpec, path: Path) -> State:
        try:
            result = read_result(path, task.run, task.overrides, task.command)
        except UnreadableError as error:
            return State("unreadable", None, (str(error),))
        if result is None:
            return State("missing")
        if isinstance(result, tuple):
            return State("foreign", None, result)
        changes = self.changes(task, result)
        if result.foreign:
            return State("foreign", result, result.foreign)
        other = tuple(self._parameters(task, result))
        if other and f"chapter {task.chapter.name}" not in changes:  # else they may be that version's own
            return State("foreign", result, other)
        if changes or other:
            return State("stale", result, changes + other)
        return State("fresh", result)

    def state(self, task: RunSpec, where: Where = "any") -> State:
        """Return the state of a task.

        Args:
            task: The task.
            where: `"here"` looks only at what this machine executed itself, `"published"` only at what is
                committed, `"any"` at both, this machine's own first.
        """
        order: list[Name] = ["fresh", "stale", "foreign", "unreadable", "missing"]
        states = [self.judge(task, path) for path in task.places(self.project, where)]
        best = min(states, key=lambda state: order.index(state.name))
        if where != "published" and task.failed(self.project).exists():
            return State("failed", best.result, best.changes)
        return best
