from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from faultlines.notebook.trained import forget, take_up

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs
from faultlines.notebook.task import Task, code_of
from faultlines.runner.flight import jobs_in_flight, open_records, sweeps_so_far
from faultlines.runner.record import Record, read_record, recorded
from faultlines.runner.sweep import Sweep, saved_sweeps


def test_a_job_tells_how_far_it_is(checkout: Project, toy: Chapter) -> None:
    events, task = [], Task(toy, "default")
    report = recorded(events.append, checkout, task)
    report({"event": "start", "cells": 3})
    first = read_record(Record.path(checkout, task))
    assert (first.state, first.cell, first.cells, first.id) == ("running", 0, toy.size, str(os.getpid()))
    report({"event": "cell", "done": 2})
    assert read_record(Record.path(checkout, task)).cell == 2
    report({"event": "failed", "cell": 3, "error": "ValueError", "message": "no"})
    last = read_record(Record.path(checkout, task))
    assert (last.state, last.cell, last.message) == ("failed", 3, "ValueError: no")
    report({"event": "done", "wall_s": 1.5})
    assert read_record(Record.path(checkout, task)).wall_s == 1.5
    assert [event["event"] for event in events] == ["start", "cell", "failed", "done"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "asleep"}', '{"chapter": "toy"}'])
def test_half_a_record_is_none(checkout: Project, toy: Chapter, text: str) -> None:
    path = Record.path(checkout, Task(toy, "default"))
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert read_record(path) is None
    assert open_records(checkout, {"toy"}) == []


def test_a_job_that_is_gone_is_said_to_have_died(checkout: Project, toy: Chapter) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = Task(toy, "default")
    Record.of(dead, "running", id=str(ended.pid), host=socket.gethostname()).write(checkout)
    alive = Task(toy, "desk")
    Record.here(alive, "running").write(checkout)
    elsewhere = Task(toy, "smoke")
    Record.of(elsewhere, "running", id=str(ended.pid), host="another-machine").write(checkout)
    states = {record.label: state for record, state in open_records(checkout, {"toy"})}
    assert states == {"default": "died", "desk": "running", "smoke": "running"}
    assert jobs_in_flight(checkout, {"toy"}).row_count == 3
    assert jobs_in_flight(checkout, {"other"}).row_count == 0


def test_code_that_changed_or_went_counts_and_new_code_does_not(toy: Chapter) -> None:
    then = code_of(Task(toy, "default"), {"a": "1", "b": "2"})
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
    task = Task(toy, "default")
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
    Record.here(sweep.tasks[1], "running").write(checkout)
    table = sweeps_so_far(Freshness(checkout, Runs.load(checkout)), {"toy"})
    cells = {column.header: next(iter(column.cells)) for column in table.columns}
    assert (cells["fresh"], cells["running"], cells["missing"]) == ("1", "1", "1")
