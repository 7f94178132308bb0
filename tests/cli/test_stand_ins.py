"""A rehearsal has the shapes of the paper's run and the data of none; every chapter with a paper's run has one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.cli.test_app import call

from faultlines.book.publish import publish
from faultlines.book.scoreboard import read_board
from faultlines.cli.run import VARIABLE, enlarged, use_stand_ins, write_stand_in
from faultlines.data import load
from faultlines.data.catalogue import KNOWN
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs

ROOT = Path(__file__).parents[2]
BOOK = Project(ROOT, ROOT / "lib" / "faultlines")
RUNS, CHAPTERS = Runs.load(BOOK), Chapter.all(BOOK)
PAPER = [name for name, chapter in CHAPTERS.items() if RUNS.covers("paper", chapter)]
# what a rehearsal has as the paper's run has it: images, networks, widths; runs.yml says where patches are larger
KEPT = {
    "softmax-lipschitz": "dataset patch_size long_patch dim n_heads eps_l2",
    "linearized-attention": "datasets classes widths trained_widths recipe_widths width eps",
    "differential-attention": "datasets dim n_heads augment clip_size",
    "ex2l": "benchmarks tuning_benchmark size network similarity lr",
    "attribution-robustness": "datasets pool channels architectures vit_dim eps",
    "crossover": "datasets mechanisms radii grid dim heads cued honest",
}
# of numbers less, of lists some
FEWER = "seeds few_seeds tuning_seeds train_size test_size n_train n_test n epochs steps max_steps"
SOME = "depths attentions baselines controls lambdas eps_list ridge_list coefficients decays"
GROUP = "rehearsal: {purpose: the paper's sizes, budget: minutes, chapters: {toy: {seeds: 2}}}\n"


def test_every_paper_run_can_be_rehearsed() -> None:
    rehearsed = [name for name, chapter in CHAPTERS.items() if RUNS.covers("rehearsal", chapter)]
    assert rehearsed == PAPER and set(KEPT) == set(PAPER)


@pytest.mark.parametrize("name", PAPER)
def test_a_rehearsal_has_the_sizes_of_the_paper_and_less_of_all_else(name: str) -> None:
    paper, rehearsal = (RUNS.parameters(run, CHAPTERS[name]) for run in ("paper", "rehearsal"))
    kept = KEPT[name].split()
    assert {key: rehearsal[key] for key in kept} == {key: paper[key] for key in kept}
    assert rehearsal["device"] == "cpu"
    assert all(rehearsal[key] <= paper[key] for key in FEWER.split() if key in paper)
    assert all(set(rehearsal[key]) <= set(paper[key]) for key in SOME.split() if key in paper)
    # a block that is repeated may be repeated less often
    assert "depth" not in paper or 1 <= rehearsal["depth"] <= paper["depth"]


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_a_stand_in_is_read_as_what_it_stands_for(tmp_path: Path, name: str) -> None:
    write_stand_in(KNOWN[name], tmp_path)
    data = load(name, tmp_path, download=False)
    assert data.image_shape == KNOWN[name].image_shape and data.classes == KNOWN[name].classes
    counts = data.y_train.bincount(minlength=len(data.classes))
    assert counts.min() > 0 and counts.max() <= 1.6 * counts.min()
    assert data.x_train.min() >= 0 and data.x_train.max() <= 1
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.npz"]


def test_enlarging_keeps_corners_and_goes_straight_between_them() -> None:
    found = enlarged(np.array([[[0.0, 1.0], [2.0, 3.0]]]), 3)[0]
    np.testing.assert_allclose(found, [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]])


def test_stand_ins_are_written_once_and_found_by_what_is_started(
    checkout: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "/nonexistent")
    folder = use_stand_ins(checkout)
    assert os.environ[VARIABLE] == str(folder) and folder.is_relative_to(checkout.build)
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(written) == {f"{name}.npz" for name in KNOWN if name != "digits"}
    use_stand_ins(checkout)
    assert written == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_only_a_rehearsal_takes_stand_ins(checkout: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from faultlines.runner import local_pool

    told: list[str] = []
    monkeypatch.setattr(local_pool.LocalPool, "run", lambda self, work: [])
    monkeypatch.setattr("faultlines.cli.run.use_stand_ins", lambda project: told.append("stand-ins"))
    (checkout.root / "runs.yml").write_text((checkout.root / "runs.yml").read_text() + GROUP)
    assert call("run", "toy")[1] == "1 to execute, 0 fresh\n" and not told
    assert call("run", "toy", "--run", "rehearsal")[1] == "1 to execute, 0 fresh\n" and told == ["stand-ins"]


def test_a_rehearsal_is_neither_shown_nor_published(checkout: Project, put: Callable[..., Path]) -> None:
    (checkout.root / "runs.yml").write_text((checkout.root / "runs.yml").read_text() + GROUP)
    put("rehearsal")
    assert "No chapter has a result yet" in read_board(checkout, Runs.load(checkout)).markdown()
    with pytest.raises(
        UsageError, match=r"toy · rehearsal is no result.*publish one of default, desk, paper"
    ):
        publish(checkout, RunSpec(Chapter.all(checkout)["toy"], "rehearsal"))
    assert not (checkout.root / "results").exists()
