"""Execute tasks on a Slurm cluster, as one job array, through submitit.

The checkout and its environment must lie on a file system that every node mounts. A job writes its result and its
record there; nothing comes back by any other way, so that the process that submitted may end, and a later one can
take its place.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from faultlines.notebook.code import library_code
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.task import Task, code_of
from faultlines.runner.outcome import Outcome, progress_bars
from faultlines.runner.queue import in_queue
from faultlines.runner.record import Record, read_record
from faultlines.runner.request import Request
from faultlines.runner.submission import Job

GRACE_S = 8.0  # a file system shared over the network may show a job's last word later than its end


@dataclass
class Submitted:
    """A task in the queue: its job's id, and since when the queue has not known it."""

    task: Task
    id: str
    lost_since: float | None = None


class Cluster:
    """Runs jobs through Slurm.

    Args:
        project: The checkout.
        request: What each job asks for.
        console: Where progress goes.
        poll_s: Seconds between two looks at queue and records.

    Raises:
        UsageError: If Slurm's commands or submitit are not there.
    """

    def __init__(self, project: Project, request: Request, console: Console, poll_s: float = 2.0) -> None:
        try:
            from submitit import SlurmExecutor
        except ImportError:
            raise UsageError("--executor slurm needs submitit: pip install 'faultlines[slurm]'") from None
        self.project, self.request, self.console, self.poll_s = project, request, console, poll_s
        try:
            self.executor = SlurmExecutor(self.logs, max_num_timeout=request.requeues)
        except RuntimeError:
            raise UsageError(
                "--executor slurm needs Slurm's sbatch and srun on this machine: run it on a login node, or "
                "take --executor local"
            ) from None

    @property
    def logs(self) -> Any:
        """Folder of submitit's job files and logs."""
        return self.project.build / "slurm"

    def run(self, work: Sequence[tuple[Task, dict[str, Any]]], *, detach: bool = False) -> list[Outcome]:
        """Execute tasks with their resolved parameters; return the outcomes of those that ended, in order.

        A task whose job is in the queue already is waited for, not submitted again. On an interrupt the jobs
        stay in the queue.

        Args:
            work: Tasks and their parameters.
            detach: Return once everything is in the queue.

        Raises:
            UsageError: If the cluster refuses the submission.
        """
        known = in_queue()
        waiting = {
            index: Submitted(task, record.id)
            for index, (task, _) in enumerate(work)
            if (record := read_record(Record.path(self.project, task))) is not None
            and record.executor == "slurm"
            and record.state in ("queued", "running")
            and record.id in (known or ())
        }
        if waiting:
            self.console.print(f"{len(waiting)} in the queue already")
        waiting |= self._submit({index: pair for index, pair in enumerate(work) if index not in waiting})
        return [] if detach else self._wait(waiting)

    def _submit(self, work: dict[int, tuple[Task, dict[str, Any]]]) -> dict[int, Submitted]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from faultlines.runner.cluster_job import ClusterJob

        if not work:
            return {}
        modules = library_code(self.project.library)
        jobs = [
            Job(
                root=self.project.root, chapter=task.chapter.name, run=task.run, overrides=dict(task.overrides),
                parameters=parameters, code=code_of(task, modules),
            ).model_dump_json()
            for task, parameters in work.values()
        ]  # fmt: skip
        self.executor.update_parameters(job_name="faultlines", **self.request.submitit())
        for task, _ in work.values():  # before the submission: a job may start, and say so, at once
            Record.of(task, "queued", executor="slurm").write(self.project)
        try:
            submitted = self.executor.map_array(ClusterJob(), jobs)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            for task, _ in work.values():
                Record.path(self.project, task).unlink(missing_ok=True)
            raise UsageError(f"the cluster refused the jobs: {str(error).strip().splitlines()[-1]}") from None
        placed = {}
        for (index, (task, _)), job in zip(work.items(), submitted, strict=True):
            record = read_record(Record.path(self.project, task))
            if record is not None and record.state == "queued":
                log = str(job.paths.stderr)
                Record.of(task, "queued", executor="slurm", id=job.job_id, log=log).write(self.project)
            placed[index] = Submitted(task, job.job_id)
        array = submitted[0].job_id.partition("_")[0]
        self.console.print(f"{len(submitted)} submitted as job {array}; `scancel {array}` ends them")
        return placed

    def _wait(self, waiting: dict[int, Submitted]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        with progress_bars(self.console) as progress:
            bar = progress.add_task("jobs", total=len(waiting))
            while waiting:
                known = in_queue()
                for index, job in list(waiting.items()):
                    outcome = self._look(job, known)
                    if outcome is not None:
                        outcomes[index] = outcome
                        del waiting[index]
                        outcome.tell(self.console)
                progress.update(bar, completed=len(outcomes))
                if waiting:
                    time.sleep(self.poll_s)
        return [outcomes[index] for index in sorted(outcomes)]

    def _look(self, job: Submitted, known: set[str] | None) -> Outcome | None:
        record = read_record(Record.path(self.project, job.task))
        if record is not None and record.id == job.id and record.state in ("done", "failed"):
            if record.state == "done":
                return Outcome(job.task, ok=True, detail={"event": "done", "wall_s": record.wall_s})
            kind, _, message = record.message.partition(": ")
            failed = job.task.failed(self.project)
            where = {"notebook": str(failed)} if failed.exists() else {}
            return Outcome(
                job.task, ok=False, detail={"error": kind, "message": message, "cell": record.cell, **where}
            )
        if known is None or job.id in known:  # the controller may be away for a while
            job.lost_since = None
            return None
        job.lost_since = job.lost_since or time.monotonic()
        if time.monotonic() - job.lost_since < max(GRACE_S, 2 * self.poll_s):
            return None
        message = f"job {job.id} left the queue without a result: cancelled, out of time or memory, or its node died"
        with contextlib.suppress(OSError):
            lost = record or Record.of(job.task, "failed", executor="slurm", id=job.id)
            lost.model_copy(update={"state": "failed", "message": f"JobLost: {message}"}).write(self.project)
            job.task.partial(self.project).unlink(missing_ok=True)
        return Outcome(job.task, ok=False, detail={"error": "JobLost", "message": message})
