from __future__ import annotations

from html.parser import HTMLParser

import pytest

from faultlines.reporting.prose import said
from faultlines.reporting.tables import Table


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def cell(text: object) -> str:
    page = Table(("a",), [(text,)]).html()
    return page.partition("<td>")[2].partition("</td>")[0]


@pytest.mark.parametrize("place", ["cell", "header", "caption", "badge"])
def test_no_text_becomes_a_tag_or_an_attribute(place: str) -> None:
    nasty = '"><script x="1">alert(1)</script><img src=x onerror=alert(1)> & \'" onload="x'
    table = {
        "cell": Table(("a",), [(nasty,)]),
        "header": Table((nasty,), [("a",)]),
        "caption": Table(("a",), [("b",)], caption=nasty),
        "badge": Table(("a",), [(Table.badge(nasty),)]),
    }[place]
    read = Tags(table.html())
    assert {tag for tag, _ in read.tags} <= {
        "div",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "span",
    }
    assert {name for _, attributes in read.tags for name in attributes} <= {"class", "scope", "style"}
    assert nasty in read.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("$x < y$", r"\(x &lt; y\)"),
        ("a **bold** word", "a <strong>bold</strong> word"),
        ("**bold $x$**", r"<strong>bold \(x\)</strong>"),
        ("**C1** from $a$ to $b$", r"<strong>C1</strong> from \(a\) to \(b\)"),
        ("$a**b$ and $c**d$", r"\(a**b\) and \(c**d\)"),
        (r"\$5 or \$6", "$5 or $6"),
        ("$5", "$5"),
        ("2 ** 3", "2 ** 3"),
        (0.5, "0.5"),
        (None, "None"),
        (
            Table.badge("not run"),
            '<span class="verdict verdict-notrun" style="color: #6e6e6e">– not run</span>',
        ),
    ],
)
def test_mathematics_and_bold_are_marked_up(text: object, shown: str) -> None:
    assert cell(text) == shown


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 cells; the header has 2"):
        Table(("a", "b"), [(1, 2), (3,)])


def test_a_notebook_gets_every_representation() -> None:
    bundle = Table(("a",), [(1,)], payload={"application/x": [1]})._repr_mimebundle_()
    assert bundle["text/plain"] == "a\n1"
    assert bundle["application/x"] == [1]
    assert bundle["text/html"].startswith("<div")


def test_numbers_in_prose() -> None:
    import numpy as np

    assert [said(v) for v in (60000, np.int64(1234), 0.00012345, 1234.5, 3)] == [
        "60,000", "1,234", "0.000123", "1.23e+03", "3",
    ]  # fmt: skip
    assert said(0.951, ".2f") == "0.95"
    assert said(7, ".1f") == "7.0"
