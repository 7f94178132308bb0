"""The built pages: they are there, they say what they should, and they ask for nothing outside their folder."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from tests.chapters import states_claims

from faultlines.book.scoreboard import toc_pages
from faultlines.notebook.project import Project

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"

SENTENCES = {
    "intro": "when something small is perturbed?",
    "methods": "A theorem is checked differently.",
    "references": "A new local Lipschitz bound for transformers",
    "library/index": "The chapters stand on a tested library",
}


PAGES = toc_pages(Project(ROOT, ROOT / "lib" / "faultlines"))
MODULES = [page for page in PAGES if page.startswith("library/") and page.count("/") > 1]
CHAPTERS = [page for page in PAGES if page.startswith(("chapters/", "results/"))]
CLAIMING = [page for page in CHAPTERS if states_claims(page)]


@pytest.fixture(scope="module")
def html() -> Path:
    if (HTML / "intro.html").is_file():
        return HTML
    if os.environ.get("FAULTLINES_REQUIRE_BROWSER"):
        pytest.fail("no built book: _build/html/intro.html is missing")
    pytest.skip("no built book: `make book` writes _build/html")


class Sources(HTMLParser):
    """Collects what a page makes the browser fetch by itself; a link to click is not among it."""

    FETCHED = ("script", "img", "iframe", "source", "video", "embed")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in self.FETCHED:
            self.found.append(given.get("src", ""))
        if tag == "link" and not {"canonical", "license"} & set(given.get("rel", "").split()):
            self.found.append(given.get("href", ""))
        self.found += re.findall(r"url\(([^)]*)\)", given.get("style", ""))


def is_outside(address: str) -> bool:
    return bool(re.match(r"\s*['\"]?\s*(?:https?:)?//", address))


def text_of(page: str) -> str:
    """Return a page's own text, without tags and with blanks made one."""
    source = re.search(r"<article[^>]*>(.*?)</article>", page, re.DOTALL)
    assert source, "the page has no article"
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", source[1]))


@pytest.mark.parametrize("page", PAGES)
def test_each_page_of_the_table_of_contents_is_there(html: Path, page: str):
    text = text_of((html / f"{page}.html").read_text(encoding="utf-8"))
    assert len(text) > (100 if page in MODULES else 200), f"{page} is all but empty"
    if page in SENTENCES:
        assert SENTENCES[page].lower() in text.lower()
    if page.startswith("library/") and page != "library/index":
        room, _, module = page.removeprefix("library/").partition("/")
        assert f"faultlines.{room}" in text and module in text


@pytest.mark.parametrize("page", CLAIMING)
def test_each_chapter_has_a_ledger_with_verdicts(html: Path, page: str):
    source = (html / f"{page}.html").read_text(encoding="utf-8")
    ledger = re.search(r'<table[^>]*class="[^"]*\bfl-ledger\b.*?</table>', source, re.DOTALL)
    assert ledger, f"{page} has no ledger table"
    verdicts = re.findall(
        r'class="[^"]*\bverdict-(holds|fails|negligible|inconclusive|notrun)\b[^"]*"[^>]*>([^<]+)<', ledger[0]
    )
    assert verdicts, f"the ledger of {page} holds no verdict"
    for name, word in verdicts:
        assert re.sub(r"\W", "", word) == name, "a badge's word and its colour differ"


def test_the_front_page_has_the_picture_and_the_answers(html: Path):
    source = (html / "intro.html").read_text(encoding="utf-8")
    assert (
        len(re.findall(r'<span class="fl-mark fl-is-(?:holds|fails|negligible|inconclusive|notrun)"', source))
        >= 40
    )
    assert source.count('class="fl-evidence') == 6
    # the picture's numbers are for who cannot see it
    seen = re.sub(r'<figure class="fl-picture".*?</figure>', "", source, flags=re.DOTALL)
    assert len(re.findall(r"\d\.\d", text_of(seen))) < 50, "a wall of numbers"


@pytest.mark.parametrize("page", CLAIMING)
def test_a_chapter_has_the_picture_of_its_claims_above_its_parameters(html: Path, page: str):
    source = (html / f"{page}.html").read_text(encoding="utf-8")
    at = source.find('<figure class="fl-picture"')
    assert 0 < at < source.find("tag_parameters"), page
    assert source.count('<figure class="fl-picture"') == 1


def test_the_scoreboard_has_every_claim_of_every_run(html: Path):
    source = (html / "scoreboard.html").read_text(encoding="utf-8")
    table = re.search(r'<table[^>]*class="[^"]*\bfl-board\b.*?</table>', source, re.DOTALL)
    assert table
    index = json.loads((ROOT / "results" / "index.json").read_text(encoding="utf-8"))
    rows = sum(len(result["ledger"]) for result in index["results"] if result["provenance"]["run"] != "smoke")
    assert table[0].count("<tr") == rows + 1


def test_no_page_fetches_anything_from_outside(html: Path):
    outside = {
        f"{path.relative_to(html)}: {address}"
        for path in html.rglob("*.html")
        for address in Sources(path.read_text(encoding="utf-8", errors="replace")).found
        if is_outside(address)
    }
    assert not outside


def test_no_style_sheet_fetches_anything_from_outside(html: Path):
    outside = {
        f"{path.relative_to(html)}: {address}"
        for path in html.rglob("*.css")
        for address in re.findall(
            r"(?:url\(|@import\s+)\s*([^)\s;]+)", path.read_text(encoding="utf-8", errors="replace")
        )
        if is_outside(address)
    }
    assert not outside


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_offers_its_executed_notebook(html: Path, page: str):
    source = (html / f"{page}.html").read_text(encoding="utf-8")
    link = re.search(r'href="([^"]*_sources/[^"]*\.ipynb)"', source)
    assert link, f"{page} has no link to its notebook"
    notebook = ((html / page).parent / link[1]).resolve()
    assert '"outputs"' in notebook.read_text(encoding="utf-8")


def test_an_outside_source_would_be_found():
    page = (
        '<link rel="stylesheet" href="//fonts.example/a.css"><script src="https://cdn.example/x.js"></script>'
    )
    assert [is_outside(address) for address in Sources(page).found] == [True, True]
    assert not any(is_outside(address) for address in Sources('<img src="_images/a.png">').found)


def test_no_two_pages_have_the_same_title(html: Path):
    titles = [
        re.search(r"<title>(.*?)</title>", (html / f"{page}.html").read_text(encoding="utf-8"), re.DOTALL)[
            1
        ].strip()
        for page in PAGES
    ]
    assert len(set(titles)) == len(titles), sorted(t for t in titles if titles.count(t) > 1)


def test_a_run_on_real_data_is_a_page_below_its_chapter_with_a_name_of_its_own(html: Path):
    soup = BeautifulSoup((html / "methods.html").read_text(encoding="utf-8"), "html.parser")
    links = soup.select(".bd-sidebar-primary nav li > a")
    names = [" ".join(link.get_text().split()) for link in links]
    assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)
    for page in CHAPTERS:
        if not page.startswith("results/desk/"):
            continue
        [link] = [link for link in links if link["href"] == f"{page}.html"]
        above = link.find_parent("li").find_parent("li")
        assert above is not None and above.a["href"] == f"chapters/{page.rpartition('/')[2]}.html"
        assert "real data" in link.get_text()
        title = text_of((html / f"{page}.html").read_text(encoding="utf-8"))
        assert "on real data" in title[:120]


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("library/")])
def test_a_page_of_the_library_can_be_read_in_one_go(html: Path, page: str):
    assert len(text_of((html / f"{page}.html").read_text(encoding="utf-8")).split()) <= 2500


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_has_words_for_who_cannot_see_it(html: Path, page: str):
    soup = BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    for image in soup.select("article img"):
        alt = image.get("alt", "")
        assert len(alt) > 15 and ".png" not in alt, image.get("src")
