"""What a result was made with: written by the kernel, completed by the runner, kept in the notebook."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError, field_validator

MIME = "application/vnd.faultlines.kernel+json"
LEDGER_MIME = "application/vnd.faultlines.ledger+json"
KEY = "faultlines"
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "captum", "matplotlib", "papermill")

# The list of modules is taken before this module is imported: the recording itself is not a dependency.
EPILOGUE = """\
import sys as _sys
_loaded = sorted(m for m in _sys.modules if m.partition(".")[0] == "faultlines")
from faultlines.notebook.provenance import emit as _emit
_emit(_loaded)
"""


class Provenance(BaseModel):
    """The record of one execution.

    Attributes:
        chapter: Name of the chapter.
        run: Name of the run group.
        overrides: Parameters given on the command line, as text.
        parameters: All parameters as resolved.
        chapter_hash: Content hash of the chapter's code.
        modules: Code hash of each `faultlines` module that the kernel had loaded.
        command: How to repeat it.
        started: Start, ISO 8601, UTC.
        wall_s: Wall time in seconds.
        commit: Git commit of the checkout, with `+` where tracked files differed from it.
        kernel: What the kernel said of itself: Python, packages, device, threads, peak memory.
        resumed: Whether it went on from trainings of an execution that was ended, so that its times are of the
            rest only.
        energy_j: Joules that the machine's processors spent meanwhile, with all else that ran; None where it does
            not tell.
    """

    model_config = ConfigDict(extra="forbid")

    chapter: str
    run: str
    overrides: dict[str, str]
    parameters: dict[str, Any]
    chapter_hash: str
    modules: dict[str, str]
    command: str
    started: str
    wall_s: FiniteFloat
    commit: str
    kernel: dict[str, Any]
    resumed: bool = False
    energy_j: FiniteFloat | None = None

    @field_validator("started")
    @classmethod
    def _has_a_zone(cls, started: str) -> str:
        if datetime.fromisoformat(started).tzinfo is None:
            raise ValueError(f"started={started!r} has no time zone")
        return started

    def write(self, notebook: NotebookNode) -> None:
        """Store the record in a notebook's metadata."""
        notebook.metadata.setdefault(KEY, {})["provenance"] = self.model_dump()

    @classmethod
    def read(cls, notebook: NotebookNode) -> Provenance | None:
        """Return the record in a notebook's metadata, or None where there is none that can be read."""
        try:
            return cls.model_validate(notebook.metadata[KEY]["provenance"])
        except (KeyError, TypeError, ValidationError):
            return None


def emit(modules: list[str]) -> None:
    """Publish, from inside the kernel, which library modules are loaded and what they ran on."""
    from IPython.display import publish_display_data

    publish_display_data({MIME: {"modules": modules, **describe_process()}, "text/plain": ""})


def describe_process() -> dict[str, Any]:
    """Return Python, platform, package versions, device, threads and peak memory of this process."""
    import torch

    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: metadata.version(name) for name in PACKAGES},
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


def commit_of(root: Path) -> str:
    """Return the commit checked out in `root`, with `+` where tracked code differs, or `unknown`.

    Published results lie in the checkout too; that they changed says nothing of the code.
    """
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, env=environment
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if git("status", "--porcelain", "-uno", "--", "lib", "chapters/*.md") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def take(notebook: NotebookNode, mime: str) -> list[Any]:
    """Return every output of a mime type in a notebook, in order."""
    return [
        output.data[mime]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if mime in output.get("data", {})
    ]
