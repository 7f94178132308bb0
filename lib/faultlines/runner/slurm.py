"""Execute tasks on a Slurm cluster, as one job array, through submitit.

The checkout and its environment must lie on a file system that every node mounts. A job writes its result and its
status there; nothing comes back by any other way, so that the process that submitted may end, and a later one can
take its place.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from faultlines.notebook.code import library_code
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec, code_of
from faultlines.runner.job import THREADS, JobSpec, execute, quieten
from faultlines.runner.job_status import (
    Ending,
    JobResult,
    JobStatus,
    drop_partial,
    progress_bars,
    slurm_queue,
)

GRACE_S = 8.0  # a file system shared over the network may show a job's last word later than its end

# what the runner itself says to sbatch, and by which option it is changed
TAKEN = {
    "partition": "--partition", "time": "--time", "cpus-per-task": "--cpus", "gpus-per-node": "--gpus", "mem": "--mem",
    "account": "--account", "qos": "--qos", "constraint": "--constraint", "array": "--at-once", "job-name": "",
    "output": "", "error": "", "open-mode": "", "signal": "", "requeue": "", "no-requeue": "", "nodes": "", "wrap": "",
    "ntasks": "", "ntasks-per-node": "", "parsable": "", "test-only": "", "wait": "",
}  # fmt: skip


def read_sbatch(words: Sequence[str]) -> dict[str, str | bool]:
    """Read further options of sbatch, `gres=gpu:a100:1` or, for an option without a value, `exclusive`.

    Raises:
        UsageError: If a word is no option, comes twice, or is one that the runner itself gives.

    Example:
        >>> read_sbatch(["gres=gpu:a100:1", "--exclusive"])
        {'gres': 'gpu:a100:1', 'exclusive': True}
    """
    options: dict[str, str | bool] = {}
    for word in words:
        name, equals, value = word.strip().removeprefix("--").partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9-]+", name) or (equals and not value) or not value.isprintable():
            raise UsageError(
                f"--sbatch {word!r} is not of the form name=value, with a long name as sbatch has it"
            )
        if name in TAKEN:
            ours = f"say {TAKEN[name]} instead" if TAKEN[name] else "the runner gives it itself"
            raise UsageError(f"--sbatch {name}: {ours}")
        if name in options:
            raise UsageError(f"--sbatch {name} is given twice")
        options[name] = value if equals else True
    return options


class SlurmResources(BaseModel):
    """What each job asks the cluster for.

    Attributes:
        partition: Partition; the cluster's default where None, as for all that follow.
        account: Account that is charged.
        qos: Quality of service.
        constraint: Features that a node must have, `a100|h100`.
        mem: Memory a job, `16G`.
        minutes: Time limit. A job that meets it is put back into the queue, and goes on from its trainings.
        requeues: How often that may happen to one job.
        gpus: GPUs a job.
        cpus: Processors a job.
        at_once: Most jobs that run at the same time.
        warning_s: Seconds before the time limit at which the job is told.
        sbatch: Further options of sbatch, by their long names; True where an option has no value.
    """

    model_config = ConfigDict(extra="forbid")

    partition: str | None = Field(default=None, min_length=1)
    account: str | None = Field(default=None, min_length=1)
    qos: str | None = Field(default=None, min_length=1)
    constraint: str | None = Field(default=None, min_length=1)
    mem: str | None = Field(default=None, pattern=r"^\d+[KMGT]?$")
    minutes: int = Field(default=240, ge=1)
    requeues: int = Field(default=3, ge=0)
    gpus: int = Field(default=0, ge=0)
    cpus: int = Field(default=2, ge=1)
    at_once: int = Field(default=64, ge=1)
    warning_s: int = Field(default=90, ge=1)
    sbatch: dict[str, str | bool] = Field(default_factory=dict)

    def submitit(self) -> dict[str, Any]:
        """Return it in submitit's words, without what is left to the cluster."""
        asked: dict[str, Any] = {
            "partition": self.partition, "account": self.account, "qos": self.qos, "constraint": self.constraint,
            "mem": self.mem, "gpus_per_node": self.gpus or None, "additional_parameters": self.sbatch or None,
        }  # fmt: skip
        return {
            "time": self.minutes, "cpus_per_task": self.cpus,
            "array_parallelism": self.at_once, "signal_delay_s": self.warning_s,
            **{name: value for name, value in asked.items() if value is not None},
        }  # fmt: skip


class SlurmJob:
    """Executes one `JobSpec`, given as JSON; put back into the queue when its time is over."""

    def __call__(self, text: str) -> bool:
        """Execute; return whether every cell ran. A chapter that raises is a failed chapter, not a failed job."""
        granted = os.environ.get("SLURM_CPUS_PER_TASK", "1")
        os.environ.update(dict.fromkeys(THREADS, granted))
        quieten()
        return execute(JobSpec.model_validate_json(text))

    def checkpoint(self, text: str) -> Any:
        """Return what submitit is to submit again: the same job, whose trainings are on disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, text)


@dataclass
class Submitted:
    """A task in the queue: its job's id, and since when the queue has not known it."""

    task: RunSpec
    id: str
    lost_since: float | None = None


class SlurmPool:
    """Runs jobs through Slurm.

    Args:
        project: The checkout.
        resources: What each job asks for.
        console: Where progress goes.
        poll_s: Seconds between two looks at queue and status files.

    Raises:
        UsageError: If Slurm's commands or submitit are not there.
    """

    def __init__(
        self, project: Project, resources: SlurmResources, console: Console, poll_s: float = 2.0
    ) -> None:
        try:
            from submitit import SlurmExecutor
        except ImportError:
            raise UsageError("--executor slurm needs submitit: pip install 'faultlines[slurm]'") from None
        self.project, self.resources, self.console, self.poll_s = project, resources, console, poll_s
        try:
            self.executor = SlurmExecutor(self.logs, max_num_timeout=resources.requeues)
        except RuntimeError:
            raise UsageError(
                "--executor slurm needs Slurm's sbatch and srun on this machine: run it on a login node, or "
                "take --executor local"
            ) from None

    @property
    def logs(self) -> Any:
        """Folder of submitit's job files and logs."""
        return self.project.build / "slurm"

    def run(self, work: Sequence[tuple[RunSpec, dict[str, Any]]], *, detach: bool = False) -> list[JobResult]:
        """Execute tasks with their resolved parameters; return the results of those that ended, in order.

        A task whose job is in the queue already is waited for, not submitted again. On an interrupt the jobs
        stay in the queue.

        Args:
            work: Tasks and their parameters.
            detach: Return once everything is in the queue.

        Raises:
            UsageError: If the cluster refuses the submission.
        """
        known = slurm_queue()
        waiting = {
            index: Submitted(task, status.id)
            for index, (task, _) in enumerate(work)
            if (status := JobStatus.read(JobStatus.path(self.project, task))) is not None
            and status.executor == "slurm"
            and status.state in ("queued", "running")
            and status.id in (known or ())
        }
        if waiting:
            self.console.print(f"{len(waiting)} in the queue already")
        waiting |= self._submit({index: pair for index, pair in enumerate(work) if index not in waiting})
        return [] if detach else self._wait(waiting)

    def _submit(self, work: dict[int, tuple[RunSpec, dict[str, Any]]]) -> dict[int, Submitted]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        if not work:
            return {}
        modules = library_code(self.project.library)
        jobs = [
            JobSpec.of(self.project, task, parameters, code_of(task, modules)).model_dump_json()
            for task, parameters in work.values()
        ]
        self.executor.update_parameters(job_name="faultlines", **self.resources.submitit())
        for task, _ in work.values():  # before the submission: a job may start, and say so, at once
            JobStatus.queued(task).write(self.project)
        try:
            submitted = self.executor.map_array(SlurmJob(), jobs)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            for task, _ in work.values():
                JobStatus.path(self.project, task).unlink(missing_ok=True)
            raise UsageError(f"the cluster refused the jobs: {str(error).strip().splitlines()[-1]}") from None
        placed = {}
        for (index, (task, _)), job in zip(work.items(), submitted, strict=True):
            status = JobStatus.read(JobStatus.path(self.project, task))
            if status is not None and status.state == "queued":
                JobStatus.queued(task, job.job_id, str(job.paths.stderr)).write(self.project)
            placed[index] = Submitted(task, job.job_id)
        array = submitted[0].job_id.partition("_")[0]
        self.console.print(f"{len(submitted)} submitted as job {array}; `scancel {array}` ends them")
        return placed

    def _wait(self, waiting: dict[int, Submitted]) -> list[JobResult]:
        results: dict[int, JobResult] = {}
        with progress_bars(self.console) as progress:
            bar = progress.add_task("jobs", total=len(waiting))
            while waiting:
                known = slurm_queue()
                for index, job in list(waiting.items()):
                    result = self._look(job, known)
                    if result is not None:
                        results[index] = result
                        del waiting[index]
                        result.tell(self.console)
                progress.update(bar, completed=len(results))
                if waiting:
                    time.sleep(self.poll_s)
        return [results[index] for index in sorted(results)]

    def _look(self, job: Submitted, known: set[str] | None) -> JobResult | None:
        status = JobStatus.read(JobStatus.path(self.project, job.task))
        if status is not None and status.id == job.id and status.state in ("done", "failed"):
            if status.state == "done":
                return JobResult(job.task, ok=True, detail={"event": "done", "wall_s": status.wall_s})
            kind, _, message = status.message.partition(": ")
            detail: Ending = {"error": kind, "message": message, "cell": status.cell}
            failed = job.task.failed(self.project)
            if failed.exists():
                detail["notebook"] = str(failed)
            return JobResult(job.task, ok=False, detail=detail)
        if known is None or job.id in known:  # the controller may be away for a while
            job.lost_since = None
            return None
        job.lost_since = job.lost_since or time.monotonic()
        if time.monotonic() - job.lost_since < max(GRACE_S, 2 * self.poll_s):
            return None
        message = f"job {job.id} left the queue without a result: cancelled, out of time or memory, or its node died"
        with contextlib.suppress(OSError):
            lost = status or JobStatus.queued(job.task, job.id)
            lost.model_copy(update={"state": "failed", "message": f"JobLost: {message}"}).write(self.project)
            drop_partial(self.project, job.task)
        return JobResult(job.task, ok=False, detail={"error": "JobLost", "message": message})
