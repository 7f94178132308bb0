"""Execute one notebook: the job that a pool of processes and a cluster share.

`python -m faultlines.runner.job` reads a `JobSpec` as one line of JSON from standard input and prints one JSON line
an event: `start`, `cell`, then `done` or `failed`; before them `waiting` where another process executes the same. It
runs in a process of its own so that threads and devices are its own, and so that the caller can end it. With `--watch`
it ends itself when standard input closes, which is how a job learns that its caller was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from pydantic import BaseModel

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.code import library_code
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.provenance import read_record
from faultlines.notebook.run_spec import RunSpec, code_of, forget, take_up
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import number_cells, write_notebook
from faultlines.runner.job_lock import lock_file, locked
from faultlines.runner.job_status import JobStatus, Report, with_status

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class JobSpec(BaseModel):
    """Everything that a job needs to know, plain enough to travel as JSON.

    Attributes:
        root: The checkout.
        chapter: Name of the chapter.
        run: Run group.
        overrides: Parameters given on the command line, as text.
        parameters: All parameters, resolved and checked.
        timeout_s: Longest time that one cell may take; None for no limit.
        code: Code hash of every library module, and of the chapter under its name, when the job was submitted.
    """

    root: Path
    chapter: str
    run: str
    overrides: dict[str, str]
    parameters: dict[str, Any]
    timeout_s: int | None = None
    code: dict[str, str] | None = None

    @classmethod
    def of(
        cls, project: Project, task: RunSpec, parameters: dict[str, Any], code: dict[str, str] | None = None
    ) -> JobSpec:
        """Return what the job of a task needs to know."""
        return cls(
            root=project.root,
            chapter=task.chapter.name,
            run=task.run,
            overrides=dict(task.overrides),
            parameters=parameters,
            code=code,
        )


def changed_since(submitted: Mapping[str, str] | None, found: Mapping[str, str]) -> list[str]:
    """Return the names whose code differs between submission and start; none where nothing was submitted.

    A module that is new since then counts for nothing: what could use it would have changed too.
    """
    return sorted(name for name, code in (submitted or {}).items() if found.get(name) != code)


def quieten() -> None:
    """Keep out of the notebook what is said to a person at a terminal."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # a bar redrawn a thousand times is no output to keep
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")


@dataclass
class Cells:
    """How many code cells have been started."""

    started: int = 0


def execute(job: JobSpec, report: Report = lambda event: None) -> bool:
    """Execute a job and put its result in place.

    Where another process executes the same chapter under the same run, wait for it; what it has made by then is not
    made again. The result stands where `RunSpec.working` says only once it is whole. A chapter that raises leaves its
    notebook, with the traceback, at `RunSpec.failed`, and an earlier good result untouched.

    Args:
        job: What to do.
        report: Called with an event (a dict with key `event`) at the start, after each cell, and at the end.

    Returns:
        Whether every cell ran.
    """
    project = Project.find(job.root)
    task = RunSpec(Chapter.named(project, [job.chapter])[0], job.run, job.overrides)
    status = JobStatus.path(project, task)

    def waits(tell: Report = report) -> None:
        other = JobStatus.read(status)
        tell(
            {
                "event": "waiting",
                "who": other.who if other and other.state == "running" else "another process",
            }
        )

    with locked(lock_file(status), waits) as waited:
        report = with_status(report, project, task)
        if waited:
            made = Freshness(project, Runs.load(project)).state(task, "here")
            if made.name == "fresh" and made.result is not None:
                report({"event": "done", "wall_s": made.result.provenance.wall_s})
                return True
        return _execute(job, project, task, report)


def _execute(job: JobSpec, project: Project, task: RunSpec, report: Report) -> bool:
    from papermill.exceptions import PapermillExecutionError

    partial = task.partial(project)
    modules = library_code(project.library)
    if moved := changed_since(job.code, code_of(task, modules)):
        where: dict[str, Any] = {
            "error": "CodeChanged",
            "message": f"{', '.join(moved)} changed since the job was submitted",
        }
        report({"event": "failed", **where})
        return False
    take_up(project, task, modules)
    cells = Cells()
    report({"event": "start", "cells": task.chapter.size})
    try:
        notebook = _papermill(job, task, partial, report, cells)
    except PapermillExecutionError as error:
        where = {"cell": error.exec_count, "error": error.ename, "message": str(error.evalue)}
        _keep_failed(task, project, where, report)
        return False
    except Exception as error:  # a kernel that died, a cell that took too long: no traceback in the notebook
        where = {"cell": cells.started or None, "error": type(error).__name__, "message": str(error)}
        _keep_failed(task, project, where, report)
        return False
    finally:
        partial.unlink(missing_ok=True)
    _clean(notebook)
    record, reasons = read_record(notebook)
    if record is None or reasons:
        where = {"error": "NoRecord", "message": f"the notebook ran, and {'; '.join(reasons)}"}
        write_notebook(notebook, partial)
        _keep_failed(task, project, where, report)
        partial.unlink(missing_ok=True)
        return False
    write_notebook(notebook, task.working(project))
    task.failed(project).unlink(missing_ok=True)
    forget(project, task)
    report({"event": "done", "wall_s": record.wall_s})
    return True


def _papermill(job: JobSpec, task: RunSpec, partial: Path, report: Report, cells: Cells) -> NotebookNode:
    import papermill
    from papermill.engines import NBClientEngine, papermill_engines

    class Reporting(NBClientEngine):
        """papermill's own engine, telling of each finished code cell."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, *rest: Any, **options: Any) -> Any:
            start, complete = nb_man.cell_start, nb_man.cell_complete

            def cell_start(cell: NotebookNode, *rest: Any, **more: Any) -> None:
                cells.started += cell.cell_type == "code"
                start(cell, *rest, **more)

            def cell_complete(cell: NotebookNode, *rest: Any, **more: Any) -> None:
                complete(cell, *rest, **more)
                if cell.cell_type == "code":
                    report({"event": "cell", "done": cells.started})

            nb_man.cell_start, nb_man.cell_complete = cell_start, cell_complete
            return super().execute_managed_notebook(nb_man, kernel_name, *rest, **options)

    papermill_engines.register("faultlines", Reporting)
    source = task.chapter.notebook()
    declared = {parameter.name: parameter.default for parameter in task.chapter.parameters}
    overridden = {name: value for name, value in job.parameters.items() if declared[name] != value}
    partial.parent.mkdir(parents=True, exist_ok=True)
    write_notebook(source, partial)
    return papermill.execute_notebook(
        str(partial),
        str(partial),
        parameters=overridden,
        engine_name="faultlines",
        kernel_name="python3",
        progress_bar=False,
        cwd=str(task.chapter.path.parent),
        execution_timeout=job.timeout_s,
    )


def _clean(notebook: NotebookNode) -> None:
    # papermill notes absolute paths and the time of every cell: noise in a committed file
    notebook.metadata.pop("papermill", None)
    number_cells(notebook)
    for cell in notebook.cells:
        for key in ("papermill", "execution", "exception"):
            cell.metadata.pop(key, None)
        if cell.metadata.get("tags") == []:
            del cell.metadata["tags"]


def _keep_failed(task: RunSpec, project: Project, where: dict[str, Any], report: Report) -> None:
    failed = task.failed(project)
    try:
        notebook = nbformat.read(task.partial(project), as_version=4)
    except (OSError, ValueError):
        notebook = task.chapter.notebook()
    notebook.metadata["faultlines"] = {"failure": where}  # for a reader of the file; nothing here looks at it
    _clean(notebook)
    write_notebook(notebook, failed)
    report({"event": "failed", "notebook": str(failed), **where})


def main() -> int:
    """Run the job on standard input."""
    # SIGTERM as an exception, so that nbclient shuts its kernel down on the way out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    quieten()
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints must not break the stream of events
    job = JobSpec.model_validate_json(sys.stdin.readline())
    if "--watch" in sys.argv:
        threading.Thread(target=_end_with_caller, daemon=True).start()

    def report(event: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # a caller that is gone is no failure of the chapter
            print(json.dumps(event), file=channel)

    return 0 if execute(job, report) else 1


def _end_with_caller() -> None:
    # on the descriptor: a read of sys.stdin would hold a lock that the interpreter needs on its way out
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
