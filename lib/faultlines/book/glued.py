"""Numbers of the prose as they were said: 1,000 and 0.80, not (1, 0) and 0.8."""

from __future__ import annotations

from ast import literal_eval

from nbformat import NotebookNode


def keep_as_said(page: NotebookNode) -> None:
    """Put quotes around what myst-nb would read as Python before it shows it, in place.

    It evaluates the text of every glued value, to take the quotes off strings. Of a number without quotes that takes
    the last zeros, and makes a pair of one with a comma.
    """
    for cell in page.cells:
        for output in cell.get("outputs", ()):
            if "scrapbook" not in output.get("metadata", {}):
                continue
            for kind, text in output.data.items():
                if kind.endswith("text/plain") and _another_when_read(text):
                    output.data[kind] = repr(text)


def _another_when_read(text: str) -> bool:
    try:
        read = literal_eval(text)
    except (SyntaxError, ValueError):
        return False
    return not isinstance(read, str) and str(read) != text
