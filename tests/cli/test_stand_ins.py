"""A rehearsal has the shapes of the paper's run and the data of none."""

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

GROUP = "rehearsal: {purpose: the paper's sizes, budget: minutes, chapters: {toy: {seeds: 2}}}\n"


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
