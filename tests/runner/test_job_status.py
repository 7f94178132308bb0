from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from faultlines.cli.status import jobs_table, sweeps_table
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec, code_of, forget, take_up
from faultlines.notebook.runs import Runs
from faultlines.runner import job
from faultlines.runner.job import JobSpec, changed_since, execute
from faultlines.runner.job_lock import lock_file, locked
from faultlines.runner.job_status import JobStatus, clear_leftovers, open_jobs, with_status
from faultlines.runner.sweep import Sweep, saved_sweeps


def test_a_job_tells_how_far_it_is(checkout: Project, toy: Chapter) -> None:
    events, task = [], RunSpec(toy, "default")
    report = with_status(events.append, checkout, task)
    report({"event": "start", "cells": 3})
    first = JobStatus.read(JobStatus.path(checkout, task))
    assert (first.state, first.cell, first.cells, first.id) == ("running", 0, toy.size, str(os.getpid()))
    report({"event": "cell", "done": 2})
    assert JobStatus.read(JobStatus.path(checkout, task)).cell == 2
    report({"event": "failed", "cell": 3, "error": "ValueError", "message": "no"})
    last = JobStatus.read(JobStatus.path(checkout, task))
    assert (last.state, last.cell, last.message) == ("failed", 3, "ValueError: no")
    report({"event": "done", "wall_s": 1.5})
    assert JobStatus.read(JobStatus.path(checkout, task)).wall_s == 1.5
    assert [event["event"] for event in events] == ["start", "cell", "failed", "done"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "asleep"}', '{"chapter": "toy"}'])
def test_half_a_status_is_none(checkout: Project, toy: Chapter, text: str) -> None:
    path = JobStatus.path(checkout, RunSpec(toy, "default"))
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert JobStatus.read(path) is None
    assert open_jobs(checkout, {"toy"}) == []


def gone() -> str:
    """Return the id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return str(ended.pid)


def put_status(project: Project, task: RunSpec, **changed: str) -> None:
    JobStatus.here(task, "running").model_copy(update=changed).write(project)


def test_a_job_that_is_gone_is_said_to_have_died(checkout: Project, toy: Chapter) -> None:
    put_status(checkout, RunSpec(toy, "default"), id=gone(), host=socket.gethostname())
    put_status(checkout, RunSpec(toy, "smoke"), id=gone(), host="another-machine")
    put_status(checkout, RunSpec(toy, "paper"))  # the number of a process that lives, and is no job
    submitted = JobStatus.queued(RunSpec(toy, "default", {"seeds": "3"}))
    submitted.model_copy(update={"since": "2026-01-02T03:04:05+00:00"}).write(checkout)  # and never got an id
    alive = RunSpec(toy, "desk")
    put_status(checkout, alive)
    with locked(lock_file(JobStatus.path(checkout, alive)), lambda: None):
        states = {one.label: state for one, state in open_jobs(checkout, {"toy"})}
        assert states == {
            "default": "died", "smoke": "running", "paper": "died", "default+seeds=3": "died", "desk": "running"
        }  # fmt: skip
        assert jobs_table(checkout, {"toy"}).row_count == 5
        assert jobs_table(checkout, {"other"}).row_count == 0
        clear_leftovers(checkout)
        assert {one.label for one, _ in open_jobs(checkout)} == {"smoke", "desk"}


def test_what_killed_jobs_left_is_cleared_and_what_others_write_is_not(
    checkout: Project, toy: Chapter
) -> None:
    dead, alive, elsewhere = RunSpec(toy, "default"), RunSpec(toy, "desk"), RunSpec(toy, "smoke")
    put_status(checkout, dead, id=gone(), host=socket.gethostname())
    put_status(checkout, alive)
    put_status(checkout, elsewhere, host="another-machine")
    left = {}
    for task in (dead, alive, elsewhere):
        training = checkout.trained(task.label, "toy") / "code" / "fit.pt"
        files = (task.partial(checkout), training, training.with_name("fit.pt.part"))
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        left[task.label] = files
    lock_file(JobStatus.path(checkout, dead)).touch()  # survived a kill
    old = dead.working(checkout).with_name(".toy.ipynb.1.tmp")
    young = dead.working(checkout).with_name(".toy.ipynb.2.tmp")
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    host = socket.gethostname()
    killed, writing, remote = (
        dead.working(checkout).with_name(f".toy.ipynb.{who}.tmp")
        for who in (f"{gone()}@{host}", f"{os.getpid()}@{host}", f"{gone()}@another-machine")
    )
    half = JobStatus.path(checkout, RunSpec(toy, "paper"))
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_text('{"chapter": "to')
    for path in (killed, writing, remote):
        path.touch()
    with locked(lock_file(JobStatus.path(checkout, alive)), lambda: None):
        clear_leftovers(checkout)
        assert [path.exists() for path in left["default"]] == [False, True, False]
        assert all(path.exists() for label in ("desk", "smoke") for path in left[label])
        assert lock_file(JobStatus.path(checkout, alive)).exists()
    assert not lock_file(JobStatus.path(checkout, dead)).exists()
    assert (old.exists(), young.exists()) == (False, True)
    assert [path.exists() for path in (killed, writing, remote, half)] == [False, True, True, False]


HOLDER = """
import sys, time
from pathlib import Path
from faultlines.runner.job_lock import locked
with locked(Path(sys.argv[1]), lambda: print("waits", flush=True)) as waited:
    print("holds", waited, flush=True)
    time.sleep(float(sys.argv[2]))
print("left", flush=True)
"""


def test_a_lock_is_waited_for_and_ends_with_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "jobs" / "x.lock"

    def hold(seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(path), str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    with hold(60) as first:
        assert first.stdout.readline() == "holds False\n"
        with hold(0) as second, hold(0) as third:
            assert second.stdout.readline() == third.stdout.readline() == "waits\n"
            first.kill()
            assert second.stdout.read() == third.stdout.read() == "holds True\nleft\n"
    assert not path.exists()


def test_code_that_changed_or_went_counts_and_new_code_does_not(toy: Chapter) -> None:
    then = code_of(RunSpec(toy, "default"), {"a": "1", "b": "2"})
    assert changed_since(then, then) == []
    assert changed_since(then, then | {"a": "9"}) == ["a"]
    assert changed_since(then, {name: code for name, code in then.items() if name != "b"}) == ["b"]
    assert changed_since(then, then | {"c": "3"}) == []
    assert changed_since(then, then | {"chapter toy": "x"}) == ["chapter toy"]
    assert changed_since(None, then) == []


def test_trainings_are_taken_up_under_the_same_code_only(
    checkout: Project, toy: Chapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTLINES_CHECKPOINTS", "")
    task = RunSpec(toy, "default")
    assert not take_up(checkout, task, {"a": "1"})
    folder = Path(os.environ["FAULTLINES_CHECKPOINTS"])
    folder.mkdir(parents=True)
    (folder / "kept.pt").touch()
    assert take_up(checkout, task, {"a": "1"}) and os.environ["FAULTLINES_CHECKPOINTS"] == str(folder)
    assert not take_up(checkout, task, {"a": "2"})
    assert not folder.exists()  # of other code: of no use to anyone
    forget(checkout, task)
    assert not checkout.trained(task.label, "toy").exists()


def test_sweeps_are_remembered_and_counted(checkout: Project, toy: Chapter, put) -> None:
    sweep = Sweep(toy, "default", {"seeds": ["3", "4", "5"]}, {"mode": "ok"})
    sweep.save(checkout)
    (found,) = saved_sweeps(checkout)
    assert found.label == sweep.label and [task.label for task in found.tasks] == [
        t.label for t in sweep.tasks
    ]
    put(overrides=dict(sweep.tasks[0].overrides))
    put_status(checkout, sweep.tasks[1])
    with locked(lock_file(JobStatus.path(checkout, sweep.tasks[1])), lambda: None):
        table = sweeps_table(Freshness(checkout, Runs.load(checkout)), {"toy"})
    cells = {column.header: next(iter(column.cells)) for column in table.columns}
    assert (cells["fresh"], cells["running"], cells["missing"]) == ("1", "1", "1")


def test_a_second_job_of_the_same_waits_says_for_whom_and_takes_what_was_made(
    checkout: Project, toy: Chapter, put, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, events = RunSpec(toy, "default"), []
    spec = JobSpec.of(checkout, task, task.parameters(Runs.load(checkout)))
    monkeypatch.setattr(job, "_papermill", lambda *_: pytest.fail("it is executed again"))
    put_status(checkout, task)
    with locked(lock_file(JobStatus.path(checkout, task)), lambda: None):
        second = threading.Thread(target=lambda: events.append(execute(spec, events.append)))
        second.start()
        end = time.monotonic() + 60
        while not events:
            assert time.monotonic() < end
            time.sleep(0.02)
        put()
    second.join(timeout=60)
    waiting, done, well = events
    assert waiting["event"] == "waiting"
    assert waiting["who"].startswith(f"process {os.getpid()} on {socket.gethostname()} since 20")
    assert (done, well) == ({"event": "done", "wall_s": 95.0}, True)
    assert not lock_file(JobStatus.path(checkout, task)).exists()
