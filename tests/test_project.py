"""The project as a whole: its chapters, runs, published notebooks, dependencies, and what importing it costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from packaging.requirements import Requirement
from tests.chapters import CLAIMING, WITHOUT_CLAIMS

from faultlines.book.answers import fill, in_markdown, read_answers
from faultlines.book.publish import BEGIN, END, PICTURES, index_files, scoreboard_files
from faultlines.book.scoreboard import read_board, toc_pages
from faultlines.notebook.chapters import Chapter, code_cells, has_tag
from faultlines.notebook.code import said_text
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs

ROOT = Path(__file__).resolve().parents[1]
PROJECT = Project(ROOT, ROOT / "lib" / "faultlines")
CHAPTERS = Chapter.all(PROJECT)

each_chapter = pytest.mark.parametrize(
    "chapter",
    list(CHAPTERS.values())
    or [pytest.param(None, marks=pytest.mark.skip(reason="chapters/ holds no chapter yet"))],
    ids=list(CHAPTERS) or ["none"],
)


def published(chapter: Chapter, run: str = "default") -> NotebookNode:
    path = PROJECT.published(run, chapter.name)
    if not path.is_file():
        pytest.skip(
            f"{path.relative_to(ROOT)} is not there yet: `faultlines publish {chapter.name}` puts it there"
        )
    return nbformat.read(path, as_version=4)


# importing, depending


def test_importing_the_library_does_not_import_torchvision() -> None:
    code = """
import importlib, sys
import faultlines
for name in ("attacks", "data", "estimators", "models", "notebook", "reporting", "studies", "training"):
    room = importlib.import_module("faultlines." + name)
    for public in room.__all__:
        getattr(room, public)
assert "torch" in sys.modules
found = sorted(name for name in sys.modules if name.partition(".")[0] == "torchvision")
assert not found, found[:3]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_a_room_by_name_alone_does_not_import_torch() -> None:
    code = """
import sys
import faultlines, faultlines.attacks, faultlines.estimators, faultlines.models, faultlines.cli.app
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


IMPORTS = {
    "data": set(),
    "models": {"data"},
    "attacks": {"data", "models", "estimators"},
    "estimators": {"data", "models", "attacks"},
    "training": {"data", "models", "attacks", "estimators"},
    "studies": {"data", "models", "attacks", "estimators", "training"},
    "reporting": set(),
    "notebook": {"reporting"},
    "runner": {"notebook", "reporting"},
    "book": {"notebook", "reporting", "data"},
    "cli": {"notebook", "runner", "book", "data", "studies"},
}


@pytest.mark.parametrize("room", IMPORTS)
def test_imports_go_one_way(room: str) -> None:
    # the check of parameters asks, when called, which data sets are there
    asks = {"notebook": {"parameters.py"}}.get(room, set())
    for path in (PROJECT.library / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):  # `from faultlines import data` imports a room too
                names = [f"{node.module}.{a.name}" for a in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] == "faultlines" and len(parts) > 1 and parts[1] not in (room, "__version__"):
                    allowed = IMPORTS[room] | ({"data"} if path.name in asks else set())
                    assert parts[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_library_has_at_most_two_hundred_modules() -> None:
    # a file is there because someone outside needs its name, or because it hides something hard
    assert len(list(PROJECT.library.rglob("*.py"))) <= 200


def public_names() -> dict[str, set[str]]:
    """Return the rooms that hand out each public name."""
    found: dict[str, set[str]] = {}
    for stub in PROJECT.library.rglob("__init__.pyi"):
        room = stub.parent.relative_to(PROJECT.library).parts[0]
        for node in ast.walk(ast.parse(stub.read_text(encoding="utf-8"))):
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                found.setdefault(alias.name, set()).add(room)
    return found


def test_every_public_name_has_a_use_outside_its_room() -> None:
    said = {
        word
        for path in [*ROOT.glob("*.md"), *(ROOT / "chapters").glob("*.md"), *PROJECT.library.rglob("*.md")]
        for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))
    }
    imported: dict[str, set[str]] = {}
    for path in PROJECT.library.rglob("*.py"):
        room = path.relative_to(PROJECT.library).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("faultlines"):
                for alias in node.names:
                    imported.setdefault(alias.name, set()).add(room)
    names = public_names()
    idle = sorted(
        name for name, rooms in names.items() if name not in said and not imported.get(name, set()) - rooms
    )
    assert not idle, f"no chapter, page or other room uses {idle}"
    assert len(names) <= 260, len(names)


def requirements() -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    found = [Requirement(line) for line in lines if line]
    return {requirement.name.lower(): requirement for requirement in found}


def test_every_requirement_has_an_upper_bound() -> None:
    for requirement in requirements().values():
        assert {spec.operator for spec in requirement.specifier} & {"<", "<=", "==", "~="}, str(requirement)


def test_the_library_needs_nothing_that_is_not_installed() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = requirements()
    optional = [text for texts in declared["optional-dependencies"].values() for text in texts]
    for text in declared["dependencies"] + optional:
        needed = Requirement(text)
        if needed.name == "faultlines":  # an extra that takes another in
            continue
        assert needed.name.lower() in pinned, (
            f"{needed.name} is in pyproject.toml and not in requirements.txt"
        )
        floors = [spec.version for spec in needed.specifier if spec.operator == ">="]
        bounds = [spec.version for spec in pinned[needed.name.lower()].specifier if spec.operator == ">="]
        assert not bounds or floors == bounds, (
            f"{needed.name}: {floors} in pyproject.toml, {bounds} in requirements.txt"
        )


# runs, chapters


def test_runs_name_only_chapters_that_are_there() -> None:
    for name, run in Runs.load(PROJECT).runs.items():
        assert set(run.chapters) <= set(CHAPTERS), f"run {name}"


def test_the_groups_are_those_of_the_book() -> None:
    assert list(Runs.load(PROJECT).runs) == ["default", "smoke", "rehearsal", "desk", "paper"]


@each_chapter
def test_runs_fit_the_parameters_of_the_chapter(chapter: Chapter) -> None:
    runs = Runs.load(PROJECT)
    names = [parameter.name for parameter in chapter.parameters]
    for name in runs.runs:
        if runs.covers(name, chapter):
            assert list(runs.parameters(name, chapter)) == names


@each_chapter
def test_every_parameter_says_what_it_is(chapter: Chapter) -> None:
    for parameter in chapter.parameters:  # reads the one cell, or raises
        assert parameter.comment, parameter.name
        assert parameter.allowed or parameter.scalar in ("bool", "str"), f"{parameter.name} has no range"


@each_chapter
def test_cells_are_short_and_define_no_function(chapter: Chapter) -> None:
    for number, cell in enumerate(code_cells(chapter.notebook()), start=1):
        if said_text(cell.source) is not None:
            continue  # prose, one sentence or paragraph a line
        lines = cell.source.splitlines()
        limit = 80 if "ledger.state(" in cell.source else 50  # a list of claims is read, not followed
        assert len(lines) <= limit, f"cell {number} has {len(lines)} lines"
        if not has_tag(cell, "parameters"):
            code = [re.sub(r"\"[^\"]*\"", '""', line) for line in lines]  # captions and notes are prose
            assert max(map(len, code)) <= 120, f"cell {number} has a line of {max(map(len, code))}"
        kinds = [type(node).__name__ for node in ast.walk(ast.parse(cell.source))]
        assert not {"FunctionDef", "AsyncFunctionDef", "ClassDef"} & set(kinds), f"cell {number} defines"


@each_chapter
def test_a_chapter_begins_checks_and_records(chapter: Chapter) -> None:
    cells = code_cells(chapter.notebook())
    assert cells[0].source.endswith("notebook.begin()")
    at = next(n for n, cell in enumerate(cells) if has_tag(cell, "parameters"))
    assert cells[at + 1].source == "notebook.check_parameters()"
    ledger = "" if chapter.name in WITHOUT_CLAIMS else ", ledger"
    assert cells[-1].source == f'notebook.record("{chapter.name}"{ledger})'
    assert any("Ledger(" in cell.source for cell in cells) == bool(ledger)


@each_chapter
def test_every_figure_has_name_caption_and_words_for_who_cannot_see_it(chapter: Chapter) -> None:
    # a figure that a cell above keeps a place for has its words there
    drawing = [
        cell
        for cell in code_cells(chapter.notebook())
        if re.fullmatch(r'place_figure\("[\w-]+"\)', cell.source)
        or (re.search(r"\b(figure|subplots)\(", cell.source) and "place_figure(" not in cell.source)
    ]
    names = []
    for cell in drawing:
        shown = cell.metadata.get("mystnb", {})
        assert shown.get("figure", {}).get("name"), cell.source
        assert shown["figure"].get("caption", "").strip(), cell.source
        assert len(shown.get("image", {}).get("alt", "")) > 30, cell.source
        names.append(shown["figure"]["name"])
    assert drawing
    assert len(set(names)) == len(names)


# what is published


@each_chapter
def test_the_paired_notebook_is_executed_without_error(chapter: Chapter) -> None:
    notebook = published(chapter)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    for cell in cells:
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            assert cell.metadata.get("mystnb", {}).get("figure", {}).get("name"), cell.source
    assert any(has_tag(cell, "parameters") for cell in cells)


@each_chapter
def test_what_is_published_is_fresh(chapter: Chapter) -> None:
    runs = Runs.load(PROJECT)
    judge, found = Freshness(PROJECT, runs), 0
    for run in runs.runs:
        task = RunSpec(chapter, run)
        if runs.covers(run, chapter) and PROJECT.published(run, chapter.name).exists():
            found += 1
            state = judge.state(task, "published")
            # a run of hours may wait for its next execution, marked as stale; what is executed here may not
            allowed = ("fresh",) if run in ("default", "smoke") else ("fresh", "stale")
            assert state.name in allowed, f"{state.changes}: {task.command} --here, then faultlines publish"
    if not found:
        pytest.skip(f"no run of {chapter.name} is published yet")


def test_readme_results_and_pictures_show_the_published_verdicts() -> None:
    files = scoreboard_files(PROJECT)
    assert {path.name for path in files if path.suffix == ".svg"} == set(PICTURES)
    for path, text in files.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: `faultlines sync` writes it"
        assert path.suffix == ".svg" or (BEGIN in text and END in text)


def test_every_chapter_is_a_page_of_the_book() -> None:
    pages = [page for page in toc_pages(PROJECT) if page.startswith("chapters/")]
    assert pages == [page for page in dict.fromkeys(pages) if page.removeprefix("chapters/") in CHAPTERS]
    assert {f"chapters/{name}" for name in CHAPTERS} == set(pages)


def test_the_index_holds_what_is_published() -> None:
    for name, text in index_files(PROJECT).items():
        assert (PROJECT.root / name).read_text(encoding="utf-8") == text, (
            f"{name}: `faultlines publish` writes it"
        )


def test_every_chapter_has_a_one_line_answer() -> None:
    answers = read_answers(PROJECT)
    board = read_board(PROJECT, Runs.load(PROJECT), published=True)
    assert answers.keys() == {entry.chapter.name for entry in board.chapters}
    assert sorted(answers) == CLAIMING
    for entry in board.chapters:
        assert entry.said is not None
        for text in (entry.said.answer, entry.said.short):
            said = fill(text, entry.row, in_markdown)
            assert "{" not in said and said.endswith("."), said
            # whatever the next run finds, there are words for it
            for verdict in ("holds", "fails", "negligible", "inconclusive"):
                rows = {claim: entry.row(claim) for claim in entry.claims}
                theorem = {claim for claim, row in rows.items() if row.get("smallest") is None}
                other = {
                    claim: row if claim in theorem else row | {"verdict": verdict}
                    for claim, row in rows.items()
                }
                assert fill(text, other.__getitem__, in_markdown)
