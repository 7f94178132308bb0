"""Sentences that carry results: computed values are quoted in a cell, and a text that names them is said in another.

    quote_numbers(".2f", accuracy=0.951)
    say("The network has {{accuracy}} of the images right.")

What is said is an output of its cell, so that a notebook reads the same in the book, on GitHub and anywhere else. A
text may name what a later cell quotes: it is completed there.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from numbers import Integral
from typing import Any

from faultlines.reporting.intervals import Interval

NAME = re.compile(r"\{\{\s*([\w-]+)\s*\}\}")
MARKS = {"holds": "✔", "fails": "✘", "negligible": "≈", "inconclusive": "?", "not run": "–"}
COLOURS = {
    "holds": "#1a7f37", "fails": "#b3261e", "negligible": "#5b5bd6", "inconclusive": "#8a6100", "not run": "#6e6e6e",
}  # fmt: skip

quoted: dict[str, str] = {}
"""Everything that this process has quoted, by name."""

places: dict[str, bool] = {}
"""Places that are kept for figures (`figures.place_figure`), and whether each is filled."""

_waiting: dict[str, str] = {}  # display id -> text whose names are not all quoted yet


def badge(verdict: str) -> str:
    """Return a verdict as a word with a mark, and a colour where the viewer shows one.

    Example:
        >>> badge("holds")
        '<span class="verdict verdict-holds" style="color: #1a7f37">✔ holds</span>'
    """
    kind = re.sub(r"\W", "", verdict)
    word = html.escape(verdict)
    mark = f"{MARKS[verdict]} " if verdict in MARKS else ""
    return f'<span class="verdict verdict-{kind}" style="color: {COLOURS.get(verdict, "inherit")}">{mark}{word}</span>'


def quote_texts(texts: Mapping[str, str]) -> None:
    """Make texts available to `say`, by name.

    Raises:
        ValueError: If a name is not made of letters, digits, _ and -.

    Example:
        >>> quote_texts({"best": "cosine"})
        >>> render("Best is {{best}}, then {{next}}.", quoted)
        'Best is cosine, then ….'
    """
    for name, text in texts.items():
        if not NAME.fullmatch("{{" + name + "}}"):
            raise ValueError(f"name={name!r} must be made of letters, digits, _ and -")
        quoted[name] = str(text)
    for handle, text in list(_waiting.items()):
        if not missing(text, quoted):
            del _waiting[handle]
            _show(text, handle, update=True)


def quote_numbers(spec: str = "", /, **numbers: float | Interval) -> None:
    """Make numbers available to `say`, formatted.

    Args:
        spec: Format of every number, and of all three numbers of an interval. By default a whole number is
            written out (60,000) and any other has three significant digits.
        **numbers: Values by name.

    Example:
        >>> quote_numbers(".2f", accuracy=0.951)
        >>> render("{{accuracy}} of them", quoted)
        '0.95 of them'
    """
    quote_texts({name: said(value, spec) for name, value in numbers.items()})


def said(value: float | Interval, spec: str = "") -> str:
    """Return a number as the prose says it; see `quote_numbers`.

    Example:
        >>> said(60000), said(0.12345), said(0.5, ".0%")
        ('60,000', '0.123', '50%')
    """
    default = ",d" if isinstance(value, Integral) and not isinstance(value, bool) else ".3g"
    return format(value, spec or default)


def missing(text: str, values: Mapping[str, str]) -> list[str]:
    """Return the names in a text that have no value."""
    return [name for name in dict.fromkeys(NAME.findall(text)) if name not in values]


def render(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its names replaced by their values; a name without one becomes an ellipsis.

    Example:
        >>> render("{{n}} images, {{later}}", {"n": "60,000"})
        '60,000 images, …'
    """
    return NAME.sub(lambda found: values.get(found[1], "…"), text.strip("\n"))


def bundle(text: str, values: Mapping[str, str]) -> dict[str, str]:
    """Return what `say` displays, by mime type."""
    shown = render(text, values)
    return {"text/markdown": shown, "text/plain": re.sub(r"</?span[^>]*>", "", shown)}


def say(text: str) -> None:
    """Show a Markdown text in which `{{name}}` stands for what has been, or will be, quoted under that name.

    Outside a notebook the text is printed.
    """
    from IPython.core.getipython import get_ipython

    if get_ipython() is None:
        print(bundle(text, quoted)["text/plain"])
        return
    handle = f"said-{len(_handles)}"
    _handles.append(handle)
    if missing(text, quoted):
        _waiting[handle] = text
    _show(text, handle, update=False)


_handles: list[str] = []


def forget() -> None:
    """Forget everything that was quoted and said, as at the start of a notebook."""
    for kept in (quoted, places, _waiting, _handles):
        kept.clear()


def _show(text: str, handle: str, *, update: bool) -> None:
    from IPython.display import publish_display_data

    options: dict[str, Any] = {"transient": {"display_id": handle}, "update": update}
    publish_display_data(bundle(text, quoted), **options)


def open_names() -> list[str]:
    """Return the names that have been said and not been quoted."""
    return sorted({name for text in _waiting.values() for name in missing(text, quoted)})
