"""All ledgers of all runs: the whole scoreboard, the rows of the picture, and the answer of each chapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from docutils.nodes import make_id

from faultlines.book.answers import Answer, fill, in_colour, in_markdown, named_in, read_answers, reported
from faultlines.book.myst import list_table, verdict_badge
from faultlines.book.page import believed
from faultlines.book.picture import DATA, Group, Line, Mark
from faultlines.book.second_machine import standing_rows
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec, Where
from faultlines.notebook.runs import Runs

NAMES = {
    "digits": "digits", "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100", "procedural": "drawings", "composite": "garments on photographs", "spawrious": "Spawrious",
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What one run says of one claim: a row of its ledger, and whether the result is stale."""

    row: dict[str, Any]
    stale: bool

    @property
    def verdict(self) -> str:
        """The verdict as a badge, with what qualifies it."""
        more = " (fragile)" if self.row.get("fragile") else ""
        return (
            verdict_badge(self.row["verdict"])
            + more
            + (' <span class="stale">stale</span>' if self.stale else "")
        )


@dataclass
class ChapterBoard:
    """One chapter's claims, in the order of its ledger, each with a cell a run.

    Attributes:
        chapter: The chapter.
        claims: Cells by claim and run.
        said: The author's answer, if there is one.
        data: The names of each run's data sets.
    """

    chapter: Chapter
    claims: dict[str, dict[str, Said]] = field(default_factory=dict)
    said: Answer | None = None
    data: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The chapter in a few words, or its title."""
        return self.said.name if self.said else self.chapter.title

    @property
    def primary(self) -> dict[str, dict[str, Said]]:
        """The primary claims, each with the runs that call it one."""
        found = {
            claim: {run: cell for run, cell in cells.items() if cell.row.get("primary")}
            for claim, cells in self.claims.items()
        }
        return {claim: cells for claim, cells in found.items() if cells}

    def deciding(self, claim: str) -> tuple[str, Said]:
        """Return the run that an answer follows, and what it says: the one on the largest data that is fresh.

        Raises:
            UsageError: If no ledger has the claim.
        """
        cells = self.primary.get(claim) or self.claims.get(claim)
        if not cells:
            raise UsageError(
                f"answers.yml names claim {claim!r}, which no ledger has: {', '.join(self.claims)}"
            )

        def rank(run: str) -> tuple[bool, bool, int]:
            settled = cells[run].row["verdict"] != "not run"
            return settled, not cells[run].stale, list(cells).index(run)

        run = max(cells, key=rank)
        return run, cells[run]

    def row(self, claim: str) -> dict[str, Any]:
        """Return the row that decides a claim; see `deciding`."""
        return self.deciding(claim)[1].row


@dataclass
class Board:
    """The whole scoreboard.

    Attributes:
        runs: The runs that have a result, in the order of `runs.yml`.
        chapters: The chapters that have a ledger, in the order of the book.
        pages: `(run, chapter)` pairs that are pages of the book and can be linked to.
    """

    runs: list[str]
    chapters: list[ChapterBoard]
    pages: set[tuple[str, str]]

    def myst(self) -> str:
        """Return every claim under every run as one table in MyST, a row each, for the page that filters and sorts."""
        if not self.chapters:
            return "No chapter has a result yet.\n"
        rows = [
            (
                f"**{claim}**" if cell.row.get("primary") else claim,
                " ".join(cell.row["statement"].split()) + self._figure(board.chapter, run, cell),
                f"[{board.name}](/chapters/{board.chapter.name})",
                run,
                cell.verdict,
                cell.row["ours"] or "–",
            )
            for board in self.chapters
            for claim, cells in board.claims.items()
            for run, cell in cells.items()
        ]
        header = ("Claim", "What it says", "Chapter", "Run", "Verdict", "Effect")
        return list_table(header, rows, style="fl-board") + "\n"

    def _figure(self, chapter: Chapter, run: str, cell: Said) -> str:
        if not cell.row.get("figure") or (run, chapter.name) not in self.pages:
            return ""
        label = cell.row["figure"] if run == "default" else f"{run}-{cell.row['figure']}"
        return f" ({{ref}}`figure <{label}>`)"

    def markdown(self, chapters: str = "chapters/") -> str:
        """Return answers and claims, a column a run, in plain Markdown.

        Args:
            chapters: What leads to the folder of chapters.
        """
        if not self.chapters:
            return "No chapter has a result yet.\n"
        blocks = []
        for board in self.chapters:
            lines = [f"## [{board.chapter.title}]({chapters}{board.chapter.name}.ipynb)", ""]
            if board.said:
                lines += [fill(board.said.answer, board.row, in_markdown), ""]
            lines += [f"| | claim | {' | '.join(self.runs)} |", "|---|---|" + "---|" * len(self.runs)]
            for claim, cells in board.claims.items():
                # Markdown takes a bar for the next cell, inside mathematics too
                statement = " ".join(next(iter(cells.values())).row["statement"].split()).replace("|", "\\|")
                said = [_plain(cells.get(run)) for run in self.runs]
                name = f"**{claim}**" if claim in board.primary else claim
                lines.append(f"| {name} | {statement} | {' | '.join(said)} |")
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks) + "\n"

    def answers(self) -> str:
        """Return every chapter's question and answer in MyST, for the front page."""
        blocks = []
        for board in self.chapters:
            if said := board.said:
                cited = f" on {{cite:t}}`{said.cite}`" if said.cite else ""
                text = fill(said.answer, board.row, in_colour)
                link = f"[{board.chapter.title}](/chapters/{board.chapter.name}){cited}"
                note = f"```{{container}} fl-evidence\nChapter: {link}. {evidence(said.answer, board)}\n```"
                blocks.append(f"### {said.question}\n\n{text}\n\n{note}")
        return "\n\n".join(blocks) + "\n" if blocks else "No chapter has an answer yet.\n"

    def short_answers(self) -> str:
        """Return one line a chapter in plain Markdown, for the README."""
        lines = []
        for board in self.chapters:
            if said := board.said:
                title = f"**[{board.name}](chapters/{board.chapter.name}.ipynb)**"
                paper = f" ({said.paper})" if said.paper else ""
                lines.append(f"- {title}{paper}: {fill(said.short, board.row, in_markdown)}")
        return "\n".join(lines) + "\n"

    def groups(self, only: str = "") -> list[Group]:
        """Return the rows of the picture of all primary claims, or of one chapter's."""
        return [
            self._group(board)
            for board in self.chapters
            if board.primary and only in ("", board.chapter.name)
        ]

    def _group(self, board: ChapterBoard) -> Group:
        name, said = board.chapter.name, board.said
        lines = []
        for claim, cells in board.primary.items():
            label = said.claims.get(claim, "") if said else ""
            marks = [
                Mark(run, cell.row, cell.stale, self._href(name, run, cell), reported(said, claim, cell.row))
                for run, cell in reversed(cells.items())  # the larger data first
            ]
            lines.append(Line(claim, label or next(iter(cells.values())).row["statement"], marks))
        runs = {run: None for cells in board.primary.values() for run in cells}
        data = [
            f"{DATA.get(run, run)} data: {board.data[run]}" for run in reversed(runs) if board.data.get(run)
        ]
        return Group(name, board.name, f"chapters/{name}.html", "; ".join(data), lines)

    def _href(self, name: str, run: str, cell: Said) -> str:
        if (run, name) not in self.pages:
            return ""
        page = f"chapters/{name}.html" if run == "default" else f"results/{run}/{name}.html"
        label = cell.row.get("figure")
        return f"{page}#{make_id(label if run == 'default' else f'{run}-{label}')}" if label else page

    def counts(self) -> Counter[str]:
        """Return how many primary claims have each verdict, each claim under its deciding run."""
        return Counter(board.row(claim)["verdict"] for board in self.chapters for claim in board.primary)

    def summary(self) -> str:
        """Return the counts of `counts` as one sentence in MyST."""
        counts = self.counts()
        said = {
            "holds": "hold", "fails": "fail", "negligible": "come out too small to matter",
            "inconclusive": "are not decided", "not run": "were not run",
        }  # fmt: skip
        alone = {"hold": "holds", "fail": "fails", "come": "comes", "are": "is", "were": "was"}
        parts = [
            in_colour(
                verdict, f"{counts[verdict]} {_agreeing(words, alone) if counts[verdict] == 1 else words}"
            )
            for verdict, words in said.items()
            if counts[verdict]
        ]
        return f"Of {counts.total()} primary claims, {', '.join(parts)}.\n"


def _agreeing(words: str, alone: Mapping[str, str]) -> str:
    verb, _, rest = words.partition(" ")
    return f"{alone[verb]} {rest}".strip()


def _plain(cell: Said | None) -> str:
    if cell is None:
        return "not run"
    marks = (" (fragile)" if cell.row.get("fragile") else "") + (" (stale)" if cell.stale else "")
    return f"**{cell.row['verdict']}**{marks} {cell.row['ours']}"


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
    named, answers = toc_pages(project), read_answers(project)
    for chapter in _in_order(judge, named):
        board = ChapterBoard(chapter, said=answers.get(chapter.name))
        for run in runs.shown:
            if not runs.covers(run, chapter) or run == "smoke":
                continue
            task = RunSpec(chapter, run)
            state = judge.state(task, where)
            result = believed(state)
            if result is None:
                continue
            if run not in seen:
                seen.append(run)
            folder = "chapters" if run == "default" else f"results/{run}"
            if f"{folder}/{chapter.name}" in named:
                pages.add((run, chapter.name))
            board.data[run] = _data_of(result.provenance.parameters)
            for row in standing_rows(project, task, result):
                board.claims.setdefault(row["claim"], {})[run] = Said(row, stale=bool(state.changes))
        if board.claims:
            chapters.append(board)
    return Board([run for run in runs.runs if run in seen], chapters, pages)


def _in_order(judge: Freshness, pages: list[str]) -> Iterator[Chapter]:
    first = [page.removeprefix("chapters/") for page in pages]
    for name in dict.fromkeys([*first, *judge.chapters]):
        if name in judge.chapters:
            yield judge.chapters[name]


def _data_of(parameters: Mapping[str, Any]) -> str:
    given = [parameters.get(name) for name in ("datasets", "dataset", "source")]
    names = [name for found in given if found for name in (found if isinstance(found, list) else [found])]
    return ", ".join(NAMES.get(name, name) for name in dict.fromkeys(map(str, names)))


def evidence(text: str, board: ChapterBoard) -> str:
    """Return on which data the verdicts of a text rest, and how many come out otherwise on other data."""
    runs = Counter(board.deciding(claim)[0] for claim in named_in(text))
    on = [f"{DATA.get(run, run)} data ({board.data.get(run) or run})" for run in runs]
    other = sum(
        cell.row["verdict"] not in ("not run", board.row(claim)["verdict"])
        for claim in named_in(text)
        for cell in board.primary.get(claim, {}).values()
    )
    differ = "differs" if other == 1 else "differ"
    more = f" On other data {other} of these {runs.total()} verdicts {differ}." if other else ""
    return f"Verdicts on {' and '.join(on)}.{more}" if on else ""


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
