"""How jobs are shared out, with stand-ins for the jobs; tests of execution have the real ones."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.runner import local_pool
from faultlines.runner.job_status import JobResult
from faultlines.runner.local_pool import LocalPool, threads_each, visible_gpus

JOB = """
import json, os, pathlib, sys, time
job = json.loads(sys.stdin.readline())
print(json.dumps({"event": "start", "cells": 1}), flush=True)
seeds, start = job["parameters"]["seeds"], time.time()
if seeds == 13:
    sys.exit("cannot import x")
time.sleep(0.25)
seen = {"seeds": seeds, "start": start, "end": time.time(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "threads": os.environ["OMP_NUM_THREADS"]}
pathlib.Path(sys.argv[1], f"{seeds}.json").write_text(json.dumps(seen))
if seeds == 17:
    print(json.dumps({"event": "failed", "cell": 2, "error": "E", "message": "m", "notebook": "n"}), flush=True)
else:
    print(json.dumps({"event": "done", "wall_s": 0.2}), flush=True)
"""

Seen = dict[int, dict]


@pytest.fixture
def run(
    checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[list[JobResult], Seen]]:
    popen = subprocess.Popen

    def stand_in(command: list[str], **options: object) -> subprocess.Popen:
        assert command[1:3] == ["-m", "faultlines.runner.job"]
        return popen([sys.executable, "-S", "-c", JOB, str(tmp_path)], **options)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def call(seeds: list[int], jobs: int, gpus: list[str]) -> tuple[list[JobResult], Seen]:
        monkeypatch.setattr(local_pool.subprocess, "Popen", stand_in)
        chapter = Chapter.all(checkout)["toy"]
        work = [(RunSpec(chapter, "default", {"seeds": str(seed)}), {"seeds": seed}) for seed in seeds]
        results = LocalPool(checkout, jobs, Console(file=io.StringIO()), gpus).run(work)
        assert [result.task.overrides["seeds"] for result in results] == [str(seed) for seed in seeds]
        return results, {int(path.stem): json.loads(path.read_text()) for path in tmp_path.glob("*.json")}

    return call


def at_once(seen: Seen) -> int:
    return max(sum(b["start"] <= a["start"] < b["end"] for b in seen.values()) for a in seen.values())


def test_two_at_a_time_share_the_threads(run: Callable) -> None:
    results, seen = run([2, 3, 4, 5], 2, [])
    assert all(result.ok for result in results)
    assert at_once(seen) == 2
    assert {entry["threads"] for entry in seen.values()} == {str(threads_each(2))}
    assert {entry["gpu"] for entry in seen.values()} == {None}


def test_each_of_two_gpus_serves_one_notebook_at_a_time(run: Callable) -> None:
    _, seen = run([2, 3, 4, 5], 2, ["0", "1"])
    assert at_once(seen) == 2
    assert {entry["gpu"] for entry in seen.values()} == {"0", "1"}
    for gpu in ("0", "1"):
        assert at_once({k: entry for k, entry in seen.items() if entry["gpu"] == gpu}) == 1


def test_one_gpu_means_one_notebook_at_a_time(run: Callable) -> None:
    _, seen = run([2, 3, 4], 2, ["GPU-7"])
    assert at_once(seen) == 1
    assert {entry["gpu"] for entry in seen.values()} == {"GPU-7"}


def test_a_failure_and_a_death_do_not_stop_the_others(run: Callable) -> None:
    results, seen = run([13, 17, 4], 1, [])
    assert [result.ok for result in results] == [False, False, True]
    assert results[0].detail["error"] == "JobDied"
    assert results[0].detail["message"] == "its process ended with status 1; cannot import x"
    assert results[1].detail["cell"] == 2
    assert set(seen) == {17, 4}


def test_threads_stay_within_what_is_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [threads_each(n) for n in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [threads_each(n) for n in (1, 4)] == [3, 2]
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert threads_each(1) == 8


@pytest.mark.parametrize(
    ("named", "gpus"),
    [("", []), ("-1", []), ("2", ["2"]), ("0,3", ["0", "3"]), ("GPU-a,GPU-b", ["GPU-a", "GPU-b"])],
)
def test_gpus_are_those_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, named: str, gpus: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == gpus


def test_an_override_has_a_folder_of_its_own_whatever_it_holds(toy: Chapter, checkout: Project) -> None:
    places = set()
    for value in ("3", "../../x", "[0.1, 0.2]", "a/b", "a_b", "x" * 300):
        task = RunSpec(toy, "default", {"dataset": value})
        places.add(task.working(checkout))
        assert task.working(checkout).resolve().is_relative_to(checkout.build / "runs")
        assert len(task.label) < 100
        assert task.working(checkout).parents[1] == checkout.build / "runs"
    assert len(places) == 6
    one, other = ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    assert RunSpec(toy, "default", one).label == RunSpec(toy, "default", other).label


@pytest.mark.parametrize(
    ("jobs", "gpus", "said"),
    [
        (4, ["0"], "--jobs 4 becomes 1: 1 GPU is here, and each notebook has one to itself\n"),
        (4, ["0", "1"], "--jobs 4 becomes 2: 2 GPUs are here, and each notebook has one to itself\n"),
        (2, ["0", "1"], ""),
        (4, [], ""),
    ],
)
def test_fewer_jobs_than_asked_for_are_said_in_one_line(
    checkout: Project, jobs: int, gpus: list[str], said: str
) -> None:
    told = io.StringIO()
    LocalPool(checkout, jobs, Console(file=told, width=200), gpus).run([])
    assert told.getvalue() == said
