from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from faultlines.book.reference import PACKAGES, concrete_modules, public_names, write_reference

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("reference") / "library"
    write_reference(folder)
    found = sorted(folder.rglob("*.md"))
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
        for path in found
    }


def test_there_is_a_page_for_every_package_and_each_is_in_the_table_of_contents(pages: dict[str, str]):
    folders = {p.parent.name for p in (ROOT / "lib" / "faultlines").glob("*/__init__.py")}
    assert set(PACKAGES) == folders - {"runner", "book", "cli"}  # whose door is the command line
    overviews = {page for page in pages if "/" not in page}
    assert overviews == {"index", *PACKAGES}
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"file: library/(\w+)", toc)) == overviews
    assert set(re.findall(r"glob: library/(\w+)/\*", toc)) == set(PACKAGES)
    assert yaml.safe_load(toc)["root"] == "intro"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_page_lists_every_module_that_is_there(pages: dict[str, str], package: str):
    folder = ROOT / "lib" / "faultlines" / package
    there = {
        "faultlines." + ".".join((package, *path.relative_to(folder).with_suffix("").parts))
        for path in folder.rglob("*.py")
        if not any(part.startswith("_") for part in path.relative_to(folder).with_suffix("").parts)
    }
    assert set(re.findall(r"\* - :py:mod:`\S+ <(\S+)>`", pages[package])) == there
    for module in there:
        page = pages[f"{package}/{module.removeprefix(f'faultlines.{package}.')}"]
        assert re.findall(r"automodule:: (\S+)", page) == [module]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_page_lists_every_public_name(pages: dict[str, str], package: str):
    for name in public_names(f"faultlines.{package}"):
        assert re.search(rf"\* - (?:``{name}``|:py:obj:`{name} <faultlines\.)", pages[package]), name


def test_private_modules_stay_out():
    assert all("._" not in name for package in PACKAGES for name in concrete_modules(f"faultlines.{package}"))


def test_a_second_call_replaces_the_first(tmp_path: Path):
    (tmp_path / "models.md").write_text("old")
    write_reference(tmp_path)
    assert "# faultlines.models" in (tmp_path / "models.md").read_text(encoding="utf-8")


def test_a_file_is_no_destination(tmp_path: Path):
    path = tmp_path / "taken"
    path.write_text("")
    with pytest.raises(ValueError, match=r"destination=.*taken.* must be a folder"):
        write_reference(path)
