"""What is done to a page of HTML after Sphinx has written it: tables for a phone, figures for both themes, less weight.

A page is finished once, right after it was written; a page that a later build leaves alone stays as it is.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup, Tag
from PIL import Image

from faultlines.book import dark_figures

TABLE = re.compile(r"<table\b[^>]*>.*?</table>", re.DOTALL)
FIGURE = re.compile(r'<img\b[^>]*?\bsrc="(?P<source>[^"]*\b_images/(?P<name>[^"/]+)\.png)"[^>]*>')
NO_DATA = {"indextable", "highlighttable", "fl-board"}  # the scoreboard has cards of its own

# The theme draws its icons twice, by a font and by 1.4 MB of script; and it has no use for the marks of companies.
SECOND_ICONS = re.compile(r'\s*<script src="[^"]*fontawesome/[^"]*\.js[^"]*"></script>')
UNUSED_FONTS = re.compile(r'\s*<link rel="preload"[^>]*fa-(?:brands|regular)-400[^>]*>')
# a toggle of the sidebar is an icon without a name, behind the link to the page whose parts it shows
TOGGLE = re.compile(r'(<li class="toctree-[^>]*><a [^>]*>([^<]*)</a><details[^>]*>\s*<summary)>')
# a signature over several lines is a list of definitions without a term
SIGNATURE = re.compile(r"(<dt\b[^>]*\bclass=\"sig\b(?:(?!</dt>).)*?<dl)>(.*?)</dl>", re.DOTALL)
# Jupyter Book and the theme each say it, and once is enough
VIEWPORT = re.compile(r'\s*<meta name="viewport"[^>]*>')

# names, punctuation, blanks: half of a page's code, and of the colour of what has no class
UNCOLOURED = ("n", "nn", "p", "w")
UNCOLOURED_SPAN = re.compile(rf'<span class="(?:{"|".join(UNCOLOURED)})">([^<]*)</span>')
# cards, grids and tabs of sphinx-design, on a page that has none
DESIGN = re.compile(
    r"\s*<(?:link|script)[^>]*_static/(?:sphinx-design\.min\.css|design-tabs\.js)[^>]*>(?:</script>)?"
)


def finish_pages(html: Path, pages: Iterable[str], store: Path) -> None:
    """Finish pages in place, and write the pictures that they show beside those that Sphinx copied.

    Args:
        html: The folder that the builder wrote to.
        pages: Names of the pages that it wrote.
        store: Where pictures that were made once are kept.
    """
    paths = [path for page in pages if (path := html / f"{page}.html").is_file()]
    shown = {found["name"] for path in paths for found in FIGURE.finditer(path.read_text(encoding="utf-8"))}
    pictures = [path for name in sorted(shown) if (path := html / "_images" / f"{name}.png").is_file()]
    with ProcessPoolExecutor() as pool:
        made = pool.map(_write_pair, pictures, repeat(store))
        sizes = dict(zip((path.stem for path in pictures), made, strict=True))
        list(pool.map(_finish, paths, repeat(sizes), chunksize=8))


def draw_pictures(notebooks: Iterable[str], store: Path) -> ProcessPoolExecutor:
    """Begin to draw the figures of notebooks for both themes, beside whatever the caller does, and return who draws.

    Args:
        notebooks: Their texts.
        store: Where pictures that were made once are kept.
    """
    pool = ProcessPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1))
    for text in notebooks:
        pool.submit(_draw_all, text, store)
    return pool


def _draw_all(notebook: str, store: Path) -> None:
    for cell in nbformat.reads(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                _drawn_pair(base64.b64decode(png), store)


def _finish(path: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    path.write_text(finished(path.read_text(encoding="utf-8"), sizes.get), encoding="utf-8")


def finished(page: str, size: Callable[[str], tuple[int, int] | None]) -> str:
    """Return a page with its tables and figures finished, and without what the theme loads twice.

    Args:
        page: The whole page.
        size: Width and height in pixels of a picture of the page, by its name; None for one that stays as it is.
    """

    def both(found: re.Match[str]) -> str:
        sides = size(found["name"])
        return (
            found[0]
            if sides is None or "only-" in found[0]
            else for_both_themes(found[0], found["source"], sides)
        )

    page = TOGGLE.sub(r'\1 aria-label="Parts of \2">', page)
    page = SIGNATURE.sub(_without_roles, page)
    page = UNUSED_FONTS.sub("", SECOND_ICONS.sub("", page))
    if first := VIEWPORT.search(page):
        page = page[: first.end()] + VIEWPORT.sub("", page[first.end() :])
    page = page.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    page = UNCOLOURED_SPAN.sub(r"\1", page)
    if not re.search(r'class="[^"]*\bsd-', page):
        page = DESIGN.sub("", page)
    return FIGURE.sub(both, TABLE.sub(lambda found: stacked(found[0]), page))


def _without_roles(found: re.Match[str]) -> str:
    parameters = found[2].replace("<dd>", '<dd role="none">')
    return f'{found[1]} role="none">{parameters}</dl>'


def for_both_themes(tag: str, source: str, sides: tuple[int, int]) -> str:
    r"""Return an image's tag twice, one a theme; a browser fetches only the one that it shows.

    Args:
        tag: The tag as Sphinx wrote it.
        source: Address of the picture.
        sides: Its width and height in pixels.

    Example:
        >>> print(for_both_themes('<img alt="bars" src="a.png"/>', "a.png", (4, 3)).replace("/>", "/>\n"))
        <img class="only-light" width="4" height="3" loading="lazy" alt="bars" src="a.png"/>
        <img class="only-dark" width="4" height="3" loading="lazy" alt="bars" src="a-dark.png"/>
        <BLANKLINE>
    """
    own = re.search(r'\sclass="([^"]*)"', tag)
    bare = tag.replace(own[0], "", 1) if own else tag
    pair = []
    for theme, address in (("light", source), ("dark", source.removesuffix(".png") + "-dark.png")):
        style = " ".join([*(own[1].split() if own else ()), f"only-{theme}"])
        head = f'<img class="{style}" width="{sides[0]}" height="{sides[1]}" loading="lazy"'
        pair.append(bare.replace("<img", head, 1).replace(f'src="{source}"', f'src="{address}"'))
    return "".join(pair)


def stacked(table: str) -> str:
    """Return a table whose rows a style sheet can stack: each cell says of which column it is.

    The roles say what a browser forgets of a table whose rows are blocks.

    Args:
        table: From `<table` to `</table>`.

    Example:
        >>> row = "<thead><tr><th>n</th></tr></thead><tbody><tr><td>17</td></tr></tbody>"
        >>> stacked(f"<table>{row}</table>").partition("<td ")[2].partition("</td>")[0]
        'data-label="n" role="cell"><div class="fl-cell">17</div>'
    """
    soup = BeautifulSoup(table, "html.parser")
    whole = soup.find("table")
    if not isinstance(whole, Tag) or NO_DATA & set(whole.get_attribute_list("class")):
        return table
    head = whole.find("thead")
    names = head.find_all("tr")[-1].find_all(["th", "td"]) if isinstance(head, Tag) else []
    whole["class"] = " ".join([*(str(c) for c in whole.get_attribute_list("class") if c), "fl-stack"])
    whole["role"] = "table"
    for part in whole.find_all(["thead", "tbody"]):
        part["role"] = "rowgroup"
    for name in names:
        name["role"], name["scope"] = "columnheader", "col"
    for row in whole.find_all("tr"):
        row["role"] = "row"
        for place, cell in enumerate(row.find_all("td")):
            cell["role"] = "cell"
            content = soup.new_tag("div", attrs={"class": "fl-cell"})
            content.extend(list(cell.contents))
            cell.append(content)
            heading = names[place] if place < len(names) and not cell.get("colspan") else None
            said = " ".join(heading.get_text().split()) if heading is not None else ""
            if heading is not None and re.search(r"\\\(|\$", said):
                label = soup.new_tag("span", attrs={"class": "fl-label", "aria-hidden": "true"})
                label.extend(list(BeautifulSoup(heading.decode_contents(), "html.parser").contents))
                cell.insert(0, label)
            elif said:
                cell["data-label"] = said
    return str(soup)


def _write_pair(path: Path, store: Path) -> tuple[int, int]:
    light, dark = (file.read_bytes() for file in _drawn_pair(path.read_bytes(), store))
    path.write_bytes(light)
    path.with_name(f"{path.stem}-dark.png").write_bytes(dark)
    with Image.open(io.BytesIO(light)) as image:
        return image.size


def _drawn_pair(drawn: bytes, store: Path) -> list[Path]:
    key = hashlib.sha256(drawn + f"{dark_figures.RECIPE}".encode()).hexdigest()
    kept = [store / f"{key}.png", store / f"{key}-dark.png"]
    if not all(file.is_file() for file in kept):
        store.mkdir(parents=True, exist_ok=True)
        for file, made in zip(kept, dark_figures.light_and_dark(drawn), strict=True):
            half = file.with_suffix(f".{os.getpid()}.tmp")
            half.write_bytes(made)
            half.replace(file)  # another process may draw the same
    return kept
