"""How a task ended, and how that is shown, wherever it was executed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from faultlines.notebook.task import Task


@dataclass
class Outcome:
    """How a task ended.

    Attributes:
        task: The task.
        ok: Whether every cell ran.
        detail: The job's last event: `wall_s`, or `cell`, `error`, `message` and `notebook`.
    """

    task: Task
    ok: bool
    detail: dict[str, Any] = field(default_factory=dict)

    def tell(self, console: Console) -> None:
        """Say it in one line, where no bar on a terminal has shown it."""
        if not console.is_terminal:
            took = f"{self.detail['wall_s']:.0f} s" if self.ok else f"failed: {self.detail['error']}"
            console.print(f"{self.task.chapter.name} · {self.task.label}: {took}")


def progress_bars(console: Console) -> Progress:
    """Return bars that count what is done; without a terminal they show nothing."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
