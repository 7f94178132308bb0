"""What is published, for programs: `results/index.json` and its schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.project import Project
from faultlines.notebook.provenance import Provenance
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import Result, UnreadableError, read_result, write_atomic


class ClaimRow(BaseModel):
    """One settled claim; see `faultlines.reporting.ledger.Row`."""

    model_config = ConfigDict(extra="forbid")

    claim: str
    statement: str
    paper: str
    test: str
    ours: str
    estimate: float | None
    low: float | None
    high: float | None
    n: int
    method: str = ""
    confidence: float | None = None
    direction: str = ""
    threshold: float | None = None
    verdict: str
    cost_s: float
    figure: str
    note: str
    effects: list[float | None] = []


class Published(BaseModel):
    """One published notebook.

    Attributes:
        notebook: Its path in the checkout.
        provenance: What it was made with.
        ledger: Its claims.
    """

    model_config = ConfigDict(extra="forbid")

    notebook: str
    provenance: Provenance
    ledger: list[ClaimRow]


class Index(BaseModel):
    """All published notebooks, by chapter and run in the order of `runs.yml`."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    results: list[Published]


def read_index(project: Project) -> Index:
    """Gather the index from the published notebooks themselves; one that cannot be believed is left out."""
    results = []
    for chapter in Chapter.all(project):
        for run in Runs.load(project).shown:
            path = project.published(run, chapter)
            try:
                result = read_result(path, run, command=f"faultlines run {chapter} --run {run}")
            except UnreadableError:
                continue
            if isinstance(result, Result) and not result.foreign:
                rows = [ClaimRow.model_validate(summary(row)) for row in result.ledger]
                name = path.relative_to(project.root).as_posix()
                results.append(Published(notebook=name, provenance=result.provenance, ledger=rows))
    return Index(results=results)


def summary(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ledger's row without the effects of its units, which stay in the notebook."""
    return {name: value for name, value in row.items() if name != "effects"}


def index_files(project: Project) -> dict[str, str]:
    """Return the content of `results/index.json` and `results/index.schema.json` as they should be."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Index.model_json_schema()}
    return {
        "results/index.json": read_index(project).model_dump_json(indent=1) + "\n",
        "results/index.schema.json": json.dumps(schema, indent=1) + "\n",
    }


def write_index(project: Project) -> bool:
    """Bring the index in step with what is published; return whether it changed."""
    changed = False
    for name, text in index_files(project).items():
        path = project.root / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomic(path, text)
            changed = True
    return changed
