"""What a job says of itself while it runs, in a small file that every machine of the cluster can read."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from faultlines.notebook.project import Project
from faultlines.notebook.store import write_atomic
from faultlines.notebook.task import Task

State = Literal["queued", "running", "done", "failed"]
Report = Callable[[dict[str, Any]], None]


def now() -> str:
    """Return the time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Record(BaseModel):
    """The state of one job.

    Attributes:
        chapter: The chapter.
        label: The run with its overrides; see `Task.label`.
        state: Where it stands. Whether a job that is `running` still lives is for the reader to find out.
        executor: `local` or `slurm`.
        id: Process id, or Slurm's job id; empty while a submitted job does not know its own.
        host: Where it runs.
        since: Since when it is in this state, ISO 8601, UTC.
        cell: Code cells finished; of a failed job the cell that failed.
        cells: Code cells in all.
        wall_s: Seconds it took, once it is done.
        message: What went wrong.
        log: File with its output, where there is one.
    """

    chapter: str
    label: str
    state: State
    executor: Literal["local", "slurm"] = "local"
    id: str = ""
    host: str = ""
    since: str = ""
    cell: int = 0
    cells: int = 0
    wall_s: float = 0.0
    message: str = ""
    log: str = ""

    @classmethod
    def of(cls, task: Task, state: State, **more: str | float) -> Record:
        """Return a record of this process, or of a job that waits."""
        return cls(chapter=task.chapter.name, label=task.label, state=state, since=now(), **more)

    @classmethod
    def here(cls, task: Task, state: State, **more: str | float) -> Record:
        """Return a record of the process that calls, on the machine it runs on."""
        array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        slurm = f"{array}_{index}" if array else os.environ.get("SLURM_JOB_ID")
        inside = os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and slurm
        own = {"executor": "slurm", "id": slurm} if inside else {"executor": "local", "id": str(os.getpid())}
        return cls.of(task, state, host=socket.gethostname(), **own, **more)

    @staticmethod
    def path(project: Project, task: Task) -> Path:
        """Return where the record of a task stands."""
        return project.job(task.label, task.chapter.name)

    def write(self, project: Project) -> None:
        """Put the record in place."""
        write_atomic(project.job(self.label, self.chapter), self.model_dump_json() + "\n")

    def lives(self) -> bool:
        """Whether a local job that says it runs is there; of another machine's jobs it is believed."""
        if self.executor != "local" or self.host != socket.gethostname() or not self.id.isdecimal():
            return True
        try:
            os.kill(int(self.id), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


def read_record(path: Path) -> Record | None:
    """Return the record at a path, or None where there is none that can be read."""
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, ValueError):
        return None


def recorded(report: Report, project: Project, task: Task) -> Report:
    """Return a report that also keeps the job's record up to date."""
    cells = task.chapter.size

    def both(event: dict[str, Any]) -> None:
        kind, done = event["event"], event.get("done") or event.get("cell") or 0
        state = "running" if kind in ("start", "cell") else kind
        message = f"{event.get('error', '')}: {event.get('message', '')}" if kind == "failed" else ""
        with contextlib.suppress(OSError):  # a full disk must not end a chapter that still computes
            Record.here(
                task, state, cell=done, cells=cells, message=message, wall_s=event.get("wall_s", 0.0)
            ).write(project)
        report(event)

    return both
