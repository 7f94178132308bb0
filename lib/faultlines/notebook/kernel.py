"""What a chapter calls from inside its kernel, whichever tool runs it: the check of its parameters, and its record."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from faultlines.notebook.checkpoints import CHECKPOINTS
from faultlines.notebook.code import cells_hash, declares_parameters, injected_values, library_code, said_text
from faultlines.notebook.energy import read_counters, spent
from faultlines.notebook.errors import UsageError
from faultlines.notebook.outputs import RECORD, Watch
from faultlines.notebook.parameters import CHECKS, read_parameters, read_rules, resolve
from faultlines.notebook.provenance import Record, commit_of, describe_process, facts_table
from faultlines.reporting import prose

LIBRARY = Path(__file__).resolve().parents[1]


class Settled(Protocol):
    """A ledger, as far as a record needs one."""

    def records(self) -> list[dict[str, Any]]:
        """Return its rows as plain data."""
        ...


class _Running:
    # one notebook a kernel
    def __init__(self, shell: Any, parameters: Mapping[str, Any], declared_at: int) -> None:
        self.shell = shell
        self.parameters = dict(parameters)
        self.declared_at = declared_at
        self.started, self.clock = datetime.now(UTC), time.monotonic()
        self.counters = read_counters()
        folder = Path(os.environ.get(CHECKPOINTS, ""))
        self.resumed = bool(os.environ.get(CHECKPOINTS)) and any(folder.glob("*.pt"))
        self.watch = Watch()
        kernel = getattr(shell, "kernel", None)
        if kernel is not None:
            self.watch.start(kernel.session)


_running: _Running | None = None


def _sources(shell: Any) -> list[str]:
    # as the cells were sent, by execution count
    return list(shell.history_manager.input_hist_raw)


def check_parameters() -> None:
    """Hold the parameters of this notebook against their declaration, before anything is computed.

    Stands alone in the cell after the one tagged `parameters`, and so after what papermill injects. Numbers are
    brought to their declared type.

    Raises:
        UsageError: If a name is unknown, or a value has another type or is not allowed; the message is one line.
        RuntimeError: If this is no notebook's kernel, or it ran no parameters cell.
    """
    from IPython.core.getipython import get_ipython

    global _running
    shell = get_ipython()
    if shell is None:
        raise RuntimeError(
            "check_parameters() works in a notebook's kernel: it reads the cells that ran before it"
        )
    sources = _sources(shell)
    declared_at = max((n for n, source in enumerate(sources[:-1]) if declares_parameters(source)), default=0)
    if not declared_at:
        raise RuntimeError(
            "check_parameters() stands after the parameters cell, and that cell has not been run"
        )
    source = sources[declared_at]
    declared = read_parameters(source)
    injected: dict[str, Any] = {}
    for later in sources[declared_at + 1 : -1]:
        injected |= injected_values(later) or {}
    space = shell.user_ns
    given = {name: space[name] for name in injected if name in space}
    given |= {parameter.name: space[parameter.name] for parameter in declared if parameter.name in space}
    resolved = resolve(declared, given, "this notebook", CHECKS, read_rules(source))
    space.update(resolved)
    _running = _Running(shell, resolved, declared_at)


def record(chapter: str, ledger: Settled | None = None) -> None:
    """Show, as the last output of a notebook, what it was made with and what it found.

    Args:
        chapter: The chapter's name.
        ledger: Its claims, each settled or left.

    Raises:
        UsageError: If a sentence names what no cell has quoted.
        RuntimeError: If `check_parameters` has not run before.
    """
    from IPython.display import publish_display_data

    if _running is None:
        raise RuntimeError("record() needs check_parameters() to have run in this kernel")
    if names := prose.open_names():
        raise UsageError(f"the text names {', '.join(names)}, which no cell has quoted")
    sys.stdout.flush()
    sources = _sources(_running.shell)
    here = len(sources) - 1
    counts = [n for n in range(1, here) if said_text(sources[n]) is None]
    shown = _running.watch.shown
    loaded = [name for name in sorted(sys.modules) if name.partition(".")[0] == "faultlines"]
    modules = {
        name: hashes
        for name, hashes in library_code(LIBRARY).items()
        if name in loaded and name.split(".")[1:2] != ["notebook"] and hashes
    }
    born = time.time() - (time.monotonic() - _running.clock)
    edited = [
        name
        for name in modules
        if (file := getattr(sys.modules[name], "__file__", None)) and Path(file).stat().st_mtime > born
    ]
    made = Record(
        chapter=chapter,
        parameters=_running.parameters,
        chapter_hash=cells_hash(sources[1:here]),
        modules=modules,
        edited=edited,
        cells=here,
        outputs=[shown[n].digest() if n in shown else "" for n in counts],
        quoted=dict(prose.quoted),
        ledger=ledger.records() if ledger is not None else [],
        started=_running.started.isoformat(timespec="seconds"),
        wall_s=round(time.monotonic() - _running.clock, 1),
        commit=commit_of(LIBRARY),
        kernel=describe_process(),
        resumed=_running.resumed,
        energy_j=spent(_running.counters, read_counters()),
        note=_running.watch.broken,
    ).sealed()
    plain = f"record of {chapter}, {made.seal}"
    publish_display_data(
        {RECORD: made.model_dump(mode="json"), "text/html": facts_table(made), "text/plain": plain}
    )
