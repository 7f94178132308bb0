from __future__ import annotations

import pytest

from faultlines.book.reference import render_math


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("at $x$ and $y_1$.", "at :math:`x` and :math:`y_1`."),
        (r"norm $\lVert J \rVert_2 \le 1/2$", r"norm :math:`\lVert J \rVert_2 \le 1/2`"),
        ("the $k$th, $n$-vector", r"the :math:`k`\ th, :math:`n`-vector"),
        ("code `$x$` stays, ``$y$`` too", "code `$x$` stays, ``$y$`` too"),
        ("as ``{eq}`name` `` here", "as ``{eq}`name``` here"),
        ("one $ sign alone", "one $ sign alone"),
        ("between $ blanks $ is none", "between $ blanks $ is none"),
        (r"escaped \$5 and \$6", r"escaped \$5 and \$6"),
    ],
)
def test_inline(given: str, expected: str):
    assert render_math([given]) == [expected]


def test_inline_mathematics_may_cross_a_line_break():
    assert render_math(["with $a +", "b$ here"]) == ["with :math:`a +", "b` here"]


def test_it_never_crosses_a_blank_line():
    assert render_math(["a $ here", "", "and a $ there"]) == ["a $ here", "", "and a $ there"]


def test_display():
    lines = render_math(["Text.", "", "$$", "a = b", "$$", "", "More $x$."])
    assert ".. math::" in lines
    assert "   a = b" in lines
    assert lines[-1] == "More :math:`x`."


def test_doctests_are_left_alone():
    lines = [">>> print('$x$ and `$y$`')", "$x$ and `$y$`"]
    assert render_math(lines) == lines


def test_a_markdown_table_becomes_a_list_table():
    lines = render_math(["    | name | bound |", "    |---|:--|", r"    | `a` | $\|x\| \le 1$ |"])
    assert lines == [
        "    .. list-table::",
        "       :header-rows: 1",
        "",
        "       * - name",
        "         - bound",
        "       * - `a`",
        "         - :math:`|x| \\le 1`",
    ]


def test_a_line_with_bars_is_no_table():
    lines = ["| a | b |", "| c | d |", "| e | f |"]
    assert render_math(lines) == lines
