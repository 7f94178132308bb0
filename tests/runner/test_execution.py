"""What needs a kernel: real chapters on a copy of the library, executed by the command line and ended by force."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest
from tests.toy_cells import closing, opening

import faultlines
from faultlines.notebook.chapters import Chapter, code_cells
from faultlines.notebook.freshness import Freshness, State
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs
from faultlines.runner.local_pool import threads_each

HEAD = (
    opening("seeds: int = 5  # paired seeds [2..64]")
    + """
```{code-cell}
import os
print(os.environ["OMP_NUM_THREADS"], os.environ["CUDA_VISIBLE_DEVICES"], seeds)
```
"""
)

GOOD = """
Some prose.

```{code-cell}
import time
from pathlib import Path
from faultlines.reporting.intervals import mean_interval
from faultlines.reporting.ledger import Ledger
from faultlines.reporting.prose import quote_numbers

if os.environ.get("TOY_HANGS"):
    Path(os.environ["TOY_HANGS"]).write_text(f"{os.getpid()} {os.getppid()}")
    time.sleep(300)
```

```{code-cell}
ledger = Ledger()
ledger.state("C1", "a mean is positive", paper="Theorem 1", test="t interval above 0")
with ledger.timed("C1"):
    time.sleep(0.05)
    ledger.settle("C1", mean_interval([1.0 + i for i in range(seeds)]))
quote_numbers(images=60000, mean=mean_interval([1.0, 2.0, 3.0]))
quote_numbers(".1%", share=0.25)
ledger.table()
```

```{code-cell}
say("Of {{images}} images {{share}}, in the mean {{mean}}: {{C1-verdict}}.")
```
"""

RAISES = """
```{code-cell}
raise RuntimeError("as asked\\nsecond line")
```

```{code-cell}
print("never")
```
"""

DIES = """
```{code-cell}
os._exit(9)
```
"""

RUNS = """\
default: {purpose: embedded data, budget: seconds}
desk: {purpose: real data, budget: an hour, chapters: {good: {seeds: 8}}}
"""


@dataclass
class Workshop:
    """A checkout with a copy of the library of its own, and what the first call on it said."""

    project: Project
    environment: dict[str, str]
    first: subprocess.CompletedProcess | None = None
    planted: str = "an earlier result"

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "faultlines", *words],
            cwd=self.project.root, env={**self.environment, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def call(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def chapter(self, name: str) -> Chapter:
        return Chapter.all(self.project)[name]

    def state(self, name: str = "good") -> State:
        return Freshness(self.project, Runs.load(self.project)).state(RunSpec(self.chapter(name), "default"))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    root = tmp_path_factory.mktemp("workshop")
    library = root / "lib" / "faultlines"
    shutil.copytree(Path(faultlines.__file__).parent, library, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "chapters").mkdir()
    for name, body in {"good": GOOD + closing("good"), "raises": RAISES, "dies": DIES}.items():
        (root / "chapters" / f"{name}.md").write_text(HEAD + body)
    (root / "runs.yml").write_text(RUNS)
    (root / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n- file: chapters/good\n")
    environment = {
        **os.environ, "FAULTLINES_ROOT": str(root), "PYTHONPATH": str(root / "lib"), "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": "0,1", "COLUMNS": "200",
    }  # fmt: skip
    environment.pop("OMP_NUM_THREADS", None)
    shop = Workshop(Project(root, library), environment)
    earlier = shop.project.working("default", "raises")
    earlier.parent.mkdir(parents=True)
    earlier.write_text(shop.planted)
    shop.first = shop.call("run", "--jobs", "2")
    return shop


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    texts = [
        output.text
        for cell in code_cells(notebook)
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stdout"
    ]
    return "".join(texts).split()


def gone(pid: int, within: float = 15.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_a_chapter_that_raises_does_not_stop_the_others(workshop: Workshop) -> None:
    assert workshop.first.returncode == 1
    result = workshop.state().result
    assert result is not None
    assert result.provenance.parameters == {"seeds": 5}
    assert "good · default: _build/runs/default/good.ipynb" in workshop.first.stdout


def test_the_summary_names_chapter_and_cell(workshop: Workshop) -> None:
    lines = workshop.first.stderr.splitlines()
    assert "raises · default failed in cell 5: RuntimeError: as asked" in lines
    assert any(line.startswith("dies · default failed in cell 5: DeadKernelError") for line in lines), lines


def test_the_failed_notebook_is_kept_with_its_traceback(workshop: Workshop) -> None:
    path = workshop.project.failed("default", "raises")
    assert str(path) in workshop.first.stderr
    notebook = nbformat.read(path, as_version=4)
    errors = [o for cell in code_cells(notebook) for o in cell.outputs if o.output_type == "error"]
    assert [error.ename for error in errors] == ["RuntimeError"]
    assert any("RuntimeError" in line for line in errors[0].traceback)
    assert workshop.state("raises").name == "failed"
    assert workshop.project.failed("default", "dies").exists()


def test_an_earlier_result_of_a_chapter_that_raises_stands_untouched(workshop: Workshop) -> None:
    assert workshop.project.working("default", "raises").read_text() == workshop.planted


def test_nothing_half_is_left(workshop: Workshop) -> None:
    left = [*workshop.project.build.rglob("partial/*"), *workshop.project.build.rglob("*.tmp")]
    assert left == []


def test_each_notebook_gets_its_share_of_threads_and_a_gpu_of_its_own(workshop: Workshop) -> None:
    seen = [
        printed(nbformat.read(path, as_version=4))[:2]
        for path in (
            workshop.project.working("default", "good"),
            workshop.project.failed("default", "raises"),
            workshop.project.failed("default", "dies"),
        )
    ]
    assert all(threads == str(threads_each(2)) for threads, _ in seen[:2])
    assert {gpu for _, gpu in seen[:2]} <= {"0", "1"}
    started = [line for line in workshop.first.stdout.splitlines() if "executing" in line]
    assert len(started) == 3


def test_the_record_says_what_the_kernel_had_loaded(workshop: Workshop) -> None:
    record = workshop.state().result.provenance
    assert "faultlines.reporting.intervals" in record.modules
    assert "faultlines.reporting.ledger" in record.modules
    assert not any(name.startswith(("faultlines.runner", "faultlines.attacks")) for name in record.modules)
    assert record.kernel["threads"] >= 1
    assert record.command == "faultlines run good --run default"
    [row] = workshop.state().result.ledger
    assert (row["claim"], row["verdict"], row["n"]) == ("C1", "holds", 5)
    assert row["cost_s"] >= 0.05  # though it was settled inside the block that is timed


def test_a_sentence_is_an_output_with_its_numbers(workshop: Workshop) -> None:
    cells = code_cells(workshop.state().result.notebook())
    [output] = next(cell for cell in cells if cell.source.startswith("say(")).outputs
    assert output.data["text/plain"] == "Of 60,000 images 25.0%, in the mean 2 [-0.484, 4.48]: ✔ holds."
    assert 'class="verdict verdict-holds"' in output.data["text/markdown"]


def test_the_notebook_carries_no_trace_of_the_machinery(workshop: Workshop) -> None:
    text = workshop.project.working("default", "good").read_text()
    assert str(workshop.project.root) not in text
    assert "papermill" not in json.loads(text)["metadata"]


EDITS: dict[str, tuple[str, Callable[[str], str], tuple[str, ...]]] = {
    "a constant of a used module": (
        "lib/faultlines/reporting/intervals.py",
        lambda text: text.replace("confidence: float = 0.95", "confidence: float = 0.9"),
        ("faultlines.reporting.",),
    ),
    "a docstring of a used module": (
        "lib/faultlines/reporting/intervals.py",
        lambda text: text.replace("Return the mean of independent values", "Give the mean"),
        (),
    ),
    "an unused module": ("lib/faultlines/reporting/figures.py", lambda text: text + "\nX = 1\n", ()),
    "the runner": ("lib/faultlines/runner/local_pool.py", lambda text: text + "\nX = 1\n", ()),
    "the chapter's code": (
        "chapters/good.md", lambda text: text.replace("time.sleep(0.05)", "time.sleep(0.06)"), ("chapter good",),
    ),
    "the chapter's prose": ("chapters/good.md", lambda text: text.replace("Some prose", "Other prose"), ()),
    "a comment of the chapter": (
        "chapters/good.md", lambda text: text.replace("import time\n", "import time  # to wait\n"), (),
    ),
    "a parameter's default": (
        "chapters/good.md",
        lambda text: text.replace("seeds: int = 5", "seeds: int = 6"),
        ("parameter seeds is 5 and not 6",),
    ),
    "a parameter more": (
        "chapters/good.md",
        lambda text: text.replace("seeds: int", "eps: float = 0.1\nseeds: int"),
        ("parameter eps is 'not there' and not 0.1",),
    ),
    "the run's parameters": (
        "runs.yml",
        lambda text: text.replace("budget: seconds}", "budget: seconds, chapters: {good: {seeds: 7}}}"),
        ("parameter seeds is 5 and not 7",),
    ),
    "another run's parameters": ("runs.yml", lambda text: text.replace("seeds: 8", "seeds: 9"), ()),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_makes_stale_what_used_it_and_nothing_else(workshop: Workshop, what: str) -> None:
    path, edit, changes = EDITS[what]
    file = workshop.project.root / path
    before = file.read_text()
    assert edit(before) != before
    try:
        file.write_text(edit(before))
        state = workshop.state()
    finally:
        file.write_text(before)
    name = "foreign" if "parameter" in "".join(changes) else "stale"
    assert state.name == (name if changes else "fresh"), state.changes
    assert len(state.changes) >= len(changes)
    assert all(change.startswith(changes) for change in state.changes), state.changes
    assert workshop.state().name == "fresh"


def test_a_module_that_goes_makes_stale(workshop: Workshop) -> None:
    file = workshop.project.library / "reporting" / "verdicts.py"
    before = file.read_text()
    try:
        file.unlink()
        state = workshop.state()
    finally:
        file.write_text(before)
    assert state.name == "stale"
    assert "faultlines.reporting.verdicts.judge (gone)" in state.changes


def test_a_second_call_executes_nothing(workshop: Workshop) -> None:
    path = workshop.project.working("default", "good")
    before = path.stat().st_mtime_ns
    done = workshop.call("run", "good")
    assert (done.returncode, done.stdout) == (0, "0 to execute, 1 fresh\n")
    assert path.stat().st_mtime_ns == before


@dataclass
class Hanging:
    """A call whose kernel sleeps in the middle of a chapter."""

    call: subprocess.Popen
    kernel: int
    job: int


@pytest.fixture(scope="module")
def hanging(workshop: Workshop) -> Iterator[dict[str, Hanging]]:
    """Three calls at once: to interrupt, to rob of its job, and to kill."""
    words = {"interrupt": ("--force",), "job": ("-p", "seeds=3"), "caller": ("-p", "seeds=4")}
    marks = {name: workshop.project.root / f"{name}.pid" for name in words}
    calls = {
        name: workshop.start("run", "good", *rest, TOY_HANGS=str(marks[name])) for name, rest in words.items()
    }
    try:
        end = time.monotonic() + 90
        while not all(mark.exists() and len(mark.read_text().split()) == 2 for mark in marks.values()):
            assert time.monotonic() < end, "the kernels did not start"
            time.sleep(0.1)
        yield {
            name: Hanging(call, *map(int, marks[name].read_text().split())) for name, call in calls.items()
        }
    finally:
        for name, call in calls.items():
            call.kill()
            call.communicate()
            for pid in map(int, marks[name].read_text().split() if marks[name].exists() else []):
                if psutil.pid_exists(pid):
                    os.kill(pid, signal.SIGKILL)


def test_ctrl_c_leaves_the_earlier_result_and_no_kernel(
    workshop: Workshop, hanging: dict[str, Hanging]
) -> None:
    path = workshop.project.working("default", "good")
    before = path.read_bytes()
    assert workshop.project.partial("default", "good").exists()
    one = hanging["interrupt"]
    one.call.send_signal(signal.SIGINT)
    _, err = one.call.communicate(timeout=180)
    assert one.call.returncode == 130
    assert err.splitlines()[-1].startswith("faultlines: interrupted")
    assert path.read_bytes() == before
    assert not workshop.project.partial("default", "good").exists()
    assert not workshop.project.failed("default", "good").exists()
    assert gone(one.job)
    assert gone(one.kernel)


def test_a_killed_job_is_told_of_and_its_kernel_ends(workshop: Workshop, hanging: dict[str, Hanging]) -> None:
    one = hanging["job"]
    os.kill(one.job, signal.SIGKILL)
    _, err = one.call.communicate(timeout=180)
    assert one.call.returncode == 1
    assert "good · default+seeds=3 failed: JobDied: its process ended with status -9" in err
    assert not workshop.project.partial("default+seeds=3", "good").exists()
    assert not workshop.project.working("default+seeds=3", "good").exists()
    assert gone(one.kernel)


def test_a_killed_caller_takes_its_job_and_kernel_along(
    workshop: Workshop, hanging: dict[str, Hanging]
) -> None:
    one = hanging["caller"]
    one.call.kill()
    one.call.communicate(timeout=30)
    assert gone(one.job)
    assert gone(one.kernel)
    assert not workshop.project.partial("default+seeds=4", "good").exists()
    assert not workshop.project.failed("default+seeds=4", "good").exists()


def test_the_next_call_goes_on_and_an_override_stands_beside(
    workshop: Workshop, hanging: dict[str, Hanging]
) -> None:
    path = workshop.project.working("default", "good")
    before = path.read_bytes()
    done = workshop.call("run", "good", "-p", "seeds=3")
    assert done.returncode == 0, done.stderr
    task = RunSpec(workshop.chapter("good"), "default", {"seeds": "3"})
    result = Freshness(workshop.project, Runs.load(workshop.project)).state(task).result
    assert result.provenance.parameters == {"seeds": 3}
    assert result.provenance.command == "faultlines run good --run default -p seeds=3"
    assert printed(result.notebook())[2] == "3"
    assert path.read_bytes() == before
    assert workshop.state().result.provenance.parameters == {"seeds": 5}
