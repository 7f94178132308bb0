"""What jobs say of themselves, each in a small file that every machine of a cluster can read, and how they ended."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.store import write_atomic
from faultlines.runner.job_lock import is_locked, lock_file, try_lock

Stage = Literal["queued", "running", "done", "failed"]
Executor = Literal["local", "slurm"]
Report = Callable[[dict[str, Any]], None]

UNSUBMITTED_S = 600.0  # a job without an id for so long was never submitted
LEFT_S = 3600.0  # age at which a file that was being written is left over


def now() -> str:
    """Return the time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class JobStatus(BaseModel):
    """The status of one job.

    Attributes:
        chapter: The chapter.
        label: The run with its overrides; see `RunSpec.label`.
        state: Where it stands. Whether a job that is `running` still lives is for the reader to find out.
        executor: `local` or `slurm`.
        id: Process id, or Slurm's job id; empty while a submitted job does not know its own.
        host: Where it runs.
        since: Since when it is in this state, ISO 8601, UTC.
        started: Since when it runs, ISO 8601, UTC.
        cell: Code cells finished; of a failed job the cell that failed.
        cells: Code cells in all.
        wall_s: Seconds it took, once it is done.
        message: What went wrong.
        log: File with its output, where there is one.
    """

    chapter: str
    label: str
    state: Stage
    executor: Executor = "local"
    id: str = ""
    host: str = ""
    since: str = ""
    started: str = ""
    cell: int = 0
    cells: int = 0
    wall_s: float = 0.0
    message: str = ""
    log: str = ""

    @classmethod
    def queued(cls, task: RunSpec, id: str = "", log: str = "") -> JobStatus:
        """Return the status of a job that waits in Slurm's queue."""
        return cls(
            chapter=task.chapter.name,
            label=task.label,
            state="queued",
            executor="slurm",
            id=id,
            since=now(),
            log=log,
        )

    @classmethod
    def here(cls, task: RunSpec, state: Stage) -> JobStatus:
        """Return a status of the process that calls, on the machine it runs on."""
        array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        slurm = f"{array}_{index}" if array else os.environ.get("SLURM_JOB_ID")
        inside = os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and slurm
        return cls(
            chapter=task.chapter.name,
            label=task.label,
            state=state,
            executor="slurm" if inside else "local",
            id=(slurm or "") if inside else str(os.getpid()),
            host=socket.gethostname(),
            since=now(),
        )

    @staticmethod
    def path(project: Project, task: RunSpec) -> Path:
        """Return where the status of a task's job stands."""
        return project.job(task.label, task.chapter.name)

    @staticmethod
    def read(path: Path) -> JobStatus | None:
        """Return the status at a path, or None where there is none that can be read."""
        try:
            return JobStatus.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError, ValueError):
            return None

    def write(self, project: Project) -> None:
        """Put the status in place."""
        write_atomic(project.job(self.label, self.chapter), self.model_dump_json() + "\n")

    @property
    def who(self) -> str:
        """Who executes it and since when, in words."""
        job = f"process {self.id}" if self.executor == "local" else f"Slurm's job {self.id}"
        where = f" on {self.host}" if self.host else ""
        return (
            f"{job}{where} since {(self.started or self.since).replace('+00:00', ' UTC').replace('T', ' ')}"
        )

    def lives(self, project: Project, queue: Collection[str] | None) -> bool:
        """Whether a job that says it waits or runs is there.

        Args:
            project: The checkout.
            queue: What Slurm's queue holds; None where it did not answer, and its jobs are believed.
        """
        if self.executor == "slurm":
            if not self.id:
                return seconds_since(self.since) < UNSUBMITTED_S
            return queue is None or self.id in queue
        if self.host != socket.gethostname() or not self.id.isdecimal():
            return True  # of another machine's jobs it is believed
        try:
            os.kill(int(self.id), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        # the number may be another process's by now
        return is_locked(lock_file(project.job(self.label, self.chapter)))


def seconds_since(time: str) -> float:
    """Return the seconds since a time in ISO 8601, infinite where it is none.

    Example:
        >>> seconds_since("2020-01-01T00:00:00+00:00") > 1e8, seconds_since("yesterday")
        (True, inf)
    """
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    except (ValueError, TypeError):
        return float("inf")


def with_status(report: Report, project: Project, task: RunSpec) -> Report:
    """Return a report that also keeps the job's status up to date."""
    cells, started = task.chapter.size, now()
    states: dict[str, Stage] = {"start": "running", "cell": "running", "done": "done", "failed": "failed"}

    def both(event: dict[str, Any]) -> None:
        status = JobStatus.here(task, states[event["event"]])
        status.cell, status.cells = event.get("done") or event.get("cell") or 0, cells
        status.started, status.wall_s = started, event.get("wall_s", 0.0)
        if status.state == "failed":
            status.message = f"{event.get('error', '')}: {event.get('message', '')}"
        with contextlib.suppress(OSError):  # a full disk must not end a chapter that still computes
            status.write(project)
        report(event)

    return both


# what is in flight, and what was left


def slurm_queue() -> set[str] | None:
    """Return the ids of this user's jobs that wait or run, `12_3` for element 3 of array 12.

    Returns:
        The ids, or None where the controller did not answer, which says nothing of the jobs.
    """
    try:
        listed = subprocess.run(
            ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return set(listed.stdout.split())


Standing = Literal["queued", "running", "died"]


def open_jobs(project: Project, chapters: Collection[str] | None = None) -> list[tuple[JobStatus, Standing]]:
    """Return the jobs that have not ended, each with `queued`, `running`, or `died` where it is gone.

    Args:
        project: The checkout.
        chapters: Only these; all where None.
    """
    files = sorted((project.build / "jobs").glob("*/*.json"))
    found = [
        status
        for status in map(JobStatus.read, files)
        if status is not None
        and status.state in ("queued", "running")
        and (chapters is None or status.chapter in chapters)
    ]
    queue = slurm_queue() if any(status.executor == "slurm" for status in found) else None
    return [(status, _standing(status, project, queue)) for status in found]


def _standing(status: JobStatus, project: Project, queue: set[str] | None) -> Standing:
    if not status.lives(project, queue):
        return "died"
    return "queued" if status.state == "queued" else "running"


def drop_partial(project: Project, task: RunSpec) -> None:
    """Delete the half-executed notebook of a job that has ended, unless another executes the same by now."""
    if not is_locked(lock_file(JobStatus.path(project, task))):
        task.partial(project).unlink(missing_ok=True)


def clear_leftovers(project: Project) -> None:
    """Delete what killed jobs have left: their status, half-executed notebooks and half-written files."""
    alive = set()
    for status, standing in open_jobs(project):
        if standing == "died":
            project.job(status.label, status.chapter).unlink(missing_ok=True)
        else:
            alive.add((status.label, status.chapter))

    def held(label: str, chapter: str) -> bool:
        return (label, chapter) in alive or is_locked(lock_file(project.job(label, chapter)))

    for path in (project.build / "runs").glob("*/partial/*.ipynb"):
        if not held(path.parents[1].name, path.stem):
            path.unlink(missing_ok=True)
    trained = project.build / "checkpoints"
    for path in trained.glob("*/*/**/*.part"):
        label, chapter = path.relative_to(trained).parts[:2]
        if not held(label, chapter):
            path.unlink(missing_ok=True)
    for folder in ("runs", "jobs"):
        for path in (project.build / folder).rglob(".*.tmp"):
            with contextlib.suppress(OSError):
                old = datetime.now(UTC).timestamp() - path.stat().st_mtime > LEFT_S
                if old or _writer_is_gone(path):
                    path.unlink()
    for path in (project.build / "jobs").glob("*/*.json"):
        if JobStatus.read(path) is None and not is_locked(lock_file(path)):
            path.unlink(missing_ok=True)  # cut off, and so said by nobody
    for path in (project.build / "jobs").glob("*/*.lock"):
        descriptor = try_lock(path, wait=False)
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _writer_is_gone(path: Path) -> bool:
    """Whether a file that was being written names a process of this machine that is no more; see `write_atomic`."""
    writer = re.search(r"\.(\d+)@(.+)\.tmp$", path.name)
    if writer is None or writer[2] != socket.gethostname():
        return False
    try:
        os.kill(int(writer[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


# how a job ended


class Ending(TypedDict, total=False):
    """A job's last event."""

    event: str
    wall_s: float
    cell: int | None
    error: str
    message: str
    notebook: str


@dataclass
class JobResult:
    """How the job of a task ended, wherever it was executed.

    Attributes:
        task: The task.
        ok: Whether every cell ran.
        detail: The job's last event: `wall_s`, or `cell`, `error`, `message` and `notebook`.
    """

    task: RunSpec
    ok: bool
    detail: Ending = field(default_factory=Ending)

    def tell(self, console: Console) -> None:
        """Say it in one line, where no bar on a terminal has shown it."""
        if not console.is_terminal:
            took = (
                f"{self.detail.get('wall_s', 0.0):.0f} s"
                if self.ok
                else f"failed: {self.detail.get('error', '')}"
            )
            console.print(f"{self.task.chapter.name} · {self.task.label}: {took}", markup=False)


def progress_bars(console: Console) -> Progress:
    """Return bars that count what is done; without a terminal they show nothing."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
