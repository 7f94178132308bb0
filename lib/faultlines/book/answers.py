"""One line a paper: a sentence of the chapter's author whose verdicts are put in from the ledgers."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project

CLAIM = re.compile(r"\{([\w.-]+)\}")


def read_answers(project: Project) -> dict[str, str]:
    """Return the sentence of each chapter that has one, from `answers.yml`.

    Raises:
        UsageError: If the file is not a mapping of chapters to sentences.
    """
    path = project.root / "answers.yml"
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UsageError(f"answers.yml cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise UsageError("answers.yml must map each chapter to one sentence")
    return {name: " ".join(text.split()) for name, text in found.items()}


def fill(sentence: str, verdicts: Mapping[str, Mapping[str, str]]) -> str:
    """Return a sentence with each `{C1}` replaced by what the runs say of claim C1.

    Args:
        sentence: The sentence.
        verdicts: The verdict of each run, by claim.

    Raises:
        UsageError: If the sentence names a claim that no ledger has.

    Example:
        >>> said = {"C1": {"default": "holds"}, "C2": {"default": "fails", "desk": "holds"}}
        >>> fill("The bound {C1}, its use {C2}.", said)
        'The bound holds, its use fails in default, holds in desk.'
    """

    def said(found: re.Match) -> str:
        if found[1] not in verdicts:
            raise UsageError(
                f"answers.yml names claim {found[1]!r}, which no ledger has: {', '.join(verdicts)}"
            )
        runs = verdicts[found[1]]
        if len(set(runs.values())) == 1:
            return next(iter(runs.values()))
        return ", ".join(f"{verdict} in {run}" for run, verdict in runs.items())

    return CLAIM.sub(said, sentence)
