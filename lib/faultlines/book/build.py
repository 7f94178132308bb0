"""Render the book: `jupyter-book build . -n -W --keep-going` in the checkout, and a look at what came of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from faultlines.book.scoreboard import toc_pages
from faultlines.notebook.project import Project


def build(project: Project) -> Path:
    """Bring the book up to date and return its front page.

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
