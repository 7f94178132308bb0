"""Run every benchmark, or those named, and print one table: `python -m benchmarks [--write] [NAME...]`.

Each module of this folder has a `run()` that measures ours against peers and floors in one run, interleaved, and
returns its rows. Ratios are what counts; seconds are those of this machine today. Each module runs in a process of
its own, on one thread. `--write` keeps the rows in `results/benchmarks.json`, module by module, from which the book's
page on speed is made. A row that was measured at several sizes keeps its `points` too.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks._machine import machine
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent
KEPT = FOLDER.parent / "results" / "benchmarks.json"
COLUMNS = ("name", "ours_s", "peer_s", "ratio", "target", "ok", "note")
CALL = (
    "import importlib, json, sys; m = importlib.import_module(sys.argv[1]); rows = m.run(); "
    "print(json.dumps({'title': m.__doc__.strip().splitlines()[0].rstrip('.'), 'rows': rows}, default=str))"
)


def measure(name: str) -> dict | None:
    """Return the title and rows of one benchmark, or None where it does not run."""
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    command = [sys.executable, "-c", CALL, f"benchmarks.{name}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=FOLDER.parent)
    if done.returncode:
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    for row in found["rows"]:
        row["peer_s"] = row.pop("peer_s", row.pop("floor_s", None))
        row["ok"] = {"True": True, "False": False}.get(str(row.get("ok")))
    return found


def keep(name: str, found: dict) -> None:
    """Replace the kept rows of one benchmark."""
    everything = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
    everything[name] = {
        "title": found["title"],
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{machine()}, torch {importlib.metadata.version('torch')}",
        "rows": [_kept(row) for row in found["rows"]],
    }
    KEPT.write_text(json.dumps(dict(sorted(everything.items())), indent=1) + "\n", encoding="utf-8")


def _kept(row: dict) -> dict:
    kept = {column: row.get(column) for column in COLUMNS}
    return kept | {"points": row["points"]} if "points" in row else kept


def main(arguments: list[str]) -> int:
    """Print the table; return 1 where a target is missed or a benchmark does not run."""
    names = [name for name in arguments if name != "--write"]
    there = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    if unknown := [name for name in names if name not in there]:
        print(f"unknown benchmark {', '.join(unknown)}: it is one of {', '.join(there)}", file=sys.stderr)
        return 2
    table, missed = Table(*COLUMNS), False
    for name in names or there:
        found = measure(name)
        if found is None:
            table.add_row(name, *[""] * 4, "did not run", "")
            missed = True
            continue
        if "--write" in arguments:  # at once: a later one may be interrupted
            keep(name, found)
        for row in found["rows"]:
            missed |= row["ok"] is False
            shown = row | {"ok": {True: "yes", False: "NO", None: ""}[row["ok"]]}
            cells = (shown.get(column) for column in COLUMNS)
            table.add_row(*(f"{c:.3g}" if isinstance(c, float) else str(c or "") for c in cells))
    Console(width=150).print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
