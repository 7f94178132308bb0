"""Which chapters state claims. A card is a chapter that measures what nobody has claimed: it has no ledger."""

from __future__ import annotations

from pathlib import Path

from faultlines.notebook.chapters import Chapter
from faultlines.notebook.project import Project

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_CLAIMS = ("card",)
CLAIMING = [
    name for name in Chapter.all(Project(ROOT, ROOT / "lib" / "faultlines")) if name not in WITHOUT_CLAIMS
]


def states_claims(page: str) -> bool:
    """Whether a page of the book, by its name, is a chapter with a ledger, or a run of one."""
    return page.startswith(("chapters/", "results/")) and page.rpartition("/")[2] in CLAIMING
