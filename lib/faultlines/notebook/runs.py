"""Run groups: chapters x named sets of parameters, from `runs.yml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.errors import UsageError, one_of
from faultlines.notebook.parameters import Check, resolve
from faultlines.notebook.project import Project

TESTS = ("smoke", "rehearsal")


class Run(BaseModel):
    """One run group.

    Attributes:
        purpose: What it is for, one line.
        budget: What it may cost, one line.
        chapters: Overrides of a chapter's defaults, by chapter; a chapter not named runs with its defaults
            in `default`, and is not part of any other run.
    """

    model_config = ConfigDict(extra="forbid")

    purpose: str
    budget: str
    chapters: dict[str, dict[str, Any]] = {}


class Runs(BaseModel):
    """All run groups."""

    model_config = ConfigDict(extra="forbid")

    runs: dict[str, Run]

    @classmethod
    def load(cls, project: Project) -> Runs:
        """Read `runs.yml`.

        Raises:
            UsageError: If the file does not have the form of this class.
        """
        try:
            text = (project.root / "runs.yml").read_text(encoding="utf-8")
            return cls.model_validate({"runs": yaml.safe_load(text)})
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"runs.yml cannot be read: {' '.join(str(error).split())}") from None

    def __getitem__(self, name: str) -> Run:
        """Return a run by name.

        Raises:
            UsageError: If there is none.
        """
        if name not in self.runs:
            raise one_of("run", name, list(self.runs))
        return self.runs[name]

    @property
    def shown(self) -> list[str]:
        """Names of the runs whose results are shown to readers: all but those that only test."""
        return [name for name in self.runs if name not in TESTS]

    def covers(self, name: str, chapter: Chapter) -> bool:
        """Whether a chapter is part of a run."""
        return name == "default" or chapter.name in self[name].chapters

    def parameters(
        self,
        name: str,
        chapter: Chapter,
        overrides: Mapping[str, str] | None = None,
        checks: Mapping[str, Check] | None = None,
    ) -> dict[str, Any]:
        """Return a chapter's resolved parameters under a run, with command-line overrides on top.

        Args:
            name: The run.
            chapter: The chapter.
            overrides: Further values as text, by name.
            checks: Named checks; see `faultlines.notebook.parameters`.

        Raises:
            UsageError: On an unknown run or name, or a value that is not allowed.
        """
        values = dict(self[name].chapters.get(chapter.name, {}))
        resolve(chapter.parameters, values, f"run {name} of {chapter.name}", {})
        declared = {parameter.name: parameter for parameter in chapter.parameters}
        for key, text in (overrides or {}).items():
            values[key] = declared[key].parse(text) if key in declared else text
        # what parameters must fulfil together is asked where data sets are
        rules = chapter.rules if checks is not None else []
        return resolve(chapter.parameters, values, chapter.name, checks or {}, rules)
