from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from faultlines.book.finish import finish_pages, finished, stacked

HEAD = "<thead><tr><th>claim</th><th>\\(\\kappa\\)</th><th></th></tr></thead>"
BODY = "<tbody><tr><td>C1</td><td>3 &lt; 4</td><td><b>holds</b></td></tr></tbody>"


def test_each_cell_says_of_which_column_it_is():
    table = BeautifulSoup(stacked(f'<table class="fl-ledger">{HEAD}{BODY}</table>'), "html.parser")
    first, second, third = table.find_all("td")
    assert first["data-label"] == "claim" and first.find(class_="fl-cell").get_text() == "C1"
    label = second.find(class_="fl-label")  # mathematics is set, which an attribute cannot be
    assert label.get_text() == "\\(\\kappa\\)" and label["aria-hidden"] == "true"
    assert not third.has_attr("data-label") and third.b.get_text() == "holds"
    assert {"fl-ledger", "fl-stack"} == set(table.table["class"])


def test_a_stacked_table_is_still_a_table_to_who_hears_it():
    table = BeautifulSoup(stacked(f"<table>{HEAD}{BODY}</table>"), "html.parser")
    roles = [tag["role"] for tag in table.find_all(role=True)]
    assert roles == ["table", "rowgroup", "row", *["columnheader"] * 3, "rowgroup", "row", *["cell"] * 3]
    assert all(name["scope"] == "col" for name in table.find_all("th"))


@pytest.mark.parametrize("style", ["indextable", "highlighttable"])
def test_a_table_that_only_arranges_is_left_alone(style: str):
    table = f'<table class="{style}"><tr><td>1</td></tr></table>'
    assert stacked(table) == table


def test_text_stays_the_text_it_was():
    again = stacked(f"<table>{HEAD}{BODY}</table>")
    assert "3 &lt; 4" in again and BeautifulSoup(again, "html.parser").get_text().count("3 < 4") == 1


def test_what_the_theme_loads_twice_is_loaded_once():
    page = (
        '<meta name="viewport" content="a" /><meta name="viewport" content="b" />'
        '<link rel="preload" as="font" href="x/fa-solid-900.woff2" />\n'
        '<link rel="preload" as="font" href="x/fa-brands-400.woff2" />\n'
        '<script src="_static/vendor/fontawesome/6/js/all.min.js?digest=1"></script>'
    )
    found = finished(page, lambda name: None)
    assert found.count("viewport") == 1 and "solid" in found
    assert "brands" not in found and "all.min.js" not in found


def test_code_keeps_its_text_and_its_colours():
    code = (
        '<span class="n">x</span> <span class="o">=</span><span class="w"> </span><span class="mi">1</span>'
    )
    assert finished(code, lambda name: None) == 'x <span class="o">=</span> <span class="mi">1</span>'


@pytest.mark.parametrize("content", ["", '<div class="sd-card">'])
def test_cards_come_with_their_style_only(content: str):
    style = '<link rel="stylesheet" href="_static/sphinx-design.min.css?v=1" />'
    script = '<script src="_static/design-tabs.js?v=1"></script>'
    assert finished(f"{style}{script}<p>{content}", lambda name: None).startswith("<link") == bool(content)


def test_a_figure_is_there_for_both_themes_and_once_more_changes_nothing(tmp_path: Path):
    picture = tmp_path / "_images" / "bars.png"
    picture.parent.mkdir()
    values = np.full((60, 90, 3), 255, dtype=np.uint8)
    values[20:30, 10:70] = 0
    Image.fromarray(values).save(picture)
    page = tmp_path / "chapters" / "a.html"
    page.parent.mkdir()
    page.write_text('<img alt="two bars" class="fl-full" src="../_images/bars.png" style="width: 45px"/>')
    finish_pages(tmp_path, ["chapters/a", "search"], tmp_path / "store")
    light, dark = BeautifulSoup(page.read_text(), "html.parser").find_all("img")
    for image, theme in ((light, "only-light"), (dark, "only-dark")):
        assert image["class"] == ["fl-full", theme] and image["alt"] == "two bars"
        assert (image["width"], image["height"], image["loading"]) == ("90", "60", "lazy")
        assert (page.parent / image["src"]).is_file()
    with Image.open(io.BytesIO((page.parent / dark["src"]).read_bytes())) as image:
        assert image.convert("RGBA").getpixel((0, 0))[3] == 0
        assert min(image.convert("RGBA").getpixel((20, 25))[:3]) > 200
    written = page.read_text()
    finish_pages(tmp_path, ["chapters/a"], tmp_path / "store")
    assert page.read_text() == written


def test_a_picture_that_is_not_there_is_left_alone():
    page = '<img alt="gone" src="_images/gone.png"/>'
    assert finished(page, lambda name: None) == page
