"""What a chapter glues is what the page says, to the last zero."""

from __future__ import annotations

import nbformat
import pytest
from myst_nb.core.variables import format_plain_text

from faultlines.book.glued import keep_as_said

KIND = "application/papermill.record/text/plain"
SAID = [
    "1,000",
    "12,345,678",
    "0.80",
    "-0.10",
    "2.0e+24",
    "+0.017",
    "7",
    "0.5",
    "holds",
    "",
    "1e-3 [0, 1]",
    "0.003",
    "(1, 0)",
    "None",
]


def page(text: str) -> nbformat.NotebookNode:
    output = nbformat.v4.new_output(
        "display_data", data={KIND: text}, metadata={"scrapbook": {"name": "number"}}
    )
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("glue()", outputs=[output])])


@pytest.mark.parametrize("text", SAID)
def test_myst_nb_shows_what_was_said(text: str) -> None:
    staged = page(text)
    keep_as_said(staged)
    assert format_plain_text(staged.cells[0].outputs[0].data[KIND], "") == text


def test_without_it_a_number_with_a_comma_is_a_pair() -> None:
    assert format_plain_text("1,000", "") == "(1, 0)"


def test_a_string_in_quotes_and_what_is_not_glued_stay() -> None:
    staged = page("'1,000'")
    staged.cells[0].outputs.append(nbformat.v4.new_output("display_data", data={"text/plain": "1,000"}))
    staged.cells.append(nbformat.v4.new_markdown_cell("1,000"))
    keep_as_said(staged)
    assert staged.cells[0].outputs[0].data[KIND] == "'1,000'"
    assert staged.cells[0].outputs[1].data["text/plain"] == "1,000"
