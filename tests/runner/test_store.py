from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faultlines.notebook.project import Project
from faultlines.notebook.provenance import KEY, commit_of
from faultlines.notebook.store import read_result, write_atomic


def test_a_result_is_read_back(put: Callable[..., Path]) -> None:
    result = read_result(put())
    assert result.provenance.chapter == "toy"
    assert result.ledger[0]["claim"] == "C1"


def test_half_a_notebook_is_none(put: Callable[..., Path]) -> None:
    path = put()
    text = path.read_text()
    for share in (0.0, 0.3, 0.9, 0.999):
        path.write_text(text[: int(len(text) * share)])
        assert read_result(path) is None
    path.write_bytes(b"\xff\xfe{}")
    assert read_result(path) is None
    assert read_result(path.with_name("nothing.ipynb")) is None
    assert read_result(path.parent) is None


ODD: dict[str, Callable[[dict], Any]] = {
    "a list": lambda n: [n],
    "metadata of null": lambda n: n | {"metadata": None},
    "no metadata": lambda n: {"cells": n["cells"]},
    "a record of null": lambda n: n["metadata"].update({KEY: None}) or n,
    "a record that is a list": lambda n: n["metadata"].update({KEY: [1]}) or n,
    "a record of another kind": lambda n: n["metadata"][KEY].update(provenance={"a": 1}) or n,
    "a time that is none": lambda n: n["metadata"][KEY]["provenance"].update(started="yesterday") or n,
    "a time without a zone": lambda n: n["metadata"][KEY]["provenance"].update(started="2026-01-02") or n,
    "a cost that is none": lambda n: n["metadata"][KEY]["provenance"].update(wall_s=float("nan")) or n,
    "a ledger of null": lambda n: n["metadata"][KEY].update(ledger=None) or n,
    "a ledger of words": lambda n: n["metadata"][KEY].update(ledger=["C1"]) or n,
    "a row without verdict": lambda n: n["metadata"][KEY]["ledger"][0].pop("verdict") and n,
    "no cells": lambda n: n.pop("cells") and n,
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_notebook_is_none(put: Callable[..., Path], case: str) -> None:
    path = put()
    path.write_text(json.dumps(ODD[case](json.loads(path.read_text()))))
    assert read_result(path) is None


def test_a_write_that_fails_leaves_the_old_text_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_folder_without_git_has_no_commit(checkout: Project) -> None:
    assert commit_of(checkout.root) == "unknown"
