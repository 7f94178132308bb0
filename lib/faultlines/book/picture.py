"""The picture of all primary claims, from the ledgers: as HTML for pages of the book, as SVG for the README.

One row a claim and run. Intervals stand on one scale: the distance from the claim's threshold in units of its smallest
effect of interest, positive on the claimed side. So zero is the threshold, the band from -1 to 1 is what is too small
to matter, and an interval right of zero holds. The axis is the inverse hyperbolic sine, which is linear near zero and
logarithmic far from it: nothing is cut off below `LIMIT` units.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faultlines.reporting.prose import MARKS

LIMIT = 40.0
DATA = {"default": "small", "desk": "real"}
"""What the data of a run are called in one word; another run goes by its own name."""

INK = {
    "holds": "#00694d",
    "fails": "#a33c00",
    "negligible": "#4a45a8",
    "inconclusive": "#7a5200",
    "not run": "#4d5560",
}
INK_DARK = {
    "holds": "#4fd6ad", "fails": "#ff9b5c", "negligible": "#b3aefc", "inconclusive": "#f5c04d", "not run": "#b8c0ca",
}  # fmt: skip
SHAPES = {
    "holds": '<circle r="4.6" fill="currentColor" stroke="none"/>',
    "fails": '<path d="M-4-4L4 4M-4 4L4-4" fill="none" stroke-width="2.6"/>',
    "negligible": '<rect x="-3.9" y="-3.9" width="7.8" height="7.8" fill="currentColor" stroke="none"/>',
    "inconclusive": '<circle r="4" class="fl-hollow" stroke-width="1.8"/>',
    "paper": '<path d="M-5-8H5L0-1Z" class="fl-hollow" stroke-width="1.5"/>',
}
"""The mark of each verdict, around the origin; that of the paper's number points down at the bar."""


@dataclass(frozen=True)
class Mark:
    """One run of one claim.

    Attributes:
        run: The run.
        row: The row of its ledger.
        stale: Whether it was made with code that has changed since.
        href: Where the book shows it, from the book's root; empty where it does not.
        reported: The paper's own value in the claim's units, if one is known.
    """

    run: str
    row: Mapping[str, Any]
    stale: bool = False
    href: str = ""
    reported: float | None = None

    @property
    def data(self) -> str:
        """What its data are called."""
        return DATA.get(self.run, self.run)

    @property
    def verdict(self) -> str:
        """The verdict as a word, with what qualifies it."""
        more = [word for word, true in (("fragile", self.row.get("fragile")), ("stale", self.stale)) if true]
        return ", ".join([self.row["verdict"], *more])

    @property
    def instead(self) -> str:
        """What stands in the place of an interval, where there is none."""
        if self.row["verdict"] == "not run":
            return "not run"
        if self.row.get("smallest") is not None:
            return ""
        found = "held in all of" if self.row["verdict"] == "holds" else "violated in"
        return f"theorem: {found} {self.row['n']:,} cases"

    @property
    def numbers(self) -> str:
        """The row's numbers, in words."""
        if not self.row["n"]:
            return str(self.row["note"])
        small = self.row.get("smallest")
        rule = (
            ""
            if small is None
            else f"; smallest effect of interest {small:.3g}, threshold {self.row['threshold']:.3g}"
        )
        return f"{self.row['ours']}, n = {self.row['n']:,}{rule}"


@dataclass(frozen=True)
class Line:
    """One claim: its plain label, and a mark a run."""

    claim: str
    label: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Group:
    """One chapter: its title, where it is, what its data are, and its primary claims."""

    name: str
    title: str
    href: str
    data: str
    lines: Sequence[Line]


def scaled(row: Mapping[str, Any], value: float | None) -> float:
    """Return a value in units of the smallest effect of interest, signed so that the claimed side is positive.

    Args:
        row: The claim's row, with `threshold`, `direction` and `smallest`.
        value: A value in the claim's units; None is an end without a bound, and NaN is returned.

    Example:
        >>> scaled({"threshold": 1.0, "direction": "below", "smallest": 0.1}, 0.7)
        3.0
    """
    if value is None:
        return math.nan
    sign = 1 if row["direction"] == "above" else -1
    return round(sign * (value - row["threshold"]) / row["smallest"], 9)


def interval(mark: Mark) -> tuple[float, float, float] | None:
    """Return lower end, estimate and upper end on the common scale; None where a claim has no such interval."""
    row = mark.row
    if row.get("smallest") is None or row["estimate"] is None:
        return None
    low, high = scaled(row, row["low"]), scaled(row, row["high"])
    if row["direction"] == "below":
        low, high = high, low
    return (
        -math.inf if math.isnan(low) else low,
        scaled(row, row["estimate"]),
        math.inf if math.isnan(high) else high,
    )


def place(value: float) -> float:
    """Return where a value stands on the axis, from 0 (left) to 1 (right).

    Example:
        >>> place(0.0), place(-math.inf), place(math.inf)
        (0.5, 0.0, 1.0)
    """
    return 0.5 + 0.5 * math.asinh(max(-LIMIT, min(LIMIT, value))) / math.asinh(LIMIT)


# HTML: boxes placed by shares of their row's width, so that one piece serves every width and theme

CAPTION = (
    "Each row is one <em>primary claim</em>, written down with its test before any result. Its bar is the interval of "
    "the effect, in units of the <em>smallest effect of interest</em>, which was written down too. Right of the line "
    "the effect is as claimed, left of it the opposite, and inside the shaded band it is too small to matter. The "
    "scale is stretched around zero so that long bars fit."
)


def picture_html(groups: Sequence[Group], base: str = "", *, alone: bool = False) -> str:
    """Return the picture as a piece of HTML without an empty line.

    Args:
        groups: The chapters.
        base: What leads from the page to the book's root, `../` in a folder.
        alone: Whether the page is the chapter's own, whose title needs no repetition.
    """
    runs = dict.fromkeys(mark.run for group in groups for line in group.lines for mark in line.marks)
    parts = [
        '<figure class="fl-picture" role="group" aria-label="The primary claims and their verdicts">',
        _key(groups),
    ]
    for group in groups:
        name = group.title if alone else f'<a href="{base}{group.href}">{html.escape(group.title)}</a>'
        title = "" if alone else f"<strong>{name}</strong> "
        parts.append(f'<p class="fl-group">{title}<span class="fl-data">{html.escape(group.data)}</span></p>')
        parts.append('<p class="fl-axis" aria-hidden="true"><span>against</span><span>as claimed</span></p>')
        parts.append('<ul class="fl-lines">')
        parts += [_item(line, base, several=len(runs) > 1) for line in group.lines]
        parts.append("</ul>")
    more = '<a href="' + base + 'methods.html">Methods</a> says how a verdict follows.'
    parts.append(f"<figcaption>{CAPTION} {more}</figcaption></figure>")
    return "\n".join(parts)


def _knows_paper(groups: Sequence[Group]) -> bool:
    return any(mark.reported is not None for group in groups for line in group.lines for mark in line.marks)


def _key(groups: Sequence[Group]) -> str:
    seen = {mark.row["verdict"] for group in groups for line in group.lines for mark in line.marks}
    said = {
        "holds": "holds", "fails": "fails: the opposite", "negligible": "negligible: too small to matter",
        "inconclusive": "inconclusive", "not run": "not run",
    }  # fmt: skip
    items = [
        f'<li class="fl-is-{_kind(verdict)}">{_shape(verdict) or MARKS[verdict]} {words}</li>'
        for verdict, words in said.items()
        if verdict in seen
    ]
    if _knows_paper(groups):
        items.append(f"<li>{_shape('paper')} the paper's own number</li>")
    return f'<ul class="fl-key" aria-label="Verdicts">{"".join(items)}</ul>'


def _item(line: Line, base: str, *, several: bool) -> str:
    href = next((mark.href for mark in line.marks if mark.href), "")
    label = html.escape(line.label)
    name = f'<a href="{base}{href}">{label}</a>' if href else label
    marks = "".join(_mark(line, mark, several=several) for mark in line.marks)
    return f'<li><span class="fl-name" style="--fl-runs:{len(line.marks)}">{name}</span>{marks}</li>'


def _mark(line: Line, mark: Mark, *, several: bool) -> str:
    verdict, said = mark.row["verdict"], html.escape(mark.numbers, quote=True)
    data = f'<span class="fl-of">{html.escape(mark.data)}</span>' if several else ""
    word = f'<span class="fl-word">{MARKS.get(verdict, "")} {html.escape(mark.verdict)}</span>'
    found = interval(mark)
    if found is None:
        inside, numbers = f'<span class="fl-instead">{html.escape(mark.instead)}</span>', ""
    else:
        low, middle, high = found
        numbers = f' data-low="{low:g}" data-estimate="{middle:g}" data-high="{high:g}"'
        left, width = 100 * place(low), 100 * (place(high) - place(low))
        band, wide = 100 * place(-1), 100 * (place(1) - place(-1))
        inside = (
            f'<i class="fl-band" style="left:{band:.2f}%;width:{wide:.2f}%"></i><i class="fl-zero"></i>'
            f'<i class="fl-bar" style="left:{left:.2f}%;width:{width:.2f}%"></i>{_shape(verdict, middle)}'
        )
        if mark.reported is not None:
            inside += _shape("paper", scaled(mark.row, mark.reported))
    return (
        f'<span class="fl-mark fl-is-{_kind(verdict)}" data-claim="{html.escape(line.claim)}" data-run="{mark.run}"'
        f'{numbers} title="{said}">{data}<span class="fl-strip" aria-hidden="true">{inside}</span>{word}'
        f'<span class="visually-hidden">({said})</span></span>'
    )


def _shape(verdict: str, at: float | None = None) -> str:
    where = "" if at is None else f' style="left:{100 * place(at):.2f}%"'
    shape = SHAPES.get(verdict)
    return (
        f'<svg class="fl-shape" viewBox="-8 -8 16 16" aria-hidden="true"{where}>{shape}</svg>'
        if shape
        else ""
    )


def _kind(verdict: str) -> str:
    return verdict.replace(" ", "")


# SVG


@dataclass(frozen=True)
class Layout:
    """Where things stand: the label beside the marks, or above them on a narrow picture."""

    width: int
    label: int
    strip: tuple[int, int]
    word: int
    row: int
    above: bool


WIDE = Layout(width=860, label=8, strip=(362, 700), word=716, row=23, above=False)
NARROW = Layout(width=390, label=4, strip=(44, 262), word=272, row=23, above=True)


def picture_svg(groups: Sequence[Group], *, dark: bool = False, narrow: bool = False) -> str:
    """Return the picture as SVG for a light or dark page, 860 or 390 pixels wide; the verdicts are words and shapes.

    Example:
        >>> rule = {"direction": "above", "threshold": 0.0, "smallest": 0.1, "verdict": "holds", "n": 9}
        >>> mark = Mark("default", rule | {"estimate": 0.3, "low": 0.2, "high": 0.4})
        >>> svg = picture_svg([Group("toy", "Toy", "", "small: digits", [Line("C1", "It is so", [mark])])])
        >>> "It is so" in svg, "✔ holds" in svg
        (True, True)
    """
    colours, ink, faint, band, back = (
        (INK_DARK, "#e8e6e1", "#9aa3ad", "#3a4048", "#121212")
        if dark
        else (INK, "#22211f", "#5c646d", "#e6e8eb", "#ffffff")
    )
    at = NARROW if narrow else WIDE
    several = len({mark.run for group in groups for line in group.lines for mark in line.marks}) > 1
    y, parts = 8, list[str]()
    for group in groups:
        y = _head(parts, group, at, y, faint)
        top = y
        body: list[str] = []
        for line in group.lines:
            body.append(_text(at.label, y + 16, line.label))
            y += 20 if at.above else 0
            for mark in line.marks:
                _drawn(body, mark, at, y, colours, faint, several=several)
                y += at.row
            y += 6 if at.above else 0
        low, high = at.strip
        x = [low + (high - low) * place(value) for value in (-1, 0, 1)]
        parts.append(
            f'<rect x="{x[0]:.1f}" y="{top}" width="{x[2] - x[0]:.1f}" height="{y - top}" fill="{band}"/>'
        )
        parts.append(f'<path d="M{x[1]:.1f} {top}V{y}" stroke="{faint}"/>')
        parts += body
        y += 14
    key = [f"{MARKS[verdict]} {verdict}" for verdict in MARKS]
    title = "Every primary claim: its interval in units of the smallest effect of interest, and its verdict"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {at.width} {y}" width="{at.width}" height="{y}" '
        f'font-family="system-ui, -apple-system, \'Segoe UI\', sans-serif" font-size="13" fill="{ink}" '
        f'stroke-linecap="round" role="img">'
    )
    style = f"<style>.fl-hollow{{fill:{back}}}</style>"
    return "\n".join([head, f"<title>{title} ({', '.join(key)})</title>", style, *parts, "</svg>"]) + "\n"


def _head(parts: list[str], group: Group, at: Layout, y: int, faint: str) -> int:
    # the chapter's title with its data, and over the strips what left and right mean
    parts.append(_text(at.label, y + 14, group.title, ' font-weight="700"'))
    small = f' font-size="11" fill="{faint}"'
    parts.append(_text(at.label, y + 29, group.data, small))
    y += 20 if at.above else 0
    low, high = at.strip
    middle = (low + high) / 2
    parts.append(_text(middle - 12, y + 29, "◀ against", small + ' text-anchor="end"'))
    parts.append(_text(middle + 12, y + 29, "as claimed ▶", small))
    return y + 36


def _drawn(
    parts: list[str], mark: Mark, at: Layout, y: int, colours: Mapping[str, str], faint: str, *, several: bool
) -> None:
    verdict, middle = mark.row["verdict"], y + at.row / 2
    low, high = at.strip
    colour = colours[verdict]

    def x(value: float) -> float:
        return low + (high - low) * place(value)

    if several:
        parts.append(
            _text(low - 8, middle + 4, mark.data, f' font-size="11" fill="{faint}" text-anchor="end"')
        )
    found = interval(mark)
    if found is None:
        centre = (low + high) / 2
        parts.append(
            _text(centre, middle + 4, mark.instead, f' font-size="11" fill="{colour}" text-anchor="middle"')
        )
    else:
        parts.append(f'<g color="{colour}" stroke="{colour}">')
        parts.append(f'<path d="M{x(found[0]):.1f} {middle}H{x(found[2]):.1f}" stroke-width="3"/>')
        parts.append(f'<g transform="translate({x(found[1]):.1f} {middle})">{SHAPES[verdict]}</g>')
        if mark.reported is not None:
            paper = x(scaled(mark.row, mark.reported))
            parts.append(f'<g transform="translate({paper:.1f} {middle})">{SHAPES["paper"]}</g>')
        parts.append("</g>")
    parts.append(
        _text(
            at.word, middle + 4.5, f"{MARKS[verdict]} {mark.verdict}", f' fill="{colour}" font-weight="600"'
        )
    )


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.1f}"{more}>{html.escape(words)}</text>'
