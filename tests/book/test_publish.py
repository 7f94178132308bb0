from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from faultlines.book.publish import BEGIN, END, LARGEST, between, publish
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs


@pytest.fixture
def readme(checkout: Project) -> Path:
    path = checkout.root / "results" / "README.md"
    path.parent.mkdir()
    path.write_text(f"# Toy\n\n{BEGIN}\nold\n{END}\n\nMore.\n")
    return path


def task(checkout: Project, run: str = "default", **overrides: str) -> RunSpec:
    return RunSpec(Chapter.all(checkout)["toy"], run, overrides)


@pytest.mark.parametrize(
    ("run", "place"), [("default", "chapters/toy.ipynb"), ("desk", "results/desk/toy.ipynb")]
)
def test_a_fresh_result_is_copied_with_its_record(
    checkout: Project, put: Callable[..., Path], readme: Path, run: str, place: str
) -> None:
    put(run)
    assert publish(checkout, task(checkout, run))
    target = checkout.root / place
    notebook = nbformat.read(target, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata["jupytext"] == {"default_lexer": "ipython3"}
    assert Freshness(checkout, Runs.load(checkout)).state(task(checkout, run), "published").name == "fresh"
    text = readme.read_text()
    assert f"| | claim | {run} |" in text
    assert f"{BEGIN}\nold" not in text
    assert text.startswith("# Toy\n\n") and text.endswith(f"{END}\n\nMore.\n")
    assert not publish(checkout, task(checkout, run))


def test_stale_failed_missing_and_overridden_results_stay_here(
    checkout: Project, put: Callable[..., Path], readme: Path
) -> None:
    with pytest.raises(UsageError, match="toy · default is missing here"):
        publish(checkout, task(checkout))
    put(modules={"faultlines": {"x": "0"}})
    with pytest.raises(UsageError, match=r"stale here \(faultlines.x \(gone\)\)"):
        publish(checkout, task(checkout))
    put()
    failed = task(checkout).failed(checkout)
    failed.parent.mkdir(parents=True)
    failed.write_text("{}")
    with pytest.raises(UsageError, match="failed here"):
        publish(checkout, task(checkout))
    put(overrides={"seeds": "3"})
    with pytest.raises(UsageError, match="overrides"):
        publish(checkout, task(checkout, seeds="3"))
    assert not checkout.published("default", "toy").exists()
    assert "old" in readme.read_text()


def test_what_only_came_with_the_clone_is_not_published_again(
    checkout: Project, put: Callable[..., Path], readme: Path
) -> None:
    put(path=checkout.published("default", "toy"))
    with pytest.raises(UsageError, match="missing here"):
        publish(checkout, task(checkout))


def test_a_notebook_over_two_mebibytes_is_refused(
    checkout: Project, put: Callable[..., Path], readme: Path
) -> None:
    path = put()
    path.write_text(path.read_text() + " " * LARGEST)
    with pytest.raises(UsageError, match=r"2\.0 MiB"):
        publish(checkout, task(checkout))


def test_a_text_without_marks_stays_and_a_backslash_survives() -> None:
    assert between("# A\n", "table") == "# A\n"
    assert between(f"{BEGIN}x{END}", r"$\1$" + "\n") == f"{BEGIN}\n$\\1$\n{END}"
