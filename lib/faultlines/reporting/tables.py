"""Tables as a page shows them: mathematics between dollar signs, bold between stars, verdicts as badges."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from faultlines.reporting.prose import badge


@dataclass(frozen=True)
class Table:
    r"""A table that a notebook shows as HTML and a terminal as text.

    Attributes:
        header: Column names.
        rows: Cells; text may hold `$x$` and `**bold**` (a dollar is `\$`), anything else is shown by `str`.
        style: Extra class of the HTML table.
        payload: Further representations by mime type, for programs that read the notebook.
        caption: Shown above the table.

    Example:
        >>> table = Table(("n", "bound"), [(17, "$1/2$")])
        >>> print(table)
        n | bound
        17 | $1/2$
        >>> r"\(1/2\)" in table.html()
        True
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    style: str = ""
    payload: dict[str, Any] = field(default_factory=dict)
    caption: str = ""

    def __post_init__(self) -> None:
        """Check that the rows fit the header.

        Raises:
            ValueError: If a row has another number of cells.
        """
        for index, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(f"row {index} has {len(row)} cells; the header has {len(self.header)}")

    @staticmethod
    def badge(verdict: str, remark: str = "") -> Badge:
        """Return a cell that shows a verdict as word and colour, with a remark after it."""
        return Badge(verdict, remark)

    def html(self) -> str:
        """Return the table as HTML; MathJax reads its mathematics."""
        head = "".join(f'<th scope="col">{_inline(name)}</th>' for name in self.header)
        body = "".join(
            "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        caption = f"<caption>{_inline(self.caption)}</caption>" if self.caption else ""
        style = f"fl-table tex2jax_process mathjax_process {self.style}".strip()
        return (
            f'<div class="fl-scroll"><table class="{style}">{caption}'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def __str__(self) -> str:
        """Return the table as text."""
        return "\n".join(" | ".join(map(str, row)) for row in (self.header, *self.rows))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/html": self.html(), "text/plain": str(self), **self.payload}


@dataclass(frozen=True)
class Badge:
    """A verdict in a table cell."""

    verdict: str
    remark: str = ""

    def __str__(self) -> str:
        """Return the word, and the remark."""
        return f"{self.verdict} {self.remark}".strip()


MARKUP = re.compile(r"(?P<dollar>\\\$)|\$(?P<math>[^$]+)\$|\*\*(?P<bold>(?:[^*$]|\$[^$]+\$)+)\*\*")


def _inline(cell: Any) -> str:
    if isinstance(cell, Badge):
        return f"{badge(cell.verdict)} {html.escape(cell.remark)}".strip()

    def shown(found: re.Match[str]) -> str:
        if found["math"]:
            return rf"\({found['math']}\)"
        return f"<strong>{MARKUP.sub(shown, found['bold'])}</strong>" if found["bold"] else "$"

    # one pass, so that stars inside mathematics stay stars
    return MARKUP.sub(shown, html.escape(str(cell)))
