"""Where things stand in a checkout of the book."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from faultlines.notebook.errors import UsageError

MARKS = ("_toc.yml", "runs.yml")


@dataclass(frozen=True)
class Project:
    """A checkout: the folder with `_toc.yml` and `runs.yml`, and what lies under it.

    Attributes:
        root: The folder.
        library: The folder of the `faultlines` package whose code the results depend on.
    """

    root: Path
    library: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """Find the checkout from `FAULTLINES_ROOT`, else upwards from `start`, else from the package.

        Args:
            start: Where to begin; the current folder by default.

        Raises:
            UsageError: If no folder on the way holds the two files.
        """
        library = Path(__file__).resolve().parents[1]
        named = os.environ.get("FAULTLINES_ROOT")
        start = Path(named) if named else (start or Path.cwd())
        start = start.resolve()
        for folder in (start, *start.parents, *library.parents):
            if all((folder / mark).is_file() for mark in MARKS):
                return cls(root=folder, library=library)
        raise UsageError(
            f"no checkout of the book at or above {start}: run this inside one, "
            "or set FAULTLINES_ROOT to the folder that holds _toc.yml and runs.yml"
        )

    @property
    def chapters(self) -> Path:
        """Folder of the chapters' text, with the published default run beside each."""
        return self.root / "chapters"

    @property
    def build(self) -> Path:
        """Folder of everything that can be deleted."""
        return self.root / "_build"

    def working(self, label: str, chapter: str) -> Path:
        """Return where this machine's result of a run stands."""
        return self.build / "runs" / label / f"{chapter}.ipynb"

    def failed(self, label: str, chapter: str) -> Path:
        """Return where the notebook of a failed execution is kept for reading."""
        return self.build / "runs" / label / "failed" / f"{chapter}.ipynb"

    def partial(self, label: str, chapter: str) -> Path:
        """Return where a notebook stands while it executes."""
        return self.build / "runs" / label / "partial" / f"{chapter}.ipynb"

    def job(self, label: str, chapter: str) -> Path:
        """Return where a job says how far it is."""
        return self.build / "jobs" / label / f"{chapter}.json"

    def trained(self, label: str, chapter: str) -> Path:
        """Return the folder in which an unfinished job keeps its trainings."""
        return self.build / "checkpoints" / label / chapter

    def published(self, run: str, chapter: str) -> Path:
        """Return where the committed result of a run stands."""
        if run == "default":
            return self.chapters / f"{chapter}.ipynb"
        if run == "smoke":  # what `pytest --nbval` holds a new execution against
            return self.root / "tests" / "notebooks" / f"{chapter}.ipynb"
        return self.root / "results" / run / f"{chapter}.ipynb"
