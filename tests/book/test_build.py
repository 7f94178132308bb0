"""`faultlines book` and plain Jupyter Book are one build, of a small book."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from faultlines.book import sphinx_extension
from faultlines.book import sphinx_extension as book
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {"toy-figure": "chapters/toy.html", "desk-toy-figure": "results/desk/toy.html"}


PARTS = ("summary", "picture", "answers", "scoreboard")
FRONT = (
    "# Front\n\n## Parts\n\n"
    + "\n\n".join(f"```{{include}} _generated/{part}.md\n```" for part in PARTS)
    + "\n"
)


@pytest.fixture
def small(checkout: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The checkout with the book's own configuration, and no library pages (their import takes seconds)."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    del config["bibtex_bibfiles"], config["html"]["favicon"]
    extensions = config["sphinx"]["config"]["extensions"]
    extensions.remove("sphinxcontrib.bibtex")
    for of_the_book in ("bibtex_reference_style", "html_search_scorer"):
        del config["sphinx"]["config"][of_the_book]
    (checkout.root / "_config.yml").write_text(yaml.safe_dump(config))
    (checkout.root / "intro.md").write_text(FRONT)
    (checkout.root / "costs.md").write_text("# Costs\n\n```{include} _generated/costs.md\n```\n")
    (checkout.root / "draft.md").write_text("# Draft\n")
    toc = checkout.root / "_toc.yml"
    toc.write_text(toc.read_text() + "- file: costs\n- file: results/desk/toy\n")
    (checkout.root / "library").mkdir()
    (checkout.root / "library" / "index.md").write_text("# Library\n")
    checkout.build.mkdir()
    (checkout.build / "reference.stamp").write_text(sphinx_extension._seal(checkout.library))
    monkeypatch.setenv("PYTHONPATH", str(checkout.library.parent))
    return checkout


def plain(project: Project, *options: str) -> str:
    program = Path(sys.executable).with_name("jupyter-book")
    done = subprocess.run(
        [str(program), "build", ".", *options],
        cwd=project.root,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rendered(project: Project) -> dict[str, str]:
    html = project.build / "html"
    return {
        str(path.relative_to(html)): text[1]
        for path in html.rglob("*.html")
        if (text := re.search(r"<article[^>]*>(.*?)</article>", path.read_text(encoding="utf-8"), re.DOTALL))
    }


def test_plain_jupyter_book_is_the_book(small: Project, put: Callable[..., Path]) -> None:
    put(path=small.published("default", "toy"))
    put("desk", path=small.published("desk", "toy"))
    (small.root / "results" / "desk" / "toy.md").write_text("Eight seeds see more.\n")
    plain(small, "-n", "-W", "--keep-going")
    pages = rendered(small)
    assert {"intro.html", "costs.html", "chapters/toy.html", "results/desk/toy.html"} <= set(pages)
    assert "draft.html" not in pages
    assert "verdict-holds" in pages["intro.html"] and "default" in pages["intro.html"]
    assert "1 min 35 s" in pages["costs.html"]
    assert "How these numbers were made" in pages["chapters/toy.html"]
    assert 'class="verdict verdict-holds"' in pages["chapters/toy.html"]
    assert "Eight seeds see more." in pages["results/desk/toy.html"]
    assert all('id="' + name + '"' in pages[page] for name, page in FIGURES.items())

    # finished are all, whichever process wrote them
    html = small.build / "html"
    assert all((html / page).read_text(encoding="utf-8").count('name="viewport"') == 1 for page in pages)

    again = plain(small, "-n", "-W", "--keep-going")
    assert re.search(r"0 added, 0 changed, 0 removed", again), again
    assert sphinx_extension.build(small) == small.build / "html" / "index.html"
    assert rendered(small) == pages


def test_a_module_that_is_called_as_a_chapter_is_keeps_its_page(
    small: Project, put: Callable[..., Path]
) -> None:
    put(path=small.published("default", "toy"))
    put("desk", path=small.published("desk", "toy"))
    (small.root / "library" / "studies").mkdir()
    (small.root / "library" / "studies" / "toy.md").write_text("# A module\n")
    toc = small.root / "_toc.yml"
    toc.write_text(toc.read_text() + "- file: library/studies/toy\n")
    found = sphinx_extension.Book()
    found.project = small
    assert found._sources()["library/studies/toy"] == "library/studies/toy.md"
    assert set(found.texts) == {"chapters/toy", "results/desk/toy"}


@pytest.fixture
def jupyter_book(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Stand in for Jupyter Book: write some pages, say something, end with a status."""

    def stand_in(pages: list[str], said: str = "", status: int = 0) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], stdout: object, **options: object) -> subprocess.CompletedProcess:
            calls.append(command)
            for page in pages:
                path = Path(command[2]) / "_build" / "html" / f"{page}.html"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("<html></html>")
            stdout.write(said)
            return subprocess.CompletedProcess(command, status)

        monkeypatch.setattr(book.subprocess, "run", run)
        return calls

    return stand_in


def test_a_build_that_writes_no_page_is_an_error(checkout: Project, jupyter_book: Callable) -> None:
    calls = jupyter_book(["index", "intro"])
    with pytest.raises(RuntimeError, match="wrote no page for chapters/toy"):
        sphinx_extension.build(checkout)
    assert {"-n", "-W", "--keep-going"} <= set(calls[0])


def test_a_warning_is_shown(checkout: Project, jupyter_book: Callable) -> None:
    jupyter_book(["index", "intro", "chapters/toy"], "reading\nintro.md:3: WARNING: no such label\ndone\n", 1)
    with pytest.raises(RuntimeError, match=r"did not build .*\nintro\.md:3: WARNING: no such label$"):
        sphinx_extension.build(checkout)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "toy has no result of run default: `faultlines run toy --run default` makes one"),
        ("- file: nowhere\n", r"_toc\.yml names nowhere"),
    ],
)
def test_a_page_without_source_or_result_is_told(
    small: Project, put: Callable[..., Path], more: str, said: str
) -> None:
    from sphinx.errors import ExtensionError

    if more:
        put()
        put("desk")
        (small.root / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n" + more)
    config = SimpleNamespace(
        html_theme_options={}, exclude_patterns=[], nb_custom_formats={}, html_context={}
    )
    with pytest.raises(ExtensionError, match=said):
        sphinx_extension.Book().prepare(SimpleNamespace(srcdir=str(small.root)), config)


def test_a_wrong_choice_of_results_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sphinx_extension.RESULTS, "mine")
    with pytest.raises(UsageError, match="mine"):
        sphinx_extension.results_shown()
