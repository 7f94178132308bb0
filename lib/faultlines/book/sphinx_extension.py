"""Makes a checkout the book while Sphinx starts, so that a plain `jupyter-book build .` is the whole of it.

Before the table of contents is read it writes the generated pages (`library/`, `_generated/`, neither in git) and
chooses the source of each page. A result's notebook is turned into its page when Sphinx reads it. Which results are
shown is said by the environment variable FAULTLINES_RESULTS: `any` (by default: this machine's own in `_build/runs`
before the published), `published` or `here`.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import nbformat

from faultlines.book.finish import draw_pictures, finish_pages
from faultlines.book.measured import cluster_page, costs_page, leaderboard_page, speed_page
from faultlines.book.page import insert_picture, result_page
from faultlines.book.picture import picture_html
from faultlines.book.reference import render_math, write_reference
from faultlines.book.scaling import scaling_page
from faultlines.book.scoreboard import Board, judged_board, toc_pages
from faultlines.book.touch import FOLDER, insert_touch
from faultlines.notebook.errors import UsageError, one_of
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec, Where
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import read_notebook, write_atomic

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment

RESULTS = "FAULTLINES_RESULTS"
LONGEST_ON_PAPER = 10  # rows of a table that LaTeX may not break
FRAME = ("_config.yml", "_toc.yml", "_static", FOLDER)


class Book:
    """What one build of the book knows.

    Attributes:
        texts: The notebook of each page that shows a result, as text, by the page's name.
        shown: The notebook that each of these was made from.
        touched: The script with the numbers of a page's figure that one can touch, by the page's name.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.shown: dict[str, Path] = {}
        self.touched: dict[str, str] = {}
        self.project = Project(Path(), Path(__file__).resolve().parents[1])
        self.drawing: Executor | None = None
        self.collected = gc.get_threshold()

    def prepare(self, app: Sphinx, config: Config) -> None:
        """Write the generated pages, and choose the source of each page of the table of contents.

        Raises:
            ExtensionError: If a page has no source, or no result that can be shown.
        """
        from sphinx.errors import ExtensionError

        self.project = Project(Path(app.srcdir), self.project.library)
        try:
            sources = self._sources()
        except UsageError as error:
            raise ExtensionError(str(error)) from None
        settings = cast(Any, config)
        # no other file is a page: not the text beside a notebook, nor what lies in .venv
        settings.include_patterns = list(sources.values())
        settings.external_toc_exclude_missing = False
        settings.exclude_patterns = [*settings.exclude_patterns, ".*", "_build", "data"]
        for page, source in sources.items():
            if page in self.texts and not source.endswith(".ipynb"):
                # no notebook is published: the text's file stands for this machine's own
                settings.nb_custom_formats = {
                    **settings.nb_custom_formats,
                    source: ["faultlines.book.sphinx_extension.read_page", {}, False],
                }
        frame = _seal(*(self.project.root / name for name in FRAME))
        settings.html_context = {**settings.html_context, "frame": frame}  # another frame is another page
        if self.touched:
            settings.html_static_path = [*settings.html_static_path, FOLDER]
        settings.mathjax_path = "mathjax/startup.js"  # its parts are named in _config.yml
        _configure_buttons(app, config)

    def _sources(self) -> dict[str, str]:
        project = self.project
        where = results_shown()
        judge = Freshness(project, Runs.load(project))
        board = judged_board(judge, where)
        write_generated(judge, where, board)
        pages = toc_pages(project)
        sources = {}
        for page in pages:
            folder, _, name = page.rpartition("/")
            candidates = [f"{page}.ipynb", f"{page}.md"]
            # not `library/studies/card`, the reference of a module that is called as a chapter is
            if name in judge.chapters and folder.partition("/")[0] in ("chapters", "results"):
                run = "default" if folder == "chapters" else folder.removeprefix("results/")
                notebook, path = result_page(judge, RunSpec(judge.chapters[name], run), where)
                if groups := board.groups(name):
                    insert_picture(notebook, picture_html(groups, "../" * (page.count("/")), alone=True))
                store = project.build / "touch"
                if numbers := insert_touch(notebook, name, _flat(page), read_notebook(path), store):
                    self.touched[page] = numbers
                self.texts[page], self.shown[page] = nbformat.writes(notebook), path
            found = [source for source in candidates if (project.root / source).is_file()]
            if not found:
                raise UsageError(
                    f"_toc.yml names {page}, but there is no {page}.md and no chapter of that name"
                )
            sources[page] = found[0]
        return sources

    def outdated(
        self, app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
    ) -> list[str]:
        """Return the pages that look otherwise than when they were last read; all of them after a failed build."""
        kept = cast(Any, env)
        digests = {page: hashlib.sha256(text.encode()).hexdigest() for page, text in self.texts.items()}
        before: dict[str, str] = getattr(kept, "faultlines_pages", {})
        kept.faultlines_pages = digests
        if self._failed(app).exists():
            # Sphinx reads changed pages only, and would not repeat the warnings of the others
            return [page for page in env.found_docs if page not in added]
        return [page for page in digests if page not in added and before.get(page) != digests[page]]

    def read(self, app: Sphinx, page: str, content: list[str]) -> None:
        """Put a result's page in the place of its notebook."""
        if page in self.texts:
            content[0] = self.texts[page]

    def draw(self, app: Sphinx, env: BuildEnvironment, pages: list[str]) -> None:
        """Draw the figures of the pages that are to be read while they are read; that takes one core alone."""
        if app.builder.format == "html":
            texts = [self.texts[page] for page in pages if page in self.texts]
            self.drawing = draw_pictures(texts, self._pictures)

    @property
    def _pictures(self) -> Path:
        return self.project.build / "pictures"

    def finish(self, app: Sphinx, exception: Exception | None) -> None:
        """Note whether the build was without fault, and offer each page's own notebook for download."""
        gc.set_threshold(*self.collected)
        gc.unfreeze()
        if self.drawing is not None:
            self.drawing.shutdown(cancel_futures=exception is not None)
        failed = self._failed(app)
        if exception is not None or cast(Any, app)._warncount:
            failed.parent.mkdir(parents=True, exist_ok=True)
            failed.touch()
            return
        failed.unlink(missing_ok=True)
        if app.builder.format == "html":
            finish_pages(Path(app.outdir), self._written(app), self._pictures)
            for page, path in self.shown.items():
                source = Path(app.outdir) / "_sources" / f"{page}.ipynb"
                if source.is_file():
                    shutil.copyfile(path, source)
            for page, numbers in self.touched.items():
                write_atomic(Path(app.outdir) / "_static" / "touch-data" / f"{_flat(page)}.js", numbers)

    def start(self, app: Sphinx) -> None:
        """Note when the build began, by the clock of the folder that it writes to; spare it the collector of garbage.

        A book is a few million small objects that live to its end, and the collector would go through them for ever.
        """
        self.collected = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(200_000, 50, 100)
        mark = self._mark(app)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def load(self, app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
        """Let a page load what its figure needs."""
        if page in self.touched:
            app.add_css_file("touch.css")
            app.add_js_file("touch.js", loading_method="defer")

    def _failed(self, app: Sphinx) -> Path:
        return Path(app.doctreedir) / "faultlines.failed"

    def _mark(self, app: Sphinx) -> Path:
        return Path(app.doctreedir) / "faultlines.began"

    def _written(self, app: Sphinx) -> list[str]:
        # pages are written by several processes, of which only the files tell
        html, began = Path(app.outdir), self._mark(app).stat().st_mtime_ns
        return sorted(
            str(path.relative_to(html).with_suffix(""))
            for path in html.rglob("*.html")
            if path.stat().st_mtime_ns >= began and "_static" not in path.parts
        )


def _flat(page: str) -> str:
    return page.replace("/", "-")


def _shape_for_paper(app: Sphinx) -> None:
    # a PDF is for reading: without the reference, hundreds of pages to look things up in, and no table beyond its page
    from docutils import nodes
    from sphinx.addnodes import toctree

    builder = cast(Any, app.builder)
    if builder.format != "latex":
        return
    assemble, whole = builder.assemble_doctree, app.env.get_doctree

    def get_doctree(page: str) -> Any:
        tree = whole(page)
        for part in tree.findall(toctree):
            part["entries"] = [entry for entry in part["entries"] if not entry[1].startswith("library/")]
            part["includefiles"] = [name for name in part["includefiles"] if not name.startswith("library/")]
        for table in tree.findall(nodes.table):
            columns = list(table.findall(nodes.colspec))
            if len(list(table.findall(nodes.row))) > LONGEST_ON_PAPER:
                table["classes"] += ["longtable", "colwidths-given"]
                for column in columns:
                    column["colwidth"] = 100 // len(columns)
        return tree

    def assemble_doctree(*given: Any, **named: Any) -> Any:
        env = cast(Any, app.env)
        env.get_doctree = get_doctree
        try:
            return assemble(*given, **named)
        finally:
            del env.get_doctree  # what is kept of the environment holds no function

    builder.assemble_doctree = assemble_doctree


def results_shown() -> Where:
    """Return which results the book shows, from FAULTLINES_RESULTS.

    Raises:
        UsageError: If the variable says something else.
    """
    said = os.environ.get(RESULTS, "any")
    if said not in ("any", "here", "published"):
        raise one_of(RESULTS, said, ["any", "here", "published"])
    return cast(Where, said)


def read_page(text: str) -> nbformat.NotebookNode:
    """Read a page of which `Book.read` has given the text."""
    return nbformat.reads(text, as_version=4)


def write_generated(judge: Freshness, where: Where, board: Board) -> None:
    """Write the pages, and parts of pages, that follow from the results and the library; only what differs."""
    project = judge.project
    parts = {
        "scoreboard": board.myst(),
        "summary": board.summary(),
        "picture": picture_html(board.groups()) + "\n",
        "answers": board.answers(),
        "costs": costs_page(judge, where),
        "cluster": cluster_page(project),
        "speed": speed_page(project),
        "scaling": scaling_page(project),
        "leaderboard": leaderboard_page(project),
    }
    for name, text in parts.items():
        path = project.root / "_generated" / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomic(path, text)
    reference, mark = project.root / "library", project.build / "reference.stamp"
    written_for = _seal(project.library)
    if (reference / "index.md").is_file() and mark.is_file() and mark.read_text() == written_for:
        return
    # it imports every module, torch and all: seconds that an unchanged library need not cost
    written = project.build / "reference"
    shutil.rmtree(written, ignore_errors=True)
    write_reference(written)
    reference.mkdir(exist_ok=True)
    for old in reference.rglob("*.md"):
        if not (written / old.relative_to(reference)).is_file():
            old.unlink()
    for new in sorted(written.rglob("*.md")):
        text, path = new.read_text(encoding="utf-8"), reference / new.relative_to(written)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomic(path, text)
    write_atomic(mark, written_for)


def _seal(*folders: Path) -> str:
    # the library's docstrings are a page of the book, so here its text counts to the letter
    content = hashlib.sha256()
    for folder in folders:
        for path in _files(folder):
            content.update(str(path.relative_to(folder)).encode())
            content.update(path.read_bytes())
    return content.hexdigest()


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _process_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = render_math(lines)


def _configure_buttons(app: Sphinx, config: Config) -> None:
    """Show launch and repository buttons only where the repository has an address to lead to."""
    options = cast(Any, config).html_theme_options
    if options.get("repository_url"):
        options["use_repository_button"] = True
    else:
        options.pop("launch_buttons", None)


def _write_in_parallel(app: Sphinx, builder: Any) -> None:
    # Jupyter Book has no option for it; and pages cannot be read so, for sphinx_proof does not merge what it has read
    if (cores := os.cpu_count() or 1) > 1 and builder.allow_parallel:
        app.parallel = cores + 1  # one that hands out pages
        builder.parallel_ok = app.is_parallel_allowed("write")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx; it calls this for each name in its list of extensions."""
    book = Book()
    # before the table of contents is read (priority 900)
    app.connect("config-inited", book.prepare, priority=700)
    app.connect("env-get-outdated", book.outdated)
    app.connect("source-read", book.read)
    app.connect("builder-inited", book.start)
    app.connect("env-before-read-docs", book.draw)
    app.connect("write-started", _write_in_parallel)
    app.connect("html-page-context", book.load)
    app.connect("build-finished", book.finish)
    app.connect("builder-inited", _shape_for_paper)
    # before napoleon (priority 500), which moves the lines into fields
    app.connect("autodoc-process-docstring", _process_docstring, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# rendering


def build(project: Project) -> Path:
    """Bring the book up to date, by `jupyter-book build . -n -W --keep-going`, and return its front page.

    Raises:
        UsageError: If `_toc.yml` cannot be read.
        RuntimeError: If Jupyter Book ends with an error or a warning, or a page is not there afterwards.
    """
    pages, html = toc_pages(project), project.build / "html"
    program = Path(sys.executable).with_name("jupyter-book")  # jupyter-book 1.x cannot be started with -m
    log = project.build / "book.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        status = subprocess.run(
            [str(program), "build", str(project.root), "-n", "-W", "--keep-going"],
            stdout=file,
            stderr=subprocess.STDOUT,
        ).returncode
    if status:
        raise RuntimeError(f"the book did not build (log: {log}):\n{_errors(log)}")
    missing = [page for page in pages if not (html / f"{page}.html").is_file()]
    if missing:
        raise RuntimeError(f"Jupyter Book ended well but wrote no page for {', '.join(missing)} (log: {log})")
    return html / "index.html"


def _errors(log: Path) -> str:
    lines = re.sub(r"\x1b\[[\d;]*m", "", log.read_text(errors="replace")).splitlines()
    said = [line for line in lines if "WARNING" in line or "ERROR" in line]
    return "\n".join((said or lines)[-20:])
