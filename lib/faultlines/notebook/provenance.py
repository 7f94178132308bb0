"""The record of an execution: written by the kernel as the last output of the notebook that it belongs to.

Nothing that matters lies in the notebook's metadata, which every tool carries over from its input. A record is held
against the notebook it stands in: what does not agree with its cells, parameters and outputs is foreign to it.
"""

from __future__ import annotations

import html
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError, field_validator

from faultlines.notebook.code import (
    Modules,
    cells_hash,
    declares_parameters,
    digest,
    injected_values,
    said_text,
)
from faultlines.notebook.errors import UsageError
from faultlines.notebook.outputs import LEDGER, RECORD, RESTAMP, shown_in, take
from faultlines.notebook.parameters import read_parameters, resolve
from faultlines.reporting.prose import bundle, missing

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "captum", "matplotlib", "papermill")


class Record(BaseModel):
    """What a kernel says of one execution.

    Attributes:
        chapter: Name of the chapter.
        parameters: All parameters as they were in the kernel.
        chapter_hash: Content hash of the cells' code; see `faultlines.notebook.code`.
        modules: Hash of every definition of the `faultlines` modules that the kernel had loaded.
        edited: Modules whose files changed while the notebook ran.
        cells: How many cells the kernel had run, this one included.
        outputs: Digest of what each cell showed, but those that only say a text; empty where it showed nothing.
        quoted: Everything that the text quotes, by name.
        ledger: The settled claims; see `faultlines.reporting.ledger.Row`.
        started: Start, ISO 8601, UTC.
        wall_s: Wall time in seconds from the check of the parameters.
        commit: Git commit of the library's checkout, with `+` where tracked files differed from it.
        kernel: Python, packages, device, threads, peak memory.
        resumed: Whether it went on from trainings of an execution that was ended, so that its times are of the
            rest only.
        energy_j: Joules that the machine's processors spent meanwhile, with all else that ran; None where it does
            not tell.
        origin: Where the record comes from if no kernel wrote it here; empty as a rule.
        note: What kept the kernel from following its own outputs; empty as a rule.
        table: Digest of the table that is shown beside the record.
        seal: Digest of all of the above.
    """

    model_config = ConfigDict(extra="forbid")

    chapter: str
    parameters: dict[str, Any]
    chapter_hash: str
    modules: Modules
    edited: list[str] = []
    cells: int
    outputs: list[str]
    quoted: dict[str, str] = {}
    ledger: list[dict[str, Any]] = []
    started: str
    wall_s: FiniteFloat
    commit: str
    kernel: dict[str, Any]
    resumed: bool = False
    energy_j: FiniteFloat | None = None
    origin: str = ""
    note: str = ""
    table: str = ""
    seal: str = ""

    @field_validator("started")
    @classmethod
    def _has_a_zone(cls, started: str) -> str:
        if datetime.fromisoformat(started).tzinfo is None:
            raise ValueError(f"started={started!r} has no time zone")
        return started

    def sealed(self) -> Record:
        """Return the record with the digests of its table and of itself."""
        made = self.model_copy(update={"table": digest(facts_table(self)), "seal": ""})
        return made.model_copy(update={"seal": made.digest()})

    def digest(self) -> str:
        """Return the digest of everything but the seal."""
        left_out = {"seal"} if self.origin else {"seal", "origin"}
        return digest(json.dumps(self.model_dump(exclude=left_out), sort_keys=True))


class Restamp(BaseModel):
    """That code which changed after an execution computes the same: shown by running the smoke run with both.

    Attributes:
        record: Seal of the record.
        before: Commit whose code made the result (or that the restamp before this one showed to be the same).
        after: Commit that it was compared with.
        chapter_hash: The chapter's code there.
        modules: The library's code there.
        smoke: Digest of all outputs of the smoke run, equal before and after.
        made: When, ISO 8601, UTC.
        seal: Digest of all of the above.
    """

    model_config = ConfigDict(extra="forbid")

    record: str
    before: str
    after: str
    chapter_hash: str
    modules: Modules
    smoke: str
    made: str
    seal: str = ""

    def digest(self) -> str:
        """Return the digest of everything but the seal."""
        return digest(json.dumps(self.model_dump(exclude={"seal"}), sort_keys=True))


class Provenance(Record):
    """A record in its place: of which run of the book it is, and what repeats it.

    Attributes:
        run: Name of the run group.
        overrides: Parameters given beyond the run's, as text.
        command: How to repeat it.
        restamps: What has shown since that changed code computes the same.
    """

    run: str = ""
    overrides: dict[str, str] = {}
    command: str = ""
    restamps: list[Restamp] = []


# reading


def code_cells_of(notebook: NotebookNode) -> list[NotebookNode]:
    """Return every code cell that is not empty."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def read_record(notebook: NotebookNode) -> tuple[Record | None, list[str]]:
    """Return the record of a notebook, and what in the notebook does not agree with it.

    Returns:
        The record, None where there is none that can be read, and the reasons for which the notebook's results are
        foreign to it; none where all agrees.
    """
    cells = code_cells_of(notebook)
    raised = [
        f"cell {n} raised {output.get('ename', 'an error')}"
        for n, cell in enumerate(cells, start=1)
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    found = take(notebook, RECORD)
    if not found:
        return None, raised or ["it holds no record: it was not run to its end"]
    if len(found) > 1:
        return None, [f"it holds {len(found)} records"]
    try:
        record = Record.model_validate(found[0])
    except ValidationError as error:
        first = error.errors()[0]
        return None, [f"its record cannot be read ({'.'.join(map(str, first['loc']))}: {first['msg']})"]
    reasons = raised + list(_disagreements(notebook, cells, record))
    return record, list(dict.fromkeys(reasons))


def _disagreements(notebook: NotebookNode, cells: Sequence[NotebookNode], record: Record) -> list[str]:
    reasons: list[str] = []
    last = cells[-1]
    shown = [output for output in last.get("outputs", []) if RECORD in output.get("data", {})]
    if not shown:
        return ["its record is not the output of the last cell"]
    if record.digest() != record.seal or digest(shown[0]["data"].get("text/html", "")) != record.table:
        reasons.append("its record was edited")
    if record.edited:
        reasons.append(f"{', '.join(record.edited)} changed while it ran")
    if record.note:
        reasons.append(f"its kernel could not follow its own outputs ({record.note})")
    counts = [cell.get("execution_count") for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        reasons.append("its cells were not run once each, from top to bottom")
    texts = {n: said_text(cell.source) for n, cell in enumerate(cells)}
    silent = [cell for n, cell in enumerate(cells) if n and texts[n] is None]  # the first begins it
    _, code = _code_of(notebook, record)
    if cells_hash(cell.source for cell in cells[1:-1]) != code:
        reasons.append("the code of its cells is not the code that was run")
    if len(silent) - 1 != len(record.outputs):
        reasons.append(f"{len(record.outputs) + 2} cells of code were run and it has {len(silent) + 1}")
    reasons += _parameters_differ([cell.source for cell in cells], record)
    for cell, made in zip(silent, record.outputs, strict=False):
        if shown_in(cell.get("outputs", [])).digest() != made:
            reasons.append(f"cell {cells.index(cell) + 1} shows what the kernel did not")
    for n, text in texts.items():
        if text is None:
            continue
        displayed = [
            dict(o.get("data", {})) for o in cells[n].get("outputs", []) if o.output_type != "stream"
        ]
        if missing(text, record.quoted) or displayed != [bundle(text, record.quoted)]:
            reasons.append(f"the sentence of cell {n + 1} is not what was computed")
    plain = [{k: v for k, v in row.items() if k != "cost_s"} for row in record.ledger]
    if take(notebook, LEDGER) != ([plain] if plain else []):
        reasons.append("the ledger of its record is not the one that it shows")
    return reasons


def _parameters_differ(sources: Sequence[str], record: Record) -> list[str]:
    declaring = [source for source in sources if declares_parameters(source)]
    if len(declaring) != 1:
        return [f"it has {len(declaring)} parameters cells"]
    injected: dict[str, Any] = {}
    for source in sources:
        injected |= injected_values(source) or {}
    try:
        values = resolve(read_parameters(declaring[0]), injected, "the notebook", {})
    except UsageError as error:
        return [str(error)]
    return [
        f"parameter {name} was {record.parameters.get(name)!r} and stands there as {values.get(name)!r}"
        for name in sorted(values.keys() | record.parameters.keys())
        if values.get(name) != record.parameters.get(name)
    ]


def read_restamps(notebook: NotebookNode, record: Record) -> list[Restamp]:
    """Return the restamps of a record that can be believed, oldest first."""
    found = []
    for data in take(notebook, RESTAMP):
        try:
            restamp = Restamp.model_validate(data)
        except ValidationError:
            continue
        if restamp.record == record.seal and restamp.digest() == restamp.seal:
            found.append(restamp)
    return found


def _code_of(notebook: NotebookNode, record: Record) -> tuple[Modules, str]:
    restamps = read_restamps(notebook, record)
    return (
        (restamps[-1].modules, restamps[-1].chapter_hash)
        if restamps
        else (record.modules, record.chapter_hash)
    )


# showing


def facts_table(record: Record) -> str:
    """Return what a reader is told of a record, as HTML that folds."""
    kernel = record.kernel
    packages = ", ".join(f"{name} {version}" for name, version in kernel.get("packages", {}).items())
    given = ", ".join(f"{name} = {value!r}" for name, value in record.parameters.items())
    rows = {
        "Executed": f"{record.started}, {duration(record.wall_s)} on {kernel.get('device')} "
        f"({kernel.get('threads')} threads, {kernel.get('peak_memory_mb')} MiB peak)"
        + ("; it went on from trainings of an execution that was ended" if record.resumed else ""),
        "Code": f"commit {record.commit}, cells {record.chapter_hash}, {len(record.modules)} library modules",
        "Versions": f"Python {kernel.get('python')}, {packages}",
        "Parameters": given,
    }
    if record.origin:
        rows["Record"] = record.origin
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(text)}</td></tr>'
        for name, text in rows.items()
    )
    return (
        '<details class="fl-provenance"><summary>How these numbers were made</summary>'
        f'<table class="fl-table"><tbody>{body}</tbody></table></details>'
    )


def duration(seconds: float) -> str:
    """Return a time span as a person says it.

    Example:
        >>> duration(7.4), duration(95), duration(7330)
        ('7 s', '1 min 35 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


# the kernel's process


def describe_process() -> dict[str, Any]:
    """Return Python, platform, package versions, device, threads and peak memory of this process."""
    import torch

    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {processor()}",
        "threads": torch.get_num_threads(),
        "peak_memory_mb": peak_memory_mb(),
        "peak_gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20) if cuda else 0,
    }


def peak_memory_mb() -> int:
    """Return this process's peak resident memory in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def processor() -> str:
    """Return the processor's name as the machine gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit_of(library: Path) -> str:
    """Return the commit that the library's folder is checked out at, with `+` where tracked code differs from it.

    Published results lie in the checkout too; that they changed says nothing of the code. A library that was installed
    from elsewhere is told by its version.
    """
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(library), *arguments],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        return done.stdout.strip()

    try:
        if git("ls-files", "__init__.py"):
            commit = git("rev-parse", "--short=12", "HEAD")
            code = (":(top)lib", ":(top,glob)chapters/*.md")
            return commit + ("+" if git("status", "--porcelain", "-uno", "--", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        pass
    return f"faultlines {_version('faultlines') or 'unknown'}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # papermill need not be there
        return ""
