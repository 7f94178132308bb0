"""How cost grows with size, from what `benchmarks.scaling` measured: a figure of small panels, and a table."""

from __future__ import annotations

import hashlib
import io
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from faultlines.book.myst import list_table
from faultlines.notebook.project import Project

GROWTH = ("What", "Sizes", "Time grows as", "Theory", "Memory grows as", "Theory", "At the largest", "How")
PICTURE = "scaling.png"
COLUMNS, HEIGHT = 3, 1.75
DOTS = 200
LEAST = 3
"""Sizes below which nothing is drawn or fitted."""

RECIPE = "1"
"""Changes with the look of the figure, so that one drawn before is not taken for it."""

NOT_YET = "Nothing was measured yet: `python -m benchmarks --write scaling` does it.\n"
CAPTION = (
    "Time (blue circles) and peak memory beyond inputs (orange squares) against size, both on logarithmic axes and as "
    "shares of what the largest size took. Dashed lines go up as theory says, through the last point."
)


@dataclass(frozen=True)
class Growing:
    """One thing that was measured at several sizes.

    Attributes:
        what: Its name.
        rows: The row of its time and, where it was measured, that of its memory, by kind.
    """

    what: str
    rows: Mapping[str, Mapping[str, Any]]


def grows(found: Mapping[str, Any]) -> bool:
    """Return whether what a benchmark found are costs at several sizes, and not ratios."""
    return any("points" in row for row in found["rows"])


def growing(found: Mapping[str, Any]) -> Iterator[Growing]:
    """Yield what was measured, its rows of time and memory together."""
    by_name: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in found["rows"]:
        by_name.setdefault(row["points"]["what"], {})[row["points"]["kind"]] = row
    for what, rows in by_name.items():
        yield Growing(what, rows)


def scaling_page(project: Project) -> str:
    """Return figure and table in MyST, or a sentence where nothing was measured; the picture lies beside the page."""
    path = project.root / "results" / "benchmarks.json"
    everything = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = everything.get("scaling")
    if found is None:
        return NOT_YET
    everything_there = list(growing(found))
    things = [thing for thing in everything_there if len(thing.rows["time"]["points"]["size"]) >= LEAST]
    if not things:
        return NOT_YET
    _keep_picture(project.root / "_generated" / PICTURE, things)
    head = f"**{found['title']}** (`benchmarks.scaling`, {found['measured'][:10]}, {found['machine']})"
    figure = "\n".join([
        f"```{{figure}} _generated/{PICTURE}", "---", "name: fig-scaling", f"alt: {json.dumps(_alt(things))}",
        "width: 100%", "---", CAPTION, "```",
    ])  # fmt: skip
    table = list_table(GROWTH, [_cells(thing) for thing in things], style="fl-table")
    left = [thing.what for thing in everything_there if thing not in things]
    said = f"\n\nNot measured in this run, at fewer than {LEAST} sizes: {'; '.join(left)}." if left else ""
    return f"{head}\n\n{figure}\n\n{table}{said}\n"


def _cells(thing: Growing) -> tuple[str, ...]:
    time, memory = thing.rows["time"], thing.rows.get("memory")
    points = time["points"]
    sizes = f"{points['size'][0]:,} to {points['size'][-1]:,} {points['unit']}"
    largest = _seconds(points["cost"][-1])
    if memory is not None:
        largest += f", {memory['points']['cost'][-1]:,.0f} MiB"
    return (
        thing.what,
        sizes,
        _exponent(time),
        f"{points['theory']:.2f}",
        "not measured" if memory is None else _exponent(memory),
        "" if memory is None else f"{memory['points']['theory']:.2f}",
        largest,
        (time["note"] or "–").replace("<=", "≤"),
    )


def _exponent(row: Mapping[str, Any]) -> str:
    if row["ratio"] is None:
        return "too little to tell" if row["ok"] else "not told"
    return f"**{row['ratio']:.2f}**, above" if row["ok"] is False else f"{row['ratio']:.2f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _alt(things: Sequence[Growing]) -> str:
    above = [row["name"] for thing in things for row in thing.rows.values() if row["ok"] is False]
    said = f"all fits but {'; '.join(above)} are" if above else "all fits are"
    return (
        f"{len(things)} panels with logarithmic axes, one a thing that was measured; time and memory go up with size "
        f"in lines that are nearly straight, and {said} within 0.15 of theory or below it."
    )


# the picture


def _keep_picture(path: Path, things: Sequence[Growing]) -> None:
    # drawing takes seconds, so a picture says what it was drawn from
    drawn_from = json.dumps([RECIPE, *(dict(thing.rows) for thing in things)], sort_keys=True)
    seal = hashlib.sha256(drawn_from.encode()).hexdigest()
    if path.is_file():
        with Image.open(path) as image:
            if image.info.get("Description") == seal:
                return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(draw(things, seal))


def draw(things: Sequence[Growing], seal: str = "") -> bytes:
    """Return the figure as PNG on white; the pages' own dark one is made from it.

    Args:
        things: One panel each.
        seal: What the file says it was drawn from.
    """
    import matplotlib

    with matplotlib.rc_context():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        from faultlines.reporting.figures import COLUMN, PALETTE, STYLE

        settings: dict[Any, Any] = STYLE
        matplotlib.rcParams.update(settings)
        rows = -(-len(things) // COLUMNS)
        figure = Figure(figsize=(COLUMN, HEIGHT * rows))
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
        looks = {"time": ("o-", PALETTE["blue"]), "memory": ("s-", PALETTE["orange"])}
        for ax, thing in zip(axes, things, strict=False):
            for kind, row in thing.rows.items():
                points = row["points"]
                size, cost, last = points["size"], points["cost"], points["cost"][-1] or 1.0
                style, colour = looks[kind]
                share = [value / last if value else float("nan") for value in cost]
                theory = [(n / size[-1]) ** points["theory"] for n in size]
                ax.loglog(size, theory, color=colour, linewidth=0.9, linestyle="--")
                ax.loglog(size, share, style, color=colour, linewidth=1.4, markersize=4)
            ax.set_title(textwrap.fill(thing.what, 26), fontsize=9)
            ax.set_xlabel(thing.rows["time"]["points"]["unit"], fontsize=9)
            ax.tick_params(labelsize=8)
            ax.minorticks_off()
        for ax in axes[len(things) :]:
            ax.set_axis_off()
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=DOTS, metadata={"Description": seal, "Software": None})
        return out.getvalue()
