from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from faultlines.book import build as book
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project


@pytest.fixture
def jupyter_book(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Stand in for Jupyter Book: write some pages, say something, end with a status."""

    def stand_in(pages: list[str], said: str = "", status: int = 0) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], stdout: object, **options: object) -> subprocess.CompletedProcess:
            calls.append(command)
            html = Path(command[command.index("--path-output") + 1]) / "_build" / "html"
            for page in pages:
                (html / f"{page}.html").parent.mkdir(parents=True, exist_ok=True)
                (html / f"{page}.html").write_text("<html></html>")
            stdout.write(said)
            return subprocess.CompletedProcess(command, status)

        monkeypatch.setattr(book.subprocess, "run", run)
        return calls

    monkeypatch.setattr(book, "write_reference", lambda folder: folder.mkdir(parents=True))
    return stand_in


def test_a_page_without_result_is_a_usage_error(checkout: Project, jupyter_book: Callable) -> None:
    calls = jupyter_book([])
    with pytest.raises(
        UsageError, match="toy has no result of run default: `faultlines run toy --run default` makes"
    ):
        book.build(checkout)
    assert calls == []


def test_a_page_without_source_is_a_usage_error(
    checkout: Project, put: Callable[..., Path], jupyter_book: Callable
) -> None:
    put()
    toc = checkout.root / "_toc.yml"
    toc.write_text(toc.read_text() + "- file: nowhere\n")
    jupyter_book([])
    with pytest.raises(UsageError, match=r"_toc\.yml names nowhere"):
        book.build(checkout)


def test_a_build_that_writes_no_page_is_an_error(
    checkout: Project, put: Callable[..., Path], jupyter_book: Callable
) -> None:
    put()
    jupyter_book(["index", "intro"])
    with pytest.raises(RuntimeError, match="wrote no page for chapters/toy"):
        book.build(checkout)


def test_a_warning_is_shown_and_the_next_call_tries_again(
    checkout: Project, put: Callable[..., Path], jupyter_book: Callable
) -> None:
    put()
    jupyter_book(["index", "intro", "chapters/toy"], "reading\nintro.md:3: WARNING: no such label\ndone\n", 1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"did not build .*\nintro\.md:3: WARNING: no such label$"):
            book.build(checkout)


def test_a_book_with_nothing_changed_is_not_built_again(
    checkout: Project, put: Callable[..., Path], jupyter_book: Callable
) -> None:
    put()
    calls = jupyter_book(["index", "intro", "chapters/toy"])
    index = book.build(checkout)
    assert index == checkout.build / "html" / "index.html"
    assert {"-n", "-W", "--keep-going"} <= set(calls[0])
    book.build(checkout)
    assert len(calls) == 1
    (checkout.build / "html" / "chapters" / "toy.html").unlink()
    book.build(checkout)
    assert len(calls) == 2
    (checkout.root / "intro.md").write_text("# Front again\n")
    book.build(checkout)
    assert len(calls) == 3


def test_only_pages_of_the_table_of_contents_are_laid_out(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put()
    (checkout.root / "draft.md").write_text("# Draft\n")
    destination = checkout.build / "source"
    (destination / "chapters").mkdir(parents=True)
    (destination / "chapters" / "old.ipynb").write_text("{}")
    assert book.stage_book(checkout, destination) == ["intro", "chapters/toy"]
    laid = {str(path.relative_to(destination)) for path in destination.rglob("*") if path.is_file()}
    assert {"intro.md", "chapters/toy.ipynb", "_toc.yml", "_generated/scoreboard.md"} <= laid
    assert not {"draft.md", "chapters/old.ipynb", "chapters/toy.md"} & laid


def test_one_build_reads_library_and_results_once(
    checkout: Project, put: Callable[..., Path], jupyter_book: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    put()
    put("desk")
    toc = checkout.root / "_toc.yml"
    toc.write_text(toc.read_text() + "- file: results/desk/toy\n")
    jupyter_book(["index", "intro", "chapters/toy", "results/desk/toy"])
    read: list[Path] = []

    def counted(function: Callable) -> Callable:
        return lambda path: read.append(path) or function(path)

    module = importlib.import_module(
        "faultlines.notebook.freshness"
    )  # the room exports a function of that name
    for name in ("read_result", "library_hashes"):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    book.build(checkout)
    assert {checkout.library, checkout.working("default", "toy"), checkout.working("desk", "toy")} <= set(
        read
    )
    assert len(read) == len(set(read))
