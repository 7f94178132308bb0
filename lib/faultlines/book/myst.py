"""Pieces of MyST that several pages hold."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser

from faultlines.reporting.prose import badge


def list_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    style: str = "",
    widths: Sequence[int] = (),
) -> str:
    """Return a table whose cells may hold links, mathematics and bars.

    Args:
        header: Names of the columns; a table without a header where it is empty.
        rows: Cells of each row, one line each.
        style: Classes of the style sheet.
        widths: Share of each column.

    Example:
        >>> print(list_table(("What", "Found"), [("memory", "2 GiB")], style="fl-costs"))
        ```{list-table}
        :class: fl-costs
        :header-rows: 1
        * - What
          - Found
        * - memory
          - 2 GiB
        ```
    """
    lines = ["```{list-table}"]
    if style:
        lines.append(f":class: {style}")
    if header:
        lines.append(":header-rows: 1")
    if widths:
        lines.append(f":widths: {' '.join(map(str, widths))}")
    lines += ["* - " + "\n  - ".join(row) for row in ([header] if header else []) + list(rows)]
    return "\n".join([*lines, "```"])


def verdict_badge(verdict: str) -> str:
    """Return a verdict with its mark, in the colour that the style sheet gives it."""
    return badge(verdict)


class _Tables(HTMLParser):
    # rows of the tables of a page of HTML, mathematics between dollars, and whether the first row is a header
    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[str, list[list[str]], bool]] = []
        self.captioned = ""
        self.into: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append((self.captioned, [], False))
            self.captioned = ""
        elif not self.tables and tag != "summary":
            return
        elif tag in ("caption", "summary"):
            self.into = []
        elif tag == "thead":
            caption, rows, _ = self.tables[-1]
            self.tables[-1] = (caption, rows, True)
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.into = []
        elif tag in ("strong", "b") and self.into is not None:
            self.into.append("**")
        elif tag == "br" and self.into is not None:
            self.into.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("strong", "b") and self.into is not None:
            self.into.append("**")
        if self.into is None or tag not in ("td", "th", "caption", "summary"):
            return
        text = " ".join("".join(self.into).split())
        self.into = None
        if tag in ("td", "th"):
            self.tables[-1][1][-1].append(text)
        elif tag == "summary":
            self.captioned = text
        else:
            _, rows, head = self.tables[-1]
            self.tables[-1] = (text, rows, head)

    def handle_data(self, data: str) -> None:
        if self.into is None:
            return
        for n, part in enumerate(re.split(r"\\\((.+?)\\\)", data)):
            self.into.append(
                f"${part}$" if n % 2 else re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", part)
            )


def tables_in_myst(html: str) -> str:
    r"""Return the tables of a piece of HTML in MyST, for builders that read no HTML.

    Example:
        >>> print(tables_in_myst(r"<table><tr><td>\(x\) holds</td><td>a_b</td></tr></table>"))
        ```{list-table}
        * - $x$ holds
          - a\_b
        ```
    """
    found = _Tables()
    found.feed(html)
    blocks = []
    for caption, rows, head in found.tables:
        whole = [row for row in rows if len(row) == len(rows[0])]
        if whole and whole[0]:
            header, body = (whole[0], whole[1:]) if head else ((), whole)
            blocks += [caption] if caption else []
            blocks.append(list_table(header, body))
    return "\n\n".join(blocks)
