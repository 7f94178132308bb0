"""What is handed to a job, and whether the code is still the one it was submitted with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel


class Job(BaseModel):
    """Everything that a job needs to know, plain enough to travel as JSON.

    Attributes:
        root: The checkout.
        chapter: Name of the chapter.
        run: Run group.
        overrides: Parameters given on the command line, as text.
        parameters: All parameters, resolved and checked.
        timeout_s: Longest time that one cell may take; None for no limit.
        code: Code hash of every library module, and of the chapter under its name, when the job was submitted.
    """

    root: Path
    chapter: str
    run: str
    overrides: dict[str, str]
    parameters: dict[str, Any]
    timeout_s: int | None = None
    code: dict[str, str] | None = None


def changed_since(submitted: Mapping[str, str] | None, found: Mapping[str, str]) -> list[str]:
    """Return the names whose code differs between submission and start; none where nothing was submitted.

    A module that is new since then counts for nothing: what could use it would have changed too.
    """
    return sorted(name for name, code in (submitted or {}).items() if found.get(name) != code)
