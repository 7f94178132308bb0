"""Execute tasks, several at a time, on one machine.

Each notebook is a process. Processor threads are shared out between those that run at once; where there are
GPUs, each notebook gets one to itself and waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import Progress, TaskID

from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.runner.job import THREADS, JobSpec
from faultlines.runner.job_status import Ending, JobResult, drop_partial, progress_bars


@dataclass
class Running:
    """A job that runs: its task, process, standard input, GPU, progress bar, complaints, and last event."""

    task: RunSpec
    process: subprocess.Popen[str]
    orders: IO[str]
    gpu: str | None
    bar: TaskID
    complaints: IO[bytes]
    last: dict[str, Any] = field(default_factory=dict)


def threads_each(at_once: int) -> int:
    """Return how many threads each of several notebooks may use, within what this process itself may.

    A cluster or a container grants fewer processors than the machine has, and `OMP_NUM_THREADS` may ask for
    fewer still.
    """
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, granted // max(1, at_once))
    return min(share, int(asked)) if asked.isdecimal() and int(asked) else share


def visible_gpus() -> list[str]:
    """Return the ids of the GPUs this process may use, without importing torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu.strip() and gpu.strip() != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


class LocalPool:
    """Runs jobs in processes.

    Args:
        project: The checkout.
        jobs: How many notebooks at a time.
        console: Where progress goes.
        gpus: GPUs to hand out, one a notebook; found by itself where None.
    """

    def __init__(
        self, project: Project, jobs: int, console: Console, gpus: Sequence[str] | None = None
    ) -> None:
        self.project = project
        self.console = console
        self.gpus = list(visible_gpus() if gpus is None else gpus)
        self.asked, self.jobs = jobs, min(jobs, len(self.gpus)) if self.gpus else jobs
        self._events: SimpleQueue[tuple[int, dict[str, Any] | None]] = SimpleQueue()
        self._running: dict[int, Running] = {}

    def run(self, work: Sequence[tuple[RunSpec, dict[str, Any]]]) -> list[JobResult]:
        """Execute tasks with their resolved parameters; return their results in the order given.

        A task that fails does not stop the others. On an interrupt every job is ended (what was in place stays
        in place) and KeyboardInterrupt goes on to the caller.
        """
        if self.jobs < self.asked:
            there = "1 GPU is" if self.jobs == 1 else f"{self.jobs} GPUs are"
            self.console.print(
                f"--jobs {self.asked} becomes {self.jobs}: {there} here, and each notebook has one to itself"
            )
        waiting = list(enumerate(work))
        # by what was asked for, not by what is stale today: a number must not depend on its neighbours
        threads = threads_each(self.jobs)
        results: dict[int, JobResult] = {}
        with progress_bars(self.console) as progress:
            try:
                while waiting or self._running:
                    while waiting and len(self._running) < self.jobs:
                        index, (task, parameters) = waiting.pop(0)
                        bar = progress.add_task(f"{task.chapter.name} · {task.label}", total=None)
                        self._start(index, task, parameters, threads, bar)
                    try:
                        index, event = self._events.get(timeout=0.2)
                    except Empty:
                        continue
                    if event is None:
                        results[index] = self._end(index)
                    else:
                        self._running[index].last = event
                        self._show(progress, self._running[index])
            except BaseException:
                self.stop()
                raise
        return [results[index] for index in sorted(results)]

    def stop(self) -> None:
        """End every job that still runs and wait for it."""
        for running in self._running.values():
            running.process.terminate()
        for running in self._running.values():
            try:
                running.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
            drop_partial(self.project, running.task)
        self._running.clear()

    def _start(
        self, index: int, task: RunSpec, parameters: dict[str, Any], threads: int, bar: TaskID
    ) -> None:
        gpu = self.gpus.pop(0) if self.gpus else None
        environment = {**os.environ, **{name: str(threads) for name in THREADS}}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        job = JobSpec.of(self.project, task, parameters)
        complaints = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the job
        process = subprocess.Popen(
            [sys.executable, "-m", "faultlines.runner.job", "--watch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us alone; we end the jobs
        )
        assert process.stdin is not None and process.stdout is not None
        self._running[index] = Running(task, process, process.stdin, gpu, bar, complaints)
        with contextlib.suppress(BrokenPipeError):  # a job that died at birth is told of by its end
            process.stdin.write(job.model_dump_json() + "\n")
            process.stdin.flush()  # and left open: that it closes tells the job that we are gone
        threading.Thread(target=self._listen, args=(index, process, process.stdout), daemon=True).start()

    def _listen(self, index: int, process: subprocess.Popen[str], told: IO[str]) -> None:
        for line in told:
            try:
                self._events.put((index, json.loads(line)))
            except ValueError:
                continue
        process.wait()
        self._events.put((index, None))

    def _end(self, index: int) -> JobResult:
        running = self._running.pop(index)
        task, last = running.task, running.last
        if running.gpu is not None:
            self.gpus.append(running.gpu)
        if last.get("event") not in ("done", "failed"):
            drop_partial(self.project, task)
            status = running.process.returncode
            running.complaints.seek(0)
            said = running.complaints.read().decode(errors="replace").strip().splitlines()[-1:]
            message = "; ".join([f"its process ended with status {status}", *said])
            last = {"event": "died", "error": "JobDied", "message": message}
        running.complaints.close()
        with contextlib.suppress(BrokenPipeError):
            running.orders.close()
        result = JobResult(task, ok=last.get("event") == "done", detail=cast(Ending, last))
        result.tell(self.console)
        return result

    def _show(self, progress: Progress, running: Running) -> None:
        name, event = f"{running.task.chapter.name} · {running.task.label}", running.last
        if event["event"] == "waiting":
            self.console.print(
                f"{name}: already running, {event['who']}; waiting for it", markup=False, soft_wrap=True
            )
        elif event["event"] == "start":
            progress.update(running.bar, total=event["cells"])
            if not self.console.is_terminal:
                self.console.print(f"{name}: executing {event['cells']} cells")
        elif event["event"] == "cell":
            progress.update(running.bar, completed=event["done"])
        elif event["event"] == "failed":
            progress.update(running.bar, description=f"[red]{name} failed[/red]")
