"""The folder in which an unfinished notebook keeps its trainings; see `faultlines.training.checkpoint`.

The environment variable `FAULTLINES_CHECKPOINTS` names it, for whichever tool executes. The runner names one for
every job; with papermill alone it is yours to choose.
"""

from __future__ import annotations

import json
import os
import shutil

from faultlines.notebook.code import Modules, digest
from faultlines.notebook.project import Project
from faultlines.notebook.task import Task, code_of

CHECKPOINTS = "FAULTLINES_CHECKPOINTS"


def take_up(project: Project, task: Task, modules: Modules) -> bool:
    """Name the folder for trainings, and return whether an execution of the same code left some there."""
    parent = project.trained(task.label, task.chapter.name)
    code = digest(json.dumps(code_of(task, modules), sort_keys=True))
    for other in parent.glob("*"):
        if other.name != code:
            shutil.rmtree(other, ignore_errors=True)
    os.environ[CHECKPOINTS] = str(parent / code)
    return any((parent / code).glob("*"))


def forget(project: Project, task: Task) -> None:
    """Delete the trainings of a job that is done."""
    shutil.rmtree(project.trained(task.label, task.chapter.name), ignore_errors=True)
