"""Show that code which changed since a result was made computes the same, and say so in the result.

A renamed function or a class made of two changes the hash of the code, and would make hours of computing stale. The
smoke run of the chapter, executed with the code of then and with the code of now, decides: only where every output,
every quoted number and every row of the ledger is the same to the last bit is the result stamped again.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml

from faultlines.notebook.code import digest, said_text
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.outputs import LEDGER, RECORD, RESTAMP, shown_in, take
from faultlines.notebook.project import Project
from faultlines.notebook.provenance import Record, Restamp, code_cells_of, commit_of
from faultlines.notebook.run_spec import CHECKPOINTS, RunSpec
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import number_cells, write_notebook
from faultlines.notebook.sync import with_cells_of


@dataclass(frozen=True)
class Compared:
    """Two executions of a smoke run, side by side.

    Attributes:
        differing: What differs, in words.
        digest: One hash of everything that was compared.
    """

    differing: tuple[str, ...]
    digest: str


def restamp(project: Project, task: RunSpec, path: Path, since: str | None = None) -> Restamp:
    """Stamp a stale result as made by the present code, if its smoke run shows that this computes the same.

    Args:
        project: The checkout.
        task: Of which the notebook is the result.
        path: The notebook.
        since: Commit whose code made it; by default the one in its record.

    Raises:
        UsageError: If the result is not stale, the checkout has changes that are not committed, the old code cannot be
            had, or the smoke runs differ; the message says in what.
    """
    runs = Runs.load(project)
    state = Freshness(project, runs).judge(task, path)
    if state.name != "stale" or state.result is None:
        raise UsageError(f"{path.name} is {state.name}; only what is stale can be stamped again")
    record = state.result.provenance
    before = since or (record.restamps[-1].after if record.restamps else record.commit)
    after = commit_of(project.library)
    for commit in (before, after):
        if not commit or commit.endswith("+") or " " in commit:
            raise UsageError(f"{commit or 'the code'} is no commit: commit first, or name one with --since")
    if not runs.covers("smoke", task.chapter):
        raise UsageError(f"{task.chapter.name} has no run 'smoke', which would have to show it (runs.yml)")
    with checked_out(project.root, before) as old:
        one, two = smoke(old, task.chapter.name), smoke(project.root, task.chapter.name)
        found = compare(one, two)
        if (
            found.differing
        ):  # of time, perhaps: what the old code does not repeat itself is nothing to compare
            unsteady = compare(one, smoke(old, task.chapter.name)).differing
            found = compare(one, two, unsteady)
    if found.differing:
        raise UsageError(f"{task.chapter.name} does not compute the same: {'; '.join(found.differing)}")
    notebook = with_cells_of(jupytext.read(task.chapter.path), state.result.notebook())
    made = Restamp(
        record=record.seal,
        before=before,
        after=after,
        chapter_hash=task.chapter.code_hash,
        modules=_present(
            record, Freshness(project, runs).modules, Record.model_validate(take(two, RECORD)[0])
        ),
        smoke=found.digest,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    made = made.model_copy(update={"seal": made.digest()})
    said = f"restamped: {after} computes what {before} did (smoke run {made.smoke})"
    output = nbformat.v4.new_output(
        "display_data", {RESTAMP: made.model_dump(mode="json"), "text/plain": said}
    )
    code_cells_of(notebook)[-1].outputs.append(output)
    number_cells(notebook)
    write_notebook(notebook, path)
    return made


def _present(record: Record, modules: dict[str, dict[str, str]], smoke: Record) -> dict[str, dict[str, str]]:
    # what the smoke run loads, and what the result had loaded, as it is now
    return {name: modules[name] for name in sorted({*smoke.modules, *record.modules}) if name in modules}


@contextmanager
def checked_out(root: Path, commit: str) -> Iterator[Path]:
    """Lay out a commit beside the checkout for as long as the block lasts.

    Raises:
        UsageError: If there is no such commit here.
    """
    with tempfile.TemporaryDirectory(prefix="faultlines-") as folder:
        place = Path(folder) / "old"
        words = ["git", "-C", str(root), "worktree", "add", "--detach", "--quiet", str(place), commit]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise UsageError(f"commit {commit} cannot be checked out: {done.stderr.strip().splitlines()[-1]}")
        try:
            yield place
        finally:
            subprocess.run(
                ["git", "-C", str(root), "worktree", "remove", "--force", str(place)], capture_output=True
            )


def smoke(root: Path, chapter: str) -> nbformat.NotebookNode:
    """Return the executed smoke run of a chapter, with a checkout's own library.

    Raises:
        UsageError: If it does not run to its end.
    """
    with tempfile.TemporaryDirectory(prefix="faultlines-") as folder:
        place = Path(folder) / f"{chapter}.ipynb"
        runs = Runs.load(Project(root, root / "lib" / "faultlines"))
        nbformat.write(jupytext.read(root / "chapters" / f"{chapter}.md"), place)
        environment = {**os.environ, "PYTHONPATH": str(root / "lib"), "OMP_NUM_THREADS": "1"}
        environment.pop(CHECKPOINTS, None)
        parameters = Path(folder) / "smoke.yaml"
        parameters.write_text(yaml.safe_dump(runs["smoke"].chapters[chapter]))
        words = [sys.executable, "-m", "papermill", "--no-progress-bar", "--cwd", str(root / "chapters")]
        done = subprocess.run(
            [*words, str(place), str(place), "-f", str(parameters)],
            capture_output=True, text=True, env=environment, cwd=root,
        )  # fmt: skip
        notebook = nbformat.read(place, as_version=4)
        if done.returncode or not take(notebook, RECORD):
            last = (done.stderr.strip().splitlines() or ["it wrote no record"])[-1]
            raise UsageError(f"the smoke run of {chapter} at {root.name} did not end well: {last}")
        return notebook


def compare(one: nbformat.NotebookNode, two: nbformat.NotebookNode, leave: Collection[str] = ()) -> Compared:
    """Compare what two executions showed, quoted and settled.

    Effects of units that the first one's ledger did not keep, and the second one's does, are no difference; nor is what
    the second one quotes no more, for no text of it can name that.

    Args:
        one: The first.
        two: The second.
        leave: What need not agree, in the words of `Compared.differing`.
    """
    before, after = (Record.model_validate(take(n, RECORD)[0]) for n in (one, two))
    kept = {row["claim"]: row.get("effects") for row in before.ledger}
    a, b = _content(before), _content(after)
    for name, row in b.items():
        if isinstance(row, dict):
            b[name] = _as_kept(row, kept)
    at = [cell for cell in code_cells_of(two)[1:-1] if said_text(cell.source) is None]
    for n, cell in enumerate(at):
        if any(LEDGER in output.get("data", {}) for output in cell.outputs):
            shown = copy.deepcopy(cell.outputs)
            for output in shown:
                if rows := output.get("data", {}).get(LEDGER):
                    output["data"][LEDGER] = [_as_kept(row, kept) for row in rows]
            b[f"output {n}"] = shown_in(shown).digest()
    gone = {name for name in a if name.startswith("quoted ") and name not in b}
    differing = [name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name) and name not in gone]
    same = sorted((name, value) for name, value in a.items() if name not in leave)
    return Compared(tuple(name for name in differing if name not in leave), digest(repr(same)))


def _as_kept(row: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "effects": []} if kept.get(row["claim"]) == [] else dict(row)


def _content(record: Record) -> dict[str, Any]:
    shown = {f"output {n}": made for n, made in enumerate(record.outputs)}
    quoted = {f"quoted {name}": text for name, text in record.quoted.items()}
    rows = {f"claim {row['claim']}": {k: v for k, v in row.items() if k != "cost_s"} for row in record.ledger}
    return shown | quoted | rows
