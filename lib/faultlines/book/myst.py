"""Pieces of MyST that several generated pages hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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
    """Return a verdict in the colour that the style sheet gives it."""
    return f'<span class="verdict verdict-{verdict.replace(" ", "")}">{verdict}</span>'
