"""A sweep: one chapter under every combination of its axes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.code import digest
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.store import write_atomic
from faultlines.notebook.task import Task
from faultlines.runner.axes import combinations


@dataclass(frozen=True)
class Sweep:
    """A chapter, a run, what is fixed on top of it, and the axes.

    Attributes:
        chapter: The chapter.
        run: The run group.
        axes: Values of each axis, as text.
        overrides: Parameters that are the same for every task, as text.

    Raises:
        UsageError: If a parameter is both fixed and an axis.
    """

    chapter: Chapter
    run: str
    axes: Mapping[str, list[str]]
    overrides: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that no parameter is given twice."""
        if both := sorted(self.axes.keys() & self.overrides.keys()):
            raise UsageError(
                f"{', '.join(both)} is an axis of the sweep and fixed with -p: drop one of the two"
            )

    @cached_property
    def tasks(self) -> list[Task]:
        """One task a combination. Each has a result of its own, shared with every other sweep that holds it."""
        return [
            Task(self.chapter, self.run, {**self.overrides, **one}) for one in combinations(dict(self.axes))
        ]

    @property
    def label(self) -> str:
        """Name of the sweep, fit for a folder."""
        fixed = {name: [value] for name, value in self.overrides.items()}
        given = ",".join(f"{name}={'+'.join(values)}" for name, values in (fixed | dict(self.axes)).items())
        plain = re.sub(r"[^\w.,=+-]", "_", given)
        return f"{self.run}+{plain}" if plain == given and len(plain) < 80 else f"{self.run}+{digest(given)}"

    @property
    def plan(self) -> dict[str, Any]:
        """What the sweep was asked for, as its files hold it."""
        return {
            "chapter": self.chapter.name,
            "run": self.run,
            "axes": dict(self.axes),
            "overrides": dict(self.overrides),
        }

    def folder(self, project: Project) -> Path:
        """Return where the plan and the gathered notebook stand."""
        return project.build / "sweeps" / self.chapter.name / self.label

    def save(self, project: Project) -> None:
        """Write the plan, from which `faultlines status` knows the sweep."""
        write_atomic(self.folder(project) / "sweep.json", json.dumps(self.plan, indent=1) + "\n")


def saved_sweeps(project: Project) -> list[Sweep]:
    """Return the sweeps whose plans stand in the build folder, of chapters that are still there."""
    chapters, found = Chapter.all(project), []
    for path in sorted((project.build / "sweeps").glob("*/*/sweep.json")):
        try:
            plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found.append(Sweep(chapters[plan["chapter"]], plan["run"], plan["axes"], plan["overrides"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
