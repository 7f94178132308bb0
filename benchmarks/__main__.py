"""Run every benchmark, or those named, and print one table: `python -m benchmarks [NAME...]`.

Each module of this folder has a `run()` that measures ours against peers and floors in one run, interleaved, and
returns its rows. Ratios are what counts; seconds are those of this machine today. Each module runs in a process of
its own, on one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

COLUMNS = ("name", "ours_s", "peer_s", "ratio", "target", "ok", "note")
CALL = (
    "import importlib, json, sys; print(json.dumps(importlib.import_module(sys.argv[1]).run(), default=str))"
)


def main(names: list[str]) -> int:
    """Print the table; return 1 where a target is missed or a benchmark does not run."""
    folder = Path(__file__).parent
    there = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    if unknown := [name for name in names if name not in there]:
        print(f"unknown benchmark {', '.join(unknown)}: it is one of {', '.join(there)}", file=sys.stderr)
        return 2
    table, missed = Table(*COLUMNS), False
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    for name in names or there:
        done = subprocess.run(
            [sys.executable, "-c", CALL, f"benchmarks.{name}"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder.parent,
        )
        if done.returncode:
            table.add_row(name, *[""] * 4, "did not run", f"status {done.returncode}")
            missed = True
            continue
        for row in json.loads(done.stdout.splitlines()[-1]):
            row["peer_s"] = row.get("peer_s", row.get("floor_s"))
            row["ok"] = {True: "yes", False: "NO", "True": "yes", "False": "NO"}.get(row.get("ok"), "")
            missed |= row["ok"] == "NO"
            cells = (
                f"{row.get(c):.3g}" if isinstance(row.get(c), float) else str(row.get(c) or "")
                for c in COLUMNS
            )
            table.add_row(*cells)
    Console(width=150).print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
