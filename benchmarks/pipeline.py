"""What the pipeline adds to the chapters: kernel start, import, the runner's share, workers, and jobs on a cluster.

Toy chapters stand for real ones, in a checkout of their own. What is added to a chapter is measured around cells that
compute for a known time on one thread, and workers on cells that do a known amount of work, since workers that slow
each other down would still fill a known time. The cluster is Slurm on loopback where Debian's slurm-wlm and munge are
installed and the caller is root; its rows are left out otherwise. `--write` keeps the figures in
`results/pipeline.json`, from which the book's page on clusters is made.

    python -m benchmarks.pipeline [--write]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks._machine import machine
from benchmarks._slurm import SlurmCluster, missing

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
SECONDS = 20.0  # of computing in the chapter whose overhead is measured
SHORT = 6.0  # work of a chapter in the comparison of workers
CHAPTER = """\
---
jupytext:
  text_representation: {{extension: .md, format_name: myst}}
kernelspec: {{name: python3, display_name: Python 3, language: python}}
---

# Toy

```{{code-cell}}
from faultlines import notebook
from faultlines.reporting import Ledger

notebook.begin()
```

```{{code-cell}}
:tags: [parameters]

seconds: float = {seconds}  # processor seconds [0..600]
products: int = {products}  # matrix products after that [0..100000000]
```

```{{code-cell}}
notebook.check_parameters()
```

```{{code-cell}}
import time

import torch

from faultlines.models import ViT

x = torch.rand(300, 300)
end = time.process_time() + seconds
while time.process_time() < end:
    x @ x
for _ in range(products):
    x @ x
```

```{{code-cell}}
notebook.record("{name}", Ledger())
```
"""


def checkout(folder: Path, chapters: int, seconds: float, products: int = 0) -> Path:
    """Lay out a checkout of equal toy chapters."""
    (folder / "chapters").mkdir(parents=True)
    for number in range(chapters):
        (folder / "chapters" / f"toy{number}.md").write_text(
            CHAPTER.format(name=f"toy{number}", seconds=seconds, products=products)
        )
    (folder / "runs.yml").write_text("default: {purpose: toy, budget: seconds}\n")
    (folder / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    return folder


def timed(command: list[str], **environment: str) -> float:
    """Return the wall time of a command, which must succeed."""
    start = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    return time.perf_counter() - start


def products_in(seconds: float) -> int:
    """Return how many of the chapter's matrix products one thread makes in so many seconds."""
    code = (
        "import time, torch; torch.set_num_threads(1); x = torch.rand(300, 300); n = 0; start = time.perf_counter()\n"
        "while time.perf_counter() < start + 3: x @ x; n += 1\n"
        "print(n)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(int(done.stdout) / 3 * seconds)


def run_all(chapters: int, seconds: float, *options: str, products: int = 0, **environment: str) -> float:
    """Return the wall time of `faultlines run` over toy chapters that nobody has run."""
    with tempfile.TemporaryDirectory() as folder:
        root = checkout(Path(folder) / "book", chapters, seconds, products)
        command = [sys.executable, "-m", "faultlines", "run", *options]
        return timed(command, FAULTLINES_ROOT=str(root), **environment)


def papermill_alone(seconds: float) -> float:
    """Return the wall time of papermill without us, on the same notebook."""
    with tempfile.TemporaryDirectory() as folder:
        source = checkout(Path(folder) / "book", 1, seconds) / "chapters" / "toy0.md"
        timed([sys.executable, "-m", "jupytext", "--quiet", "--to", "ipynb", str(source)])
        notebook = str(source.with_suffix(".ipynb"))
        return timed([sys.executable, "-m", "papermill", "--kernel", "python3", notebook, notebook])


def kernel_s() -> float:
    """Return the seconds from nothing to a kernel that has imported the library."""
    code = (
        "from jupyter_client.manager import start_new_kernel as s\n"
        "m, c = s(kernel_name='python3')\n"
        "c.execute_interactive('import faultlines', timeout=60)\n"
        "c.stop_channels(); m.shutdown_kernel(now=True)"
    )
    bare = statistics.median(
        timed([sys.executable, "-c", "import jupyter_client.manager"]) for _ in range(ROUNDS)
    )
    return statistics.median(timed([sys.executable, "-c", code]) for _ in range(ROUNDS)) - bare


def cluster_figures(jobs: int = 16) -> dict[str, float]:
    """Return what an array of trivial jobs takes on a cluster of this one machine; empty where there is none."""
    if missing():
        return {}
    with tempfile.TemporaryDirectory() as folder:
        slurm = SlurmCluster(Path(folder) / "slurm", cpus=2)
        slurm.start()
        try:
            root = checkout(Path(folder) / "book", 1, 0.0)
            axis = "seconds=" + ",".join(f"0.{number:03d}" for number in range(1, jobs + 1))
            command = [sys.executable, "-m", "faultlines", "run", "toy0", "--sweep", axis]
            command += ["--executor", "slurm", "--cpus", "1"]
            submitting = timed([*command, "--detach"], FAULTLINES_ROOT=str(root))
            looking = timed(["squeue", "--noheader", "--array", "--format", "%i"])
            whole = submitting + timed(command, FAULTLINES_ROOT=str(root))
            result = next((root / "_build" / "runs").rglob("toy0.ipynb")).stat().st_size
            logs = sum(
                path.stat().st_size for path in (root / "_build" / "slurm").rglob("*") if path.is_file()
            )
        finally:
            slurm.stop()
    return {
        "jobs": jobs, "submit_s": submitting, "squeue_s": looking, "array_s": whole,
        "core_s_a_job": 2 * (whole - submitting) / jobs, "result_bytes": result, "log_bytes_a_job": logs / jobs,
    }  # fmt: skip


def figures() -> dict[str, object]:
    """Return everything that is measured."""
    kernel = kernel_s()
    single, alone = [], []
    for _ in range(ROUNDS):
        single.append(run_all(1, SECONDS))
        alone.append(papermill_alone(SECONDS))
    one, two, work = [], [], products_in(SHORT)
    for _ in range(ROUNDS):
        one.append(run_all(4, 0.0, "--jobs", "1", products=work))
        two.append(run_all(4, 0.0, "--jobs", "2", products=work))
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "kernel_s": kernel,
        "chapter_s": SECONDS,
        "added_s": statistics.median(single) - SECONDS,
        "papermill_s": statistics.median(alone) - SECONDS,
        "one_worker_s": statistics.median(one),
        "two_workers_s": statistics.median(two),
        "workers_ratio": statistics.median(b / a for a, b in zip(one, two, strict=True)),
        "slurm": cluster_figures(),
    }


def rows(found: dict) -> list[dict]:
    """Return the figures as rows with their targets."""
    own = found["added_s"] - found["papermill_s"]
    table = [
        ("kernel start and import faultlines", found["kernel_s"], None, found["kernel_s"], 2.5, "seconds, not a ratio"),
        ("runner's own share of a chapter of four minutes", own, 240.0, own / 240, 0.03,
         f"papermill alone adds {found['papermill_s']:.1f} s (kernel, torch), ours {own:.1f} s more"),
        ("two workers / one, four chapters", found["two_workers_s"], found["one_worker_s"], found["workers_ratio"], 0.6,
         f"the work of {SHORT:.0f} s each, one thread each"),
    ]  # fmt: skip
    if found["slurm"]:
        each = found["slurm"]["core_s_a_job"]
        table.append(
            ("a Slurm job that does nothing", each, None, each, None, "core seconds, start to result")
        )
    return [
        {
            "name": name, "ours_s": ours, "peer_s": peer, "ratio": value, "target": target,
            "ok": None if target is None else value <= target, "note": note,
        }
        for name, ours, peer, value, target, note in table
    ]  # fmt: skip


def run() -> list[dict]:
    """Return all rows."""
    return rows(figures())


if __name__ == "__main__":
    found = figures()
    if "--write" in sys.argv:
        (ROOT / "results" / "pipeline.json").write_text(json.dumps(found, indent=1) + "\n")
    for row in rows(found):
        print(f"{row['name']:<45} {row['ratio']:.3g} (target {row['target']}) {row['note']}", flush=True)
