"""The author's answers (`answers.yml`), and what the ledgers put into them.

What in an answer depends on a result is not written by hand: of each phrase the author writes one version for each
verdict, and a number is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.reporting.prose import MARKS

NUMBER = re.compile(r"\{(?P<claim>[\w.-]+):(?P<form>[^{}]+)\}")
PHRASE = re.compile(r"\{(?P<claim>[\w.-]+)\?(?P<words>[^{}]+)\}")
VERDICTS = ("holds", "fails", "negligible", "inconclusive", "not run")


class Reported(BaseModel):
    """A number of the paper: as the claim's row quotes it, and what one of it is in the claim's units."""

    model_config = ConfigDict(extra="forbid")

    said: str
    unit: float = 1.0


class Answer(BaseModel):
    """What `answers.yml` says of one chapter.

    Attributes:
        name: The chapter in a few words.
        question: The chapter's question, without its technical words.
        answer: Two sentences; see `fill`.
        short: One sentence; see `fill`.
        cite: Key of the paper in `references.bib`; empty where there is none.
        paper: The paper with a link, in Markdown.
        claims: A plain label of each primary claim, by its id.
        reported: The paper's own number of a claim, by its id.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    question: str
    answer: str
    short: str
    cite: str = ""
    paper: str = ""
    claims: dict[str, str] = {}
    reported: dict[str, Reported] = {}


def read_answers(project: Project) -> dict[str, Answer]:
    """Return the answer of each chapter that has one, from `answers.yml`.

    Raises:
        UsageError: If the file is not a mapping of chapters to answers.
    """
    path = project.root / "answers.yml"
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no mapping of chapters to answers")
        return {name: Answer.model_validate(said) for name, said in found.items()}
    except (yaml.YAMLError, ValidationError, ValueError) as error:
        raise UsageError(f"answers.yml cannot be read: {' '.join(str(error).split())}") from None


def in_colour(verdict: str, words: str) -> str:
    """Return a phrase with its verdict's mark, and colour where the viewer shows one."""
    return f'<span class="fl-phrase verdict-{verdict.replace(" ", "")}">{MARKS[verdict]}\u00a0{words}</span>'


def in_markdown(verdict: str, words: str) -> str:
    """Return a phrase in bold with its verdict's mark."""
    return f"**{words}** {MARKS[verdict]}"


def fill(text: str, decided: Callable[[str], Mapping[str, Any]], show: Callable[[str, str], str]) -> str:
    """Return a text of `answers.yml` with what the ledgers say put in.

    `{C1? holds so | fails so | next to nothing | left open}` becomes the version of C1's verdict (a fifth one is for
    *not run*), and `{C1:.2f}` its estimate in that format; `{C1:points}` is its size in per cent, `{C1:paper}` what the
    row says of the paper before its source in brackets.

    Args:
        text: The text.
        decided: Returns the row that decides a claim.
        show: Makes a phrase of a verdict and its version.

    Raises:
        UsageError: If the text has no version for a claim's verdict.

    Example:
        >>> row = {"verdict": "fails", "estimate": -0.05, "paper": "+5.49"}
        >>> fill("It {C1? helps | hurts by {C1:points} | is idle | is open}.", lambda claim: row, in_markdown)
        'It **hurts by 5 points** ✘.'
    """

    def number(found: re.Match[str]) -> str:
        row = decided(found["claim"])
        form = found["form"].strip()
        if form == "paper":
            return row["paper"].partition(" (")[0]
        if row["estimate"] is None:
            return "–"
        return (
            f"{abs(100 * row['estimate']):.2g} points" if form == "points" else format(row["estimate"], form)
        )

    def phrase(found: re.Match[str]) -> str:
        row = decided(found["claim"])
        verdict = row["verdict"]
        versions = [" ".join(words.split()) for words in found["words"].split("|")]
        chosen = dict(zip(VERDICTS, versions, strict=False)).get(verdict, "")
        if not chosen and verdict == "not run":
            chosen = "was not tried"
        if not chosen:
            raise UsageError(f"answers.yml has no words for {found['claim']} where it {verdict!r}")
        return show(verdict, chosen + (" (fragile)" if row.get("fragile") else ""))

    return re.sub(r"[ \n]+", " ", PHRASE.sub(phrase, NUMBER.sub(number, text))).strip()


def named_in(text: str) -> list[str]:
    """Return the claims on whose verdicts a text of `answers.yml` depends."""
    return list(dict.fromkeys(found["claim"] for found in PHRASE.finditer(NUMBER.sub("", text))))


def reported(said: Answer | None, claim: str, row: Mapping[str, Any]) -> float | None:
    """Return the paper's own value of a claim in the claim's units, if `answers.yml` names one that the row quotes.

    Raises:
        UsageError: If the row does not quote it.
    """
    if said is None or claim not in said.reported:
        return None
    number = said.reported[claim]
    if number.said not in row["paper"]:
        raise UsageError(
            f"answers.yml gives {number.said!r} as the paper's value of {claim}; its row: {row['paper']!r}"
        )
    return float(number.said) * number.unit
