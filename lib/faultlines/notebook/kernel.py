"""What a chapter calls from inside its kernel, whichever tool runs it: the check of its parameters, and its record."""

from __future__ import annotations

import os
import re
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from faultlines.notebook.code import cells_hash, declares_parameters, injected_values, library_code, said_text
from faultlines.notebook.errors import UsageError
from faultlines.notebook.outputs import RECORD, Watch
from faultlines.notebook.parameters import CHECKS, read_parameters, read_rules, resolve
from faultlines.notebook.provenance import Record, commit_of, describe_process, facts_table
from faultlines.notebook.run_spec import CHECKPOINTS
from faultlines.reporting import prose

LIBRARY = Path(__file__).resolve().parents[1]


class Settled(Protocol):
    """A ledger, as far as a record needs one."""

    def records(self) -> list[dict[str, Any]]:
        """Return its rows as plain data."""
        ...


class _Session:
    # one notebook a kernel: the cells that ran since its first, and what they showed
    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.sources: list[str] = []  # of the cells after the first
        self.watch = Watch()
        self.parameters: dict[str, Any] | None = None
        self.started, self.clock, self.time = datetime.now(UTC), time.monotonic(), time.time()
        self.counters = read_counters()
        folder = os.environ.get(CHECKPOINTS)
        self.resumed = bool(folder) and any(Path(folder or "").glob("*.pt"))
        shell.events.register("pre_run_cell", self.before_cell)
        if (kernel := getattr(shell, "kernel", None)) is not None:
            self.watch.start(kernel.session)

    def before_cell(self, info: Any) -> None:
        """Note a cell that is about to run."""
        self.sources.append(info.raw_cell)
        kernel = getattr(self.shell, "kernel", None)
        asked = kernel.get_parent("shell") if kernel is not None else {}
        self.watch.cell(len(self.sources), asked.get("header", {}).get("msg_id", ""))

    def close(self) -> None:
        """Stop noting."""
        self.shell.events.unregister("pre_run_cell", self.before_cell)


_session: _Session | None = None


def begin() -> None:
    """Begin a notebook: from here on the kernel notes which cells run, and what they show.

    Stands in the first cell. (The kernel's own history is no help: `pytest --nbval` runs cells without keeping one.)
    Outside a notebook's kernel it does nothing. Warnings are shown without the path of the file that they blame.
    """
    from IPython.core.getipython import get_ipython

    global _session
    shell = get_ipython()
    if shell is None:
        return
    if _session is not None:
        _session.close()
    prose.forget()
    warnings.formatwarning = _without_path
    _session = _Session(shell)


def _without_path(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> str:
    # the place of a file is the machine's, and would stand in every published page
    return f"{category.__name__}: {message}\n"


def check_parameters() -> None:
    """Hold the parameters of this notebook against their declaration, before anything is computed.

    Stands alone in the cell after the one tagged `parameters`, and so after what papermill injects. Numbers are
    brought to their declared type.

    Raises:
        UsageError: If a name is unknown, or a value has another type or is not allowed; the message is one line.
        RuntimeError: If the notebook was not begun, or no parameters cell has run.
    """
    if _session is None:
        raise RuntimeError("check_parameters() needs notebook.begin() to have run: run the first cell")
    before = _session.sources[:-1]
    declaring = [n for n, source in enumerate(before) if declares_parameters(source)]
    if not declaring:
        raise RuntimeError(
            "check_parameters() stands after the parameters cell, and that cell has not been run"
        )
    source = before[declaring[-1]]
    declared = read_parameters(source)
    injected: dict[str, Any] = {}
    for later in before[declaring[-1] + 1 :]:
        injected |= injected_values(later) or {}
    space = _session.shell.user_ns
    named = dict.fromkeys([*injected, *(parameter.name for parameter in declared)])
    given = {name: space[name] for name in named if name in space}
    resolved = resolve(declared, given, "this notebook", CHECKS, read_rules(source))
    space.update(resolved)
    _session.parameters = resolved


def record(chapter: str, ledger: Settled | None = None) -> None:
    """Show, as the last output of a notebook, what it was made with and what it found.

    Args:
        chapter: The chapter's name.
        ledger: Its claims, each settled or left.

    Raises:
        UsageError: If a sentence names what no cell has quoted, or a figure's place is empty.
        RuntimeError: If `begin` and `check_parameters` have not run before.
    """
    from IPython.display import publish_display_data

    if _session is None or _session.parameters is None:
        raise RuntimeError(
            "record() needs begin() and check_parameters() to have run: run all cells from the first"
        )
    if names := prose.open_names():
        raise UsageError(f"the text names {', '.join(names)}, which no cell has quoted")
    if names := [name for name, filled in prose.places.items() if not filled]:
        raise UsageError(f"a place is kept for the figure {', '.join(names)}, which no cell has drawn")
    sys.stdout.flush()
    before = _session.sources[:-1]
    shown = _session.watch.shown
    loaded = {name for name in sys.modules if name.partition(".")[0] == "faultlines"}
    modules = {
        name: hashes
        for name, hashes in library_code(LIBRARY).items()
        if name in loaded and name.split(".")[1:2] != ["notebook"] and hashes
    }
    edited = [
        name
        for name in modules
        if (file := getattr(sys.modules[name], "__file__", None))
        and Path(file).stat().st_mtime > _session.time
    ]
    made = Record(
        chapter=chapter,
        parameters=_session.parameters,
        chapter_hash=cells_hash(before),
        modules=modules,
        edited=edited,
        cells=len(_session.sources) + 1,
        outputs=[
            shown[n].digest() if n in shown else ""
            for n, source in enumerate(before, start=1)
            if said_text(source) is None
        ],
        quoted=dict(prose.quoted),
        ledger=ledger.records() if ledger is not None else [],
        started=_session.started.isoformat(timespec="seconds"),
        wall_s=round(time.monotonic() - _session.clock, 1),
        commit=commit_of(LIBRARY),
        kernel=describe_process(),
        resumed=_session.resumed,
        energy_j=spent(_session.counters, read_counters()),
        note=_session.watch.broken,
    ).sealed()
    plain = f"record of {chapter}, {made.seal}"
    publish_display_data(
        {RECORD: made.model_dump(mode="json"), "text/html": facts_table(made), "text/plain": plain}
    )


COUNTERS = Path("/sys/class/powercap")


def read_counters(folder: Path = COUNTERS) -> dict[str, tuple[int, int]]:
    """Return every processor package's energy counter in microjoules and the value at which it starts again.

    The counters of Linux's power capping framework are the whole machine's: what else ran at the same time is in them.
    Virtual machines and containers mostly hide them, and some kernels show them to root only.
    """
    found = {}
    for zone in sorted(folder.glob("intel-rapl:*")):
        if not re.fullmatch(r"intel-rapl:\d+", zone.name):  # parts of a package are in it already
            continue
        try:
            count = int((zone / "energy_uj").read_text())
            found[zone.name] = (count, int((zone / "max_energy_range_uj").read_text()))
        except (OSError, ValueError):
            continue
    return found


def spent(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float | None:
    """Return the joules between two readings, or None where the machine did not tell.

    A counter that started again is counted as having done so once; at some hundred watts that takes minutes to hours.

    Example:
        >>> spent({"intel-rapl:0": (900, 1000)}, {"intel-rapl:0": (100, 1000)})
        0.0002
        >>> spent({}, {}) is None
        True
    """
    both = before.keys() & after.keys()
    if not both:
        return None
    total = 0
    for zone in both:
        (start, _), (end, wraps_at) = before[zone], after[zone]
        total += end - start if end >= start else end - start + wraps_at
    return total / 1e6
