"""Refactored code stamps an old result again exactly when its smoke run computes the same."""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path

import jupytext
import nbformat
import pytest
from tests.conftest import ROW, TOY, execute_by_hand
from tests.toy_cells import closing, opening

import faultlines
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.errors import UsageError
from faultlines.notebook.freshness import Freshness, State
from faultlines.notebook.outputs import RECORD, take
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs
from faultlines.runner.restamp import compare, restamp

CHAPTER = (
    opening(
        "seeds: int = 5  # paired seeds [2..64]", from_reporting="Ledger, mean_interval, quote_numbers, say"
    )
    + """
```{code-cell}
import time

ledger = Ledger()
ledger.state("C1", "a mean is positive", paper="Theorem 1", test="t interval above 0")
ledger.settle("C1", mean_interval([1.0 + i for i in range(seeds)]))
print(time.time())  # the old code itself does not repeat it
```

```{code-cell}
ledger.table()
```

```{code-cell}
say("It is {{C1-ours}}.")
```
"""
    + closing("good")
)


class Checkout:
    def __init__(self, root: Path) -> None:
        self.project = Project(root, root / "lib" / "faultlines")

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.project.root / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def commit(self) -> None:
        git = ["git", "-C", str(self.project.root), "-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-qm", "a change"], check=True)

    @property
    def task(self) -> RunSpec:
        return RunSpec(Chapter.all(self.project)["good"], "default")

    @property
    def path(self) -> Path:
        return self.project.published("default", "good")

    def state(self) -> State:
        return Freshness(self.project, Runs.load(self.project)).state(self.task)

    def restamp(self) -> None:
        restamp(self.project, self.task, self.path)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    root = tmp_path_factory.mktemp("restamp")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(Path(faultlines.__file__).parent, root / "lib" / "faultlines", ignore=ignore)
    (root / "chapters").mkdir()
    (root / "chapters" / "good.md").write_text(CHAPTER)
    groups = "default: {purpose: embedded, budget: seconds}\n"
    groups += "smoke: {purpose: tests, budget: seconds, chapters: {good: {seeds: 3}}}\n"
    (root / "runs.yml").write_text(groups)
    (root / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    made = Checkout(root)
    made.commit()
    return made


def executed_default(checkout: Checkout) -> None:
    from nbclient import NotebookClient

    notebook = jupytext.read(checkout.project.root / "chapters" / "good.md")
    NotebookClient(notebook, resources={"metadata": {"path": str(checkout.project.root)}}).execute()
    nbformat.write(notebook, checkout.path)


def test_refactored_code_is_fresh_again_and_changed_code_is_not(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(checkout.project.root / "lib"))
    executed_default(checkout)
    checkout.commit()
    assert checkout.state().name == "fresh", checkout.state().changes
    with pytest.raises(UsageError, match="only what is stale"):
        checkout.restamp()

    # a refactoring of the library and of the chapter
    checkout.edit("lib/faultlines/reporting/ledger.py", "_plain(", "_as_data(")
    checkout.edit("chapters/good.md", "[1.0 + i for i in range(seeds)]", "[1.0 + j for j in range(seeds)]")
    assert checkout.state().name == "stale"
    with pytest.raises(UsageError, match="is no commit"):
        checkout.restamp()
    checkout.commit()
    checkout.restamp()
    state = checkout.state()
    assert (state.name, state.changes) == ("fresh", ())
    assert "for j in range" in checkout.path.read_text()
    [stamp] = state.result.provenance.restamps
    assert stamp.record == state.result.provenance.seal

    # another computation
    checkout.edit("chapters/good.md", "[1.0 + j for", "[1.5 + j for")
    checkout.commit()
    with pytest.raises(UsageError, match=r"does not compute the same: .*claim C1"):
        checkout.restamp()
    assert checkout.state().name == "stale"


def test_a_forged_stamp_counts_for_nothing(checkout: Checkout) -> None:
    text = checkout.path.read_text()
    checkout.path.write_text(text.replace('"smoke": "', '"smoke": "f'))
    try:
        assert checkout.state().name == "foreign"  # its cells are not those of its record
    finally:
        checkout.path.write_text(text)


def test_effects_that_the_old_code_did_not_keep_are_no_difference() -> None:
    def made(**changed: object) -> nbformat.NotebookNode:
        return execute_by_hand(jupytext.reads(TOY, fmt="md:myst"), {"seeds": 5}, [ROW | changed])

    old, new = made(effects=[]), made(effects=[2.0, 4.0])
    assert compare(old, new).differing == ()
    assert compare(old, new).digest == compare(old, old).digest
    assert compare(new, old).differing  # that it keeps less is one
    assert any("claim C1" in said for said in compare(old, made(effects=[2.0], estimate=4.0)).differing)
    assert compare(made(effects=[2.0, 4.0]), made(effects=[2.0, 5.0])).differing


def test_what_is_quoted_no_more_is_no_difference_and_what_is_new_is_one() -> None:
    plain = execute_by_hand(jupytext.reads(TOY, fmt="md:myst"), {"seeds": 5}, [ROW])
    more = copy.deepcopy(plain)
    [record] = take(more, RECORD)
    record["quoted"]["idle"] = "3"
    assert compare(more, plain).differing == ()
    assert compare(plain, more).differing == ("quoted idle",)
