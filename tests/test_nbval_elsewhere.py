"""`pytest --nbval` on another processor compares everything but numbers and verdicts, and says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from faultlines.notebook.outputs import RECORD
from faultlines.notebook.provenance import describe_process

ROOT = Path(__file__).parents[1]
CELLS = ("print('sum 0.30 [-1.2, 4e-05], holds')", "print('two rows')")


def notebook_of(device: str) -> nbformat.NotebookNode:
    record = {RECORD: {"kernel": describe_process() | {"device": device}}, "text/plain": "record"}
    last = f"display({record!r}, raw=True)"
    cells = [nbformat.v4.new_code_cell(text) for text in (*CELLS, last)]
    cells[-1].metadata["tags"] = ["nbval-ignore-output"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook).execute()
    return notebook


def nbval(folder: Path, notebook: nbformat.NotebookNode) -> tuple[int, str]:
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    nbformat.write(notebook, folder / "n.ipynb")
    words = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*words, "n.ipynb"], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("here", "changes", "passes"),
    [
        (True, {"0.30": "0.31"}, False),
        (False, {"0.30": "0.31", "holds": "inconclusive"}, True),
        (False, {"two rows": "one row"}, False),
    ],
)
def test_numbers_are_compared_where_a_notebook_was_made(
    tmp_path: Path, here: bool, changes: dict[str, str], passes: bool
) -> None:
    notebook = notebook_of(describe_process()["device"] if here else "CPU, of another maker")
    for cell in notebook.cells[:-1]:
        for output in cell.outputs:
            for old, new in changes.items():
                output["text"] = output["text"].replace(old, new)
    code, said = nbval(tmp_path, notebook)
    assert (code == 0) == passes, said
    assert ("its numbers are not compared" in said) == (not here)
