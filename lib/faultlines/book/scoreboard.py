"""All ledgers of all runs as one table, claim x run, and one line a paper.

The line is a sentence of the chapter's author (`answers.yml`) whose verdicts are put in from the ledgers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from faultlines.book.myst import list_table, verdict_badge
from faultlines.book.page import believed
from faultlines.notebook.batches import pooled
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs
from faultlines.notebook.task import Task, Where


@dataclass(frozen=True)
class Said:
    """What one run says of one claim: a row of its ledger, and whether the result is stale."""

    row: dict[str, Any]
    stale: bool


@dataclass
class ChapterBoard:
    """One chapter's claims, in the order of its ledger, each with a cell a run, and its answer in one line."""

    chapter: Chapter
    claims: dict[str, dict[str, Said]] = field(default_factory=dict)
    sentence: str = ""

    @property
    def answer(self) -> str:
        """The author's sentence with the verdicts put in."""
        said = {
            claim: {run: cell.row["verdict"] for run, cell in cells.items()}
            for claim, cells in self.claims.items()
        }
        return fill(self.sentence, said)


@dataclass
class Board:
    """The whole scoreboard.

    Attributes:
        runs: The runs that have a result, in the order of `runs.yml`.
        chapters: The chapters that have a ledger.
        pages: `(run, chapter)` pairs that are pages of the book and can be linked to.
    """

    runs: list[str]
    chapters: list[ChapterBoard]
    pages: set[tuple[str, str]]

    def myst(self) -> str:
        """Return the table in MyST, each verdict linking to its figure or ledger."""
        if not self.chapters:
            return "No chapter has a result yet.\n"
        blocks = []
        for board in self.chapters:
            rows = []
            for claim, cells in board.claims.items():
                statement = " ".join(next(iter(cells.values())).row["statement"].split())
                said = [self._cell(board.chapter, run, cells.get(run)) for run in self.runs]
                rows.append((claim, statement, *said))
            table = list_table(
                ("Claim", "What it says", *self.runs),
                rows,
                style="fl-scoreboard",
                widths=(8, 52, *[40] * len(self.runs)),
            )
            title = f"**[{board.chapter.title}](/chapters/{board.chapter.name})**"
            blocks.append(f"{title} {board.answer}\n\n{table}")
        return "\n\n".join(blocks) + "\n"

    def _cell(self, chapter: Chapter, run: str, cell: Said | None) -> str:
        if cell is None:
            return verdict_badge("not run")
        row = cell.row
        stale = ' <span class="stale">stale</span>' if cell.stale else ""
        link = ""
        if row.get("figure") and (run, chapter.name) in self.pages:
            label = row["figure"] if run == "default" else f"{run}-{row['figure']}"
            link = f" ({{ref}}`figure <{label}>`)"
        return f"{verdict_badge(row['verdict'])}{stale} {row['ours']}{link}"

    def markdown(self) -> str:
        """Return the table in plain Markdown, for the README and the terminal."""
        if not self.chapters:
            return "No chapter has a result yet.\n"
        answers = [
            f"- [{board.chapter.title}](chapters/{board.chapter.name}.ipynb): {board.answer}"
            for board in self.chapters
            if board.answer
        ]
        header = f"| | claim | {' | '.join(self.runs)} |"
        lines = [*answers, *([""] if answers else []), header, "|---|---|" + "---|" * len(self.runs)]
        for board in self.chapters:
            lines.append(
                f"| **[{board.chapter.title}](chapters/{board.chapter.name}.ipynb)** | |"
                + " |" * len(self.runs)
            )
            for claim, cells in board.claims.items():
                # Markdown takes a bar for the next cell, inside mathematics too
                statement = " ".join(next(iter(cells.values())).row["statement"].split()).replace("|", "\\|")
                said = [self._plain(cells.get(run)) for run in self.runs]
                lines.append(f"| {claim} | {statement} | {' | '.join(said)} |")
        return "\n".join(lines) + "\n"

    def _plain(self, cell: Said | None) -> str:
        if cell is None:
            return "not run"
        return f"**{cell.row['verdict']}**{' (stale)' if cell.stale else ''} {cell.row['ours']}"


def read_board(project: Project, runs: Runs, *, published: bool = False) -> Board:
    """Gather the ledgers of every chapter under every run; see `judged_board`."""
    return judged_board(Freshness(project, runs), "published" if published else "any")


def judged_board(judge: Freshness, where: Where = "any") -> Board:
    """Gather the ledgers of every chapter under every run.

    Args:
        judge: Says what there is, and whether it is stale.
        where: Which results; see `Freshness.state`. A foreign result is not among them.
    """
    project, runs = judge.project, judge.runs
    chapters, seen, pages = [], [], set()
    named, answers = set(toc_pages(project)), read_answers(project)
    for chapter in judge.chapters.values():
        board = ChapterBoard(chapter, sentence=answers.get(chapter.name, ""))
        for run in runs.shown:
            if not runs.covers(run, chapter) or run == "smoke":
                continue
            task = Task(chapter, run)
            state = judge.state(task, where)
            result = believed(state)
            if result is None:
                continue
            if run not in seen:
                seen.append(run)
            folder = "chapters" if run == "default" else f"results/{run}"
            if f"{folder}/{chapter.name}" in named:
                pages.add((run, chapter.name))
            for row in pooled(project, task, result, alone=False).rows(result.ledger):
                board.claims.setdefault(row["claim"], {})[run] = Said(row, stale=bool(state.changes))
        if board.claims:
            chapters.append(board)
    return Board([run for run in runs.runs if run in seen], chapters, pages)


# answers

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

    def said(found: re.Match[str]) -> str:
        if found[1] not in verdicts:
            raise UsageError(
                f"answers.yml names claim {found[1]!r}, which no ledger has: {', '.join(verdicts)}"
            )
        runs = verdicts[found[1]]
        if len(set(runs.values())) == 1:
            return next(iter(runs.values()))
        return ", ".join(f"{verdict} in {run}" for run, verdict in runs.items())

    return CLAIM.sub(said, sentence)


def toc_pages(project: Project) -> list[str]:
    """Return the pages that `_toc.yml` names, in order; of a pattern (`glob`), those whose text is there.

    Raises:
        UsageError: If the file is not YAML.
    """

    def walk(node: object) -> list[str]:
        if isinstance(node, list):
            return [page for child in node for page in walk(child)]
        if isinstance(node, dict):
            own = [node[key] for key in ("root", "file") if key in node]
            if "glob" in node:
                own += sorted(
                    path.relative_to(project.root).with_suffix("").as_posix()
                    for path in project.root.glob(f"{node['glob']}.md")
                )
            return own + [
                page for value in node.values() if not isinstance(value, str) for page in walk(value)
            ]
        return []

    try:
        return walk(yaml.safe_load((project.root / "_toc.yml").read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"_toc.yml cannot be read: {' '.join(str(error).split())}") from None
