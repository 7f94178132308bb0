"""The picture of the primary claims: what it draws is what the ledgers say, in both forms."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faultlines.book.picture import (
    LIMIT,
    WIDE,
    Group,
    Line,
    Mark,
    interval,
    picture_html,
    picture_svg,
    place,
    scaled,
)
from faultlines.book.publish import PICTURES
from faultlines.book.scoreboard import Board, read_board
from faultlines.notebook.project import Project
from faultlines.notebook.runs import Runs

ROOT = Path(__file__).resolve().parents[2]
PROJECT = Project(ROOT, ROOT / "lib" / "faultlines")

RULE: dict[str, Any] = {
    "claim": "C1", "direction": "above", "threshold": 0.0, "smallest": 0.1, "verdict": "holds", "n": 9, "note": "",
    "ours": "0.3 [0.2, 0.4]", "estimate": 0.3, "low": 0.2, "high": 0.4, "fragile": False, "primary": True,
}  # fmt: skip


def one(**changed: Any) -> Mark:
    return Mark("default", RULE | changed)


def group(*marks: Mark, **changed: Any) -> Group:
    said = {
        "name": "toy",
        "title": "Toy",
        "href": "chapters/toy.html",
        "data": "small data: digits",
    } | changed
    return Group(lines=[Line("C1", "It is so", marks)], **said)


@pytest.mark.parametrize(
    ("row", "drawn"),
    [
        ({}, (2.0, 3.0, 4.0)),
        ({"direction": "below"}, (-4.0, -3.0, -2.0)),
        ({"threshold": 0.5}, (-3.0, -2.0, -1.0)),
        ({"direction": "below", "threshold": 0.5, "smallest": 0.2}, (0.5, 1.0, 1.5)),
        ({"low": None}, (-math.inf, 3.0, 4.0)),
        ({"high": None, "direction": "below"}, (-math.inf, -3.0, -2.0)),
        ({"smallest": None}, None),
        ({"estimate": None, "low": None, "high": None, "verdict": "not run"}, None),
    ],
)
def test_an_interval_stands_in_units_of_the_smallest_effect(row: dict[str, Any], drawn: object) -> None:
    assert interval(one(**row)) == drawn


def test_the_axis_is_symmetric_grows_and_ends() -> None:
    values = [-math.inf, -LIMIT, -3, -1, 0, 1, 3, LIMIT, math.inf]
    places = [place(value) for value in values]
    assert places == sorted(places) and places[0] == 0 and places[-1] == 1
    assert all(math.isclose(a + b, 1) for a, b in zip(places, reversed(places), strict=True))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "✔ holds"),
        ({"verdict": "fails", "fragile": True}, "✘ fails, fragile"),
        ({"verdict": "negligible"}, "≈ negligible"),
        ({"verdict": "inconclusive"}, "? inconclusive"),
        ({"verdict": "not run", "n": 0, "estimate": None, "note": "for want of <data>"}, "– not run"),
        ({"smallest": None, "n": 60028}, "theorem: held in all of 60,028 cases"),
        ({"smallest": None, "verdict": "fails"}, "theorem: violated in 9 cases"),
    ],
)
def test_a_verdict_is_a_word_in_both_forms(row: dict[str, Any], words: str) -> None:
    html = picture_html([group(one(**row))])
    assert words in html and f"fl-is-{(RULE | row)['verdict'].replace(' ', '')}" in html
    for how in PICTURES.values():
        svg = picture_svg([group(one(**row))], **how)
        ElementTree.fromstring(svg)
        assert words in svg


def test_every_verdict_has_a_shape_of_its_own_that_needs_no_colour() -> None:
    shapes = set()
    for verdict in ("holds", "fails", "negligible", "inconclusive"):
        svg = picture_svg([group(one(verdict=verdict))])
        shapes.add(re.search(r"<g transform=[^>]*>(.*?)</g>", svg)[1])
    assert len(shapes) == 4


def test_runs_are_told_apart_and_a_stale_one_is_marked() -> None:
    both = group(Mark("desk", RULE, stale=True, href="results/desk/toy.html#desk-fig"), one())
    html = picture_html([both], "../")
    assert re.findall(r'class="fl-of">(\w+)<', html) == ["real", "small"]
    assert "✔ holds, stale" in html and 'href="../results/desk/toy.html#desk-fig"' in html
    assert "fl-of" not in picture_html([group(one())])
    assert ">real<" in picture_svg([both]) and ">real<" not in picture_svg([group(one())])


def test_the_papers_number_stands_on_the_same_axis() -> None:
    html = picture_html([group(replace(one(), reported=0.25))])
    assert f"left:{100 * place(2.5):.2f}%" in html and "the paper's own number" in html
    assert "the paper's own number" not in picture_html([group(one())])


def test_labels_are_text_and_break_nothing() -> None:
    odd = group(one(), title="A & <b>")
    assert "A &amp; &lt;b&gt;" in picture_html([odd]) and "\n\n" not in picture_html([odd])
    ElementTree.fromstring(picture_svg([odd]))


def test_a_narrow_picture_is_as_wide_as_a_phone() -> None:
    label = "The longest label that answers.yml may have...."
    svg = ElementTree.fromstring(
        picture_svg([replace(group(one()), lines=[Line("C1", label, [one()])])], narrow=True)
    )
    assert svg.get("width") == "390"
    assert max(float(text.get("x")) for text in svg.iter() if text.tag.endswith("text")) < 390


# what is published


@pytest.fixture(scope="module")
def board() -> Board:
    return read_board(PROJECT, Runs.load(PROJECT), published=True)


def test_no_number_of_the_picture_differs_from_the_ledger(board: Board) -> None:
    rows = {
        (chapter.chapter.name, claim, run): cell.row
        for chapter in board.chapters
        for claim, cells in chapter.claims.items()
        for run, cell in cells.items()
        if cell.row.get("primary")
    }
    seen = {}
    for chapter in board.groups():
        html = picture_html([chapter])
        for tag, inside in re.findall(
            r'<span class="fl-mark([^>]*)>(.*?)</span><span class="visually-hidden">', html
        ):
            said = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
            row = rows[chapter.name, said["data-claim"], said["data-run"]]
            seen[chapter.name, said["data-claim"], said["data-run"]] = row
            assert f" {row['verdict']}" in inside
            if row["smallest"] is None or row["estimate"] is None:
                assert "data-low" not in said and "fl-bar" not in inside
                continue
            sign = 1 if row["direction"] == "above" else -1
            unit = [
                sign * (row[end] - row["threshold"]) / row["smallest"] for end in ("low", "estimate", "high")
            ]
            unit = unit[::sign]
            drawn = [float(said[f"data-{end}"]) for end in ("low", "estimate", "high")]
            assert drawn == pytest.approx(unit, rel=1e-5)
            assert row["ours"] in said["title"] and f"n = {row['n']:,}" in said["title"]
            left, width = map(
                float, re.search(r'fl-bar" style="left:([\d.]+)%;width:([\d.]+)%', inside).groups()
            )
            assert left == pytest.approx(100 * place(unit[0]), abs=0.01)
            assert left + width == pytest.approx(100 * place(unit[2]), abs=0.02)
    assert seen == rows


def test_the_svg_draws_the_same_intervals(board: Board) -> None:
    groups = board.groups()
    drawn = [
        tuple(map(float, ends)) for ends in re.findall(r'd="M([\d.]+) [\d.]+H([\d.]+)"', picture_svg(groups))
    ]
    low, high = WIDE.strip
    found = [interval(mark) for group in groups for line in group.lines for mark in line.marks]
    wanted = [tuple(low + (high - low) * place(each[n]) for n in (0, 2)) for each in found if each]
    assert len(drawn) == len(wanted)
    assert all(pair == pytest.approx(want, abs=0.06) for pair, want in zip(drawn, wanted, strict=True))


def test_the_published_picture_is_one_that_people_can_take_in(board: Board) -> None:
    lines = [line for group in board.groups() for line in group.lines]
    assert 0 < len(lines) <= 48
    for line in lines:
        assert len(line.label) <= 48 and "$" not in line.label, line
    for chapter in board.chapters:  # each primary claim has a label, and no label is of nothing
        assert chapter.said and set(chapter.said.claims) == set(chapter.primary), chapter.chapter.name
    for name in PICTURES:
        assert (ROOT / "_static" / name).stat().st_size < 60_000


def test_the_front_page_counts_each_primary_claim_once(checkout: Project, put: Callable[..., Path]) -> None:
    settled = RULE | {"statement": "s", "paper": "p", "test": "t", "method": "m", "cost_s": 1.0, "figure": ""}
    put(
        ledger=[
            settled,
            settled | {"claim": "C2", "verdict": "fails"},
            settled | {"claim": "C3", "primary": False},
        ]
    )
    put("desk", ledger=[settled | {"verdict": "inconclusive"}])
    board = read_board(checkout, Runs.load(checkout))
    assert board.counts() == {"inconclusive": 1, "fails": 1}  # the larger data decide
    said = re.sub("<[^>]+>", "", board.summary()).replace("\u00a0", " ")
    assert said == "Of 2 primary claims, ✘ 1 fails, ? 1 is not decided.\n"
    [toy] = board.groups()
    assert [(line.claim, [mark.run for mark in line.marks]) for line in toy.lines] == [
        ("C1", ["desk", "default"]),
        ("C2", ["default"]),
    ]


def test_scaled_refuses_nothing_that_a_ledger_can_hold() -> None:
    assert math.isnan(scaled(RULE, None))
