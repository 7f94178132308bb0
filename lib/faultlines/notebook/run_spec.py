"""One thing to execute: a chapter, under a run, with what the command line added; and the folder of its checkpoints."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.code import Modules, digest, library_hash
from faultlines.notebook.parameters import Check
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs

Where = Literal["any", "here", "published"]


@dataclass(frozen=True)
class RunSpec:
    """A chapter under a run.

    Attributes:
        chapter: The chapter.
        run: The run group.
        overrides: Parameters from the command line, as text. A task with overrides has a result of its own
            and never replaces the run's.
    """

    chapter: Chapter
    run: str
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name of the run with its overrides, fit for a folder."""
        if not self.overrides:
            return self.run
        given = ",".join(f"{name}={value}" for name, value in sorted(self.overrides.items()))
        plain = re.sub(r"[^\w.,=-]", "_", given)
        return f"{self.run}+{plain}" if plain == given and len(plain) < 80 else f"{self.run}+{digest(given)}"

    @property
    def command(self) -> str:
        """The command line that repeats this task."""
        words = ["faultlines", "run", self.chapter.name, "--run", self.run]
        for name, value in sorted(self.overrides.items()):
            words += ["-p", f"{name}={value}"]
        return shlex.join(words)

    def parameters(self, runs: Runs, checks: Mapping[str, Check] | None = None) -> dict[str, Any]:
        """Return the resolved parameters.

        Raises:
            UsageError: On an unknown run or name, or a value that is not allowed.
        """
        return runs.parameters(self.run, self.chapter, self.overrides, checks)

    def working(self, project: Project) -> Path:
        """Return where this machine's result stands."""
        return project.working(self.label, self.chapter.name)

    def failed(self, project: Project) -> Path:
        """Return where the notebook of a failed execution is kept."""
        return project.failed(self.label, self.chapter.name)

    def partial(self, project: Project) -> Path:
        """Return where the notebook stands while it executes."""
        return project.partial(self.label, self.chapter.name)

    def places(self, project: Project, where: Where = "any") -> list[Path]:
        """Return where a result may stand, this machine's own first, then what is published."""
        own = [self.working(project)]
        published = [] if self.overrides else [project.published(self.run, self.chapter.name)]
        return {"any": own + published, "here": own, "published": published}[where]


def code_of(task: RunSpec, modules: Modules) -> dict[str, str]:
    """Return what a job must find unchanged when it starts: the library's hashes and the chapter's."""
    library = {name: library_hash({name: hashes}) for name, hashes in modules.items()}
    return {**library, f"chapter {task.chapter.name}": task.chapter.code_hash}


CHECKPOINTS = "FAULTLINES_CHECKPOINTS"
"""The environment variable that names the folder where an unfinished notebook keeps its trainings, see
`faultlines.training.checkpoint`. The runner names one for every job; with papermill alone it is yours to choose."""


def take_up(project: Project, task: RunSpec, modules: Modules) -> bool:
    """Name the folder for trainings, and return whether an execution of the same code left some there."""
    parent = project.trained(task.label, task.chapter.name)
    code = digest(json.dumps(code_of(task, modules), sort_keys=True))
    for other in parent.glob("*"):
        if other.name != code:
            shutil.rmtree(other, ignore_errors=True)
    os.environ[CHECKPOINTS] = str(parent / code)
    return any((parent / code).glob("*"))


def forget(project: Project, task: RunSpec) -> None:
    """Delete the trainings of a job that is done."""
    shutil.rmtree(project.trained(task.label, task.chapter.name), ignore_errors=True)
