"""Results on disk: a notebook is read whole or not at all, and written beside, then renamed."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from faultlines.notebook.provenance import Provenance, read_record, read_restamps


class UnreadableError(ValueError):
    """A file stands where a result should, and it is no notebook; the message says what it is."""


@dataclass(frozen=True)
class Result:
    """One executed notebook with a readable record.

    Attributes:
        path: Where it stands.
        provenance: What it was made with.
        foreign: Why its results are not those of its record; empty where all agrees.
    """

    path: Path
    provenance: Provenance
    foreign: tuple[str, ...] = ()

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The rows of its claims ledger."""
        return self.provenance.ledger

    def notebook(self) -> NotebookNode:
        """Read the notebook itself."""
        return read_notebook(self.path)


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook.

    Raises:
        UnreadableError: If the file is no notebook; the message says what is wrong with it.
        FileNotFoundError: If there is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UnreadableError("it is no text") from None
    except FileNotFoundError:
        if path.is_symlink():
            raise UnreadableError("it is a link to nothing") from None
        raise
    except IsADirectoryError:
        raise UnreadableError("it is a folder") from None
    except OSError as error:
        raise UnreadableError(f"it cannot be opened: {error.strerror}") from None
    if not text.strip():
        raise UnreadableError("it is empty")
    if re.search(r"^\s*<{7} ", text, re.MULTILINE):
        raise UnreadableError("it holds the marks of a merge conflict")
    try:
        notebook = nbformat.reads(text, as_version=4)
    except Exception as error:  # nbformat raises whatever the shape of the JSON brings about
        place = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise UnreadableError(f"it is no complete notebook{place}") from None
    if not isinstance(notebook.get("cells"), list) or not all(
        isinstance(cell, dict) and isinstance(cell.get("source"), str) and "cell_type" in cell
        for cell in notebook.cells
    ):
        raise UnreadableError("it is no complete notebook")
    return notebook


def read_result(
    path: Path, run: str = "", overrides: Mapping[str, str] | None = None, command: str = ""
) -> Result | tuple[str, ...] | None:
    """Read the result at a path.

    Args:
        path: The notebook.
        run: The run whose place it stands in.
        overrides: Parameters of that place beyond the run's.
        command: What makes such a result.

    Returns:
        The result, which may be foreign; the reasons alone where it has no record that can be read; None where there is
        no file.

    Raises:
        UnreadableError: If the file is no notebook.
    """
    try:
        notebook = read_notebook(path)
    except FileNotFoundError:
        return None
    record, reasons = read_record(notebook)
    if record is None:
        return tuple(reasons)
    if record.chapter != path.stem:
        reasons.insert(0, f"it is a run of {record.chapter}")
    whole = Provenance(
        **dict(record),
        run=run,
        overrides=dict(overrides or {}),
        command=command,
        restamps=read_restamps(notebook, record),
    )
    return Result(path, whole, tuple(reasons))


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}@{socket.gethostname()}.tmp")  # says whose it is
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def number_cells(notebook: NotebookNode) -> None:
    """Give the cells ids that are the same every time; jupytext and nbformat draw them at random.

    Example:
        >>> notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1"), nbformat.v4.new_markdown_cell()])
        >>> number_cells(notebook)
        >>> [cell.id for cell in notebook.cells]
        ['cell-0', 'cell-1']
    """
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"


def write_notebook(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook beside its place, then rename."""
    write_atomic(path, nbformat.writes(notebook) + "\n")
