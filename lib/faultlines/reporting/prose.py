"""Numbers for the prose: computed in a cell, read in a sentence by myst-nb's `glue` role, never typed."""

from __future__ import annotations

from collections.abc import Mapping

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


def glue_numbers(spec: str = ".3g", /, **numbers: float | Interval) -> None:
    """Make numbers available to the prose of the page, formatted.

    Args:
        spec: Format of every number, and of all three numbers of an interval.
        **numbers: Values by name.

    Example:
        >>> glue_numbers(".2f", accuracy=0.951)  # in the text: {glue:text}`accuracy`
    """
    glue_texts({name: format(value, spec) for name, value in numbers.items()})
