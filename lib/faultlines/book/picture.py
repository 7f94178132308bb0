"""The picture of all verdicts: a bar a chapter and run, as SVG for a light and a dark page."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, LEFT, RIGHT, ROW = 780, 270, 16, 26
ORDER = ("holds", "fails", "negligible", "inconclusive", "not run")
LIGHT = {
    "holds": "#2e8b57",
    "fails": "#c0392b",
    "negligible": "#6c63c9",
    "inconclusive": "#c9c4b8",
    "not run": "#ecebe6",
}
DARK = {
    "holds": "#3fae74",
    "fails": "#e06c5f",
    "negligible": "#8f88e8",
    "inconclusive": "#6b675e",
    "not run": "#3a3833",
}


@dataclass(frozen=True)
class Bar:
    """One run of one chapter.

    Attributes:
        label: What stands beside it.
        verdicts: The verdicts of its claims.
        stale: Whether it was made with code that has changed since.
    """

    label: str
    verdicts: Sequence[str]
    stale: bool = False


def verdict_picture(bars: Sequence[Bar], *, dark: bool = False) -> str:
    """Return the bars as SVG; counts stand in their parts, and words over the first bar's.

    Example:
        >>> svg = verdict_picture([Bar("a chapter", ["holds", "holds", "fails"])])
        >>> svg.count("<rect"), ">2<" in svg
        (4, True)
    """
    colours, ink = (DARK, "#e8e6e1") if dark else (LIGHT, "#22211f")
    most = max((len(bar.verdicts) for bar in bars), default=1)
    unit = (WIDTH - LEFT - RIGHT) / most
    seen = [verdict for verdict in ORDER if any(verdict in bar.verdicts for bar in bars)]
    height = 40 + ROW * len(bars) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' font-family="system-ui, sans-serif" font-size="13" fill="{ink}" role="img">',
        "<title>Verdicts of the published runs, by chapter</title>",
    ]
    x = float(LEFT)
    for verdict in seen:
        parts.append(f'<rect x="{x:.0f}" y="10" width="12" height="12" rx="2" fill="{colours[verdict]}"/>')
        parts.append(f'<text x="{x + 17:.0f}" y="20.5">{verdict}</text>')
        x += 17 + 7.2 * len(verdict) + 18
    for n, bar in enumerate(bars):
        y, x = 40 + ROW * n, float(LEFT)
        label = html.escape(bar.label) + (" *" if bar.stale else "")
        parts.append(f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{label}</text>')
        counts = Counter(bar.verdicts)
        for verdict in seen:
            if not (count := counts[verdict]):
                continue
            width = count * unit
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width - 1.5:.1f}" height="19" rx="2" fill="{colours[verdict]}"/>'
            )
            if width > 16:
                on = "#ffffff" if verdict in ("holds", "fails", "negligible") else ink
                parts.append(
                    f'<text x="{x + width / 2:.1f}" y="{y + 14}" text-anchor="middle" fill="{on}">{count}</text>'
                )
            x += width
    return "\n".join([*parts, "</svg>"]) + "\n"
