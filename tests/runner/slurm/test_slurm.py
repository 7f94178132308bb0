"""Jobs on a real Slurm cluster: one is killed, one is requeued, and only what is missing runs again."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from tests.toy_cells import closing, opening
from typer.testing import CliRunner

from faultlines.cli.app import app
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import read_result
from faultlines.runner.job_status import JobStatus, slurm_queue
from faultlines.runner.slurm import SlurmPool, SlurmResources

pytestmark = pytest.mark.slow

HEAD = opening("""
rate: float = 0.1  # rate [0..100]
seed: int = 0  # seed [0..1000]
wait: float = 0.0  # seconds [0..600]
""")

POOLED = (
    HEAD
    + """
```{code-cell}
import time

from faultlines.reporting import Ledger, mean_interval

time.sleep(wait)
if rate > 50:
    raise ValueError("no such rate")
ledger = Ledger()
ledger.state("C1", "the rate counts", paper="", test="mean above 0")
ledger.settle("C1", mean_interval([rate, rate + 0.01 * seed, rate + 0.02]))
ledger.table()
```
"""
    + closing("toy")
)

TRAINING = (
    HEAD
    + """
```{code-cell}
import time
from pathlib import Path

import torch
from torch import nn

from faultlines.training import CrossEntropy, fit


class Slow(CrossEntropy):
    def __call__(self, model, x, y):
        with Path("steps.txt").open("a") as file:
            file.write("step\\n")
        time.sleep(0.25)
        return super().__call__(model, x, y)


x = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
torch.manual_seed(0)
history = fit(nn.Linear(4, 2), x, (x[:, 0] > 0.5).long(), epochs=40, batch_size=20, objective=Slow())
print(len(history.loss), "epochs")
```

```{code-cell}
notebook.record("toy")
```
"""
)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "toy.md").write_text(POOLED)
    (tmp_path / "runs.yml").write_text("default: {purpose: embedded, budget: seconds}\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    monkeypatch.setenv("FAULTLINES_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return Project.find()


def submit(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "faultlines", "run", "toy", "--executor", "slurm", "--cpus", "1", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(what, seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.3)


def toy(project: Project, **overrides: object) -> RunSpec:
    return RunSpec(
        Chapter.all(project)["toy"], "default", {name: str(value) for name, value in overrides.items()}
    )


def state(project: Project, task: RunSpec) -> str:
    status = JobStatus.read(JobStatus.path(project, task))
    return status.state if status else "none"


def test_a_sweep_loses_a_killed_job_and_a_raising_one_and_repeats_only_these(
    cluster: object, checkout: Project
) -> None:
    axes = ["--sweep", "rate=1,2,3,99", "seed=0..1", "-p", "wait=2"]
    process = submit(*axes)
    victim = toy(checkout, rate="2", seed="0", wait="2")
    until(lambda: state(checkout, victim) == "running")
    assert "running" in CliRunner(env={"COLUMNS": "200"}).invoke(app, ["status"]).stdout
    subprocess.run(
        ["scancel", "--signal=KILL", JobStatus.read(JobStatus.path(checkout, victim)).id], check=True
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "8 submitted as job" in out and "gathered:" in out
    failed = {line.split()[2] for line in err.splitlines() if line.startswith("toy · ") and " failed" in line}
    assert failed == {victim.label, *(toy(checkout, rate="99", seed=s, wait="2").label for s in "01")}
    # the signal reaches the job and its kernel in either order
    assert "JobLost: job" in err or "Kernel died" in err
    assert "ValueError: no such rate" in err
    results = [toy(checkout, rate=r, seed=s, wait="2").working(checkout) for r in "123" for s in "01"]
    kept = {path: path.stat().st_mtime_ns for path in results if path.exists()}
    assert len(kept) == 5 and victim.working(checkout) not in kept

    again = submit("--sweep", "rate=1,2,3", "seed=0..1", "-p", "wait=2")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "1 to execute, 5 fresh" in out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    gathered = next((checkout.build / "sweeps").glob("toy/*rate=1*2*3,seed*/gathered.ipynb"))
    text = json.dumps(json.loads(gathered.read_text())["cells"])
    assert "6 holds" in text and "image/png" in text


def test_a_job_whose_time_is_over_is_requeued_and_goes_on_from_its_training(
    cluster: object, checkout: Project
) -> None:
    (checkout.chapters / "toy.md").write_text(TRAINING)
    process, task, steps = submit(), toy(checkout), checkout.chapters / "steps.txt"
    until(lambda: steps.exists() and steps.read_text().count("step") >= 12)
    first = JobStatus.read(JobStatus.path(checkout, task)).id
    subprocess.run(["scancel", "--signal=USR2", first], check=True)  # what Slurm sends before the time limit
    until(lambda: "PENDING" in cluster.ask("squeue", "--noheader", "--format", "%T"))
    subprocess.run(
        ["scontrol", "update", f"JobId={first}", "StartTime=now"], check=True
    )  # Slurm itself waits 2 min
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    result = read_result(task.working(checkout))
    assert result.provenance.resumed
    assert "40 epochs" in json.dumps(result.notebook().cells)
    # one look at the first step a start, and an epoch that was cut; 54 and more, had it begun again
    assert 42 <= steps.read_text().count("step") <= 44
    assert not checkout.trained(task.label, "toy").exists()


def test_who_submits_may_go_and_come_back(cluster: object, checkout: Project) -> None:
    tasks = [toy(checkout, rate=rate, wait="4") for rate in ("1", "2")]
    gone = submit("--sweep", "rate=1,2", "-p", "wait=4", "--detach")
    out, err = gone.communicate(timeout=60)
    assert gone.returncode == 0 and "2 submitted" in out, err
    back = submit("--sweep", "rate=1,2", "-p", "wait=4")
    out, err = back.communicate(timeout=120)
    assert back.returncode == 0, err
    assert "2 in the queue already" in out and "submitted" not in out
    assert all(state(checkout, task) == "done" for task in tasks)


def test_code_that_changed_in_the_queue_is_refused_at_the_start(cluster: object, checkout: Project) -> None:
    task, runs, told = toy(checkout), Runs.load(checkout), io.StringIO()
    until(lambda: not slurm_queue())  # Slurm forgets the jobs of the test before this one in its own time
    subprocess.run(["scontrol", "update", "PartitionName=main", "State=DOWN"], check=True)
    try:
        queue = SlurmPool(checkout, SlurmResources(cpus=1), Console(file=told), poll_s=0.5)
        assert queue.run([(task, task.parameters(runs))], detach=True) == []
        assert state(checkout, task) == "queued" and len(slurm_queue()) == 1
        chapter = checkout.chapters / "toy.md"
        chapter.write_text(POOLED.replace("rate + 0.02", "rate + 0.03"))
    finally:
        subprocess.run(["scontrol", "update", "PartitionName=main", "State=UP"], check=True)
    (result,) = queue.run([(task, task.parameters(runs))])
    assert not result.ok and result.detail["error"] == "CodeChanged"
    assert "chapter toy changed since the job was submitted" in result.detail["message"]
    assert not task.working(checkout).exists()


def test_whatever_sbatch_knows_can_be_asked_for(cluster: object, checkout: Project) -> None:
    words = ["--mem", "100M", "--account", "physics", "--constraint", "loopback", "--time", "7"]
    process = submit(
        *words, "--sbatch", "comment=from the book", "--sbatch", "--exclusive", "-p", "wait=600", "--detach"
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    job = JobStatus.read(JobStatus.path(checkout, toy(checkout, wait="600"))).id
    try:
        shown = cluster.ask("scontrol", "show", "job", job)
        for said in (
            "mem=100M",
            "Account=physics",
            "Features=loopback",
            "TimeLimit=00:07:00",
            "Comment=from the book",
        ):
            assert said in shown or said.replace("mem=", "MinMemoryNode=") in shown, (said, shown)
        assert "OverSubscribe=NO" in shown  # of --exclusive
    finally:
        subprocess.run(["scancel", job], check=True)
        until(lambda: not slurm_queue())


def test_a_cluster_that_refuses_is_one_line(cluster: object, checkout: Project) -> None:
    process = submit("--partition", "nowhere")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    (line,) = [line for line in err.splitlines() if not line.startswith("sbatch: ")]
    assert line.startswith("faultlines: the cluster refused the jobs") and "partition" in line
    assert not list((checkout.build / "jobs").rglob("*.json"))


def test_without_slurm_the_error_says_what_to_do(checkout: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(UsageError, match="--executor local"):
        SlurmPool(checkout, SlurmResources(), Console())
