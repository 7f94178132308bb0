"""Numbers for the prose: computed in a cell, read in a sentence by myst-nb's `glue` role, never typed."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

from faultlines.reporting.intervals import Interval


class _Plain:
    # glue stores what a value displays as: this displays as the bare text, without a string's quotes
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def glue_texts(texts: Mapping[str, str]) -> None:
    r"""Make texts available to the page as ``{glue:text}`name` ``; outside a notebook this does nothing."""
    from IPython.core.getipython import get_ipython

    if get_ipython() is None:
        return
    from myst_nb import glue

    for name, text in texts.items():
        glue(name, _Plain(text), display=False)


def glue_numbers(spec: str = "", /, **numbers: float | Interval) -> None:
    """Make numbers available to the prose of the page, formatted.

    Args:
        spec: Format of every number, and of all three numbers of an interval. By default a whole number is
            written out (60,000) and any other has three significant digits.
        **numbers: Values by name.

    Example:
        >>> glue_numbers(".2f", accuracy=0.951)  # in the text: {glue:text}`accuracy`
    """
    glue_texts({name: said(value, spec) for name, value in numbers.items()})


def said(value: float | Interval, spec: str = "") -> str:
    """Return a number as the prose says it; see `glue_numbers`.

    Example:
        >>> said(60000), said(0.12345), said(0.5, ".0%")
        ('60,000', '0.123', '50%')
    """
    default = ",d" if isinstance(value, Integral) and not isinstance(value, bool) else ".3g"
    return format(value, spec or default)
